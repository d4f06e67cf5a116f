"""The public API: determinism, batches, known codes, errors."""

from __future__ import annotations

import dataclasses
import json
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

import magnet_cli
from magnet_cli import api
from magnet_cli.api import Model
from magnet_cli.decoding import iterative
from magnet_cli.decoding.contracts import Decoding, StepEvent
from magnet_cli.errors import ModelNotFoundError, UsageError
from magnet_cli.request import frames_for
from magnet_cli.settings import DecodingConfig
from tests import processes
from tests.models.tiny import golden_model, tiny_lm

pytestmark = pytest.mark.usefixtures("hub_cache")

SHORT = DecodingConfig(decoding_steps=(4, 2, 2, 2))
PROMPTS = ["lofi piano", "x", None, "a very long text about slow strings and a choir, 80 bpm " * 3]


@pytest.fixture
def model() -> Model:
    return golden_model("facebook/magnet-small-10secs")


def test_shapes_and_facts(model: Model) -> None:
    assert (model.sample_rate, model.frame_rate, model.segment_duration) == (32000, 50, 10)
    assert (model.n_q, model.card, model.modeling) == (4, 64, "masked")
    result = model.generate(PROMPTS[:2], SHORT, frames=21)
    assert result.codes.shape == (2, 4, 21)
    assert result.codes.dtype == torch.int64
    assert result.audio.shape == (2, 1, 21 * 640)
    assert result.audio.dtype == torch.float32


@pytest.mark.parametrize("arrangement", ["nonoverlap", "stride1"])
def test_a_clip_is_the_same_alone_and_in_a_batch(model: Model, arrangement: str) -> None:
    config = DecodingConfig(decoding_steps=(4, 2, 2, 2), span_arrangement=arrangement)
    seeds = [5, 6, 7, 8]
    batch = model.generate(PROMPTS, config, seeds, frames=40)
    for item, prompt in enumerate(PROMPTS):
        alone = model.generate([prompt], config, [seeds[item]], frames=40)
        assert torch.equal(alone.codes[0], batch.codes[item])
        assert torch.equal(alone.audio[0], batch.audio[item])


