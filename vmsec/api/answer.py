"""Errors as HTTP answers, all of one shape.

The body is ``{"error": {"code", "message", "status", "exit_status",
"retryable"}}``: ``code`` is that of :mod:`vmsec.errors`, ``status`` the HTTP
status, ``exit_status`` what the command line exits with. An exception that
nobody foresaw is logged once with an incident id; the answer holds that id
and nothing else about it.
"""

from __future__ import annotations

import http
import logging
import secrets
from typing import TYPE_CHECKING, Any

import falcon

from vmsec import errors

if TYPE_CHECKING:
    from collections.abc import Mapping

LOG = logging.getLogger(__name__)

HTTP_STATUS: Mapping[str, int] = {
    "request.invalid": 400,
    "custody.denied": 403,
    "custody.unknown": 404,
    "custody.unknown-node": 404,
    "custody": 409,
    "image.busy": 409,
    "image.full": 507,
    "seal": 409,
    "journal": 409,
    "image": 422,
    "tpm": 503,
    "message.timeout": 504,
    "message": 502,
}
"""HTTP status by error code, else by the part before its dot, else 500."""


def http_status(code: str) -> int:
    """Return the HTTP status for an error code."""
    family = code.partition(".")[0]
    return HTTP_STATUS.get(code, HTTP_STATUS.get(family, 500))


def handle_vmsec_error(
    _req: falcon.Request,
    resp: falcon.Response,
    err: errors.VmsecError,
    _params: dict[str, Any],
) -> None:
    """Answer with an error of ours.

    A refusal of another service passes with the text which that service
    chose to show; so do our own words about the request and about a service
    that is silent. Of anything else only the public text is shown, and the
    rest is logged.
    """
    shown = (errors.RequestError, errors.SyncError)
    message = str(err) if isinstance(err, shown) else err.public_message
    if not isinstance(err, shown):
        LOG.error("%s: %s", err.code, err)
    code, exit_status = err.code, err.exit_status
    if isinstance(err, errors.RemoteRefusedError):
        code, exit_status = err.remote_code, err.status
    _fill(
        resp,
        http_status(code),
        {
            "code": code,
            "message": message,
            "status": http_status(code),
            "exit_status": exit_status,
            "retryable": _is_retryable(code),
        },
    )


def handle_http_error(
    _req: falcon.Request,
    resp: falcon.Response,
    err: falcon.HTTPError,
    _params: dict[str, Any],
) -> None:
    """Answer with falcon's own refusals: no such page, wrong method."""
    resp.set_headers(err.headers or {})
    title = http.HTTPStatus(err.status_code).phrase
    _fill(
        resp,
        err.status_code,
        {
            "code": "request." + title.lower().replace(" ", "-"),
            "message": err.description or title,
            "status": err.status_code,
            "exit_status": errors.RequestError.exit_status,
            "retryable": False,
        },
    )


def handle_unknown(
    req: falcon.Request,
    resp: falcon.Response,
    err: Exception,
    _params: dict[str, Any],
) -> None:
    """Answer for an exception that nobody foresaw."""
    incident = secrets.token_hex(8)
    LOG.error(
        "incident %s in %s %s", incident, req.method, req.path, exc_info=err
    )
    root = errors.VmsecError
    _fill(
        resp,
        500,
        {
            "code": root.code,
            "message": f"{root.public_message} Incident {incident} "
            "in the log of vmsec-api says why.",
            "status": 500,
            "exit_status": root.exit_status,
            "retryable": False,
            "incident": incident,
        },
    )


def _fill(resp: falcon.Response, status: int, error: dict[str, Any]) -> None:
    resp.status = falcon.code_to_http_status(status)
    resp.media = {"error": error}


def _is_retryable(code: str) -> bool:
    """Whether the class that bears this code says so."""
    todo: list[type[errors.VmsecError]] = [errors.VmsecError]
    while todo:
        kind = todo.pop()
        if kind.code == code:
            return kind.retryable
        todo.extend(kind.__subclasses__())
    return False
