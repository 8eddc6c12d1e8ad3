"""The rules of HACKING.rst that a linter does not know; one test each."""

from __future__ import annotations

import ast
import functools
import pathlib
import re
import statistics
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = pathlib.Path(__file__).parents[2]
PRODUCT = ROOT / "vmsec"
FILE_LINES = 500
MEDIAN_LINES = 150
FUNCTION_LINES = 60
TEST_FILE_LINES = 400
QUICKSTART_LINES = 300

BELOW_SERVICES = ("ondisk", "crypto", "sealing", "tpm", "keysync")
"""Packages that are told the time, never ask for it (V104)."""

WRITERS = {
    "durable.py": "the one class for durable files",
    "sealing/device.py": "the only writer of images",
    "sealing/journalfile.py": "the journal has its own order of syncs",
    "sealing/imagelock.py": "opens images to lock them, writes nothing",
    "sealing/qemuexport.py": "the log and mount point of a daemon, temporary",
    "cmd/rolelock.py": "lock files; their content is for people only",
    "agent/selftest.py": "a scratch file on which image locks are tried",
    "kmc/store/database.py": "makes SQLite's file, empty and 0600",
    "tpm/manufacture.py": "a lock file",
    "tpm/swtpm.py": "a lock file and the daemon's log",
    "agent/hookwire.py": "a stamp that may be lost; standard library only",
}
"""Modules that may open files for writing themselves (V103)."""

ENVIRONMENT = {
    "tpm/tss.py": "silences the C library's own log on standard error",
    "cmd/notify.py": "systemd names its socket there",
}
"""Modules that may look at the environment (V107)."""

CLOCKS = {"time.time", "time.time_ns", "datetime.now", "datetime.utcnow"}
LOGGERS = {"debug", "info", "warning", "error", "exception", "critical"}
PROCESSES = {"run", "Popen", "check_call", "check_output", "call"}
ANSWER = re.compile(r"\bbool\b|\bBoolArray\b|\bTypeGuard\b")
Function = ast.FunctionDef | ast.AsyncFunctionDef


@functools.cache
def parsed(path: pathlib.Path) -> ast.Module:
    return ast.parse(path.read_text())


def modules(*packages: str) -> Iterator[pathlib.Path]:
    for package in packages or ("",):
        yield from sorted((PRODUCT / package).rglob("*.py"))


def place(path: pathlib.Path, node: ast.AST | None = None) -> str:
    line = f":{getattr(node, 'lineno', 1)}" if node else ""
    return f"{path.relative_to(ROOT)}{line}"


def product_name(path: pathlib.Path) -> str:
    return str(path.relative_to(PRODUCT))


def functions(path: pathlib.Path) -> Iterator[Function]:
    for node in ast.walk(parsed(path)):
        if isinstance(node, Function):
            yield node


def calls(path: pathlib.Path) -> Iterator[tuple[str, ast.Call]]:
    """Each call with the dotted name of what is called."""
    for node in ast.walk(parsed(path)):
        if isinstance(node, ast.Call):
            yield ast.unparse(node.func), node


def lines(path: pathlib.Path) -> int:
    return len(path.read_text().splitlines())


def reveals(node: ast.AST) -> bool:
    """Whether secret bytes are taken out of their holder below a node."""
    return any(
        isinstance(inner, ast.Attribute) and inner.attr == "reveal"
        for inner in ast.walk(node)
    )


def test_there_is_a_product_to_judge() -> None:
    assert len(list(modules())) > 20


def test_v101_no_secret_is_revealed_into_argv_log_or_exception() -> None:
    found = []
    for path in modules():
        for name, call in calls(path):
            last = name.rpartition(".")[2]
            shown = last in LOGGERS | PROCESSES or last.endswith("Error")
            if shown and reveals(call):
                found.append(place(path, call))
    assert not found


def test_v102_no_function_is_called_bare_seal() -> None:
    found = [
        place(path, node)
        for path in modules()
        for node in parsed(path).body
        if isinstance(node, Function) and node.name in ("seal", "unseal")
    ]
    assert not found


def writes_files(name: str, call: ast.Call) -> bool:
    """Whether a call replaces, renames or opens a file for writing."""
    if name in ("os.replace", "os.rename", "os.open"):
        return True
    last = name.rpartition(".")[2]
    if last in ("write_bytes", "write_text"):
        return True
    mode = [*call.args, *(word.value for word in call.keywords)]
    return last == "open" and any(
        isinstance(item, ast.Constant)
        and isinstance(item.value, str)
        and set(item.value) <= set("wax+b")
        and set(item.value) & set("wax")
        for item in mode
    )


