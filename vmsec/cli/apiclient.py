"""The API over its UNIX socket, as the commands use it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from vmsec.errors import (
    PeerTimeoutError,
    RemoteBusyError,
    RemoteRefusedError,
    SchemaError,
    SyncError,
)

if TYPE_CHECKING:
    import httpx

CONFIG_FILE = Path("/etc/vmsec/vmsec.conf")
DEFAULT_SOCKET = Path("/run/vmsec/api.sock")

CONNECT_SECONDS = 5.0
ANSWER_SECONDS = 3600.0
"""The API bounds how long it waits for the services; this only outlasts it."""


def api_socket(option: str | None) -> Path:
    """Return where the API listens.

    Args:
        option: What ``--api-socket`` says, if anything.
    """
    if option is not None:
        return Path(option)
    if not CONFIG_FILE.exists():
        return DEFAULT_SOCKET
    # Imported here: oslo takes 200 ms, and only configured hosts need it.
    from vmsec.conf import opts
    from vmsec.conf.api import APISettings

    return APISettings.from_conf(opts.load([], "vmsec")).socket


class APIClient:
    """Asks the API.

    Args:
        socket: The UNIX socket of vmsec-api.
    """

    def __init__(self, socket: Path) -> None:
        # Imported here: it takes 200 ms, and offline commands do without.
        import httpx

        self._httpx = httpx
        self._socket = socket
        self._client = httpx.Client(
            transport=httpx.HTTPTransport(uds=str(socket)),
            base_url="http://vmsec/v1",
            timeout=httpx.Timeout(ANSWER_SECONDS, connect=CONNECT_SECONDS),
        )

    def get(self, path: str, **query: str) -> dict[str, Any]:
        """Read a resource.

        Raises:
            RemoteRefusedError: The API refused.
            SyncError: It does not answer as the API does, or not at all.
        """
        return self._ask("GET", path, params=query)

    def post(self, path: str, body: dict[str, Any]) -> dict[str, Any]:
        """Create a resource or start an action; errors as for :meth:`get`."""
        return self._ask("POST", path, json=body)

    def _ask(self, method: str, path: str, **what: Any) -> dict[str, Any]:  # noqa: ANN401 - passed to httpx
        try:
            answer = self._client.request(method, path, **what)
        except self._httpx.TimeoutException as err:
            raise PeerTimeoutError(
                f"{self._socket}: the API did not answer in time"
            ) from err
        except self._httpx.TransportError as err:
            raise SyncError(
                f"{self._socket}: cannot reach the API ({err}); is vmsec-api "
                "or vmsec-allinone running, and may you use the socket?"
            ) from err
        return self._read(answer)

    def _read(self, answer: httpx.Response) -> dict[str, Any]:
        try:
            body = answer.json()
        except ValueError as err:
            raise SchemaError(
                f"{self._socket}: the answer is not from the vmsec API"
            ) from err
        if not isinstance(body, dict):
            raise SchemaError(f"{self._socket}: the answer has no members")
        if answer.is_success:
            return body
        raise _refusal(body)


def _refusal(body: dict[str, Any]) -> RemoteRefusedError:
    """Turn the body of an error answer into an error."""
    error = body.get("error")
    if not isinstance(error, dict):
        raise SchemaError("the API refused without a reason")
    kind = RemoteBusyError if error.get("retryable") else RemoteRefusedError
    return kind(
        str(error.get("code", "vmsec.error")),
        str(error.get("message", "The request failed.")),
        int(error.get("exit_status", 1)),
    )
