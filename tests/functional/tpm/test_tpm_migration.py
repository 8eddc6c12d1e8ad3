"""A VM key made by the KMC's TPM works on the node it was sent to."""

from __future__ import annotations

import dataclasses
import hashlib
import os
import shutil
from typing import TYPE_CHECKING, Any

import pytest

from tests.support.tpm import both_algorithms, opened_cloud
from vmsec.errors import (
    ConfigurationError,
    PolicyMismatchError,
    SchemaError,
    TPMError,
    TPMIdentityError,
)
from vmsec.tpm import KMCCustody, NodeCustody, SRKAlgorithm, open_tpm, policy
from vmsec.tpm.blob import parse
from vmsec.tpm.objects import srk_template
from vmsec.tpm.storage import Parent, provision
from vmsec.tpm.tss import (
    ESAPI,
    ESYS_TR,
    TPM2_ALG,
    TPM2_SE,
    TPM2B_DIGEST,
    TPM2B_PRIVATE,
    TPM2B_PUBLIC,
    TPM2B_SENSITIVE_CREATE,
    TPML_DIGEST,
    TPMT_SYM_DEF_OBJECT,
)

if TYPE_CHECKING:
    from pathlib import Path

    from tests.support.tpm import Cloud
    from vmsec.tpm import TPM, SoftwareTPM

CONTEXT = b"vm uuid, version 1"


@both_algorithms
def test_a_key_migrates_and_yields_the_same_disk_key_each_time(
    cloud: Cloud,
) -> None:
    key = cloud.deliver()
    first = cloud.node.unseal(key, CONTEXT)
    assert len(first) == 32
    assert cloud.node.unseal(key, CONTEXT) == first
    assert cloud.node.unseal(key, b"vm uuid, version 2") != first
    assert cloud.node.unseal(cloud.deliver(), CONTEXT) != first


@both_algorithms
def test_two_nodes_of_a_vm_derive_the_same_disk_key(
    cloud: Cloud, other_software: SoftwareTPM, tmp_path: Path
) -> None:
    state = tmp_path / "other"
    state.mkdir()
    sealed = cloud.kmc.create_key()
    with open_tpm(other_software.tcti) as tpm:
        other = NodeCustody(tpm, state)
        keys = [
            node.unseal(
                node.import_key(cloud.kmc.migrate(sealed, node.srk_public())),
                CONTEXT,
            )
            for node in (cloud.node, other)
        ]
    assert keys[0] == keys[1]


@both_algorithms
def test_keys_and_approvals_outlive_every_process(
    cloud: Cloud,
    kmc_software: SoftwareTPM,
    node_software: SoftwareTPM,
    algorithm: SRKAlgorithm,
    tmp_path: Path,
) -> None:
    sealed, key = cloud.kmc.create_key(), cloud.deliver()
    before = cloud.node.unseal(key, CONTEXT)
    for software in (kmc_software, node_software):
        software.stop()
        software.start()
    tctis = kmc_software.tcti, node_software.tcti
    with opened_cloud(tctis, tmp_path, algorithm) as again:
        assert again.node.unseal(key, CONTEXT) == before
        assert again.kmc.srk_public() == cloud.kmc.srk_public()
        assert again.kmc.approval_public() == cloud.kmc.approval_public()
        again.kmc.migrate(sealed, again.node.srk_public())


def test_every_blob_of_a_grant_is_parsed_strictly(cloud: Cloud) -> None:
    sealed = cloud.kmc.create_key()
    migrated = cloud.kmc.migrate(sealed, cloud.node.srk_public())
    key = cloud.node.import_key(migrated)
    with pytest.raises(SchemaError):
        cloud.kmc.migrate(sealed, cloud.node.srk_public() + b"\0")
    for field in dataclasses.fields(migrated):
        blob = getattr(migrated, field.name)
        for bad in (blob + b"\0", blob[:-1]):
            with pytest.raises(SchemaError):
                cloud.node.import_key(
                    dataclasses.replace(migrated, **{field.name: bad})
                )
    for field in dataclasses.fields(key):
        bad = getattr(key, field.name) + b"\0"
        with pytest.raises(SchemaError):
            cloud.node.unseal(
                dataclasses.replace(key, **{field.name: bad}), CONTEXT
            )


@pytest.mark.parametrize("context", [b"", bytes(257)])
def test_a_context_of_no_or_too_many_bytes_is_a_mistake(
    cloud: Cloud, context: bytes
) -> None:
    with pytest.raises(ValueError, match="256"):
        cloud.node.unseal(cloud.deliver(), context)


def test_a_lost_approval_key_is_never_replaced_in_silence(
    cloud: Cloud, algorithm: SRKAlgorithm
) -> None:
    path = cloud.kmc_state / "approval-key"
    assert path.stat().st_mode & 0o777 == 0o600
    kept = path.read_bytes()
    path.unlink()
    with pytest.raises(ConfigurationError, match="restore it from a backup"):
        KMCCustody(cloud.kmc_tpm, cloud.kmc_state, algorithm=algorithm)
    assert not path.exists()
    path.write_bytes(kept)
    KMCCustody(cloud.kmc_tpm, cloud.kmc_state, algorithm=algorithm)


def test_a_start_interrupted_before_the_pin_goes_on(
    cloud: Cloud, algorithm: SRKAlgorithm
) -> None:
    (cloud.kmc_state / "srk.pub").unlink()
    again = KMCCustody(cloud.kmc_tpm, cloud.kmc_state, algorithm=algorithm)
    assert again.approval_public() == cloud.kmc.approval_public()
    assert (cloud.kmc_state / "srk.pub").read_bytes() == again.srk_public()


