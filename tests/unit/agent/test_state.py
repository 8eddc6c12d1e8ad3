"""What the agent remembers is whole, its own, or an error."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING
from uuid import UUID, uuid4

import pytest

from vmsec import encoding
from vmsec.agent.lifecycle import Phase
from vmsec.agent.state import DiskState, KeyState, NodeState, VMState
from vmsec.errors import LimitExceededError, SchemaError

if TYPE_CHECKING:
    from pathlib import Path

VM = UUID("1c9b7a3e-5d2f-4e6b-8a90-7f1e2d3c4b5a")
STATE = VMState(
    vm=VM, name="vm", level="metadata", key_version=1, phase=Phase.OFF
)
DISK = DiskState(
    vm=VM,
    disk=uuid4(),
    target="vda",
    path="/images/disk",
    format="raw",
    generation=7,
    key_version=1,
    state="sealed",
)
KEY = KeyState(
    vm=VM,
    version=1,
    srk_public=b"s",
    public=b"p",
    private=b"q",
    approval=b"a",
    approval_public=b"b",
)


@pytest.fixture
def state(tmp_path: Path) -> NodeState:
    node = NodeState(tmp_path / "agent")
    node.save_vm(STATE)
    node.save_disk(DISK)
    node.save_key(KEY)
    return node


def home(state: NodeState) -> Path:
    return state.directory / "vms" / str(VM)


def test_everything_comes_back_in_another_process(state: NodeState) -> None:
    again = NodeState(state.directory)
    assert again.vms() == (VM,)
    assert again.load_vm(VM) == STATE
    assert again.disks(VM) == (DISK,)
    assert again.load_key(VM, 1) == KEY


def test_unknown_things_are_absent_without_an_error(state: NodeState) -> None:
    assert state.load_vm(uuid4()) is None
    assert state.load_key(VM, 2) is None
    assert state.disks(uuid4()) == ()


def test_nobody_else_may_look(state: NodeState) -> None:
    assert state.directory.stat().st_mode & 0o777 == 0o700
    for path in home(state).iterdir():
        assert path.stat().st_mode & 0o777 == 0o600


def test_protected_vm_is_marked_for_the_hook(state: NodeState) -> None:
    mark = state.directory / "protected" / str(VM)
    assert mark.exists()
    state.forget_vm(VM)
    assert not mark.exists()
    assert state.vms() == ()
    assert state.load_key(VM, 1) is None


@pytest.mark.parametrize("name", ["vm", "disk", "key"])
@pytest.mark.parametrize("damage", ["empty", "cut", "grown", "foreign"])
def test_damaged_file_is_an_error_never_absent(
    state: NodeState, name: str, damage: str
) -> None:
    path = next(p for p in home(state).iterdir() if p.name.startswith(name))
    data = path.read_bytes()
    path.write_bytes(
        {
            "empty": b"",
            "cut": data[:-1],
            "grown": data + b"\0",
            "foreign": encoding.encode({"schema": 1}),
        }[damage]
    )
    with pytest.raises(SchemaError, match="damaged"):
        _ = state.load_vm(VM), state.disks(VM), state.load_key(VM, 1)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("generation", "7"),
        ("generation", True),
        ("vm", b"short"),
        ("path", b"/images/disk"),
        ("schema", 2),
        ("surplus", 1),
    ],
)
def test_wrong_field_is_an_error(
    state: NodeState, field: str, value: object
) -> None:
    path = home(state) / f"disk.{DISK.disk}"
    record = encoding.decode(path.read_bytes(), what="disk")
    path.write_bytes(encoding.encode(record | {field: value}))
    with pytest.raises(SchemaError):
        state.disks(VM)


def test_unknown_phase_is_an_error(state: NodeState) -> None:
    path = home(state) / "vm"
    record = encoding.decode(path.read_bytes(), what="vm")
    path.write_bytes(encoding.encode(record | {"phase": "asleep"}))
    with pytest.raises(SchemaError):
        state.load_vm(VM)


def test_file_of_another_vm_is_an_error(state: NodeState) -> None:
    other = dataclasses.replace(DISK, vm=uuid4())
    state.save_vm(dataclasses.replace(STATE, vm=other.vm))
    state.save_disk(other)
    name = f"disk.{other.disk}"
    source = state.directory / "vms" / str(other.vm) / name
    source.rename(home(state) / name)
    with pytest.raises(SchemaError, match="belongs to VM"):
        state.disks(VM)


def test_foreign_directory_is_an_error(state: NodeState) -> None:
    (state.directory / "vms" / "lost+found").mkdir()
    with pytest.raises(SchemaError, match="not the agent's"):
        state.vms()


def test_endless_file_is_not_read_whole(state: NodeState) -> None:
    (home(state) / "vm").write_bytes(bytes(1 << 20))
    with pytest.raises(LimitExceededError):
        state.load_vm(VM)


def test_forgotten_disk_takes_its_manifests_along(state: NodeState) -> None:
    (home(state) / f"manifest.{DISK.disk}.1").write_bytes(b"m")
    (home(state) / f"manifest.{uuid4()}.1").write_bytes(b"other")
    state.forget_disk(VM, DISK.disk)
    assert state.disks(VM) == ()
    left = [p.name for p in home(state).iterdir() if "manifest" in p.name]
    assert len(left) == 1