def test_a_block_is_two_seconds(model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    lengths: list[int] = []
    whole = iterative.decode

    def decode(*args: object) -> torch.Tensor:
        assert isinstance(args[-1], Decoding)
        lengths.append(args[-1].block_len)
        return whole(*args)  # type: ignore[arg-type]

    monkeypatch.setattr(iterative, "decode", decode)
    model.generate(["x"], dataclasses.replace(SHORT, span_order="blocks"), frames=12)
    assert lengths == [2 * model.frame_rate]


def test_autoregressive_clips_are_the_same_alone_and_in_a_batch() -> None:
    """Up to rounding: a step is one batch for all items. These seeds have no near-tie."""
    model = golden_model("facebook/musicgen-small")
    batch = model.generate(PROMPTS, seeds=[5, 6, 7, 8], frames=20)
    for item, prompt in enumerate(PROMPTS):
        alone = model.generate([prompt], seeds=[5 + item], frames=20)
        assert torch.equal(alone.codes[0], batch.codes[item])


def test_seeds_make_the_difference(model: Model) -> None:
    state = torch.random.get_rng_state()
    same, other = (model.generate(["x"], SHORT, [seed], frames=30).codes for seed in (1, 2))
    assert torch.equal(model.generate(["x"], SHORT, [1], frames=30).codes, same)
    assert not torch.equal(same, other)
    drawn = model.generate(["x", "x"], SHORT, frames=9)
    assert drawn.seeds[0] != drawn.seeds[1]
    again = model.generate(["x", "x"], SHORT, drawn.seeds, frames=9)
    assert torch.equal(drawn.codes, again.codes)
    assert torch.equal(torch.random.get_rng_state(), state)


def test_a_context_can_be_asked_for_and_is_the_models_own_where_it_is_not(model: Model) -> None:
    def codes(context: int | None) -> torch.Tensor:
        config = dataclasses.replace(SHORT, subcodes_context=context)
        return model.generate(["x"], config, [5], frames=40).codes

    own = codes(None)
    assert torch.equal(codes(model.lm.config.subcodes_context), own)
    assert torch.equal(codes(-1)[:, 0], own[:, 0])  # the first stream sees everything anyway
    assert not torch.equal(codes(-1), own)
    assert torch.equal(codes(None), own)


def test_known_codes_stay_wherever_they_are(model: Model) -> None:
    generator = torch.Generator().manual_seed(0)
    codes = torch.randint(0, 64, (1, 4, 33), generator=generator)
    mask = torch.rand(1, 4, 33, generator=generator) < 0.4
    for arrangement in ("nonoverlap", "stride1"):
        config = DecodingConfig(decoding_steps=(3,), span_arrangement=arrangement)
        result = model.generate(
            ["x", "y"], config, [1, 2], frames=33, known_codes=codes, known_mask=mask
        )
        assert torch.equal(result.codes[mask.expand(2, -1, -1)], codes[mask].repeat(2))
    everything = model.generate(
        ["x"], frames=33, known_codes=codes, known_mask=torch.ones_like(mask)
    )
    assert torch.equal(everything.codes, codes)


def test_a_prompt_is_known_codes_at_the_start(model: Model) -> None:
    prompt = torch.randint(0, 64, (1, 4, 7), generator=torch.Generator().manual_seed(1))
    known, mask = torch.zeros(1, 4, 20, dtype=torch.int64), torch.zeros(1, 4, 20, dtype=torch.bool)
    known[..., :7], mask[..., :7] = prompt, True
    one = model.generate(["x"], SHORT, [3], frames=20, prompt_codes=prompt)
    two = model.generate(["x"], SHORT, [3], frames=20, known_codes=known, known_mask=mask)
    assert torch.equal(one.codes, two.codes)
    assert torch.equal(one.codes[..., :7], prompt)


def test_every_frame_is_generated_unless_the_references_trim_is_asked_for(model: Model) -> None:
    trimmed = DecodingConfig(decoding_steps=(2,), full_length=False)
    assert model.generate(["x"], SHORT, frames=20).codes.shape[-1] == 20
    assert model.generate(["x"], trimmed, frames=20).codes.shape[-1] == 18


def test_a_negative_prompt_changes_the_result_and_an_empty_text_is_none(model: Model) -> None:
    plain = model.generate(["x"], SHORT, [1], frames=24)
    away = model.generate(["x"], SHORT, [1], negative_prompts="noise", frames=24)
    assert not torch.equal(plain.codes, away.codes)
    empty = model.generate([""], SHORT, [1], frames=24)
    none = model.generate([None], SHORT, [1], frames=24)
    assert torch.equal(empty.codes, none.codes)


def test_settings_are_json_and_make_the_clip_again(model: Model) -> None:
    result = model.generate(["x"], SHORT, frames=12)
    settings = json.loads(json.dumps(result.settings))
    decoding = {k: tuple(v) if isinstance(v, list) else v for k, v in settings["decoding"].items()}
    again = model.generate(
        settings["prompts"],
        DecodingConfig(**decoding),
        settings["seeds"],
        frames=settings["frames"],
    )
    assert torch.equal(again.codes, result.codes)


def test_steps_are_told(model: Model) -> None:
    events: list[StepEvent] = []
    model.generate(["x"], SHORT, frames=12, on_step=events.append)
    assert [e.part for e in events] == ["masked"] * 10 + ["codec"]


def test_logits_are_one_pass_without_guidance(model: Model) -> None:
    codes = torch.full((2, 4, 15), model.card)
    logits = model.logits(codes, ["lofi piano", None], stage=0)
    assert logits.shape == (2, 15, model.card)
    assert not torch.allclose(logits[0], logits[1])
    assert torch.equal(model.logits(codes[:1], [None], stage=0)[0], logits[1])
    with pytest.raises(UsageError, match="stage"):
        model.logits(codes, [None, None])
    with pytest.raises(UsageError, match="no stage 4"):
        model.logits(codes, [None, None], stage=4)


def test_text_is_encoded_for_each_prompt_alone(model: Model) -> None:
    conditions, mask = model.encode_text(PROMPTS)
    assert conditions.shape[:2] == mask.shape
    assert mask.sum(-1).tolist()[2] == 0
    for item, prompt in enumerate(PROMPTS):
        alone, _ = model.encode_text([prompt])
        assert torch.equal(conditions[item][mask[item]], alone[0])
        assert not conditions[item][~mask[item]].any()


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ({"prompts": []}, "no prompt"),
        ({"prompts": "lofi"}, "one text"),
        ({"prompts": ["x"], "seeds": [1, 2]}, "2 seeds"),
        ({"prompts": ["x"], "seeds": [-1]}, "not a seed"),
        ({"prompts": ["x"], "seeds": [1.5]}, "1.5 is not a seed"),
        ({"prompts": ["x"], "seeds": ["1"]}, "1 is not a seed"),
        ({"prompts": ["x"], "negative_prompts": ["a", "b"]}, "2 negative_prompts"),
        ({"prompts": ["x"], "frames": 0}, "0 frames"),
        ({"prompts": ["x"], "frames": 501}, "501 frames"),
        ({"prompts": ["x"], "known_mask": torch.ones(1, 4, 500)}, "Half"),
        ({"prompts": ["x"], "prompt_codes": torch.zeros(1, 3, 5)}, "prompt codes"),
        ({"prompts": ["x"], "prompt_codes": torch.full((1, 4, 5), 64)}, "out of range"),
        ({"prompts": ["x"], "frames": 5, "prompt_codes": torch.zeros(1, 4, 5)}, "fills"),
    ],
)
def test_bad_requests_are_usage_errors(model: Model, arguments: dict, says: str) -> None:
    with pytest.raises(UsageError, match=says) as error:
        model.generate(**arguments)
    assert error.value.hint


