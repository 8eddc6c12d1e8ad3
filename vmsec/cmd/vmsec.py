"""The ``vmsec`` command; see :mod:`vmsec.cli.app`."""

from __future__ import annotations

import sys

from vmsec.cli import app
from vmsec.secret import forbid_core_dumps


def main() -> int:
    """Run ``vmsec`` with the arguments of the process."""
    forbid_core_dumps()
    return app.main()


if __name__ == "__main__":
    sys.exit(main())
