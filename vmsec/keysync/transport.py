"""The bus: oslo.messaging transports, servers and the error boundary.

An endpoint is an object whose callable methods bear :func:`rpc_method`;
nothing else of it can be called (``ExplicitRPCAccessPolicy``). The decorator
is the trust boundary: it decodes every argument under the method's own
annotations, encodes the result, and turns errors into an answer. No exception
ever reaches oslo.messaging, which would ship its class, text and traceback to
the caller.

An answer is ``{"result": ...}`` or ``{"error": {"code", "message", "status",
"retryable"}}``.

Requests are acknowledged before they are dispatched (oslo.messaging
``rpc/server.py``): at most once. Endpoints are therefore idempotent.
"""

from __future__ import annotations

import contextlib
import functools
import importlib
import inspect
import typing
import uuid
from typing import Any

import oslo_messaging
from oslo_config import cfg
from oslo_log import log

from vmsec.errors import (
    AccessDeniedError,
    ConfigurationError,
    CustodyError,
    ImageError,
    SchemaError,
    SealError,
    SyncError,
    VmsecError,
)
from vmsec.keysync import wire

if typing.TYPE_CHECKING:
    from collections.abc import Callable

LOG = log.getLogger(__name__)

EXCHANGE = "vmsec"
DEFAULT_URL = "fake://"

OPERATOR_ERRORS = (CustodyError, ImageError, SealError, SyncError)
"""Errors whose text vmsec composed for the operator of the cloud, who is the
one at the other end of the bus. All other errors send ``public_message``."""

_LIBRARY_OPTIONS = (
    ("oslo_messaging._metrics.client", "oslo_messaging_metrics"),
    ("oslo_messaging._tracing.client", "oslo_messaging_tracing"),
)


def open_transport(
    conf: cfg.ConfigOpts | None = None, url: str = DEFAULT_URL
) -> Any:  # noqa: ANN401 - oslo.messaging is not typed
    """Open an RPC transport.

    Args:
        conf: Where ``[oslo_messaging_rabbit]`` and its like are read;
            ``None`` for the library's defaults.
        url: ``rabbit://user:password@host:5672/`` or ``fake://`` (all
            services in this one process).

    Raises:
        ConfigurationError: The URL or its driver is not usable.
    """
    return _open(oslo_messaging.get_rpc_transport, conf, url)


def open_notification_transport(
    conf: cfg.ConfigOpts | None = None, url: str = DEFAULT_URL
) -> Any:  # noqa: ANN401 - oslo.messaging is not typed
    """Open a transport for notifications of the cloud's controller.

    Args:
        conf: As for :func:`open_transport`.
        url: The bus on which the controller publishes.

    Raises:
        ConfigurationError: The URL or its driver is not usable.
    """
    return _open(oslo_messaging.get_notification_transport, conf, url)


def _open(
    factory: Callable[..., Any], conf: cfg.ConfigOpts | None, url: str
) -> Any:  # noqa: ANN401 - oslo.messaging is not typed
    """Open either kind of transport."""
    if conf is None:
        conf = cfg.ConfigOpts()
        conf([], default_config_files=[], default_config_dirs=[])
    _register_library_options(conf)
    # The library reads an empty URL as RabbitMQ on this host.
    with contextlib.suppress(oslo_messaging.MessagingException, ValueError):
        if "://" in url:
            return factory(conf, url=url)
    # The URL may hold a password: neither it nor the library's error, which
    # repeats it, is passed on.
    raise ConfigurationError(
        "[messaging] transport_url: no usable driver or a malformed URL; "
        "write rabbit://user:password@host:5672/ or fake://"
    )


def _register_library_options(conf: cfg.ConfigOpts) -> None:
    """Register what the library itself registers on its global CONF only.

    Without these a call on any other ConfigOpts fails with NoSuchOptError.
    """
    for module, group in _LIBRARY_OPTIONS:
        try:
            options = getattr(importlib.import_module(module), group)
        except ImportError:
            continue  # a release of the library that has no such feature
        conf.register_opts(options, group=group)


