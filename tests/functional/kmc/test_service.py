"""Starting and stopping the KMC."""

from __future__ import annotations

import dataclasses
import shutil
from typing import TYPE_CHECKING, Any

import pytest

from vmsec.conf.database import DatabaseSettings
from vmsec.errors import ConfigurationError, TPMUnavailableError
from vmsec.keysync.client import KMCClient
from vmsec.kmc.service import KMCService
from vmsec.tpm import SoftwareTPM

if TYPE_CHECKING:
    from pathlib import Path

    from vmsec.conf.kmc import KMCSettings


def require_nothing_running(settings: KMCSettings) -> None:
    """A second swtpm on this state starts only if the first one ended."""
    with SoftwareTPM(settings.state_directory, "tpm"):
        pass


def test_a_start_that_fails_leaves_nothing_running(
    settings: KMCSettings, transport: Any
) -> None:
    first = KMCService(settings, transport)
    first.start()
    first.stop()
    shutil.move(
        settings.state_directory / "approval-key",
        settings.state_directory / "elsewhere",
    )
    with pytest.raises(ConfigurationError, match="restore it from a backup"):
        KMCService(settings, transport).start()
    require_nothing_running(settings)


def test_a_database_that_cannot_be_opened_is_named(
    settings: KMCSettings, transport: Any
) -> None:
    url = "sqlite:////dev/null/none/vmsec.sqlite"
    wrong = dataclasses.replace(
        settings, database=DatabaseSettings(connection=url)
    )
    with pytest.raises(ConfigurationError, match=r"/dev/null/none"):
        KMCService(wrong, transport).start()


def test_a_configured_tpm_that_does_not_answer_is_not_replaced(
    settings: KMCSettings, transport: Any, tmp_path: Path
) -> None:
    """A KMC without its TPM must not go on with a software one."""
    wrong = dataclasses.replace(
        settings,
        tcti=f"swtpm:path={tmp_path}/absent.sock",
        tpm_timeout_seconds=3,
    )
    with pytest.raises(TPMUnavailableError):
        KMCService(wrong, transport).start()
    assert not (settings.state_directory / "tpm").exists()


def test_the_state_is_for_this_user_only(
    settings: KMCSettings, transport: Any
) -> None:
    service = KMCService(settings, transport)
    service.start()
    try:
        assert KMCClient(transport, 30).vm_list() == ()
        assert settings.state_directory.stat().st_mode & 0o777 == 0o700
    finally:
        service.stop()
    service.stop()
    service.wait()
