"""A TPM that many threads may use and that cannot hang its callers.

One ESAPI context belongs to one worker thread; :meth:`TPM.run` hands it an
operation (a function of the context: all commands from opening a session to
flushing it) and waits until a deadline. So operations never interleave, and
only the worker ever waits for the TPM.

States::

    closed --first operation--> open --command fails, TPM lost--> closed
    open --deadline passed--> stuck --the command returns--> closed

While stuck, callers get TPMUnavailableError at once. An operation that came
to its deadline may still finish when the TPM answers again; its result is
dropped, its handles are flushed.

Opening cures what a crash left behind: it sends TPM2_Startup where needed and
flushes stray objects and sessions, except through a resource manager, which
keeps clients apart by itself.
"""

from __future__ import annotations

import concurrent.futures
import contextlib
import dataclasses
import queue
import re
import threading
from typing import TYPE_CHECKING, Any, Self, TypeVar

from vmsec.errors import ConfigurationError, TPMError, TPMUnavailableError
from vmsec.tpm.fault import REOPEN, RETRY, Fault, classify, error_for
from vmsec.tpm.storage import handles
from vmsec.tpm.tss import ESAPI, TPM2_SU, TSS2_Exception

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import TracebackType

T = TypeVar("T")

_TCTI = re.compile(r"(pcap:)?(swtpm|device|tabrmd)(:.*)?", re.DOTALL)
_MANAGED = re.compile(r"(pcap:)?(tabrmd|device:/dev/tpmrm|device:?$)")
_TRANSIENT, _LOADED, _SAVED = 0x80000000, 0x02000000, 0x03000000


@dataclasses.dataclass(frozen=True)
class _Request:
    name: str
    operation: Callable[[ESAPI], Any]
    idempotent: bool
    future: concurrent.futures.Future[Any]