class RPCServer:
    """Serves one endpoint on one topic, each request in a thread of a pool.

    Args:
        transport: Made by :func:`open_transport`; it stays the caller's.
        topic: The topic that clients address.
        server: This server's own name on the topic (the node's name).
        endpoint: The object with the methods.
    """

    def __init__(
        self,
        transport: Any,  # noqa: ANN401 - oslo.messaging is not typed
        *,
        topic: str,
        server: str,
        endpoint: object,
    ) -> None:
        self._server = oslo_messaging.get_rpc_server(
            transport,
            oslo_messaging.Target(
                exchange=EXCHANGE, topic=topic, server=server
            ),
            [endpoint],
            access_policy=oslo_messaging.ExplicitRPCAccessPolicy,
        )

    def start(self, threads: int = 8) -> None:
        """Begin to serve.

        Args:
            threads: How many requests are served at once.

        Raises:
            SyncError: The bus cannot be reached.
        """
        try:
            self._server.start(override_pool_size=threads)
        except oslo_messaging.ServerListenError as err:
            raise SyncError(
                "cannot listen on the message bus; is it running, and is "
                "[messaging] transport_url right?"
            ) from err

    def stop(self) -> None:
        """Take no more requests, and finish those that were taken."""
        self._server.stop()
        self._server.wait()


def rpc_method(function: Callable[..., Any]) -> Callable[..., Any]:
    """Make a method callable over the bus.

    Its parameters (all by keyword) and its result must be annotated with
    types of :mod:`vmsec.keysync.wire`, importable at run time.
    """
    kinds = typing.get_type_hints(function)
    kinds.pop("return")
    required = {
        name
        for name, parameter in inspect.signature(function).parameters.items()
        if name in kinds and parameter.default is inspect.Parameter.empty
    }
    name = function.__name__

    @functools.wraps(function)
    def boundary(
        endpoint: object, _context: dict[str, object], **arguments: object
    ) -> dict[str, Any]:
        try:
            decoded = _decode_arguments(name, kinds, required, arguments)
            result = function(endpoint, **decoded)
            return {"result": wire.encode(result, what=f"{name} result")}
        except VmsecError as err:
            return {"error": describe_error(name, err)}
        except Exception as err:  # noqa: BLE001 - RPC dispatch, the boundary
            return {"error": describe_incident(name, err)}

    exposed: Callable[..., Any] = oslo_messaging.expose(boundary)
    return exposed


def _decode_arguments(
    method: str,
    kinds: dict[str, Any],
    required: set[str],
    arguments: dict[str, object],
) -> dict[str, Any]:
    """Decode exactly the arguments that the method takes."""
    if not required <= arguments.keys() <= kinds.keys():
        raise SchemaError(f"{method}: an argument is missing or unknown")
    return {
        name: wire.decode(kinds[name], value, what=f"{method} {name}")
        for name, value in arguments.items()
    }


def describe_error(method: str, error: VmsecError) -> dict[str, Any]:
    """Write an error of ours as the ``error`` of an answer.

    What the answer does not say is logged here; the rest is for the endpoint
    to log with what it knows.
    """
    speaks = isinstance(error, OPERATOR_ERRORS) and not isinstance(
        error, AccessDeniedError
    )
    if not speaks:
        LOG.warning("%s refused: %s: %s", method, error.code, error)
    return {
        "code": error.code,
        "message": str(error) if speaks else error.public_message,
        "status": error.exit_status,
        "retryable": error.retryable,
    }


def describe_incident(method: str, error: Exception) -> dict[str, Any]:
    """Write a foreign exception as an answer that says nothing about it.

    The traceback is logged here, once, under the incident's id.
    """
    incident = uuid.uuid4().hex[:12]
    LOG.error("%s failed, incident %s", method, incident, exc_info=error)
    return {
        "code": VmsecError.code,
        "message": f"{VmsecError.public_message} Incident {incident}.",
        "status": VmsecError.exit_status,
        "retryable": VmsecError.retryable,
    }
