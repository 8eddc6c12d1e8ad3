"""Errors become answers that tell the operator enough, and nobody more."""

from __future__ import annotations

import logging
from typing import Any

import falcon
import pytest
from falcon import testing

from tests.unit.api.test_requests import PROTECT, VM, error_of
from vmsec import errors
from vmsec.api import answer


def raising(err: Exception) -> testing.TestClient:
    """An application with the API's handlers whose one page raises."""

    class Page:
        def on_get(self, *_: Any) -> None:
            raise err

    app = falcon.App()
    app.add_error_handler(Exception, answer.handle_unknown)
    app.add_error_handler(errors.VmsecError, answer.handle_vmsec_error)
    app.add_route("/", Page())
    return testing.TestClient(app)


@pytest.mark.parametrize(
    ("remote", "status"),
    [
        (errors.UnknownKeyError, 404),
        (errors.UnknownNodeError, 404),
        (errors.NodeIdentityError, 409),
        (errors.KeyStateError, 409),
        (errors.LeaseHeldError, 409),
        (errors.AccessDeniedError, 403),
        (errors.AlreadySealedError, 409),
        (errors.JournalCorruptError, 409),
        (errors.ImageBusyError, 409),
        (errors.ImageFullError, 507),
        (errors.CorruptImageError, 422),
        (errors.TPMUnavailableError, 503),
        (errors.SchemaError, 502),
        (errors.VmsecError, 500),
    ],
)
def test_the_refusal_of_a_service_keeps_code_text_and_exit_status(
    remote: type[errors.VmsecError], status: int
) -> None:
    err = errors.RemoteRefusedError(remote.code, "why", remote.exit_status)
    error = error_of(raising(err).simulate_get("/"), status)
    assert error["code"] == remote.code
    assert error["message"] == "why"
    assert error["exit_status"] == remote.exit_status
    assert error["retryable"] is remote.retryable


def test_a_code_of_a_newer_service_still_has_its_family() -> None:
    err = errors.RemoteRefusedError("custody.from-the-future", "why", 40)
    assert error_of(raising(err).simulate_get("/"), 409)["exit_status"] == 40


def test_an_own_error_shows_only_its_public_text(
    caplog: pytest.LogCaptureFixture,
) -> None:
    err = errors.ConfigurationError("/etc/vmsec/secret: cannot be read")
    error = error_of(raising(err).simulate_get("/"), 500)
    assert error["message"] == errors.ConfigurationError.public_message
    assert "/etc/vmsec/secret" in caplog.text


def test_an_unforeseen_exception_is_logged_once_with_its_incident(
    caplog: pytest.LogCaptureFixture,
) -> None:
    with caplog.at_level(logging.ERROR):
        result = raising(KeyError("s3cret")).simulate_get("/")
    error = error_of(result, 500)
    assert "s3cret" not in result.text
    assert "KeyError" not in result.text
    assert error["incident"] in error["message"]
    (record,) = caplog.records
    assert error["incident"] in record.getMessage()
    assert record.exc_info is not None


def test_a_silent_kmc_is_a_gateway_timeout_that_may_be_retried(
    api: testing.TestClient,
) -> None:
    result = api.simulate_post("/v1/vms", json=PROTECT)
    error = error_of(result, 504)
    assert error["code"] == "message.timeout"
    assert error["retryable"]
    assert "vmsec-kmc" in error["message"]


def test_a_silent_agent_is_a_gateway_timeout(api: testing.TestClient) -> None:
    result = api.simulate_post("/v1/nodes", json={"name": "compute1"})
    assert "compute1" in error_of(result, 504)["message"]


def test_health_answers_while_every_service_is_silent(
    api: testing.TestClient,
) -> None:
    assert api.simulate_get("/v1/health").json == {"status": "ok"}


def test_doctor_tells_a_silent_kmc_as_a_finding(
    api: testing.TestClient,
) -> None:
    report = api.simulate_get("/v1/doctor").json
    assert report["healthy"] is False
    (finding,) = report["findings"]
    assert (finding["service"], finding["ok"]) == ("kmc", False)
    assert "did not answer" in finding["detail"]


def test_every_page_of_a_vm_asks_the_kmc(api: testing.TestClient) -> None:
    for path in (f"/v1/vms/{VM}", f"/v1/keys/{VM}", f"/v1/keys/{VM}/2"):
        error_of(api.simulate_get(path), 504)
