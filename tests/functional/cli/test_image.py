"""``vmsec image`` from seal to unseal, as an operator runs it."""

from __future__ import annotations

import pathlib
import shutil
import subprocess
import sys
import uuid

import pytest
import yaml

from tests.support.cli import require_one_line, run_vmsec, vmsec_json
from tests.support.tools import require_root, require_tool

FORMATS = ("csv", "json", "table", "value", "yaml")


@pytest.fixture
def original(image: pathlib.Path) -> bytes:
    return image.read_bytes()


def test_a_sealed_image_unseals_to_the_same_bytes(
    image: pathlib.Path, key: pathlib.Path, original: bytes
) -> None:
    sealed = vmsec_json("image", "seal", image, "--key-file", key)
    assert sealed["state"] == "sealed"
    assert uuid.UUID(sealed["vm"]).version == 4
    assert (sealed["generation"], sealed["key_version"]) == (1, 1)
    assert image.read_bytes() != original
    assert b"payroll-2031" not in image.read_bytes()
    status = vmsec_json("image", "status", image)
    for name in ("vm", "disk", "generation", "key_version", "level"):
        assert status[name] == sealed[name]
    unsealed = vmsec_json("image", "unseal", image, "--key-file", key)
    assert unsealed["state"] == "plain"
    assert image.read_bytes() == original


def test_nothing_stays_beside_an_unsealed_image(
    image: pathlib.Path, key: pathlib.Path
) -> None:
    before = sorted(image.parent.iterdir())
    vmsec_json("image", "seal", image, "--key-file", key)
    vmsec_json("image", "unseal", image, "--key-file", key)
    assert sorted(image.parent.iterdir()) == before


def test_two_seals_of_one_image_share_nothing(
    image: pathlib.Path, key: pathlib.Path
) -> None:
    other = pathlib.Path(shutil.copy(image, image.with_name("other.img")))
    first = vmsec_json("image", "seal", image, "--key-file", key)
    second = vmsec_json("image", "seal", other, "--key-file", key)
    assert first["disk"] != second["disk"]
    assert first["vm"] != second["vm"]
    assert image.read_bytes()[:512] != other.read_bytes()[:512]


def test_the_manifest_lies_where_the_result_says(
    image: pathlib.Path, key: pathlib.Path
) -> None:
    result = vmsec_json("image", "seal", image, "--key-file", key)
    beside = image.with_name(image.name + ".vmsec-manifest")
    if result["manifest"] == "in the disk":
        assert not beside.exists()
    else:
        assert pathlib.Path(result["manifest"]) == beside
        assert beside.stat().st_mode & 0o777 == 0o600


def test_a_manifest_that_the_disk_holds_is_not_kept_beside_it(
    slow_image: pathlib.Path, key: pathlib.Path
) -> None:
    """Its GPT leaves zeros before the first partition."""
    with slow_image.open("r+b") as stream:
        stream.seek(34 * 512)
        stream.write(bytes((1 << 20) - 34 * 512))
    result = vmsec_json("image", "seal", slow_image, "--key-file", key)
    assert result["manifest"] == "in the disk"
    names = {path.name for path in slow_image.parent.iterdir()}
    assert names == {slow_image.name, key.name}


def test_status_has_what_scripts_rely_on(image: pathlib.Path) -> None:
    status = vmsec_json("image", "status", image)
    assert status["state"] == "plain"
    assert status.keys() >= {"vm", "generation", "key_version", "level"}


def test_inspect_says_what_is_sealed_and_what_stays_readable(
    image: pathlib.Path,
) -> None:
    before = image.read_bytes()
    report = vmsec_json("image", "inspect", image)
    (partition,) = report["partitions"]
    assert partition["filesystem"] == "ext4"
    assert report["classes"]["inode-table"]["extents"] >= 1
    assert report["classes"]["inode-table"]["bytes"] >= 4096
    assert "contents" in report["stays_readable"]
    assert "allocated" in report["stays_readable"]
    assert image.read_bytes() == before


