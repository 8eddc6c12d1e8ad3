"""One TPM, many threads, restarts, hangs: callers wait to a deadline only."""

from __future__ import annotations

import concurrent.futures
import signal
import subprocess
import threading
import time
from typing import TYPE_CHECKING, Any

import pytest

from tests.support.tools import require_tool
from tests.support.tpm import kill, opened_cloud, send
from vmsec.errors import TPMError, TPMUnavailableError
from vmsec.tpm import SRKAlgorithm, open_tpm
from vmsec.tpm.objects import srk_template, vm_key_template
from vmsec.tpm.session import flushed
from vmsec.tpm.storage import handles
from vmsec.tpm.tss import (
    ESAPI,
    ESYS_TR,
    TPM2_ALG,
    TPM2_CAP,
    TPM2_SE,
    TPM2B_SENSITIVE_CREATE,
    TPMA_OBJECT,
)

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from vmsec.tpm import TPM, SoftwareTPM

CONTEXT = b"context"
KINDS = (0x80000000, 0x02000000, 0x03000000)
LOCKOUT_COUNTER = 0x20E


def random_bytes(tpm: TPM) -> bytes:
    return tpm.run(
        "random", lambda esapi: bytes(esapi.get_random(8)), idempotent=True
    )


def strays(tpm: TPM) -> list[int]:
    return tpm.run(
        "list",
        lambda esapi: [
            each for kind in KINDS for each in handles(esapi, kind)
        ],
        idempotent=True,
    )


def start_session(esapi: ESAPI, kind: TPM2_SE = TPM2_SE.HMAC) -> ESYS_TR:
    return esapi.start_auth_session(
        ESYS_TR.NONE, ESYS_TR.NONE, kind, None, TPM2_ALG.SHA256
    )


def lockouts(tpm: TPM) -> int:
    def read(esapi: ESAPI) -> int:
        _more, holder = esapi.get_capability(
            TPM2_CAP.TPM_PROPERTIES, LOCKOUT_COUNTER, 1
        )
        return int(holder.data.tpmProperties[0].value)

    return tpm.run("count", read, idempotent=True)


def leave_strays(tcti: str) -> None:
    """End like a client that was killed: fill every slot, flush nothing."""
    esapi = ESAPI(tcti)
    for _ in range(3):
        esapi.create_primary(
            TPM2B_SENSITIVE_CREATE(),
            srk_template(SRKAlgorithm.ECC_P256),
            ESYS_TR.OWNER,
        )
    for _ in range(4):
        esapi.context_save(start_session(esapi))
    for _ in range(3):
        start_session(esapi)
    esapi.close()


def test_strays_of_a_killed_client_are_flushed(
    node_software: SoftwareTPM,
) -> None:
    leave_strays(node_software.tcti)
    with open_tpm(node_software.tcti) as tpm:
        assert strays(tpm) == []


def test_a_client_that_fills_the_slots_does_not_lock_us_out(
    kmc_software: SoftwareTPM, node_software: SoftwareTPM, tmp_path: Path
) -> None:
    tctis = kmc_software.tcti, node_software.tcti
    with opened_cloud(tctis, tmp_path, SRKAlgorithm.ECC_P256) as cloud:
        leave_strays(kmc_software.tcti)
        cloud.kmc.create_key()
        assert strays(cloud.kmc_tpm) == []


def test_nothing_is_left_in_the_tpm_by_success_or_failure(
    kmc_software: SoftwareTPM, node_software: SoftwareTPM, tmp_path: Path
) -> None:
    tctis = kmc_software.tcti, node_software.tcti
    with opened_cloud(tctis, tmp_path, SRKAlgorithm.ECC_P256) as cloud:
        migrated = cloud.kmc.migrate(
            cloud.kmc.create_key(), cloud.node.srk_public()
        )
        cloud.node.unseal(cloud.node.import_key(migrated), CONTEXT)
        own = cloud.kmc.migrate(cloud.kmc.create_key(), cloud.kmc.srk_public())
        with pytest.raises(TPMError):
            cloud.node.import_key(own)
        assert strays(cloud.kmc_tpm) == strays(cloud.node_tpm) == []


def test_more_than_2048_commands_do_not_stall(node_tpm: TPM) -> None:
    def many(esapi: ESAPI) -> int:
        return sum(len(bytes(esapi.get_random(1))) for _ in range(2100))

    assert node_tpm.run("many", many, idempotent=True) == 2100


