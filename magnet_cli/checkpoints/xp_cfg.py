"""`xp.cfg`: the experiment's settings that a released checkpoint carries, as YAML text.

The text holds the interpolations of the tool that wrote it (OmegaConf), unresolved:
`${sample_rate}`, `${encodec.causal}`. Plain dotted ones are resolved here; resolvers
(`${oc.env:USER}`), relative ones (`${.x}`) and references to keys that are not there stay as the
text they are, because no size of a model depends on them. `value` refuses them where one is asked for
after all.
"""

from __future__ import annotations

import re
from typing import Any, TypeVar

import yaml

from magnet_cli.errors import CheckpointError

_REFERENCE = re.compile(r"\$\{([A-Za-z_][\w.]*)\}")
_HINT = "The file is damaged, or of a kind that this version cannot read."
_T = TypeVar("_T")


def parse(text: str) -> dict[str, Any]:
    """The settings in `text`, nested as they are, plain interpolations replaced by what they name.
    Raises CheckpointError: not YAML, not a mapping, or an interpolation that leads back to itself.
    """
    try:
        raw = yaml.safe_load(text)
    except (yaml.YAMLError, RecursionError) as error:
        reason = str(error).replace("\n", " ")
        raise CheckpointError(f"xp.cfg is not readable YAML: {reason}.", _HINT) from None
    if not isinstance(raw, dict):
        raise CheckpointError(f"xp.cfg holds a {type(raw).__name__}, not settings by name.", _HINT)
    return {key: _resolve(node, raw, ()) for key, node in raw.items()}


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
            f"xp.cfg says {path}: {found!r}, where a {kind.__name__} belongs.", _HINT
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


def _resolve(node: Any, root: dict[str, Any], trail: tuple[str, ...]) -> Any:
    """`node` with its references replaced; `trail` holds the references that led here."""
    if isinstance(node, dict):
        return {key: _resolve(child, root, trail) for key, child in node.items()}
    if isinstance(node, list):
        return [_resolve(child, root, trail) for child in node]
    if not isinstance(node, str):
        return node
    whole = _REFERENCE.fullmatch(node)
    if whole:  # keeps its type: a number stays a number
        return _follow(whole.group(1), root, trail, otherwise=node)
    return _REFERENCE.sub(
        lambda part: str(_follow(part.group(1), root, trail, otherwise=part.group(0))), node
    )


def _follow(path: str, root: dict[str, Any], trail: tuple[str, ...], otherwise: str) -> Any:
    if path in trail:
        raise CheckpointError(f"xp.cfg: {path} is said to be itself.", _HINT)
    try:
        target = _at(root, path)
    except KeyError:
        return otherwise
    return _resolve(target, root, (*trail, path))
