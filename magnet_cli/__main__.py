"""`python -m magnet_cli` and the `magnet` script."""

from __future__ import annotations

import sys


def main() -> None:
    """Run the command line and exit with its status."""
    try:
        from magnet_cli.cli.app import run
    except KeyboardInterrupt:  # during imports, before any handler is installed
        sys.exit(130)
    sys.exit(run())


if __name__ == "__main__":
    main()
