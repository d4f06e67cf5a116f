"""Reads YAML, the format of checkpoints' settings, with the limits of reading.py."""

from __future__ import annotations

from typing import Any

import yaml

from magnet_cli.foreign.reading import MOST_DEPTH, ReadError

MOST_YAML = 300_000  # characters: PyYAML takes seconds for more, and released settings have 20,000


def yaml_of(text: str) -> Any:
    """Parse a YAML value. Aliases are refused, as a few lines of them can expand beyond memory.
    Raises ReadError: it is not YAML, is too large or too deep, or repeats a name."""
    if len(text) > MOST_YAML:
        raise ReadError(f"it has more than {MOST_YAML:,} characters")
    try:
        return yaml.load(text, _Loader)
    except yaml.MarkedYAMLError as error:
        line = f" in line {error.problem_mark.line + 1}" if error.problem_mark else ""
        raise ReadError(f"it is not YAML that can be read: {error.problem}{line}") from None
    except ReadError:
        raise
    except Exception:  # a value that contradicts its tag raises any exception
        raise ReadError("it is not YAML that can be read") from None


class _Loader(yaml.SafeLoader):
    """yaml.SafeLoader without aliases and duplicate names, and with a maximum depth."""

    depth = 0

    def compose_node(self, parent: Any, index: Any) -> Any:
        if self.check_event(yaml.AliasEvent):
            raise ReadError("it uses aliases, which are not read")
        self.depth += 1
        if self.depth > MOST_DEPTH:
            raise ReadError(f"it is nested more than {MOST_DEPTH} deep")
        node = super().compose_node(parent, index)
        self.depth -= 1
        return node

    def construct_mapping(self, node: Any, deep: bool = False) -> Any:
        names = [key.value for key, _ in node.value if isinstance(key, yaml.ScalarNode)]
        if len(set(names)) < len(names):
            twice = next(name for name in names if names.count(name) > 1)
            raise ReadError(f"it says {twice[:40]!r} twice")
        return super().construct_mapping(node, deep)
