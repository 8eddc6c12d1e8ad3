"""The API's socket: who may use it, and what may lie in its place."""

from __future__ import annotations

import grp
import json
import socket
import stat
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import pytest

from tests.support.tools import require_root
from vmsec.api.server import APIServer
from vmsec.cli.apiclient import APIClient
from vmsec.conf.api import APISettings
from vmsec.errors import ConfigurationError, SchemaError, SyncError

if TYPE_CHECKING:
    import pathlib
    from collections.abc import Callable, Iterator


def settings(path: pathlib.Path, **changes: Any) -> APISettings:
    values: dict[str, Any] = {
        "socket": path,
        "socket_mode": 0o660,
        "socket_group": None,
        "threads": 4,
        "agent_timeout_seconds": 10,
    }
    return APISettings(**{**values, **changes})


def hello(_environ: object, start: Callable[..., Any]) -> list[bytes]:
    """A WSGI application of three lines."""
    start("200 OK", [("Content-Type", "application/json")])
    return [json.dumps({"hello": "you"}).encode()]


@contextmanager
def serving(app: Any, config: APISettings) -> Iterator[APIServer]:
    server = APIServer(app, config)
    server.start()
    try:
        yield server
    finally:
        server.stop()


@pytest.fixture
def path(tmp_path: pathlib.Path) -> pathlib.Path:
    return tmp_path / "api.sock"


@pytest.mark.parametrize("mode", [0o600, 0o660, 0o666])
def test_the_socket_has_the_configured_mode(
    path: pathlib.Path, mode: int
) -> None:
    with serving(hello, settings(path, socket_mode=mode)):
        assert stat.S_IMODE(path.stat().st_mode) == mode


def test_the_socket_has_the_configured_group(path: pathlib.Path) -> None:
    require_root()
    group = grp.getgrnam("daemon")
    with serving(hello, settings(path, socket_group=group.gr_name)):
        assert path.stat().st_gid == group.gr_gid


def test_a_group_that_does_not_exist_is_refused(path: pathlib.Path) -> None:
    server = APIServer(hello, settings(path, socket_group="no-such-group"))
    with pytest.raises(ConfigurationError, match="no-such-group"):
        server.start()
    assert not path.exists()


def test_a_socket_that_a_crash_left_is_replaced(path: pathlib.Path) -> None:
    with socket.socket(socket.AF_UNIX) as left:
        left.bind(str(path))
    with serving(hello, settings(path)):
        assert APIClient(path).get("/") == {"hello": "you"}


def test_a_file_in_its_place_is_left_alone(path: pathlib.Path) -> None:
    path.write_text("precious")
    with pytest.raises(ConfigurationError, match="no socket"):
        APIServer(hello, settings(path)).start()
    assert path.read_text() == "precious"


def test_a_directory_that_is_not_there_is_a_configuration_error(
    tmp_path: pathlib.Path,
) -> None:
    config = settings(tmp_path / "none" / "api.sock")
    with pytest.raises(ConfigurationError, match="cannot listen"):
        APIServer(hello, config).start()


def test_a_stop_removes_the_socket_and_a_start_serves_again(
    path: pathlib.Path,
) -> None:
    for _ in range(2):
        with serving(hello, settings(path)):
            assert APIClient(path).get("/") == {"hello": "you"}
        assert not path.exists()


def test_a_stop_lets_a_request_finish(path: pathlib.Path) -> None:
    inside, go_on = threading.Event(), threading.Event()

    def slow(environ: object, start: Callable[..., Any]) -> list[bytes]:
        inside.set()
        assert go_on.wait(20)
        return hello(environ, start)

    server = APIServer(slow, settings(path))
    server.start()
    with ThreadPoolExecutor() as pool:
        answer = pool.submit(APIClient(path).get, "/")
        assert inside.wait(20)
        stopping = pool.submit(server.stop)
        go_on.set()
        assert answer.result(20) == {"hello": "you"}
        stopping.result(20)


def test_an_answer_that_is_not_json_is_not_taken_for_the_api(
    path: pathlib.Path,
) -> None:
    def other(_environ: object, start: Callable[..., Any]) -> list[bytes]:
        start("200 OK", [("Content-Type", "text/html")])
        return [b"<h1>It works!</h1>"]

    with serving(other, settings(path)), pytest.raises(SchemaError):
        APIClient(path).get("/")


def test_a_refusal_without_a_reason_is_not_taken_for_the_api(
    path: pathlib.Path,
) -> None:
    def other(_environ: object, start: Callable[..., Any]) -> list[bytes]:
        start("403 Forbidden", [("Content-Type", "application/json")])
        return [b"{}"]

    with serving(other, settings(path)), pytest.raises(SchemaError):
        APIClient(path).get("/")


def test_a_connection_that_is_closed_without_an_answer_is_told(
    path: pathlib.Path,
) -> None:
    def close_at_once() -> None:
        connection, _ = listener.accept()
        connection.close()

    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        listener.listen()
        thread = threading.Thread(target=close_at_once)
        thread.start()
        with pytest.raises(SyncError, match="cannot reach"):
            APIClient(path).get("/")
        thread.join(20)
