"""`xp.cfg`: the experiment's settings that a released checkpoint carries, as YAML text.

The text holds the interpolations of the tool that wrote it (OmegaConf), unresolved:
`${sample_rate}`, `${encodec.causal}`. Plain dotted ones are resolved here; resolvers
(`${oc.env:USER}`), relative ones (`${.x}`) and references to keys that are not there stay as the
text they are, because no size of a model depends on them. `value` refuses them where one is asked for
after all.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, TypeVar

from magnet_cli.checkpoints.building import read_pickle
from magnet_cli.errors import CheckpointError
from magnet_cli.fields import shown
from magnet_cli.foreign import yaml_text
from magnet_cli.foreign.reading import ReadError, check_depth, kind_of

_REFERENCE = re.compile(r"\$\{([A-Za-z_][\w.]*)\}")
_HINT = "The file is damaged, or of a kind that this version cannot read."
_KINDS = {
    int: "a whole number",
    float: "a number",
    bool: "true or false",
    str: "a text",
    list: "a list",
}
_MOST_PARTS = (
    100_000  # values, and 100 characters of a text count as one: released ones have a thousand
)
_T = TypeVar("_T")


def read_package(path: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """The state dictionary of a released file, and the settings beside it.
    Raises CheckpointError: unreadable, refused, or not in the released layout."""
    package = read_pickle(path)
    state, text = package.get("best_state"), package.get("xp.cfg")
    if not isinstance(state, dict) or not isinstance(text, str):
        raise CheckpointError(
            f"{path} is not in the released layout: it needs best_state and xp.cfg.",
            "Export the training checkpoint first (audiocraft's utils.export).",
        )
    return state, parse(text)


def parse(text: str) -> dict[str, Any]:
    """The settings in `text`, nested as they are, plain interpolations replaced by what they name.
    Raises CheckpointError: not YAML, not a mapping, or an interpolation that leads back to itself.
    """
    try:
        raw = yaml_text.yaml_of(text)
        if not isinstance(raw, dict):
            raise ReadError(f"it holds {kind_of(raw)}, not settings by name")
        resolver = _Resolver(raw)
        settings = {key: resolver.resolve(node, ()) for key, node in raw.items()}
        check_depth(settings)
    except ReadError as error:
        raise CheckpointError(f"xp.cfg cannot be read: {error}.", _HINT) from None
    return settings


def value(settings: dict[str, Any], path: str, kind: type[_T]) -> _T:
    """The setting at a dotted path, for instance `value(settings, "seanet.n_filters", int)`.

    A whole number is taken where a float is asked for; True and False are not numbers. Raises
    CheckpointError: nothing is there, or it is not a `kind`, as an unresolved one is not.
    """
    try:
        found = _at(settings, path)
    except KeyError:
        raise CheckpointError(f"xp.cfg does not say {path}.", _HINT) from None
    if kind is float and isinstance(found, int) and not isinstance(found, bool):
        found = float(found)
    is_flag = isinstance(found, bool) and not issubclass(kind, bool)
    if is_flag or not isinstance(found, kind):
        raise CheckpointError(
            f"xp.cfg says {path}: {shown(found)}, where {_KINDS[kind]} belongs.", _HINT
        )
    return found


def get(settings: dict[str, Any], path: str, otherwise: Any) -> Any:
    """The setting at a dotted path, of whatever kind; `otherwise` where nothing is there."""
    try:
        return _at(settings, path)
    except KeyError:
        return otherwise


def _at(settings: Any, path: str) -> Any:
    for name in path.split("."):
        if not isinstance(settings, dict) or name not in settings:
            raise KeyError(path)
        settings = settings[name]
    return settings


class _Resolver:
    """Replaces references by what they name; what they come to is counted, since each can name many."""

    def __init__(self, root: dict[str, Any]) -> None:
        self._root = root
        self._parts = 0

    def resolve(self, node: Any, trail: tuple[str, ...]) -> Any:
        """`node` with its references replaced; `trail` holds the references that led here."""
        self._parts += 1 + (len(node) // 100 if isinstance(node, str) else 0)
        if self._parts > _MOST_PARTS or len(trail) > 20:
            raise ReadError("its references expand to too many settings")
        if isinstance(node, dict):
            return {key: self.resolve(child, trail) for key, child in node.items()}
        if isinstance(node, list):
            return [self.resolve(child, trail) for child in node]
        if not isinstance(node, str):
            return node
        whole = _REFERENCE.fullmatch(node)
        if whole:  # keeps its type: a number stays a number
            return self._follow(whole.group(1), trail, otherwise=node)
        text = _REFERENCE.sub(
            lambda part: str(self._follow(part.group(1), trail, otherwise=part.group(0))), node
        )
        self._parts += len(text) // 100
        return text

    def _follow(self, path: str, trail: tuple[str, ...], otherwise: str) -> Any:
        if path in trail:
            raise ReadError(f"{path[:80]} refers to itself")
        try:
            target = _at(self._root, path)
        except KeyError:
            return otherwise
        return self.resolve(target, (*trail, path))