def test_numpys_numbers_are_numbers(model: Model) -> None:
    """Seeds from numpy ended in a TypeError of torch, settings from it in one of json."""
    config = dataclasses.replace(
        SHORT,
        decoding_steps=list(np.array([4, 2, 2, 2])),
        temperature=np.float32(2),
        top_k=np.int64(9),
    )
    plain = dataclasses.replace(SHORT, temperature=2.0, top_k=9)
    result = model.generate(["x"], config, [np.int64(3)], frames=12)
    assert torch.equal(result.codes, model.generate(["x"], plain, [3], frames=12).codes)
    assert json.loads(json.dumps(result.settings))["seeds"] == [3]


def test_logits_are_of_as_many_items_as_there_are_prompts(model: Model) -> None:
    """Items without a prompt were silently dropped."""
    codes = torch.full((2, 4, 15), model.card)
    for bad, prompts in ((codes, ["x"]), (codes[:1], ["x", "y"]), (codes[0], ["x"] * 4)):
        with pytest.raises(UsageError, match=f"{len(prompts)} prompts"):
            model.logits(bad, prompts, stage=0)


def test_a_path_is_a_model_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[str] = []

    def found(name: str, **_: object) -> None:
        seen.append(name)
        raise ModelNotFoundError("No.", "No.")

    monkeypatch.setattr(api, "find_place", found)
    for given in (tmp_path, Path("mine")):  # without it, `mine` would be taken for a name
        with pytest.raises(ModelNotFoundError):
            magnet_cli.load_model(given)
    assert seen == [str(tmp_path), "./mine"]
    with pytest.raises(UsageError, match="3 is not a model"):
        magnet_cli.load_model(3)  # type: ignore[arg-type]


def test_a_segment_of_no_whole_number_of_frames_can_be_asked_for_by_its_seconds() -> None:
    """A model of 2.5 s at 25 frames per second reported: 2.5 seconds at most, not 2.5."""
    lm = dataclasses.replace(tiny_lm("masked").config, frame_rate=25.0, segment_duration=2.5)
    assert lm.segment_frames == 62
    assert [frames_for(seconds, lm, "m") for seconds in (0.001, 2.4, 2.48, 2.5)] == [1, 60, 62, 62]
    assert frames_for(None, lm, "m") is None
    with pytest.raises(UsageError, match=r"2\.5 seconds at most, not 2\.51"):
        frames_for(2.51, lm, "m")


@pytest.mark.process
def test_importing_the_package_imports_no_torch() -> None:
    code = "import magnet_cli, sys; magnet_cli.__version__; sys.exit('torch' in sys.modules)"
    assert processes.run([sys.executable, "-c", code], check=False).returncode == 0
    assert "load_model" in dir(magnet_cli)
    with pytest.raises(AttributeError, match="nothing"):
        magnet_cli.nothing  # noqa: B018


@pytest.mark.process
def test_loading_a_model_starts_no_compiler() -> None:
    """torch.eye on the meta device imports torch._dynamo, which takes longer than everything else."""
    code = (
        "import magnet_cli, sys; magnet_cli.load_model(None, offline=True); "
        "sys.exit('torch._dynamo' in sys.modules)"
    )
    assert processes.run([sys.executable, "-c", code], check=False).returncode == 0
