"""The layouts that models are stored in, as the files each one needs. No torch here.

Only these files are ever fetched from a repository, whatever else it holds.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from magnet_cli.errors import CheckpointError


@dataclass(frozen=True)
class Layout:
    """The files of one kind of model: for each need the names that meet it, the best first."""

    name: str
    needs: tuple[tuple[str, ...], ...]

    def chosen(self, names: Sequence[str]) -> dict[str, str]:
        """The file that meets each need, by the need's first name; what is missing is left out."""
        found = {}
        for need in self.needs:
            name = next((name for name in need if name in names), None)
            if name is not None:
                found[need[0]] = name
        return found

    def missing(self, names: Sequence[str]) -> list[str]:
        """The needs that nothing among `names` meets."""
        return [" or ".join(need) for need in self.needs if not set(need) & set(names)]


_WEIGHTS = ("model.safetensors", "pytorch_model.bin")

AUDIOCRAFT = Layout("audiocraft", (("state_dict.bin",), ("compression_state_dict.bin",)))
NATIVE = Layout(
    "native",
    (
        ("config.json",),
        ("lm.safetensors",),
        ("codec.safetensors",),
        ("text.safetensors",),
        ("tokenizer.json",),
    ),
)
NATIVE_CODEC = Layout("native codec", (("config.json",), ("codec.safetensors",)))
NATIVE_TEXT = Layout("native text encoder", (("config.json",), ("text.safetensors",)))
ENCODEC = Layout("transformers", (("config.json",), _WEIGHTS))
T5 = Layout("t5", (("config.json",), ("tokenizer.json",), _WEIGHTS))


def model_layout(names: Sequence[str]) -> Layout | None:
    """The layout that a directory or repository with these files is in; None: no model of ours.

    One file of a layout that nothing else has is enough: `Layout.missing` tells what lacks.
    """
    if "state_dict.bin" in names:
        return AUDIOCRAFT
    if "lm.safetensors" in names:
        return NATIVE
    return None


def needed(layout: Layout, names: Sequence[str], source: str) -> list[str]:
    """The files to fetch or read. Raises CheckpointError: some are not among `names`."""
    missing = layout.missing(names)
    if missing:
        hint = f"It needs {', '.join(' or '.join(need) for need in layout.needs)}."
        if missing == ["tokenizer.json"] and "spiece.model" in names:
            hint = (
                "Its spiece.model alone is not read: take the repository's tokenizer.json too, "
                "or make one with `T5TokenizerFast.from_pretrained(...).save_pretrained(...)`."
            )
        raise CheckpointError(f"{source} has no {', '.join(missing)}.", hint)
    return list(layout.chosen(names).values())
