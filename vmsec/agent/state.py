"""What the agent remembers, durably: VMs, their disks and their keys.

One directory, mode 0700, one small file for each thing, each replaced as a
whole (:mod:`vmsec.durable`)::

    protected/UUID                    a mark for the hook, empty
    vms/UUID/vm                       the VM
    vms/UUID/disk.DISK                one disk
    vms/UUID/key.VERSION              one key version, useless without our TPM
    vms/UUID/manifest.DISK.NUMBER     the last manifests of a disk
    reports/NUMBER                    reports that the KMC has not got yet

Files are deterministic CBOR maps. A file that cannot be read is an error
that names it; it is never treated as absent, for that would make a protected
VM unprotected.

Source:
    DESIGN 3.5, 3.7, 5.
"""

from __future__ import annotations

import contextlib
import dataclasses
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar
from uuid import UUID

from vmsec import encoding
from vmsec.agent.lifecycle import Phase
from vmsec.durable import remove_durable, sync_directory, write_durable
from vmsec.errors import ImageIOError, LimitExceededError, SchemaError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

T = TypeVar("T")

SCHEMA = 1
MAX_FILE_BYTES = 64 << 10
"""A key file, the longest, has about 1 KiB."""

PLAIN, SEALED = "plain", "sealed"


@dataclass(frozen=True, slots=True, kw_only=True)
class VMState:
    """A protected VM as this node knows it.

    ``key_version`` is the version to seal with next.
    """

    vm: UUID
    name: str
    level: str
    key_version: int
    phase: Phase


@dataclass(frozen=True, slots=True, kw_only=True)
class DiskState:
    """One disk of a protected VM.

    ``disk`` is the identity in its seal header; ``generation`` the last one
    that was used or is being used, raised durably before a seal begins.
    """

    vm: UUID
    disk: UUID
    target: str
    path: str
    format: str
    generation: int
    key_version: int
    state: str


@dataclass(frozen=True, slots=True, kw_only=True)
class KeyState:
    """A VM key that only this node's TPM can open.

    ``srk_public`` is the TPM2B_PUBLIC of the SRK it was imported under.
    """

    vm: UUID
    version: int
    srk_public: bytes
    public: bytes
    private: bytes
    approval: bytes
    approval_public: bytes


class NodeState:
    """The agent's state directory.

    Args:
        directory: Made if missing, with mode 0700.

    Raises:
        ImageIOError: It cannot be made.
    """

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self._vms = directory / "vms"
        self._marks = directory / "protected"
        for path in (directory, self._vms, self._marks):
            _make_directory(path)

    def vms(self) -> tuple[UUID, ...]:
        """List the VMs that are known here.

        Raises:
            SchemaError: Something in the directory is not the agent's.
        """
        with _reading(self._vms):
            names = sorted(path.name for path in self._vms.iterdir())
        return tuple(_uuid(name, self._vms / name) for name in names)

    def load_vm(self, vm: UUID) -> VMState | None:
        """Load a VM, or ``None`` where this node knows no such VM.

        Raises:
            SchemaError: The file is damaged.
            ImageIOError: It cannot be read.
        """
        path = self._home(vm) / "vm"
        state = _load(path, VMState)
        return None if state is None else _require_vm(state, vm, path)

    def save_vm(self, state: VMState) -> None:
        """Save a VM and mark it as protected.

        Crash:
            The mark is written first: at worst the hook takes a VM for
            protected that is not yet.
        """
        mark = self._marks / str(state.vm)
        if not mark.exists():
            write_durable(mark, b"")
        _make_directory(self._home(state.vm))
        _save(self._home(state.vm) / "vm", state)

    def forget_vm(self, vm: UUID) -> None:
        """Forget all of a VM: it is not protected any more.

        Crash:
            The mark goes last; run again safely.
        """
        home = self._home(vm)
        if home.is_dir():
            # "vm" goes last, so that a rest is still a known VM.
            for path in sorted(home.iterdir(), key=lambda p: p.name == "vm"):
                remove_durable(path)
            with _reading(home):
                home.rmdir()
            sync_directory(self._vms)
        remove_durable(self._marks / str(vm))

    def disks(self, vm: UUID) -> tuple[DiskState, ...]:
        """Load all known disks of a VM.

        Raises:
            SchemaError: A file is damaged.
            ImageIOError: One cannot be read.
        """
        return self._all(vm, "disk.", DiskState)

    def save_disk(self, state: DiskState) -> None:
        """Save a disk; its VM must have been saved before."""
        _save(self._home(state.vm) / f"disk.{state.disk}", state)

    def forget_disk(self, vm: UUID, disk: UUID) -> None:
        """Forget a disk whose image was replaced by another one."""
        for path in self._files(vm, f"manifest.{disk}."):
            remove_durable(path)
        remove_durable(self._home(vm) / f"disk.{disk}")

    def load_key(self, vm: UUID, version: int) -> KeyState | None:
        """Load a key version, or ``None`` where it is not held here.

        Raises:
            SchemaError: The file is damaged.
            ImageIOError: It cannot be read.
        """
        path = self._home(vm) / f"key.{version}"
        state = _load(path, KeyState)
        return None if state is None else _require_vm(state, vm, path)

    def keys(self, vm: UUID) -> tuple[KeyState, ...]:
        """Load all keys of a VM; raises as :meth:`disks`."""
        return self._all(vm, "key.", KeyState)

    def save_key(self, state: KeyState) -> None:
        """Save a key version; its VM must have been saved before."""
        _save(self._home(state.vm) / f"key.{state.version}", state)

    def manifest_directory(self, vm: UUID) -> Path:
        """Return where the manifests of a VM's disks lie."""
        return self._home(vm)

    def _home(self, vm: UUID) -> Path:
        """Return the directory of a VM."""
        return self._vms / str(vm)

    def _all(
        self, vm: UUID, prefix: str, kind: type[AnyState]
    ) -> tuple[AnyState, ...]:
        """Load the records of a VM whose file names begin so."""
        found = []
        for path in self._files(vm, prefix):
            state = _load(path, kind)
            if state is not None:
                found.append(_require_vm(state, vm, path))
        return tuple(found)

    def _files(self, vm: UUID, prefix: str) -> tuple[Path, ...]:
        """List the files of a VM whose name begins so."""
        home = self._home(vm)
        if not home.is_dir():
            return ()
        with _reading(home):
            found = [p for p in home.iterdir() if p.name.startswith(prefix)]
        return tuple(sorted(found))