def test_eight_threads_at_once_get_right_answers(
    kmc_software: SoftwareTPM, node_software: SoftwareTPM, tmp_path: Path
) -> None:
    tctis = kmc_software.tcti, node_software.tcti
    with (
        opened_cloud(tctis, tmp_path, SRKAlgorithm.ECC_P256) as cloud,
        concurrent.futures.ThreadPoolExecutor(8) as pool,
    ):
        key = cloud.deliver()
        wanted = {
            str(number): cloud.node.unseal(key, str(number).encode())
            for number in range(8)
        }
        jobs = {
            pool.submit(cloud.node.unseal, key, number.encode()): number
            for number in list(wanted) * 3
        }
        for job in concurrent.futures.as_completed(jobs):
            assert job.result() == wanted[jobs[job]]
        assert strays(cloud.node_tpm) == []


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_a_restarted_tpm_goes_on_with_its_keys(
    kmc_software: SoftwareTPM,
    node_software: SoftwareTPM,
    tmp_path: Path,
    number: signal.Signals,
) -> None:
    tctis = kmc_software.tcti, node_software.tcti
    with opened_cloud(tctis, tmp_path, SRKAlgorithm.ECC_P256) as cloud:
        sealed, key = cloud.kmc.create_key(), cloud.deliver()
        before = cloud.node.unseal(key, CONTEXT)
        for software in (kmc_software, node_software):
            kill(software, number)
        with pytest.raises(TPMUnavailableError):
            cloud.node.unseal(key, CONTEXT)
        with pytest.raises(TPMUnavailableError):
            cloud.kmc.create_key()
        for software in (kmc_software, node_software):
            software.start()
        assert cloud.node.unseal(key, CONTEXT) == before
        cloud.kmc.migrate(sealed, cloud.node.srk_public())


def test_a_restart_inside_an_operation_is_retried_if_that_does_no_harm(
    node_software: SoftwareTPM, node_tpm: TPM
) -> None:
    calls: list[bool] = []

    def operation(esapi: ESAPI) -> bytes:
        session = start_session(esapi, TPM2_SE.TRIAL)
        calls.append(True)
        if len(calls) == 1:
            kill(node_software)
            node_software.start()
        digest = bytes(esapi.policy_get_digest(session))
        esapi.flush_context(session)
        return digest

    assert node_tpm.run("x", operation, idempotent=True) == bytes(32)
    assert len(calls) == 2
    calls.clear()
    with pytest.raises(TPMUnavailableError):
        node_tpm.run("x", operation, idempotent=False)
    assert len(calls) == 1
    assert len(random_bytes(node_tpm)) == 8


def test_twenty_kills_lead_to_no_lockout(
    kmc_software: SoftwareTPM, node_software: SoftwareTPM, tmp_path: Path
) -> None:
    tctis = kmc_software.tcti, node_software.tcti

    with opened_cloud(tctis, tmp_path, SRKAlgorithm.ECC_P256) as cloud:
        key = cloud.deliver()
        before = cloud.node.unseal(key, CONTEXT)
        for _ in range(20):
            kill(node_software)
            node_software.start()
            assert cloud.node.unseal(key, CONTEXT) == before
        assert lockouts(cloud.node_tpm) == 0


def test_an_orderly_stop_counts_for_no_object_at_all(
    node_software: SoftwareTPM,
) -> None:
    """An object without noDA counts a kill; TPM2_Shutdown avoids that."""
    template = srk_template(SRKAlgorithm.ECC_P256)
    template.publicArea.objectAttributes &= ~TPMA_OBJECT.NODA

    def use(esapi: ESAPI) -> None:
        created = esapi.create_primary(
            TPM2B_SENSITIVE_CREATE(), template, ESYS_TR.OWNER
        )
        with flushed(esapi, created[0]) as key:
            esapi.create(
                key, TPM2B_SENSITIVE_CREATE(), vm_key_template(bytes(32))
            )

    counts = []
    for end in (node_software.stop, lambda: kill(node_software)):
        with open_tpm(node_software.tcti) as tpm:
            tpm.run("use", use, idempotent=False)
        end()
        node_software.start()
        with open_tpm(node_software.tcti) as tpm:
            counts.append(lockouts(tpm))
            tpm.run(
                "reset",
                lambda esapi: esapi.dictionary_attack_lock_reset(
                    ESYS_TR.LOCKOUT
                ),
                idempotent=True,
            )
    assert counts == [0, 1]


