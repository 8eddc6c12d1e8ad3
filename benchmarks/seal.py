"""How fast is a seal, against whole-disk encryption and against the machine?

In one run, cold cache, best of three, on a 10 GiB disk with a real Debian:

* seal and unseal at the level ``metadata``: the engine in this process, and
  the ``vmsec image`` command as a process of its own;
* the rival: ``qemu-img convert -O luks`` of the same disk;
* the limit: the very extents that were sealed, read, encrypted with
  AES-256-GCM and written back in place, then ``fdatasync``, by the tightest
  loop we can write. It has no journal, no plan, no lock and no manifest.

Run as root, or the cache is not cold and the figures say so::

    python -m benchmarks.seal [-f json] [--rounds 3] [--tree DIR]
"""

from __future__ import annotations

import argparse
import json
import mmap
import os
import pathlib
import secrets
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial

from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from benchmarks.debian_disk import DIRECTORY, debian_disk, digest
from vmsec.crypto.context import derive_seal_keys
from vmsec.sealing.engine import seal_image, unseal_image
from vmsec.sealing.manifest import read_blob, read_context
from vmsec.sealing.model import (
    ImageRef,
    SealIdentity,
    SealReport,
    SealSettings,
)
from vmsec.secret import SecretBytes

TAG_BYTES = 16
VMSEC = pathlib.Path(sys.executable).parent / "vmsec"
LUKS_TRIES = 20
WANTED_RIVAL = 50
WANTED_LIMIT = 2
Extents = Sequence[tuple[int, int]]


def cool_down() -> bool:
    """Write everything back and empty the page cache, where allowed."""
    os.sync()
    try:
        pathlib.Path("/proc/sys/vm/drop_caches").write_text("3\n")
    except OSError:
        return False
    return True


def timed(work: Callable[[], object]) -> float:
    """Run something on a cold cache; return its seconds."""
    cool_down()
    begin = time.perf_counter()
    work()
    return time.perf_counter() - begin


class Engine:
    """Seals and unseals by the engine, in this process."""

    def __init__(self, image: pathlib.Path, key: bytes) -> None:
        self._image = ImageRef(image)
        self._key = key
        self.report: SealReport

    def seal(self) -> None:
        """Seal the disk under a fresh identity."""
        identity = SealIdentity(uuid.uuid4(), uuid.uuid4(), 1, 1)
        self.report = seal_image(
            self._image,
            identity,
            SecretBytes(self._key),
            settings=SealSettings(),
            manifests=None,
        )

    def unseal(self) -> None:
        """Unseal the disk."""
        unseal_image(
            self._image,
            vm=None,
            keys=lambda _vm, _version: SecretBytes(self._key),
            settings=SealSettings(),
            manifests=None,
        )

    def extents(self) -> list[tuple[int, int]]:
        """Return (offset, length) of all that the last seal encrypted."""
        blob = self.report.manifest
        context = read_context(blob)
        keys = derive_seal_keys(SecretBytes(self._key), context)
        manifest = read_blob(blob, context, keys)
        return [
            (sealed.extent.offset, sealed.extent.length)
            for sealed in manifest.extents
        ]


class Command:
    """Seals and unseals by the command, each in a process of its own."""

    def __init__(self, image: pathlib.Path, key_file: pathlib.Path) -> None:
        self._arguments = [str(image), "--key-file", str(key_file)]

    def _run(self, verb: str) -> None:
        subprocess.run(
            [str(VMSEC), "image", verb, *self._arguments, "-f", "json"],
            check=True,
            stdout=subprocess.DEVNULL,
        )

    def seal(self) -> None:
        """Run ``vmsec image seal``."""
        self._run("seal")

    def unseal(self) -> None:
        """Run ``vmsec image unseal``."""
        self._run("unseal")


def convert_to_luks(image: pathlib.Path, directory: pathlib.Path) -> None:
    """Encrypt the whole disk with QEMU's LUKS driver; sync the result.

    ``iter-time`` keeps its key derivation, which measures the machine, short;
    that measurement fails now and then, within milliseconds.
    """
    secret = directory / "passphrase"
    secret.write_text(secrets.token_hex(16))
    target = directory / "disk.luks"
    command = ["qemu-img", "convert", "-f", "raw", "-O", "luks"]
    command += ["--object", f"secret,id=s,file={secret}"]
    command += ["-o", "key-secret=s,iter-time=10", str(image), str(target)]
    for _ in range(LUKS_TRIES - 1):
        if subprocess.run(command, check=False).returncode == 0:
            break
    else:
        subprocess.run(command, check=True)
    with target.open("rb+") as file:
        os.fsync(file.fileno())
    target.unlink()