def _make_directory(path: Path) -> None:
    """Make a directory durably, for nobody else."""
    if path.is_dir():
        return
    with _reading(path):
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
    sync_directory(path.parent)


@contextlib.contextmanager
def _reading(path: Path) -> Iterator[None]:
    """Turn an OSError into ours, naming the file."""
    try:
        yield
    except OSError as err:
        raise ImageIOError("open", str(path), err.strerror or "") from err


def _save(path: Path, state: Any) -> None:  # noqa: ANN401 - a dataclass
    """Write one record; what stands there already is durable already."""
    record = {
        field.name: _plain(getattr(state, field.name))
        for field in dataclasses.fields(state)
    }
    data = encoding.encode({"schema": SCHEMA, **record})
    if read_limited(path) != data:
        write_durable(path, data)


def _plain(value: Any) -> Any:  # noqa: ANN401 - a field
    """Turn a field into what CBOR holds."""
    if isinstance(value, UUID):
        return value.bytes
    return str(value) if isinstance(value, Phase) else value


_KINDS: dict[str, type] = {"UUID": bytes, "Phase": str, "str": str}
_KINDS |= {"int": int, "bytes": bytes}


def _load(path: Path, kind: type[T]) -> T | None:
    """Read one record strictly; ``None`` only where there is no file."""
    data = read_limited(path)
    if data is None:
        return None
    try:
        record = encoding.decode(data, what="it")
        return _rebuild(record, kind, "it")
    except (SchemaError, ValueError) as err:
        raise SchemaError(
            f"{path}: the agent's state is damaged ({err}); restore it from "
            "a backup or move it away, then run vmsec doctor"
        ) from err


def read_limited(path: Path, limit: int = MAX_FILE_BYTES) -> bytes | None:
    """Read a whole file of at most ``limit`` bytes, or ``None`` if none.

    Raises:
        LimitExceededError: It is longer.
        ImageIOError: It cannot be read.
    """
    try:
        with path.open("rb") as file:
            data = file.read(limit + 1)
    except FileNotFoundError:
        return None
    except OSError as err:
        raise ImageIOError("read", str(path), err.strerror or "") from err
    if len(data) > limit:
        raise LimitExceededError(f"{path}: longer than {limit} bytes")
    return data


def _rebuild(record: Any, kind: type[T], what: str) -> T:  # noqa: ANN401 - CBOR
    """Build a dataclass from its map: exactly its fields and types."""
    fields = dataclasses.fields(kind)  # type: ignore[arg-type]  # one of the three above
    if encoding.field(record, "schema", int, what=what) != SCHEMA:
        raise SchemaError(f"{what}: written by another version")
    if record.keys() != {"schema", *(field.name for field in fields)}:
        raise SchemaError(f"{what}: a field is missing or unknown")
    values: dict[str, Any] = {}
    for field in fields:
        name = str(field.type)
        value = encoding.field(record, field.name, _KINDS[name], what=what)
        if name == "UUID":
            value = UUID(bytes=value)
        values[field.name] = Phase(value) if name == "Phase" else value
    return kind(**values)


AnyState = TypeVar("AnyState", VMState, DiskState, KeyState)


def _require_vm(state: AnyState, vm: UUID, path: Path) -> AnyState:
    """Refuse a file that lies in another VM's directory."""
    if state.vm != vm:
        raise SchemaError(f"{path}: belongs to VM {state.vm}, not {vm}")
    return state


def _uuid(name: str, path: Path) -> UUID:
    """Read a directory's name."""
    try:
        return UUID(name)
    except ValueError as err:
        raise SchemaError(f"{path}: not the agent's; move it away") from err
