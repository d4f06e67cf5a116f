"""`xp.cfg`: the settings of the training run, stored in a released checkpoint as YAML text.

It contains the unresolved interpolations of the tool that wrote it (OmegaConf): `${sample_rate}`,
`${encodec.causal}`. Plain dotted ones are resolved here. Resolvers (`${oc.env:USER}`), relative ones
(`${.x}`) and references to missing keys stay text, because no size of a model depends on them; `value`
refuses them.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, TypeVar

import torch
import yaml
from torch import Tensor

from magnet_cli.checkpoints.building import read_pickle
from magnet_cli.errors import CheckpointError
from magnet_cli.fields import shown
from magnet_cli.files import atomic_path
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
    100_000  # values; 100 characters of text count as one, and released settings have a thousand
)
_T = TypeVar("_T")


def read_package(path: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """The state dictionary and the settings in a released file.
    Raises CheckpointError: unreadable, refused, or not in the released layout."""
    package = read_pickle(path)
    state, text = package.get("best_state"), package.get("xp.cfg")
    if not isinstance(state, dict) or not isinstance(text, str):
        raise CheckpointError(
            f"{path} is not in the released layout: it needs best_state and xp.cfg.",
            "Export the training checkpoint first (audiocraft's utils.export).",
        )
    return state, parse(text)


def write_package(path: Path, state: dict[str, Tensor], settings: dict[str, Any]) -> None:
    """Write a released file, as `read_package` and audiocraft's loaders read it."""
    text = yaml.safe_dump(settings, sort_keys=False)
    package = {"best_state": state, "xp.cfg": text, "version": "1.3.0", "exported": True}
    with atomic_path(path) as partial:
        torch.save(package, partial)


def parse(text: str) -> dict[str, Any]:
    """Parse `text` to nested settings, with plain interpolations resolved.
    Raises CheckpointError: not YAML, not a mapping, or a circular interpolation."""
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
    """The setting at a dotted path, for example `value(settings, "seanet.n_filters", int)`.

    An integer is accepted for a float; True and False are not numbers. Raises CheckpointError: it is
    missing, unresolved, or not a `kind`.
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
    """The setting at a dotted path, of any type; `otherwise` if there is none."""
    try:
        return _at(settings, path)
    except KeyError:
        return otherwise


def put(settings: dict[str, Any], path: str, value: Any) -> None:
    """Set the setting at a dotted path."""
    *folders, name = path.split(".")
    for folder in folders:
        settings = settings.setdefault(folder, {})
    settings[name] = value


def _at(settings: Any, path: str) -> Any:
    for name in path.split("."):
        if not isinstance(settings, dict) or name not in settings:
            raise KeyError(path)
        settings = settings[name]
    return settings


class _Resolver:
    """Resolves references, and limits the size of the result, since a reference can stand for many values."""

    def __init__(self, root: dict[str, Any]) -> None:
        self._root = root
        self._parts = 0

    def resolve(self, node: Any, trail: tuple[str, ...]) -> Any:
        """Resolve the references in `node`; `trail` holds the references that led here."""
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
