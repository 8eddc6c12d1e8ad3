"""The life of a daemon: configuration, log, locks, signals, an orderly end.

SIGTERM and SIGINT stop the services in the reverse order of their start.
SIGHUP reads those options again that may change while running: the log's.
"""

from __future__ import annotations

import contextlib
import queue
import signal
import sys
from typing import TYPE_CHECKING, Protocol

from oslo_log import log

from vmsec.cmd.notify import notify
from vmsec.cmd.rolelock import RoleLock
from vmsec.conf import opts
from vmsec.conf.service import ServiceSettings
from vmsec.errors import VmsecError
from vmsec.secret import forbid_core_dumps

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from types import FrameType

    from oslo_config import cfg

LOG = log.getLogger(__name__)

SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)


class Service(Protocol):
    """What a daemon runs."""

    def start(self) -> None:
        """Begin to serve; return when it serves."""

    def stop(self) -> None:
        """Finish what is being done, and stop."""


def run_daemon(
    prog: str,
    roles: Sequence[str],
    build: Callable[[cfg.ConfigOpts], Sequence[Service]],
) -> int:
    """Run services until a signal ends them.

    Args:
        prog: The program's name.
        roles: What it is, for the locks.
        build: Makes the services, in the order of their start.

    Returns:
        The exit status: 0 after a signal, else that of the error's family.
    """
    forbid_core_dumps()
    try:
        conf = opts.load(sys.argv[1:], prog)
        log.setup(conf, "vmsec")
        state = ServiceSettings.from_conf(conf).state_path
        with RoleLock(state, roles), _caught_signals() as signals:
            _serve(prog, conf, build(conf), signals)
    except VmsecError as err:
        sys.stderr.write(f"{prog}: {' '.join(str(err).split())}\n")
        return err.exit_status
    return 0


@contextlib.contextmanager
def _caught_signals() -> Iterator[queue.SimpleQueue[int]]:
    """Collect the signals that steer a daemon."""
    caught: queue.SimpleQueue[int] = queue.SimpleQueue()

    def catch(number: int, _frame: FrameType | None) -> None:
        caught.put(number)

    before = {number: signal.signal(number, catch) for number in SIGNALS}
    try:
        yield caught
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _serve(
    prog: str,
    conf: cfg.ConfigOpts,
    services: Sequence[Service],
    signals: queue.SimpleQueue[int],
) -> None:
    """Start the services, wait for a signal, stop them."""
    with contextlib.ExitStack() as started:
        for service in services:
            service.start()
            started.callback(service.stop)
        LOG.info("%s is ready", prog)
        notify("READY=1")
        while (number := signals.get()) == signal.SIGHUP:
            _reload(conf)
        LOG.info("%s stops (%s)", prog, signal.Signals(number).name)
        notify("STOPPING=1")


def _reload(conf: cfg.ConfigOpts) -> None:
    """Read the options again that may change while running."""
    notify("RELOADING=1")
    conf.mutate_config_files()
    LOG.info("the log's configuration was read again")
    notify("READY=1")
