"""Write the sample files below ``etc/vmsec``, or check that they are fresh.

``python -m devstack.samples`` writes them; with ``--check`` it compares them
with what the generators would write, and fails where they differ. Names of
files restrict it to these.
"""

from __future__ import annotations

import argparse
import difflib
import pathlib
import subprocess
import sys
import tempfile

ROOT = pathlib.Path(__file__).parents[1]
SAMPLES = {
    "etc/vmsec/vmsec.conf.sample": [
        "oslo-config-generator",
        "--config-file",
        "etc/vmsec/vmsec-config-generator.conf",
        "--output-file",
    ],
}


def generate(sample: str, target: pathlib.Path) -> str:
    """Run a sample's generator and return what it wrote."""
    generator, *arguments = SAMPLES[sample]
    program = pathlib.Path(sys.executable).parent / generator
    subprocess.run(
        [str(program), *arguments, str(target)], check=True, cwd=ROOT
    )
    return target.read_text()


def is_fresh(sample: str) -> bool:
    """Compare a sample with its generator's output; show the difference."""
    with tempfile.TemporaryDirectory() as directory:
        fresh = generate(sample, pathlib.Path(directory) / "sample")
    present = (ROOT / sample).read_text()
    sys.stdout.writelines(
        difflib.unified_diff(
            present.splitlines(keepends=True),
            fresh.splitlines(keepends=True),
            sample,
            "generated",
        )
    )
    return present == fresh


def main() -> int:
    """Write or check every sample; 1 where one is stale."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true")
    names = [pathlib.Path(sample).name for sample in SAMPLES]
    parser.add_argument("names", nargs="*", metavar="NAME", help=str(names))
    arguments = parser.parse_args()
    for name in arguments.names:
        if name not in names:
            parser.error(f"no sample {name}; there are {', '.join(names)}")
    chosen = [
        sample
        for sample in SAMPLES
        if not arguments.names or pathlib.Path(sample).name in arguments.names
    ]
    if not arguments.check:
        for sample in chosen:
            generate(sample, ROOT / sample)
        return 0
    stale = [sample for sample in chosen if not is_fresh(sample)]
    for sample in stale:
        sys.stdout.write(f"{sample} is stale: python -m devstack.samples\n")
    return 1 if stale else 0


if __name__ == "__main__":
    sys.exit(main())
