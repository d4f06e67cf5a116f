"""How a setting is declared: once, with all that flags, help, checks and docs need to know. No torch here."""

from __future__ import annotations

import dataclasses
from typing import Any


def setting(default: Any, panel: str, about: str) -> Any:
    """A field that becomes a flag by itself, with its panel and its line in `--help` and the docs."""
    return dataclasses.field(default=default, metadata={"panel": panel, "about": about})
