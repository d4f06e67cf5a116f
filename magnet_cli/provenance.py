"""How a clip was made, as JSON-able values that are kept in its file: enough to make it again."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from typing import Any

from magnet_cli.checkpoints.identity import builtin_weights
from magnet_cli.settings import UNRECORDED_OUTPUT, DecodingConfig, OutputConfig

_LONGEST_RECORD = 10_000  # characters: comments hold five times as many, prompts twice


def record(
    settings: Mapping[str, Any],
    item: int,
    given: DecodingConfig,
    output: OutputConfig,
    *,
    duration: float | None = None,
    source: str | None = None,
    partner_sources: Mapping[str, str] | None = None,
) -> dict[str, Any]:
    """What is kept of one item of a GenerationResult.

    Args:
        settings: `GenerationResult.settings`.
        item: which of its items.
        given: the decoding settings that were asked for; the others are the checkpoint's.
        output: how the file was made.
        duration: seconds that were asked for; None: the segment.
        source: the folder that the model was loaded from, as the user named it.
        partner_sources: the same for partners, where they are folders.
    """
    kept = {
        "prompt": settings["prompts"][item],
        "negative": settings["negative_prompts"][item],
        "seed": settings["seeds"][item],
        "duration": duration,
        "given": _plain(given.given()),
        "output": output_given(output),
        "source": source,
    }
    batch = ("prompts", "negative_prompts", "seeds")
    shared = {key: value for key, value in settings.items() if key not in batch}
    for part, folder in (partner_sources or {}).items():
        shared[part] = {**shared[part], "source": folder}
    for part in ("rescorer", "hybrid_model"):
        if part in shared:
            shared[part] = _with_weights(shared[part])
    return _with_weights({**shared, **kept})


def _with_weights(model: dict[str, Any]) -> dict[str, Any]:
    """What is kept of a model, with the id of its weights where it is built in: its name stays."""
    if model.get("repo") is not None or model.get("source") is not None:
        return model
    weights = builtin_weights(model["model"])
    return model if weights is None else {**model, "weights": weights}


def of_input(made: Mapping[str, Any] | None) -> dict[str, Any]:
    """What an edit keeps of how its input was `made`: the input may be written over.

    The input's own input is left out, lest records grow with every edit; so is a record that would
    not leave room in the file's comment.
    """
    if made is None:
        return {}
    if isinstance(edit := made.get("edit"), Mapping):
        made = {**made, "edit": {name: value for name, value in edit.items() if name != "of"}}
    return {"of": dict(made)} if len(json.dumps(made)) <= _LONGEST_RECORD else {}


def output_given(output: OutputConfig) -> dict[str, Any]:
    """The settings of a file that its silence would not say; its format it has itself."""
    fields = (field.name for field in dataclasses.fields(output) if field.name != "format")
    return {
        name: getattr(output, name)
        for name in fields
        if getattr(output, name) != UNRECORDED_OUTPUT[name]
    }


def _plain(values: Mapping[str, Any]) -> dict[str, Any]:
    """Tuples as lists: what JSON gives back."""
    return {k: list(v) if isinstance(v, tuple) else v for k, v in values.items()}
