"""Hostile and clumsy requests are refused before any service is asked."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from falcon import testing

VM = "6b1f5c0e-8f0b-4d3b-9a52-1f0c8c1f0a11"
PROTECT = {"vm": VM, "name": "web1", "project": "p", "level": "metadata"}


def error_of(result: testing.Result, status: int) -> dict[str, Any]:
    """Check that an answer is an error of the one shape; return it."""
    assert result.status_code == status, result.text
    assert result.json.keys() == {"error"}
    error: dict[str, Any] = result.json["error"]
    assert {"code", "message", "status", "retryable"} <= error.keys()
    assert error["status"] == status
    return error


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"vm": "../../etc/passwd"}, "vm"),
        ({"vm": VM.upper()}, "vm"),
        ({"vm": VM.replace("-", "")}, "vm"),
        ({"vm": f"{VM}\n"}, "vm"),
        ({"vm": 7}, "vm"),
        ({"vm": None}, "vm"),
        ({"level": "none"}, "level"),
        ({"level": True}, "level"),
        ({"name": "x" * 256}, "name"),
        ({"name": "red\x1b[31m"}, "name"),
        ({"name": ["a"]}, "name"),
        ({"project": "x" * 256}, "project"),
        ({"admin": True}, "unknown"),
    ],
)
def test_protect_refuses_a_wrong_member(
    api: testing.TestClient, change: dict[str, Any], named: str
) -> None:
    result = api.simulate_post("/v1/vms", json={**PROTECT, **change})
    error = error_of(result, 400)
    assert error["code"] == "request.invalid"
    assert named in error["message"]
    assert not error["retryable"]


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b"[]",
        b'"text"',
        b"null",
        b"\xff\xfe",
        b'{"vm": "a", "vm": "b"}',
        b"[" * 8000 + b"]" * 8000,
        b'{"name": "' + b"x" * (16 << 10) + b'"}',
        b'{"vm": NaN}',
    ],
    ids=[
        "empty",
        "cut",
        "list",
        "text",
        "null",
        "not-utf8",
        "member-twice",
        "deep",
        "long",
        "nan",
    ],
)
def test_protect_refuses_what_is_no_decent_object(
    api: testing.TestClient, body: bytes
) -> None:
    headers = {"Content-Type": "application/json"}
    result = api.simulate_post("/v1/vms", body=body, headers=headers)
    assert "body" in error_of(result, 400)["message"]


def test_a_body_that_is_not_declared_json_is_refused(
    api: testing.TestClient,
) -> None:
    """A web page could send a form across sites, but not this type."""
    headers = {"Content-Type": "text/plain"}
    result = api.simulate_post("/v1/vms", body=b"{}", headers=headers)
    assert "Content-Type" in error_of(result, 400)["message"]


@pytest.mark.parametrize("action", ["", "destroy", "SEAL", "seal "])
def test_an_unknown_action_is_refused(
    api: testing.TestClient, action: str
) -> None:
    result = api.simulate_post(
        f"/v1/vms/{VM}/actions", json={"action": action}
    )
    assert "action" in error_of(result, 400)["message"]


@pytest.mark.parametrize(
    "path",
    [
        "/v1/vms/1",
        f"/v1/vms/{VM}%00",
        "/v1/keys/me",
        f"/v1/keys/{VM}/0",
        f"/v1/keys/{VM}/-1",
        f"/v1/keys/{VM}/1.0",
        f"/v1/keys/{VM}/٣",
        f"/v1/keys/{VM}/9999999999",
    ],
)
def test_a_wrong_path_segment_is_refused(
    api: testing.TestClient, path: str
) -> None:
    error_of(api.simulate_get(path), 400)


@pytest.mark.parametrize(
    "query", ["vm=1", f"vm={VM}&vm={VM}", f"uuid={VM}", "vm=%20"]
)
def test_a_wrong_query_is_refused(api: testing.TestClient, query: str) -> None:
    error_of(api.simulate_get("/v1/keys", query_string=query), 400)


@pytest.mark.parametrize(
    "name", ["", "-rf", "a b", "a/b", "x" * 254, "a\nb", "é"]
)
def test_enrolling_refuses_what_is_no_host_name(
    api: testing.TestClient, name: str
) -> None:
    result = api.simulate_post("/v1/nodes", json={"name": name})
    assert "name" in error_of(result, 400)["message"]


def test_a_page_that_is_not_there_is_told_in_the_same_shape(
    api: testing.TestClient,
) -> None:
    error = error_of(api.simulate_get("/v2/vms"), 404)
    assert error["code"] == "request.not-found"


def test_a_method_that_is_not_served_is_told_in_the_same_shape(
    api: testing.TestClient,
) -> None:
    result = api.simulate_delete(f"/v1/vms/{VM}")
    error_of(result, 405)
    assert result.headers["Allow"] == "GET, OPTIONS"