def tightest_loop(
    image: pathlib.Path, extents: Extents, key: bytes, threads: int
) -> None:
    """Read, encrypt and write back every extent, then sync.

    GCM's cipher is its own inverse under one nonce, so a second run restores
    the disk; that makes it useless for secrecy and right for a measurement.
    """
    largest = max(length for _, length in extents)
    with image.open("rb+", buffering=0) as file:
        descriptor = file.fileno()

        def work(part: Extents) -> None:
            cipher = AESGCM(key)
            plain = memoryview(mmap.mmap(-1, largest))
            coded = memoryview(mmap.mmap(-1, largest + TAG_BYTES))
            for offset, length in part:
                os.preadv(descriptor, [plain[:length]], offset)
                cipher.encrypt_into(
                    offset.to_bytes(12, "big"),
                    plain[:length],
                    None,
                    coded[: length + TAG_BYTES],
                )
                os.pwrite(descriptor, coded[:length], offset)

        with ThreadPoolExecutor(threads) as pool:
            list(pool.map(work, [extents[n::threads] for n in range(threads)]))
        os.fdatasync(descriptor)


def measure(
    image: pathlib.Path, directory: pathlib.Path, rounds: int
) -> dict[str, float]:
    """Measure everything; return the best seconds of each."""
    key = secrets.token_bytes(32)
    key_file = directory / "key"
    key_file.touch(0o600)
    key_file.write_bytes(key)
    engine, command = Engine(image, key), Command(image, key_file)
    times: dict[str, list[float]] = {}

    def note(name: str, work: Callable[[], object]) -> None:
        times.setdefault(name, []).append(timed(work))
        print(f"{name}: {times[name][-1]:.3f} s", file=sys.stderr)

    for _ in range(rounds):
        note("engine seal", engine.seal)
        note("engine unseal", engine.unseal)
        note("command seal", command.seal)
        note("command unseal", command.unseal)
        extents = engine.extents()
        for threads in (1, 2):
            loop = partial(tightest_loop, image, extents, key, threads)
            note("limit", loop)
            note("limit", loop)  # and back
        note("luks", partial(convert_to_luks, image, directory))
    best = {name: min(values) for name, values in times.items()}
    best["sealed_bytes"] = engine.report.sealed_bytes
    best["extents"] = engine.report.extents
    return best


def judge(best: dict[str, float]) -> dict[str, float]:
    """Work out both ratios for every operation of ours."""
    ratios = {}
    for who in ("engine", "command"):
        for verb in ("seal", "unseal"):
            ours = best[f"{who} {verb}"]
            ratios[f"luks / {who} {verb}"] = best["luks"] / ours
            ratios[f"{who} {verb} / limit"] = ours / best["limit"]
    return ratios


def show(result: dict[str, object], form: str) -> None:
    """Print the result, for people or for machines."""
    if form == "json":
        print(json.dumps(result, indent=2))
        return
    for part in result.values():
        if isinstance(part, dict):
            for name, value in part.items():
                text = f"{value:.3f}" if isinstance(value, float) else value
                print(f"{name:28} {text!s:>12}")
        else:
            print("reached" if part else "NOT reached")


def main() -> int:
    """Run the benchmark; 1 if the engine misses what it must reach."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("-f", "--format", choices=("text", "json"),
                        default="text")  # fmt: skip
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--tree", type=pathlib.Path)
    arguments = parser.parse_args()
    image = debian_disk(arguments.tree)
    before, blocks = digest(image), image.stat().st_blocks
    with tempfile.TemporaryDirectory(dir=DIRECTORY) as directory:
        best = measure(image, pathlib.Path(directory), arguments.rounds)
    ratios = judge(best)
    reached = all(
        ratios[f"luks / engine {verb}"] >= WANTED_RIVAL
        and ratios[f"engine {verb} / limit"] <= WANTED_LIMIT
        for verb in ("seal", "unseal")
    )
    unchanged = digest(image) == before
    result: dict[str, object] = {
        "seconds": best,
        "ratios": ratios,
        "disk": {
            "cold cache": cool_down(),
            "unchanged": unchanged,
            "blocks before": blocks,
            "blocks after": image.stat().st_blocks,
        },
        "reached": reached,
    }
    show(result, arguments.format)
    return 0 if reached and unchanged else 1


if __name__ == "__main__":
    sys.exit(main())
