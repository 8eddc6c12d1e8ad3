"""The systemd units and the programs agree, and every unit is confined."""

from __future__ import annotations

import importlib.metadata
import pathlib

import pytest

ETC = pathlib.Path(__file__).parents[3] / "etc"
UNITS = sorted((ETC / "systemd").glob("*.service"))
DAEMONS = {
    entry.name
    for entry in importlib.metadata.distribution("vmsec").entry_points
    if entry.group == "console_scripts" and entry.name != "vmsec"
}
CONFINEMENT = {
    "Type": "notify",
    "NoNewPrivileges": "yes",
    "ProtectSystem": "strict",
    "PrivateTmp": "yes",
    "MemoryDenyWriteExecute": "yes",
    "ProtectKernelModules": "yes",
    "RestrictAddressFamilies": "AF_UNIX AF_INET AF_INET6",
    "SystemCallArchitectures": "native",
    "UMask": "0077",
}


def settings(unit: pathlib.Path) -> dict[str, list[str]]:
    """All settings of a unit; one may be given several times."""
    found: dict[str, list[str]] = {}
    for line in unit.read_text().splitlines():
        name, equals, value = line.partition("=")
        if equals and not line.startswith("#"):
            found.setdefault(name, []).append(value)
    return found


def test_every_daemon_has_a_unit() -> None:
    assert {unit.stem for unit in UNITS} == DAEMONS


@pytest.mark.parametrize("unit", UNITS, ids=lambda unit: unit.stem)
def test_a_unit_starts_its_daemon(unit: pathlib.Path) -> None:
    (command,) = settings(unit)["ExecStart"]
    expected = f"/usr/bin/{unit.stem} --config-file /etc/vmsec/vmsec.conf"
    assert command == expected


@pytest.mark.parametrize("unit", UNITS, ids=lambda unit: unit.stem)
def test_a_unit_is_confined(unit: pathlib.Path) -> None:
    found = settings(unit)
    for name, value in CONFINEMENT.items():
        assert found[name] == [value], name
    assert found["SystemCallFilter"][0].startswith("@system-service")
    assert "CapabilityBoundingSet" in found


@pytest.mark.parametrize("name", ["vmsec-agent", "vmsec-allinone"])
def test_disks_are_unsealed_before_libvirt_starts_guests(name: str) -> None:
    found = settings(ETC / "systemd" / f"{name}.service")
    assert "libvirtd.service" in found["Before"][0]


@pytest.mark.parametrize("unit", UNITS, ids=lambda unit: unit.stem)
def test_only_who_works_on_disks_is_root(unit: pathlib.Path) -> None:
    works_on_disks = unit.stem in ("vmsec-agent", "vmsec-allinone")
    (user,) = settings(unit)["User"]
    assert user == ("root" if works_on_disks else "vmsec")
    created = (ETC / "sysusers.d" / "vmsec.conf").read_text()
    assert f"u {user} " in created or user == "root"
