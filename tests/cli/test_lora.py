"""`--lora`: merged at load, recorded in the file, shown by `show`, tracked by batches."""

from __future__ import annotations

import json
import shlex
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch

from magnet_cli.api import load_model
from magnet_cli.checkpoints.adapters import marks_of, save_adapter
from magnet_cli.checkpoints.loras import Lora, parse_lora, parse_loras
from magnet_cli.errors import CheckpointError, ModelNotFoundError, UsageError
from magnet_cli.models.lora import LowRank, adapters, add_adapters, updates_of
from magnet_cli.training.config import LORA_TARGETS
from tests.cli.conftest import QUICK, SMALL, Magnet


def make_adapter(folder: Path, seed: int = 1, of: str = SMALL) -> Path:
    """An adapter with random updates, as training would write it."""
    base = load_model(of, device="cpu").lm
    marks, config = marks_of(base.state_dict()), base.config
    add_adapters(base, 2, 2.0, LORA_TARGETS, seed)
    generator = torch.Generator().manual_seed(seed)
    low: LowRank
    for _, low in adapters(base):
        with torch.no_grad():
            low.b.normal_(0, 2, generator=generator)
    folder.mkdir()
    save_adapter(folder, updates_of(base), config, of, marks)
    return folder


def samples(name: str) -> np.ndarray:
    return soundfile.read(name)[0]


def test_a_lora_changes_a_clip_and_show_makes_it_again(home: Path, magnet: Magnet) -> None:
    make_adapter(home / "rain")
    made = {}
    for name, flags in {
        "plain": (),
        "none": ("--lora", "rain:0"),
        "half": ("--lora", "rain:0.5"),
        "twice": ("--lora", "rain:0.25", "--lora", "rain/adapter_model.safetensors:0.25"),
    }.items():
        outcome = magnet("gen", "lofi piano", *QUICK, *flags, "-o", f"{name}.wav")
        assert outcome.status == 0, outcome.err
        made[name] = samples(f"{name}.wav")
    assert np.array_equal(made["plain"], made["none"])
    assert not np.array_equal(made["plain"], made["half"])
    assert np.array_equal(made["half"], made["twice"]), "updates add up"

    shown = magnet("show", "half.wav", "--json").records[0]
    (kept,) = shown["settings"]["lora"]
    assert (kept["file"], kept["scale"]) == ("rain", 0.5)
    assert shown["approximation"] == []
    words = shlex.split(shown["command"])
    assert words[words.index("--lora") + 1] == "rain:0.5"
    half = made["half"]
    assert magnet(*words[1:], "--force").status == 0
    assert np.array_equal(samples("half.wav"), half)
    assert "rain:0.5" in magnet("show", "half.wav").out
    # A LoRA that was trained further counts as another one.
    settings = json.loads((home / "rain" / "adapter_config.json").read_text())
    (home / "rain" / "adapter_config.json").write_text(json.dumps({**settings, "lora_alpha": 4.0}))
    again = magnet("show", "half.wav", "--json").records[0]
    assert again["approximation"] == ["the LoRA rain has changed"]


def test_a_merged_model_plays_as_its_parts_do(home: Path, magnet: Magnet) -> None:
    make_adapter(home / "rain")
    merged = magnet("models", "merge", SMALL, "--lora", "rain:0.7", "models/rainy")
    assert merged.status == 0, merged.err
    assert magnet("gen", "x", *QUICK, "--lora", "rain:0.7", "-o", "one.wav").status == 0
    here = ("-m", "models/rainy", *QUICK[2:])
    assert magnet("gen", "x", *here, "-o", "other.wav").status == 0
    assert np.array_equal(samples("one.wav"), samples("other.wav"))
    said = json.loads((home / "models" / "rainy" / "config.json").read_text())
    assert said["name"] == "rainy"
    assert said["provenance"]["lora"][0]["scale"] == 0.7
    # Merged again, it would be for another model.
    refused = magnet("gen", "x", *here, "--lora", "rain")
    assert refused.status == 3
    assert "the weights are others" in refused.err
    assert SMALL in refused.err
    assert magnet("models", "merge", SMALL, "again").status == 2