def test_a_restored_state_directory_needs_its_own_tpm(
    cloud: Cloud, other_software: SoftwareTPM, tmp_path: Path
) -> None:
    stolen = tmp_path / "stolen"
    shutil.copytree(cloud.kmc_state, stolen)
    with open_tpm(other_software.tcti) as tpm:
        with pytest.raises(TPMIdentityError):
            KMCCustody(tpm, stolen)
        (stolen / "srk.pub").unlink()
        with pytest.raises(TPMError):
            KMCCustody(tpm, stolen)


def test_a_foreign_object_at_the_handle_is_reported(node_tpm: TPM) -> None:
    ecc, rsa = SRKAlgorithm.ECC_P256, SRKAlgorithm.RSA_2048

    def evict(esapi: ESAPI) -> None:
        key = esapi.tr_from_tpmpublic(ecc.value)
        esapi.evict_control(ESYS_TR.OWNER, key, ecc.value)
        esapi.tr_close(key)

    def swap(esapi: ESAPI) -> None:
        """Persist an RSA key where the ECC one belongs."""
        provision(esapi, algorithm=ecc)
        evict(esapi)
        primary = esapi.create_primary(
            TPM2B_SENSITIVE_CREATE(), srk_template(rsa), ESYS_TR.OWNER
        )[0]
        kept = esapi.evict_control(ESYS_TR.OWNER, primary, ecc.value)
        esapi.tr_close(kept)
        esapi.flush_context(primary)

    node_tpm.run("swap", swap, idempotent=False)
    try:
        with pytest.raises(TPMError, match="0x81000001 holds another object"):
            node_tpm.run(
                "provision",
                lambda esapi: provision(esapi, algorithm=ecc),
                idempotent=True,
            )
    finally:
        node_tpm.run("evict", evict, idempotent=False)


def test_an_altered_policy_or_object_is_refused(cloud: Cloud) -> None:
    migrated = cloud.kmc.migrate(
        cloud.kmc.create_key(), cloud.node.srk_public()
    )
    for change in ("authPolicy", "unique"):
        public = TPM2B_PUBLIC.unmarshal(migrated.public)[0]
        if change == "authPolicy":
            public.publicArea.authPolicy = hashlib.sha256(b"mine").digest()
        else:
            public.publicArea.unique.keyedHash = os.urandom(32)
        altered = dataclasses.replace(migrated, public=bytes(public.marshal()))
        with pytest.raises(PolicyMismatchError):
            cloud.node.import_key(altered)


def test_policies_equal_those_of_trial_sessions(node_tpm: TPM) -> None:
    name = b"\x00\x0b" + hashlib.sha256(b"object").digest()
    parent = b"\x00\x0b" + hashlib.sha256(b"parent").digest()
    branches = [TPM2B_DIGEST(d) for d in policy.vm_key_branches(name)]

    def compare(esapi: ESAPI) -> list[tuple[bytes, bytes]]:
        trial = esapi.start_auth_session(
            ESYS_TR.NONE, ESYS_TR.NONE, TPM2_SE.TRIAL, None, TPM2_ALG.SHA256
        )
        pairs = []

        def check(wanted: bytes) -> None:
            pairs.append((bytes(esapi.policy_get_digest(trial)), wanted))
            esapi.policy_restart(trial)

        esapi.policy_command_code(trial, policy.HMAC)
        esapi.policy_name_hash(trial, policy.sha256(name))
        check(policy.use_policy(name))
        esapi.policy_duplication_select(trial, name, parent, True)
        check(policy.duplicate_policy(name, parent))
        esapi.policy_secret(ESYS_TR.OWNER, trial, b"", b"", b"", 0)
        esapi.policy_command_code(trial, policy.DUPLICATE)
        check(policy.approval_key_policy())
        esapi.policy_or(trial, TPML_DIGEST(branches))
        check(policy.vm_key_policy(name))
        esapi.flush_context(trial)
        return pairs

    for got, wanted in node_tpm.run("compare", compare, idempotent=True):
        assert got == wanted


def test_nothing_but_the_approved_command_works(cloud: Cloud) -> None:
    key = cloud.deliver()
    public, use = cloud.node._verify(
        key.public, key.approval, key.approval_public
    )

    def attempt(call: Any) -> None:
        def run(esapi: ESAPI) -> None:
            private = parse(TPM2B_PRIVATE, key.private, what="x")
            with (
                cloud.node._root.opened(esapi) as parent,
                parent.loaded(public, private) as handle,
            ):
                call(parent, handle)

        with pytest.raises(TPMError):
            cloud.node_tpm.run("attempt", run, idempotent=False)

    def by_password(parent: Parent, handle: ESYS_TR) -> None:
        parent.esapi.hmac(handle, b"x", TPM2_ALG.SHA256)

    def new_auth(parent: Parent, handle: ESYS_TR) -> None:
        parent.esapi.object_change_auth(handle, parent.key, b"new")

    def duplicate(parent: Parent, handle: ESYS_TR) -> None:
        nothing = TPMT_SYM_DEF_OBJECT(algorithm=TPM2_ALG.NULL)
        parent.esapi.duplicate(handle, ESYS_TR.NULL, None, nothing)

    def unseal(parent: Parent, handle: ESYS_TR) -> None:
        parent.esapi.unseal(handle)

    for call in (by_password, new_auth, duplicate, unseal):
        attempt(call)
    assert use.reference == policy.USE_REFERENCE
