"""What the shell completes besides flags: the names of models. Reads lists, never loads a model."""

from __future__ import annotations


def complete_model() -> list[tuple[str, str]]:
    """Names of the known models, each with what it is."""
    from magnet_cli.checkpoints import registry

    found = []
    for entry in registry.known_checkpoints():
        about = f"{entry.kind}, {entry.segment_duration:g} s, {entry.modeling}"
        found += [(name, about) for name in (entry.name, *entry.aliases)]
    return found


def complete_preset() -> list[str]:
    """Names of the presets."""
    from magnet_cli.settings import PRESETS

    return list(PRESETS)