def test_every_command_that_decodes_takes_it(home: Path, magnet: Magnet) -> None:
    make_adapter(home / "rain")
    (home / "prompts.txt").write_text("rain\n")
    lora = ("--lora", "rain:0.5")
    assert magnet("gen", "x", *QUICK, *lora, "-o", "in.wav").status == 0
    quick = ("-m", SMALL, "--steps", "1", "--seed", "5", *lora)
    for command in (
        ("extend", "in.wav", "rain", "--to", "0.4", *quick, "-o", "longer.wav"),
        ("edit", "in.wav", "rain", "--region", "0-0.1", *quick, "-o", "patched.wav"),
        ("vary", "in.wav", "rain", *quick, "-o", "varied.wav"),
    ):
        outcome = magnet(*command)
        assert outcome.status == 0, outcome.err
        shown = magnet("show", command[-1], "--json").records[0]
        assert "--lora rain:0.5" in shown["command"]
        words = shlex.split(shown["command"])
        before = samples(command[-1])
        assert magnet(*words[1:], "--force").status == 0
        assert np.array_equal(samples(command[-1]), before)
    swept = magnet(
        "sweep", "prompts.txt", "-O", "rows", *quick, "-d", "0.2", "--vary", "span_len=1",
    )  # fmt: skip
    assert swept.status == 0, swept.err
    clips = (home / "rows" / "baseline").glob("*.wav")
    assert [magnet("show", str(clip), "--json").records[0]["settings"]["lora"] for clip in clips]


def test_a_bench_measures_a_model_with_them(
    home: Path, magnet: Magnet, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_adapter(home / "rain")
    merged = []

    def load(*what: Any, **how: Any) -> Any:
        merged.append(load_model(*what, **how))
        return merged[-1]

    monkeypatch.setattr("magnet_cli.api.load_model", load)
    asked = ("bench", "-m", SMALL, "-d", "0.1", "--steps", "1", "--repeats", "1")
    outcome = magnet(*asked, "--dtype", "float32", "--lora", "rain:0.5", "--lora", "rain:0.2")
    assert outcome.status == 0, outcome.err
    assert [[one["scale"] for one in model.parts.loras] for model in merged] == [[0.5, 0.2]]
    assert magnet(*asked, "--lora", "nowhere").status == 3


def test_a_batch_knows_its_loras(home: Path, magnet: Magnet) -> None:
    make_adapter(home / "rain")
    (home / "prompts.txt").write_text("rain\n")
    run = ("batch", "prompts.txt", "-O", "clips", *QUICK)
    assert magnet(*run, "--lora", "rain:0.5").status == 0
    again = magnet(*run, "--lora", "rain:0.5")
    assert again.status == 0
    assert "1 of 1 clips are done" in again.err
    (home / "rain").rename(home / "renamed")
    same = magnet(*run, "--lora", "renamed:0.5")
    assert "1 of 1 clips are done" in same.err, same.err
    other = magnet(*run, "--lora", "renamed:0.6")
    assert other.status == 2
    assert "lora was rain:0.5, is renamed:0.6" in other.err
    without = magnet(*run)
    assert without.status == 2
    assert "lora was rain:0.5, is not given" in without.err


def test_in_python(home: Path) -> None:
    make_adapter(home / "rain")
    plain = load_model(SMALL, device="cpu")
    model = load_model(SMALL, device="cpu", lora=[(home / "rain", 0.5)])
    assert model.parts.loras[0]["scale"] == 0.5
    name = "transformer.layers.0.linear1.weight"
    assert not torch.equal(plain.lm.state_dict()[name], model.lm.state_dict()[name])
    assert not any(p.requires_grad for p in model.lm.parameters())
    half = load_model(SMALL, device="cpu", dtype="bfloat16", lora=f"{home / 'rain'}:0.5")
    torch.testing.assert_close(
        half.lm.state_dict()[name].float(), model.lm.state_dict()[name], rtol=0.01, atol=5e-3
    )
    with pytest.raises(ModelNotFoundError, match="There is no LoRA 'nowhere'"):
        load_model(SMALL, device="cpu", lora="nowhere")


def test_an_adapter_of_a_model_of_other_sizes_is_refused(home: Path) -> None:
    make_adapter(home / "rain")
    with pytest.raises(CheckpointError, match=r"dim .* there and .* here"):
        load_model("nano", device="cpu", lora=home / "rain")


@pytest.mark.parametrize(
    ("given", "file", "scale"),
    [
        ("rain", "rain", 1.0),
        ("rain:0.7", "rain", 0.7),
        ("a:b", "a:b", 1.0),
        ("a:b:-1", "a:b", -1.0),
        (Path("rain"), "rain", 1.0),
        (("rain", 2), "rain", 2.0),
    ],
)
def test_a_lora_is_named_by_file_and_scale(given: object, file: str, scale: float) -> None:
    found = parse_lora(given)
    assert (found.file, found.scale) == (file, scale)
    assert parse_lora(str(found)) == found
    assert parse_loras(given) == (found,)


def test_a_file_may_be_called_as_a_scale_is(home: Path) -> None:
    (home / "rain:2").mkdir()
    assert parse_lora("rain:2") == Lora("rain:2", 1.0)


@pytest.mark.parametrize("given", ["", "rain:nan", "rain:1e9", 7, ("rain", "x"), ("rain",)])
def test_what_is_no_lora_is_refused(given: object) -> None:
    with pytest.raises(UsageError):
        parse_loras([given])
