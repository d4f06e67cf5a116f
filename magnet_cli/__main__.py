"""`python -m magnet_cli` and the `magnet` script."""

from __future__ import annotations

import sys


def main() -> None:
    """Run the command line and leave with its status."""
    from magnet_cli.cli.app import run

    sys.exit(run())


if __name__ == "__main__":
    main()
