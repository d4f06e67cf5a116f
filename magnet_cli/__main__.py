"""`python -m magnet_cli` and the `magnet` script."""

from __future__ import annotations


def main() -> None:
    """Run the command line."""
    from magnet_cli.cli.app import run

    run()


if __name__ == "__main__":
    main()
