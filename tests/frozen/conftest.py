"""The program, as tests/cli has it."""

from tests.cli.conftest import home, magnet

__all__ = ["home", "magnet"]
