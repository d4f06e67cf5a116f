"""The same fixtures as tests/cli."""

from tests.cli.conftest import home, magnet

__all__ = ["home", "magnet"]
