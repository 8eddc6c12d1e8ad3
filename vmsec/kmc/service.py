"""The key-management centre as a service: its parts, put together and run."""

from __future__ import annotations

import contextlib
import threading
from typing import TYPE_CHECKING, Any

from oslo_log import log

from vmsec.errors import ConfigurationError
from vmsec.keysync.messages import KMC_TOPIC
from vmsec.keysync.transport import RPCServer
from vmsec.kmc.clock import system_clock
from vmsec.kmc.endpoint import KMCEndpoint
from vmsec.kmc.enrolment import Enrolment
from vmsec.kmc.keyring import Keyring
from vmsec.kmc.ledger import Ledger
from vmsec.kmc.protection import Protection
from vmsec.kmc.store.database import Database
from vmsec.tpm import KMCCustody, SoftwareTPM, open_tpm

if TYPE_CHECKING:
    from pathlib import Path

    from vmsec.conf.kmc import KMCSettings
    from vmsec.kmc.clock import Clock
    from vmsec.kmc.custody import KeyCustody

LOG = log.getLogger(__name__)

SOFTWARE_TPM = "tpm"
"""The software TPM's directory under the KMC's state."""


class KMCService:
    """The KMC: database, TPM and endpoint.

    Args:
        settings: What the configuration says.
        transport: The bus; it stays the caller's.
        clock: Says what time it is.
    """

    def __init__(
        self,
        settings: KMCSettings,
        transport: Any,  # noqa: ANN401 - oslo.messaging is not typed
        *,
        clock: Clock = system_clock,
    ) -> None:
        self._settings, self._transport = settings, transport
        self._clock = clock
        self._running = contextlib.ExitStack()
        self._stopped = threading.Event()

    def start(self) -> None:
        """Open the database and the TPM, and begin to serve.

        Raises:
            VmsecError: Something of it cannot be used; nothing is left
                running.
        """
        settings = self._settings
        self._stopped.clear()
        with contextlib.ExitStack() as stack:
            _make_directory(settings.state_directory)
            database = Database(settings.database.connection)
            stack.callback(database.close)
            database.upgrade()
            custody = self._open_custody(stack)
            server = RPCServer(
                self._transport,
                topic=KMC_TOPIC,
                server=settings.host,
                endpoint=self._endpoint(database, custody),
            )
            server.start(settings.threads)
            stack.callback(server.stop)
            self._running = stack.pop_all()
        LOG.info("the key-management centre serves as %s", settings.host)

    def stop(self) -> None:
        """Finish the requests that were taken, and let go of everything.

        Crash:
            Nothing depends on a stop in order: every answered request is on
            disk.
        """
        self._running.close()
        self._stopped.set()

    def wait(self) -> None:
        """Wait until :meth:`stop` was called and is done."""
        self._stopped.wait()

    def _open_custody(self, stack: contextlib.ExitStack) -> KeyCustody:
        """Open the TPM; run a software TPM if none is configured."""
        settings = self._settings
        tcti = settings.tcti
        if not tcti:
            LOG.warning(
                "[tpm] kmc_tcti is empty: VM keys are kept by a software "
                "TPM, which protects them no better than the files in %s",
                settings.state_directory / SOFTWARE_TPM,
            )
            tcti = stack.enter_context(
                SoftwareTPM(settings.state_directory, SOFTWARE_TPM)
            ).tcti
        tpm = stack.enter_context(
            open_tpm(tcti, timeout_seconds=settings.tpm_timeout_seconds)
        )
        return KMCCustody(tpm, settings.state_directory)

    def _endpoint(
        self, database: Database, custody: KeyCustody
    ) -> KMCEndpoint:
        """Put the parts together."""
        return KMCEndpoint(
            enrolment=Enrolment(database, self._clock),
            protection=Protection(database, custody, self._clock),
            keyring=Keyring(database, custody, self._clock),
            ledger=Ledger(
                database,
                self._clock,
                manifests_kept=self._settings.manifests_kept,
            ),
        )


def _make_directory(path: Path) -> None:
    """Make the KMC's directory, for nobody but this user."""
    try:
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as err:
        raise ConfigurationError(
            f"[DEFAULT] state_path: cannot make {path}: {err.strerror}"
        ) from err