def test_level_boot_seals_less(image: pathlib.Path) -> None:
    boot = vmsec_json("image", "inspect", image, "--level", "boot")
    full = vmsec_json("image", "inspect", image)
    assert 0 < boot["sealed_bytes"] < full["sealed_bytes"]
    assert "directory" not in boot["classes"]


@pytest.mark.parametrize("command", ["status", "inspect"])
@pytest.mark.parametrize("shape", FORMATS)
def test_every_output_format_is_there(
    image: pathlib.Path, command: str, shape: str
) -> None:
    done = run_vmsec("image", command, image, "-f", shape)
    assert done.returncode == 0, done.stderr.decode()
    assert done.stdout
    assert done.stderr == b""


def test_yaml_and_json_say_the_same(image: pathlib.Path) -> None:
    done = run_vmsec("image", "inspect", image, "-f", "yaml")
    assert yaml.safe_load(done.stdout) == vmsec_json("image", "inspect", image)


def test_one_column_as_a_value_is_the_bare_word(image: pathlib.Path) -> None:
    done = run_vmsec("image", "status", image, "-f", "value", "-c", "state")
    assert done.stdout == b"plain\n"


def test_verify_passes_and_changes_nothing(
    image: pathlib.Path, key: pathlib.Path
) -> None:
    vmsec_json("image", "seal", image, "--key-file", key)
    before = image.read_bytes()
    report = vmsec_json("image", "verify", image, "--key-file", key)
    assert report["state"] == "sealed"
    assert image.read_bytes() == before


@pytest.mark.parametrize("verb", ["seal", "unseal", "recover"])
def test_a_dry_run_changes_nothing(
    image: pathlib.Path, key: pathlib.Path, verb: str
) -> None:
    if verb == "unseal":
        vmsec_json("image", "seal", image, "--key-file", key)
    before = image.read_bytes()
    names = sorted(image.parent.iterdir())
    keys = () if verb == "recover" else ("--key-file", key)
    vmsec_json("image", verb, image, "--dry-run", *keys)
    assert image.read_bytes() == before
    assert sorted(image.parent.iterdir()) == names


def test_an_image_of_another_vm_is_refused(
    image: pathlib.Path, key: pathlib.Path
) -> None:
    vm, other = str(uuid.uuid4()), str(uuid.uuid4())
    sealed = vmsec_json("image", "seal", image, "--key-file", key, "--vm", vm)
    assert sealed["vm"] == vm
    for extra in ([], ["--dry-run"]):
        done = run_vmsec(
            *("image", "unseal", image, "--key-file", key, "--vm", other),
            *extra,
        )
        assert vm in require_one_line(done, 30)


def test_status_loads_neither_parsers_nor_services(
    image: pathlib.Path,
) -> None:
    """Scripts ask for it often; what it loads is what it costs."""
    program = (
        "import sys; from vmsec.cli import app;"
        "sys.argv[1:] = ['image', 'status', sys.argv[1]]; app.main();"
        "heavy = {'numpy', 'oslo_messaging', 'tpm2_pytss', 'httpx', 'libvirt',"
        " 'vmsec.ondisk.layout'} & set(sys.modules); sys.exit(str(heavy) if"
        " heavy else 0)"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, str(image)],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "plain" in done.stdout


def test_a_qcow2_image_is_sealed_once_its_format_is_said(
    image: pathlib.Path, key: pathlib.Path
) -> None:
    require_tool("qemu-img", "qemu-storage-daemon")
    require_root()
    disk = image.with_name("disk.qcow2")
    convert = ["qemu-img", "convert", "-f", "raw", "-O", "qcow2"]
    subprocess.run([*convert, image, disk], check=True, timeout=60)
    words = (disk, "--format", "qcow2")
    sealed = vmsec_json("image", "seal", *words, "--key-file", key)
    status = vmsec_json("image", "status", *words)
    assert status["disk"] == sealed["disk"]
    vmsec_json("image", "unseal", *words, "--key-file", key)
    subprocess.run(
        ["qemu-img", "compare", "-f", "raw", "-F", "qcow2", image, disk],
        check=True,
        timeout=60,
    )