def test_a_hung_tpm_costs_a_deadline_and_works_again_when_it_answers(
    node_software: SoftwareTPM,
) -> None:
    with open_tpm(node_software.tcti, timeout_seconds=0.5) as tpm:
        send(node_software, signal.SIGSTOP)
        try:
            begin = time.monotonic()
            with pytest.raises(TPMUnavailableError, match=r"within 0\.5 s"):
                random_bytes(tpm)
            assert 0.4 < time.monotonic() - begin < 5
            begin = time.monotonic()
            with pytest.raises(TPMUnavailableError):
                random_bytes(tpm)
            assert time.monotonic() - begin < 0.5, "known to be stuck"
        finally:
            send(node_software, signal.SIGCONT)
        deadline = time.monotonic() + 20
        while True:
            try:
                assert len(random_bytes(tpm)) == 8
                break
            except TPMUnavailableError:
                assert time.monotonic() < deadline
                time.sleep(0.02)


def test_threads_that_wait_behind_a_hung_operation_are_let_go(
    node_software: SoftwareTPM,
) -> None:
    with open_tpm(node_software.tcti, timeout_seconds=0.5) as tpm:
        hang, ran = threading.Event(), threading.Event()

        def submit(operation: Callable[[ESAPI], Any]) -> Any:
            return pool.submit(tpm.run, "x", operation, idempotent=True)

        with concurrent.futures.ThreadPoolExecutor(5) as pool:
            jobs = [submit(lambda _: hang.wait(20))]
            jobs += [submit(lambda _: ran.set()) for _ in range(4)]
            for job in jobs:
                with pytest.raises(TPMUnavailableError):
                    job.result(10)
        hang.set()
        time.sleep(0.1)
        assert not ran.is_set(), "what nobody waits for is not run"


def test_a_tpm_that_was_reset_under_us_is_started_up(
    node_software: SoftwareTPM, node_tpm: TPM
) -> None:
    """After a reset every command gives TPM_RC_INITIALIZE until Startup."""
    require_tool("swtpm_ioctl")
    control = node_software.tcti.removeprefix("swtpm:path=") + ".ctrl"
    subprocess.run(["swtpm_ioctl", "--unix", control, "-i"], check=True)
    with pytest.raises(TPMUnavailableError, match="0x100"):
        node_tpm.run(
            "once", lambda esapi: esapi.get_random(8), idempotent=False
        )
    assert len(random_bytes(node_tpm)) == 8
    subprocess.run(["swtpm_ioctl", "--unix", control, "-i"], check=True)
    assert len(random_bytes(node_tpm)) == 8


def test_an_rsa_import_failure_is_not_taken_for_a_dead_tpm(
    kmc_software: SoftwareTPM, node_software: SoftwareTPM, tmp_path: Path
) -> None:
    """libtpms answers TPM_RC_FAILURE to a blob of another TPM, and is well."""
    tctis = kmc_software.tcti, node_software.tcti
    with opened_cloud(tctis, tmp_path, SRKAlgorithm.RSA_2048) as cloud:
        own = cloud.kmc.migrate(cloud.kmc.create_key(), cloud.kmc.srk_public())
        with pytest.raises(TPMError) as caught:
            cloud.node.import_key(own)
        assert not isinstance(caught.value, TPMUnavailableError)
        cloud.node.unseal(cloud.deliver(), CONTEXT)


def test_nobody_home_is_said_at_once(tmp_path: Path) -> None:
    with pytest.raises(TPMUnavailableError):
        open_tpm(f"swtpm:path={tmp_path}/none")
    with pytest.raises(TPMUnavailableError):
        open_tpm(f"device:{tmp_path}/none")


def test_misuse_is_the_programmers_error(node_tpm: TPM) -> None:
    with pytest.raises(RuntimeError, match="may not run another"):
        node_tpm.run("x", lambda _: random_bytes(node_tpm), idempotent=True)
    node_tpm.close()
    node_tpm.close()
    with pytest.raises(RuntimeError, match="closed"):
        random_bytes(node_tpm)
