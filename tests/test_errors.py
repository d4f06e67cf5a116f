"""Every error says what is wrong and what to do next."""

from __future__ import annotations

import ast

import pytest

from magnet_cli import errors
from magnet_cli.errors import MagnetError, PartialFailureError
from tests.test_imports import FILES

ERRORS = {
    name
    for name, each in vars(errors).items()
    if isinstance(each, type) and issubclass(each, MagnetError)
} | {"InTheWayError", "NotANumberError"}


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.name))
def test_every_error_has_a_hint(path: object) -> None:
    """A message alone does not help. 43 errors had no hint, or Python's own text."""
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):  # type: ignore[attr-defined]
        if (
            isinstance(node, ast.Call)
            and isinstance(node.func, ast.Name)
            and node.func.id in ERRORS
        ):
            said = ast.unparse(node)
            assert len(node.args) >= 2 or len(node.keywords) >= 1, f"no hint: {said}"
            assert "type(error)" not in said or "Unexpected" in said, f"Python's words: {said}"


def test_details_stand_between_message_and_hint() -> None:
    error = PartialFailureError("2 of 3 failed.", "Try again.", ["a.wav: no", "b.wav: no"])
    assert str(error) == "2 of 3 failed. a.wav: no b.wav: no Try again."
