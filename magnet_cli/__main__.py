"""`python -m magnet_cli` and the `magnet` script."""

from __future__ import annotations

import sys


def main() -> None:
    """Run the command line and leave with its status."""
    try:
        from magnet_cli.cli.app import run
    except KeyboardInterrupt:  # so early that nobody can say more
        sys.exit(130)
    sys.exit(run())


if __name__ == "__main__":
    main()
