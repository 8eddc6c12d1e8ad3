"""A grant works on one node only, and only the pinned KMC can make one."""

from __future__ import annotations

import dataclasses
import hashlib
import hmac
import os
import shutil
from typing import TYPE_CHECKING

import pytest

from tests.support.tpm import both_algorithms, opened_cloud
from tests.support.tpm_software_key import SoftwareParent, software_grant
from vmsec.errors import (
    PolicyMismatchError,
    TPMError,
    TPMIdentityError,
    TPMUnavailableError,
)
from vmsec.tpm import KMCCustody, NodeCustody, approval, open_tpm
from vmsec.tpm.blob import parse
from vmsec.tpm.custody import DISK_KEY_LABEL, _assert_use
from vmsec.tpm.session import policy_session
from vmsec.tpm.tss import (
    ESAPI,
    ESYS_TR,
    TPM2_ALG,
    TPM2B_PRIVATE,
    TPM2B_PUBLIC,
    TPMA_OBJECT,
    TPMT_SYM_DEF_OBJECT,
)

if TYPE_CHECKING:
    from pathlib import Path

    from tests.support.tpm import Cloud
    from vmsec.tpm import MigratedKey, SoftwareTPM, SRKAlgorithm

CONTEXT = b"vm, version"


@pytest.fixture
def grant(cloud: Cloud) -> MigratedKey:
    """A good grant for the node, not imported yet."""
    return cloud.kmc.migrate(cloud.kmc.create_key(), cloud.node.srk_public())


@both_algorithms
def test_a_grant_caught_on_the_way_is_useless_on_another_node(
    cloud: Cloud,
    grant: MigratedKey,
    other_software: SoftwareTPM,
    algorithm: SRKAlgorithm,
    tmp_path: Path,
) -> None:
    state = tmp_path / "other"
    state.mkdir()
    with open_tpm(other_software.tcti) as tpm:
        other = NodeCustody(tpm, state, algorithm=algorithm)
        with pytest.raises(TPMError) as caught:
            other.import_key(grant)
        assert not isinstance(caught.value, TPMUnavailableError)
        # nor is what the right node keeps on its disk
        key = cloud.node.import_key(grant)
        with pytest.raises(TPMError):
            other.unseal(key, CONTEXT)


def test_the_kmc_sends_no_key_to_a_parent_made_in_software(
    cloud: Cloud,
) -> None:
    """Its owner could read every key; fixedTPM must be set at the least."""
    parent = SoftwareParent(honest=True)
    with pytest.raises(PolicyMismatchError, match="stays in its TPM"):
        cloud.kmc.migrate(cloud.kmc.create_key(), parent.public_bytes())
    with pytest.raises(PolicyMismatchError, match="stays in its TPM"):
        cloud.kmc.migrate(cloud.kmc.create_key(), cloud.kmc.approval_public())