class TPM:
    """A TPM 2.0; see :func:`open_tpm`. Open it after forking, not before.

    Args:
        tcti: How to reach it.
        timeout_seconds: How long a caller waits for one operation.
    """

    def __init__(self, tcti: str, *, timeout_seconds: float) -> None:
        self._tcti, self._timeout = tcti, timeout_seconds
        self._esapi: ESAPI | None = None
        self._requests: queue.SimpleQueue[_Request | None] = (
            queue.SimpleQueue()
        )
        self._state = threading.Lock()  # guards the two below
        self._stuck: _Request | None = None
        self._closed = False
        self._worker = threading.Thread(
            target=self._serve, name=f"tpm {tcti}", daemon=True
        )
        self._worker.start()

    def run(
        self, name: str, operation: Callable[[ESAPI], T], *, idempotent: bool
    ) -> T:
        """Run an operation on the TPM and return its result.

        Args:
            name: What it does, for the error.
            operation: Called once with the context in the worker thread, and
                once more if the TPM was lost and ``idempotent`` is true.
            idempotent: Whether running it twice does no harm.

        Raises:
            TPMUnavailableError: The TPM does not answer, or not in time.
            PolicyMismatchError: A policy is not satisfied.
            TPMLockoutError: Dictionary-attack lockout.
            TPMIdentityError: A response that is not authentic.
            TPMError: Any other refusal of the TPM.
        """
        if threading.current_thread() is self._worker:
            raise RuntimeError("an operation may not run another one")
        request = _Request(
            name, operation, idempotent, concurrent.futures.Future()
        )
        self._submit(request)
        try:
            result: T = request.future.result(self._timeout)
        except concurrent.futures.TimeoutError as err:
            self._abandon(request)
            raise self._late(name) from err
        return result

    def close(self) -> None:
        """Let go of the TPM; a second call does nothing."""
        with self._state:
            if self._closed:
                return
            self._closed = True
            self._requests.put(None)
        self._worker.join(self._timeout)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def _submit(self, request: _Request) -> None:
        with self._state:
            if self._closed:
                raise RuntimeError("the TPM was closed")
            if self._stuck is not None:
                raise self._late(request.name)
            self._requests.put(request)

    def _late(self, name: str) -> TPMUnavailableError:
        return TPMUnavailableError(
            f"TPM, {name}: no answer from {self._tcti} within "
            f"{self._timeout:g} s; is it running?"
        )

    def _abandon(self, request: _Request) -> None:
        """Give up a request: unqueue it, or note that the worker is stuck."""
        if not request.future.cancel():
            with self._state:
                if not request.future.done():
                    self._stuck = request

    # what follows runs in the worker thread

    def _serve(self) -> None:
        while (request := self._requests.get()) is not None:
            if request.future.set_running_or_notify_cancel():
                self._answer(request)
        self._drop()

    def _answer(self, request: _Request) -> None:
        result, failure = None, None
        try:
            result = self._attempt(request)
        except BaseException as err:  # noqa: BLE001 - belongs to the caller
            failure = err
        with self._state:
            late, self._stuck = self._stuck is request, None
            if failure is None:
                request.future.set_result(result)
            else:
                request.future.set_exception(failure)
        if late:
            self._drop()

    def _attempt(self, request: _Request) -> object:
        try:
            return request.operation(self._open())
        except TSS2_Exception as err:
            fault = self._settle(err)
            if not (request.idempotent and fault in RETRY):
                raise error_for(request.name, int(err.rc), fault) from err
        try:
            return request.operation(self._open())
        except TSS2_Exception as err:
            fault = self._settle(err)
            raise error_for(request.name, int(err.rc), fault) from err

    def _settle(self, err: TSS2_Exception) -> Fault:
        """Find out what a failure means; close the context if it must be."""
        fault = classify(int(err.rc))
        if fault is Fault.SUSPECT:
            # an RSA import of another TPM's blob gives TPM_RC_FAILURE though
            # the TPM is well: believe the next command
            fault = Fault.REFUSED if self._is_alive() else Fault.DEAD
        if fault in REOPEN:
            self._drop()
        return fault

    def _is_alive(self) -> bool:
        try:
            self._open().get_random(8)
        except TSS2_Exception:
            return False
        return True

    def _open(self) -> ESAPI:
        if self._esapi is None:
            esapi = ESAPI(self._tcti)
            try:
                _prepare(esapi, managed=bool(_MANAGED.match(self._tcti)))
            except BaseException:
                esapi.close()
                raise
            self._esapi = esapi
        return self._esapi

    def _drop(self) -> None:
        if self._esapi is not None:
            with contextlib.suppress(TSS2_Exception):
                self._esapi.close()
            self._esapi = None


def open_tpm(tcti: str, *, timeout_seconds: float = 30) -> TPM:
    """Open a TPM and see that it answers.

    Args:
        tcti: ``swtpm:path=...``, ``device:/dev/tpmrm0`` or ``tabrmd:``.
        timeout_seconds: How long a caller waits for one operation, its
            waiting for others included.

    Raises:
        ConfigurationError: Not such a string.
        TPMUnavailableError: No TPM answers there.
    """
    if not _TCTI.fullmatch(tcti):
        raise ConfigurationError(
            f"TPM {tcti!r}: say swtpm:path=PATH, device:/dev/tpmrm0 or tabrmd:"
        )
    tpm = TPM(tcti, timeout_seconds=timeout_seconds)
    try:
        tpm.run("open", lambda esapi: esapi.get_random(8), idempotent=True)
    except TPMError:
        tpm.close()
        raise
    return tpm


def _prepare(esapi: ESAPI, *, managed: bool) -> None:
    """Start up a TPM that waits for it; flush what nobody owns."""
    try:
        handles(esapi, _TRANSIENT)
    except TSS2_Exception as err:
        if classify(int(err.rc)) is not Fault.LOST:
            raise
        esapi.startup(TPM2_SU.CLEAR)
    if not managed:
        for kind in (_TRANSIENT, _LOADED, _SAVED):
            for handle in handles(esapi, kind):
                esapi.flush_context(esapi.tr_from_tpmpublic(handle))
