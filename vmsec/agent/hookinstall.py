"""Installing, checking and removing the libvirt hook.

The hook is one small shell script, ``qemu.d/50-vmsec``, which runs
:mod:`vmsec.agent.hookwire` with the system's Python. Whatever goes wrong in
it (a removed package, a missing interpreter), only ``prepare`` may fail: a
failing ``started`` or ``reconnect`` would kill a running guest.

libvirtd remembers from its start, or its last SIGHUP, whether there is any
hook script at all. Where there was none, a new one is never called until
SIGHUP; a script without execute permission is skipped in silence.

Source:
    https://libvirt.org/hooks.html (qemu.d since libvirt 6.5).
"""

from __future__ import annotations

import os
import shlex
import stat
from pathlib import Path

from vmsec.agent import hookwire
from vmsec.durable import remove_durable, write_durable
from vmsec.errors import ConfigurationError

HOOK_NAME = "50-vmsec"
INTERPRETER = "/usr/bin/python3"
"""Below /usr/bin, which libvirtd's AppArmor profile lets run unconfined."""

DEADLINE_SECONDS = 60
"""The default of ``[agent] hook_deadline``."""

GRACE_SECONDS = 10
"""The agent answers first: by then it says itself why it is late."""

_SCRIPT = """\
#!/bin/sh
# Installed by vmsec-agent; changes are overwritten. See the libvirt hooks
# chapter of the vmsec administrator guide.
{interpreter} -I -S {shim} \
    --socket {socket} --state {state} --seconds {seconds} "$@"
status=$?
[ "$2" != prepare ] || exit $status
exit 0
"""


def render_hook(
    agent_socket: Path,
    state_directory: Path,
    deadline_seconds: int = DEADLINE_SECONDS,
) -> bytes:
    """Return the script that libvirtd will run.

    Args:
        agent_socket: Where the agent listens.
        state_directory: Where the agent keeps its marks.
        deadline_seconds: Within which the agent answers.
    """
    shim = Path(hookwire.__file__).resolve()
    return _SCRIPT.format(
        interpreter=INTERPRETER,
        shim=shlex.quote(str(shim)),
        socket=shlex.quote(str(agent_socket)),
        state=shlex.quote(str(state_directory)),
        seconds=deadline_seconds + GRACE_SECONDS,
    ).encode()


def install_hook(
    directory: Path,
    agent_socket: Path,
    state_directory: Path,
    deadline_seconds: int = DEADLINE_SECONDS,
) -> bool:
    """Install or renew the hook, by rename.

    Args:
        directory: libvirt's hooks, usually ``/etc/libvirt/hooks``.
        agent_socket: Where the agent listens.
        state_directory: Where the agent keeps its marks.
        deadline_seconds: ``[agent] hook_deadline``.

    Returns:
        Whether libvirtd must be reloaded (SIGHUP) before it calls the hook:
        there was no other hook script for it to know of.

    Raises:
        ConfigurationError: The directory cannot be made or written.

    Crash:
        The old script or the new one is there, never a part of one.
    """
    scripts = directory / "qemu.d"
    knew_any = _has_scripts(directory)
    try:
        scripts.mkdir(parents=True, exist_ok=True, mode=0o755)
    except OSError as err:
        raise ConfigurationError(
            f"{scripts}: cannot be made ({err.strerror}); run as root, or "
            "set [agent] hook_directory"
        ) from err
    text = render_hook(agent_socket, state_directory, deadline_seconds)
    write_durable(scripts / HOOK_NAME, text, mode=0o755)
    return not knew_any


def remove_hook(directory: Path) -> None:
    """Remove the hook; sealed VMs then start no more on this host."""
    if (directory / "qemu.d").is_dir():
        remove_durable(directory / "qemu.d" / HOOK_NAME)


def check_hook(
    directory: Path,
    agent_socket: Path,
    state_directory: Path,
    deadline_seconds: int = DEADLINE_SECONDS,
) -> None:
    """Check that the installed hook is ours, whole and executable.

    Args:
        directory: libvirt's hooks.
        agent_socket: Where the agent listens.
        state_directory: Where the agent keeps its marks.
        deadline_seconds: ``[agent] hook_deadline``.

    Raises:
        ConfigurationError: It is not; the line says what to do.
    """
    path = directory / "qemu.d" / HOOK_NAME
    try:
        text, mode = path.read_bytes(), path.stat().st_mode
    except OSError as err:
        raise ConfigurationError(
            f"{path}: the libvirt hook is not there ({err.strerror}); "
            "install it with vmsec hook install"
        ) from err
    if not stat.S_ISREG(mode) or not os.access(path, os.X_OK):
        raise ConfigurationError(
            f"{path}: not executable, so libvirt skips it in silence; "
            f"run chmod 0755 {path}"
        )
    if text != render_hook(agent_socket, state_directory, deadline_seconds):
        raise ConfigurationError(
            f"{path}: not the hook of this agent (another version or other "
            "paths); run vmsec hook install"
        )


def _has_scripts(directory: Path) -> bool:
    """Whether libvirtd would find any script for its qemu driver."""
    places = [directory / "qemu"]
    if (directory / "qemu.d").is_dir():
        places += (directory / "qemu.d").iterdir()
    return any(path.is_file() and os.access(path, os.X_OK) for path in places)
