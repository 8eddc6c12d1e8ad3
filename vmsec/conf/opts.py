"""All options together: registration, loading, and the sample file."""

from __future__ import annotations

import importlib.metadata
from pathlib import Path
from typing import TYPE_CHECKING

from oslo_config import cfg
from oslo_log import log

from vmsec.conf import (
    agent,
    api,
    controller,
    database,
    kmc,
    messaging,
    sealing,
    service,
    tpm,
)
from vmsec.errors import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Sequence

DEFAULT_FILE = Path("/etc/vmsec/vmsec.conf")

_GROUPS: tuple[tuple[str | None, list[cfg.Opt]], ...] = (
    (service.GROUP, service.OPTS),
    (agent.GROUP, agent.OPTS),
    (api.GROUP, api.OPTS),
    (controller.GROUP, controller.OPTS),
    (database.GROUP, database.OPTS),
    (kmc.GROUP, kmc.OPTS),
    (messaging.GROUP, messaging.OPTS),
    (sealing.GROUP, sealing.OPTS),
    (tpm.GROUP, tpm.OPTS),
)

_LOG_LEVELS = (
    "alembic=WARN",
    "amqp=WARN",
    "kombu=WARN",
    "oslo.messaging=INFO",
    "oslo_messaging=INFO",
    "oslo_service=WARN",
    "sqlalchemy=WARN",
    "stevedore=WARN",
)


def list_opts() -> list[tuple[str | None, list[cfg.Opt]]]:
    """List all options of vmsec, for oslo-config-generator."""
    return [(group, list(options)) for group, options in _GROUPS]


def list_bus_opts() -> list[tuple[str, list[cfg.Opt]]]:
    """List the options of oslo.messaging that vmsec heeds.

    The library's options in ``[DEFAULT]`` are not among them: the URL,
    timeouts and threads are vmsec's own.
    """
    # It loads half of oslo: only the generator waits for it.
    from oslo_messaging import opts as bus  # noqa: PLC0415 - as said

    return [
        (group, options)
        for group, options in bus.list_opts()
        if group == "oslo_messaging_rabbit"
    ]


def set_defaults() -> None:
    """Set what vmsec wants otherwise than the libraries' defaults."""
    log.set_defaults(default_log_levels=list(_LOG_LEVELS))


def register(conf: cfg.ConfigOpts) -> None:
    """Register all options of vmsec and those of its log."""
    for group, options in _GROUPS:
        conf.register_opts(options, group=group)
    set_defaults()
    log.register_options(conf)


def load(argv: Sequence[str], prog: str) -> cfg.ConfigOpts:
    """Read the command line and the configuration files.

    Args:
        argv: The arguments after the program's name. ``--config-file`` may
            be given several times; without it /etc/vmsec/vmsec.conf is
            read if it exists.
        prog: The program's name, for usage and ``--version``.

    Raises:
        ConfigurationError: A file or a value is wrong; every value has been
            looked at, so that none fails later.
        SystemExit: After ``--help`` or ``--version``, or a usage error.
    """
    conf = cfg.ConfigOpts()
    register(conf)
    files = [str(DEFAULT_FILE)] if DEFAULT_FILE.exists() else []
    try:
        conf(
            list(argv),
            project="vmsec",
            prog=prog,
            version=importlib.metadata.version("vmsec"),
            default_config_files=files,
            default_config_dirs=[],
        )
        _verify_values(conf)
    except (cfg.Error, ValueError) as err:
        problem = " ".join(str(err).split())
        raise ConfigurationError(
            f"{prog}: the configuration is not usable: {problem}"
        ) from err
    return conf


def _verify_values(conf: cfg.ConfigOpts) -> None:
    """Read every option once: oslo.config checks values when read."""
    for group, options in _GROUPS:
        holder = conf if group is None else conf[group]
        for option in options:
            getattr(holder, option.dest)