def test_the_kmcs_own_tpm_refuses_a_parent_that_was_not_approved(
    cloud: Cloud, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The approval names one node; the TPM, not the program, insists."""
    sealed, elsewhere = cloud.kmc.create_key(), cloud.kmc.srk_public()
    approve = cloud.kmc._approve
    name = bytes(parse(TPM2B_PUBLIC, elsewhere, what="x").get_name())
    monkeypatch.setattr(
        cloud.kmc,
        "_approve",
        lambda parent, key, _node: approve(parent, key, name),
    )
    with pytest.raises(PolicyMismatchError):
        cloud.kmc.migrate(sealed, cloud.node.srk_public())


def test_an_approval_for_use_does_not_let_a_node_pass_the_key_on(
    cloud: Cloud, grant: MigratedKey
) -> None:
    """A rooted node has its TPM and the grant, and wants the key itself."""
    key = cloud.node.import_key(grant)
    private = parse(TPM2B_PRIVATE, key.private, what="x")
    public, use = cloud.node._verify(
        key.public, key.approval, key.approval_public
    )

    def run(esapi: ESAPI) -> None:
        nothing = TPMT_SYM_DEF_OBJECT(algorithm=TPM2_ALG.NULL)
        with cloud.node._root.opened(esapi) as parent:
            ticket = approval.verify(parent, use)
            with (
                parent.loaded(public, private) as handle,
                policy_session(esapi, parent.key) as session,
            ):
                _assert_use(esapi, session, bytes(public.get_name()))
                approval.authorize(esapi, session, use, ticket)
                esapi.duplicate(
                    handle, ESYS_TR.NULL, None, nothing, session1=session
                )

    with pytest.raises(PolicyMismatchError):
        cloud.node_tpm.run("duplicate", run, idempotent=False)


@pytest.mark.parametrize("place", [10, 40, 71])
def test_an_altered_approval_is_refused(
    cloud: Cloud, grant: MigratedKey, place: int
) -> None:
    damaged = bytearray(grant.approval)
    damaged[place] ^= 1
    with pytest.raises(PolicyMismatchError):
        cloud.node.import_key(
            dataclasses.replace(grant, approval=bytes(damaged))
        )
    key = cloud.node.import_key(grant)
    with pytest.raises(PolicyMismatchError):
        cloud.node.unseal(
            dataclasses.replace(key, approval=bytes(damaged)), CONTEXT
        )


def test_the_approval_of_one_key_does_not_serve_another(
    cloud: Cloud, grant: MigratedKey
) -> None:
    second = cloud.kmc.migrate(cloud.kmc.create_key(), cloud.node.srk_public())
    swapped = dataclasses.replace(second, approval=grant.approval)
    with pytest.raises(PolicyMismatchError):
        cloud.node.import_key(swapped)


@pytest.mark.parametrize("name", ["duplicate", "seed"])
def test_altered_key_material_is_refused(
    cloud: Cloud, grant: MigratedKey, name: str
) -> None:
    blob = bytearray(getattr(grant, name))
    blob[-1] ^= 1
    with pytest.raises(TPMError):
        cloud.node.import_key(
            dataclasses.replace(grant, **{name: bytes(blob)})
        )
    cloud.node.import_key(grant)


@both_algorithms
def test_a_key_that_the_attacker_knows_is_not_accepted(
    cloud: Cloud, grant: MigratedKey
) -> None:
    """Anybody may wrap a key to a node's public SRK; nobody may approve it."""
    forged = software_grant(
        os.urandom(32), cloud.node.srk_public(), grant.approval_public
    )
    forged = dataclasses.replace(forged, approval=grant.approval)
    with pytest.raises(PolicyMismatchError):
        cloud.node.import_key(forged)


def test_a_kmc_of_the_attackers_is_not_the_pinned_one(
    cloud: Cloud,
    grant: MigratedKey,
    other_software: SoftwareTPM,
    tmp_path: Path,
) -> None:
    cloud.node.import_key(grant)
    state = tmp_path / "rogue"
    state.mkdir()
    with open_tpm(other_software.tcti) as tpm:
        rogue = KMCCustody(tpm, state)
        bad = rogue.migrate(rogue.create_key(), cloud.node.srk_public())
        with pytest.raises(TPMIdentityError, match=r"approval\.pub"):
            cloud.node.import_key(bad)
        with pytest.raises(TPMIdentityError):
            cloud.node.trust(rogue.approval_public())
    cloud.node.import_key(grant)


def test_a_forged_first_grant_pins_nothing(
    cloud: Cloud, grant: MigratedKey
) -> None:
    damaged = bytearray(grant.approval)
    damaged[-1] ^= 1
    with pytest.raises(PolicyMismatchError):
        cloud.node.import_key(
            dataclasses.replace(grant, approval=bytes(damaged))
        )
    assert not (cloud.node_state / "approval.pub").exists()
    cloud.node.trust(grant.approval_public)
    with pytest.raises(PolicyMismatchError):
        cloud.node.trust(cloud.node.srk_public())


def test_an_exchanged_tpm_is_noticed_at_start(
    cloud: Cloud, other_software: SoftwareTPM, algorithm: SRKAlgorithm
) -> None:
    with (
        open_tpm(other_software.tcti) as tpm,
        pytest.raises(TPMIdentityError, match=r"srk\.pub"),
    ):
        NodeCustody(tpm, cloud.node_state, algorithm=algorithm)


def test_a_tpm_exchanged_behind_the_socket_is_noticed_at_the_next_use(
    cloud: Cloud,
    grant: MigratedKey,
    node_software: SoftwareTPM,
    other_software: SoftwareTPM,
    tpm_directory: Path,
) -> None:
    """The attacker moves his own TPM to where the node's one listened."""
    key = cloud.node.import_key(grant)
    with open_tpm(other_software.tcti) as tpm:
        (tpm_directory / "theirs").mkdir(exist_ok=True)
        NodeCustody(tpm, tpm_directory / "theirs")
    node_software.stop()
    ours, theirs = tpm_directory / "node", tpm_directory / "other"
    for name in ("sock", "sock.ctrl"):
        (ours / name).symlink_to(theirs / name)
    try:
        with pytest.raises(TPMIdentityError):
            cloud.node.unseal(key, CONTEXT)
        with pytest.raises(TPMIdentityError):
            cloud.node.import_key(grant)
    finally:
        for name in ("sock", "sock.ctrl"):
            (ours / name).unlink()


def approved(cloud: Cloud, grant: MigratedKey) -> MigratedKey:
    """Have the KMC approve the use of a key that it did not make."""
    name = bytes(parse(TPM2B_PUBLIC, grant.public, what="x").get_name())

    def approve(esapi: ESAPI) -> bytes:
        with cloud.kmc._root.opened(esapi) as parent:
            use, _move = cloud.kmc._approve(parent, name, name)
            return bytes(use.marshal())

    signed = cloud.kmc_tpm.run("approve", approve, idempotent=True)
    return dataclasses.replace(grant, approval=signed)


@both_algorithms
def test_the_derived_key_is_the_hmac_that_was_promised(cloud: Cloud) -> None:
    """Checked with a VM key that we know, because we made and approved it."""
    secret = os.urandom(32)
    grant = software_grant(
        secret, cloud.node.srk_public(), cloud.kmc.approval_public()
    )
    key = cloud.node.import_key(approved(cloud, grant))
    wanted = hmac.new(secret, DISK_KEY_LABEL + CONTEXT, hashlib.sha256)
    assert cloud.node.unseal(key, CONTEXT).reveal() == wanted.digest()


def test_a_key_that_works_without_its_policy_is_refused_even_if_approved(
    cloud: Cloud,
) -> None:
    grant = software_grant(
        os.urandom(32),
        cloud.node.srk_public(),
        cloud.kmc.approval_public(),
        more=TPMA_OBJECT.USERWITHAUTH,
    )
    with pytest.raises(PolicyMismatchError, match="not a VM key"):
        cloud.node.import_key(approved(cloud, grant))


def test_a_rogue_kmcs_key_put_on_the_nodes_disk_is_not_used(
    cloud: Cloud,
    grant: MigratedKey,
    other_software: SoftwareTPM,
    tmp_path: Path,
) -> None:
    """The attacker had the node's TPM for a while, then writes its files."""
    cloud.node.import_key(grant)
    for name in ("rogue", "unpinned"):
        (tmp_path / name).mkdir()
    unpinned = NodeCustody(cloud.node_tpm, tmp_path / "unpinned")
    with open_tpm(other_software.tcti) as tpm:
        rogue = KMCCustody(tpm, tmp_path / "rogue")
        bad = unpinned.import_key(
            rogue.migrate(rogue.create_key(), unpinned.srk_public())
        )
    assert len(unpinned.unseal(bad, CONTEXT)) == 32
    with pytest.raises(TPMIdentityError, match=r"approval\.pub"):
        cloud.node.unseal(bad, CONTEXT)


def test_a_copied_state_directory_is_useless_without_the_tpm(
    cloud: Cloud,
    kmc_software: SoftwareTPM,
    other_software: SoftwareTPM,
    algorithm: SRKAlgorithm,
    tmp_path: Path,
) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(cloud.kmc_state, copy / "kmc")
    (copy / "kmc/srk.pub").unlink()
    tctis = other_software.tcti, kmc_software.tcti
    with (
        pytest.raises(TPMError),
        opened_cloud(tctis, copy, algorithm),
    ):
        pass
