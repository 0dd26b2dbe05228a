"""The command line: the only place where everything is put together."""

from __future__ import annotations

import sys


def main() -> None:
    """The console script `enginebay`."""
    from enginebay.cli.main import run

    sys.exit(run(sys.argv[1:]))
