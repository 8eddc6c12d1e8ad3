"""A computer whose power can go at any operation.

One world holds an image, a journal directory and a manifest store. Writes are
kept in a list until they are synced; :meth:`World.crash_states` yields what
may be found after a power cut: every subset of the unsynced sector writes (a
sample where there are many), with the lost sectors kept or filled with
garbage, and every prefix of the unsynced directory operations.
"""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import random
    from collections.abc import Iterator

SECTOR = 512


class PowerCutError(Exception):
    """The power went."""


class World:
    """Files that are not durable before they are synced."""

    def __init__(self, image: bytes) -> None:
        self.content: dict[str, bytearray] = {"image": bytearray(image)}
        self.names: dict[str, str] = {"image": "image"}
        self.pending: list[tuple[str, int, bytes]] = []
        self.renames: list[tuple[str, str | None]] = []
        self.manifests: list[bytes] = []
        self.operations = 0
        self.syncs = 0
        self.crash_after: int | None = None
        self.drop_sync: int | None = None

    def tick(self) -> None:
        """Count an operation; the power may go before it."""
        if self.crash_after is not None and (
            self.operations >= self.crash_after
        ):
            raise PowerCutError
        self.operations += 1

    def sync_dropped(self) -> bool:
        """Count a sync; whether this one is the forgotten one."""
        self.tick()
        self.syncs += 1
        return self.syncs - 1 == self.drop_sync

    def write(self, inode: str, offset: int, data: bytes) -> None:
        """Write, sector by sector, not durable yet."""
        done = 0
        while done < len(data):
            size = min(SECTOR - (offset + done) % SECTOR, len(data) - done)
            self.tick()
            piece = bytes(data[done : done + size])
            self.pending.append((inode, offset + done, piece))
            done += size

    def sync(self, inode: str) -> None:
        """Make one file's content durable."""
        if self.sync_dropped():
            return
        for name, offset, data in self.pending:
            if name == inode:
                _apply(self.content[inode], offset, data)
        self.pending = [p for p in self.pending if p[0] != inode]

    def rename(self, name: str, inode: str | None) -> None:
        """Point a name to an inode, or remove it; not durable yet."""
        self.tick()
        self.renames.append((name, inode))

    def sync_directory(self) -> None:
        """Make names durable."""
        if self.sync_dropped():
            return
        self.names = self.current_names()
        self.renames = []

    def current_names(self) -> dict[str, str]:
        """The names as a running program sees them."""
        names = dict(self.names)
        for name, inode in self.renames:
            if inode is None:
                names.pop(name, None)
            else:
                names[name] = inode
        return names

    def current(self, inode: str) -> bytearray:
        """A file's content as a running program sees it."""
        body = bytearray(self.content.get(inode, b""))
        for name, offset, data in self.pending:
            if name == inode:
                _apply(body, offset, data)
        return body

    def crash_states(self, rng: random.Random, limit: int) -> Iterator[World]:
        """Yield the worlds that may be found after a power cut now."""
        for names in range(len(self.renames) + 1):
            for mask in _masks(len(self.pending), limit, rng):
                for garbage in (False, True):
                    yield self._after(names, mask, garbage, rng)

    def _after(
        self, names: int, mask: int, garbage: bool, rng: random.Random
    ) -> World:
        after = World(b"")
        after.content = {k: bytearray(v) for k, v in self.content.items()}
        after.manifests = copy.copy(self.manifests)
        for number, (inode, offset, data) in enumerate(self.pending):
            body = after.content.setdefault(inode, bytearray())
            if mask >> number & 1:
                _apply(body, offset, data)
            elif garbage and rng.random() < 0.5:
                _apply(body, offset, rng.randbytes(len(data)))
        known, self.renames[names:] = self.renames[names:], []
        after.names = self.current_names()
        self.renames.extend(known)
        return after


def _apply(body: bytearray, offset: int, data: bytes) -> None:
    body.extend(bytes(max(0, offset + len(data) - len(body))))
    body[offset : offset + len(data)] = data


def _masks(count: int, limit: int, rng: random.Random) -> Iterator[int]:
    if 1 << count <= limit:
        yield from range(1 << count)
        return
    yield 0
    yield (1 << count) - 1
    for number in range(min(count, limit // 4)):
        yield 1 << rng.randrange(count)
        yield ((1 << count) - 1) ^ (1 << number)
    for _ in range(limit // 2):
        yield rng.getrandbits(count)


class CrashDevice:
    """The image of a world, as a BlockDevice."""

    name = "image"
    sector_bytes = SECTOR

    def __init__(self, world: World) -> None:
        self.world = world
        self._cache: tuple[int, bytearray] = (-1, bytearray())

    @property
    def size_bytes(self) -> int:
        return len(self.world.content["image"])

    def read_at(self, offset: int, length: int) -> bytes:
        return bytes(self._current()[offset : offset + length])

    def read_into(self, offset: int, view: memoryview) -> None:
        view[:] = self.read_at(offset, len(view))

    def write_at(self, offset: int, data: memoryview | bytes) -> None:
        self.world.write("image", offset, bytes(data))

    def sync(self) -> None:
        self.world.sync("image")

    def prefetch(self, offset: int, length: int) -> None:
        """Everything is in memory."""

    def data_ranges(
        self, offset: int, length: int
    ) -> Iterator[tuple[int, int]]:
        yield offset, length

    def _current(self) -> bytearray:
        if self._cache[0] != self.world.operations:
            body = self.world.current("image")
            self._cache = (self.world.operations, body)
        return self._cache[1]


class CrashJournal:
    """The journal directory of a world, as JournalFiles."""

    name = "journal"

    def __init__(self, world: World) -> None:
        self.world = world
        self._inode = ""

    def exists(self) -> bool:
        return "journal" in self.world.current_names()

    def create_draft(self, expected_bytes: int) -> None:
        del expected_bytes
        self.discard_draft()
        self._inode = f"inode{self.world.operations}"
        self.world.content[self._inode] = bytearray()
        self.world.rename("draft", self._inode)

    def write_draft(self, offset: int, data: memoryview | bytes) -> None:
        self.world.write(self._inode, offset, bytes(data))

    def read_draft(self, offset: int, length: int) -> bytes:
        return bytes(self.world.current(self._inode)[offset:][:length])

    def sync_draft(self) -> None:
        self.world.sync(self._inode)

    def publish(self) -> None:
        self.world.renames.append(("draft", None))
        self.world.rename("journal", self._inode)
        self.world.sync_directory()

    def discard_draft(self) -> None:
        if "draft" in self.world.current_names():
            self.world.rename("draft", None)

    def read(self, offset: int, length: int) -> bytes:
        inode = self.world.current_names()["journal"]
        return bytes(self.world.current(inode)[offset:][:length])

    def sync_published(self) -> None:
        self.world.sync(self.world.current_names()["journal"])
        self.world.sync_directory()

    def remove(self) -> None:
        self.world.rename("journal", None)
        self.world.sync_directory()


class CrashStore:
    """The manifest store of a world: each save is durable at once."""

    def __init__(self, world: World) -> None:
        self.world = world

    def save(self, blob: bytes) -> None:
        self.world.tick()
        self.world.manifests.insert(0, blob)

    def candidates(self) -> list[bytes]:
        return self.world.manifests
