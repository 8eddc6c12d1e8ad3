"""The ``vmsec`` command; see :mod:`vmsec.cli.app`."""

from __future__ import annotations

import sys

from vmsec.cli import app


def main() -> int:
    """Run ``vmsec`` with the arguments of the process."""
    return app.main()


if __name__ == "__main__":
    sys.exit(main())
