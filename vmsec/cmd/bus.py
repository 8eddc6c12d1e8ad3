"""The message bus as the first service of a daemon: closed last."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from vmsec.conf.messaging import MessagingSettings
from vmsec.errors import ConfigurationError
from vmsec.keysync.transport import open_notification_transport, open_transport

if TYPE_CHECKING:
    from oslo_config import cfg

IN_PROCESS = "fake:"


class Bus:
    """The transport that the services of this process share.

    Args:
        conf: The whole configuration.

    Raises:
        ConfigurationError: ``transport_url`` is not usable.
    """

    def __init__(self, conf: cfg.ConfigOpts) -> None:
        self.settings = MessagingSettings.from_conf(conf)
        self.transport: Any = open_transport(conf, self.settings.transport_url)

    def start(self) -> None:
        """Do nothing: a connection is made when the first message goes."""

    def stop(self) -> None:
        """Close all connections."""
        self.transport.cleanup()


class CloudBus:
    """The transport of the cloud's notifications.

    Args:
        conf: The whole configuration.
        url: Where the cloud publishes.

    Raises:
        ConfigurationError: The URL is not usable.
    """

    def __init__(self, conf: cfg.ConfigOpts, url: str) -> None:
        self.transport: Any = open_notification_transport(conf, url)

    def start(self) -> None:
        """Do nothing: the listener connects."""

    def stop(self) -> None:
        """Close all connections."""
        self.transport.cleanup()


def open_shared_bus(conf: cfg.ConfigOpts) -> Bus:
    """Open a bus that reaches other processes.

    Raises:
        ConfigurationError: It is the one that lives in one process only.
    """
    bus = Bus(conf)
    if bus.settings.transport_url.startswith(IN_PROCESS):
        raise ConfigurationError(
            "[messaging] transport_url: fake:// reaches no other process; "
            "set rabbit://user:password@host:5672/, or run vmsec-allinone"
        )
    return bus
