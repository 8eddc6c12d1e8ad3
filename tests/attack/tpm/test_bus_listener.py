"""Whoever records the TPM bus learns no key."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tpm2_pytss import TPM2B_SENSITIVE_DATA, TPMS_SENSITIVE_CREATE

from tests.support.tpm import both_algorithms, opened_cloud
from tests.support.tpm_software_key import SoftwareParent
from vmsec.tpm import open_tpm
from vmsec.tpm.storage import provision
from vmsec.tpm.tss import (
    ESAPI,
    TPM2_ALG,
    TPM2B_PUBLIC,
    TPM2B_SENSITIVE_CREATE,
)

if TYPE_CHECKING:
    from pathlib import Path

    import pytest

    from vmsec.tpm import SoftwareTPM, SRKAlgorithm

CONTEXT = b"vm, version"


@both_algorithms
def test_neither_vm_key_nor_disk_key_crosses_the_bus(
    kmc_software: SoftwareTPM,
    node_software: SoftwareTPM,
    algorithm: SRKAlgorithm,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    record = tmp_path / "bus.pcap"
    monkeypatch.setenv("TCTI_PCAP_FILE", str(record))
    tctis = f"pcap:{kmc_software.tcti}", f"pcap:{node_software.tcti}"
    with opened_cloud(tctis, tmp_path, algorithm) as cloud:
        sealed = cloud.kmc.create_key()
        grant = cloud.kmc.migrate(sealed, cloud.node.srk_public())
        key = cloud.node.import_key(grant)
        disk_key = cloud.node.unseal(key, CONTEXT).reveal()
        # a parent in software that lies about it tells us the VM key
        auditor = SoftwareParent(honest=False)
        vm_key = auditor.open(
            cloud.kmc.migrate(sealed, auditor.public_bytes())
        )
    bus = record.read_bytes()
    assert bus.count(grant.public[2:]) >= 3, "the record is of this traffic"
    assert len(vm_key) == len(disk_key) == 32
    assert vm_key not in bus
    assert disk_key not in bus
    assert CONTEXT not in bus


def test_without_encrypted_sessions_the_listener_would_see_them(
    node_software: SoftwareTPM,
    algorithm: SRKAlgorithm,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The control: such a record shows secret, auth and HMAC in the clear."""
    record = tmp_path / "bus.pcap"
    monkeypatch.setenv("TCTI_PCAP_FILE", str(record))
    secret, auth = b"S" * 16 + b"secret of 32 byt", b"authValue of it"

    def plain(esapi: ESAPI) -> bytes:
        provision(esapi, algorithm=algorithm)
        parent = esapi.tr_from_tpmpublic(algorithm.value)
        sensitive = TPM2B_SENSITIVE_CREATE(
            TPMS_SENSITIVE_CREATE(
                userAuth=auth, data=TPM2B_SENSITIVE_DATA(secret)
            )
        )
        template = TPM2B_PUBLIC.parse(
            "hmac:sha256", objectAttributes="userwithauth|sign|noda"
        )
        private, public, *_rest = esapi.create(parent, sensitive, template)
        key = esapi.load(parent, private, public)
        esapi.tr_set_auth(key, auth)
        derived = bytes(esapi.hmac(key, CONTEXT, TPM2_ALG.SHA256))
        esapi.flush_context(key)
        return derived

    with open_tpm(f"pcap:{node_software.tcti}") as tpm:
        derived = tpm.run("plain", plain, idempotent=True)
    bus = record.read_bytes()
    for seen in (secret, auth, derived, CONTEXT):
        assert seen in bus