def test_v103_durable_files_are_written_by_one_module() -> None:
    found = [
        place(path, call)
        for path in modules()
        if product_name(path) not in WRITERS
        for name, call in calls(path)
        if writes_files(name, call)
    ]
    assert not found


def test_v104_below_the_services_nobody_asks_for_the_time() -> None:
    found = [
        place(path, call)
        for path in modules(*BELOW_SERVICES)
        for name, call in calls(path)
        if any(name.endswith(clock) for clock in CLOCKS)
    ]
    assert not found


def test_v105_parsers_that_read_counts_know_the_limits() -> None:
    """Who loops over numbers from the image knows limits, or its package."""
    found = []
    for path in modules("ondisk"):
        text = path.read_text()
        loops = [name for name, _ in calls(path) if name == "range"]
        unpacks = re.search(r"\bunpack(_from)?\(|\bfrom_bytes\(", text)
        if path.parent.name != "ondisk":
            text = "".join(
                map(pathlib.Path.read_text, path.parent.glob("*.py"))
            )
        if loops and unpacks and not re.search(r"import.*limit", text):
            found.append(place(path))
    assert not found


def test_v106_verification_raises_and_questions_answer() -> None:
    found = []
    for path in modules():
        for node in functions(path):
            result = ast.unparse(node.returns) if node.returns else ""
            name = node.name.lstrip("_")
            if name.startswith(("verify_", "require_")) and result == "bool":
                found.append(place(path, node))
            if name.startswith(("is_", "has_")) and not ANSWER.search(result):
                found.append(place(path, node))
    assert not found


def test_v107_no_test_switch_in_the_product() -> None:
    found = []
    for path in modules():
        text = path.read_text()
        if product_name(path) not in ENVIRONMENT and (
            "os.environ" in text or "getenv" in text
        ):
            found.append(place(path))
        if "VMSEC_TEST" in text or "pytest" in text:
            found.append(place(path))
    assert not found


@pytest.mark.parametrize("word", ["utils", "helpers", "common", "misc"])
def test_v108_no_module_is_a_drawer(word: str) -> None:
    names = {part for path in modules() for part in path.parts}
    assert not {name for name in names if name.removesuffix(".py") == word}


def test_v109_files_are_short() -> None:
    sizes = {place(path): lines(path) for path in modules()}
    assert not {name for name, size in sizes.items() if size > FILE_LINES}
    written = [size for size in sizes.values() if size > 5]
    assert statistics.median(written) <= MEDIAN_LINES


def test_v109_test_and_quickstart_files_are_short() -> None:
    tests = sorted((ROOT / "tests").rglob("*.py"))
    long = [place(path) for path in tests if lines(path) > TEST_FILE_LINES]
    steps = sorted((ROOT / "devstack" / "quickstart").rglob("*.py"))
    long += [place(path) for path in steps if lines(path) > QUICKSTART_LINES]
    assert not long


def test_v110_functions_are_short() -> None:
    found = [
        place(path, node)
        for path in modules()
        for node in functions(path)
        if (node.end_lineno or 0) - node.lineno >= FUNCTION_LINES
    ]
    assert not found


def test_v111_what_silences_a_linter_says_why() -> None:
    """``noqa`` and ``type: ignore`` name their code and have a reason."""
    found = []
    for path in modules():
        for number, line in enumerate(path.read_text().splitlines(), 1):
            marks = list(line.split("#")[1:])
            text = "#".join(marks)
            if "noqa" in text and not (" - " in text or "--" in text):
                found.append(f"{place(path)}:{number}")
            if "type: ignore" in text and "type: ignore[" not in text:
                found.append(f"{place(path)}:{number}")
    assert not found


def test_v112_nothing_is_left_for_later() -> None:
    words = re.compile(r"\b(TODO|FIXME|XXX)\b|raise NotImplementedError")
    found = [
        place(path) for path in modules() if words.search(path.read_text())
    ]
    assert not found


def test_every_rule_of_hacking_has_a_number_here_or_names_its_linter() -> None:
    text = (ROOT / "HACKING.rst").read_text()
    rules = [line.split()[0] for line in text.splitlines() if line[:2] == "V1"]
    assert len(rules) >= 12
    own = pathlib.Path(__file__).read_text()
    for rule in rules:
        assert f"test_{rule.lower()}_" in own, rule
