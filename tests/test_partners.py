"""A rescorer and hybrid decoding through the public API, on golden checkpoints."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from typing import Any

import pytest
import torch

from magnet_cli.api import Model
from magnet_cli.decoding.contracts import StepEvent
from magnet_cli.editing.pieces import Direction, extend
from magnet_cli.editing.windows import Cue
from magnet_cli.errors import UsageError
from magnet_cli.models.lm import LanguageModel
from magnet_cli.models.session import RescorerSession
from magnet_cli.settings import DecodingConfig
from tests.models.tiny import golden_model

pytestmark = pytest.mark.usefixtures("hub_cache")

SHORT = DecodingConfig(decoding_steps=(4, 2, 2, 2))
PROMPTS = ["lofi piano", None, "slow strings and a choir, 80 bpm " * 3]
FRAMES = 40


@pytest.fixture
def magnet() -> Model:
    return golden_model("facebook/magnet-small-10secs")


@pytest.fixture
def musicgen(magnet: Model) -> Model:
    """Golden's MusicGen with golden's MAGNeT's codec; the released models share one."""
    parts = golden_model("facebook/musicgen-small").parts
    return Model(dataclasses.replace(parts, codec=magnet.codec))


@pytest.fixture
def nano(magnet: Model) -> Model:
    """A hybrid model with random weights and MAGNeT's codec and text encoder."""
    config = dataclasses.replace(
        magnet.lm.config, modeling="hybrid", delays=(0, 1, 2, 3), num_layers=2
    )
    generator = torch.Generator().manual_seed(0)
    lm = LanguageModel(config).eval().requires_grad_(False)
    for parameter in lm.parameters():
        torch.nn.init.normal_(parameter, std=0.2, generator=generator)
    loaded = dataclasses.replace(magnet.parts, name="nano", repo=None, revision=None, lm=lm)
    return Model(loaded)


def test_weight_1_is_bit_identical_to_no_rescorer(
    magnet: Model, musicgen: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = magnet.generate(PROMPTS, SHORT, [1, 2, 3], frames=FRAMES)

    def never(*_: object, **__: object) -> None:
        raise AssertionError("the rescorer ran")

    monkeypatch.setattr(musicgen.lm, "forward", never)
    rescored = magnet.generate(
        PROMPTS, SHORT, [1, 2, 3], frames=FRAMES, rescorer=musicgen, rescorer_weight=1
    )
    assert torch.equal(plain.codes, rescored.codes)
    assert torch.equal(plain.audio, rescored.audio)


def test_a_rescorer_changes_what_is_decoded_on_its_streams(
    magnet: Model, musicgen: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []
    score = RescorerSession.__call__

    def spy(session: RescorerSession, codes: torch.Tensor, streams: list[int]) -> torch.Tensor:
        asked.append(streams)
        return score(session, codes, streams)

    monkeypatch.setattr(RescorerSession, "__call__", spy)
    plain = magnet.generate(PROMPTS, SHORT, [1, 2, 3], frames=FRAMES)
    events: list[StepEvent] = []
    config = dataclasses.replace(SHORT, rescore_streams=(1,))
    rescored = magnet.generate(
        PROMPTS,
        config,
        [1, 2, 3],
        frames=FRAMES,
        rescorer=musicgen,
        rescorer_weight=0.2,
        on_step=events.append,
    )
    assert torch.equal(plain.codes[:, 0], rescored.codes[:, 0])
    assert not torch.equal(plain.codes[:, 1], rescored.codes[:, 1])
    assert asked == [[1]]  # two steps in the stream, and none is rescored at its last
    (step,) = (event for event in events if (event.stage, event.step) == (1, 1))
    assert step.rescorer_seconds > 0


@pytest.mark.parametrize("how", ["rescorer", "self", "hybrid", "two models"])
def test_a_clip_is_the_same_alone_and_in_a_batch(
    magnet: Model, musicgen: Model, nano: Model, how: str
) -> None:
    cases: dict[str, tuple[Model, dict[str, Any]]] = {
        "rescorer": (magnet, {"rescorer": musicgen, "rescorer_weight": 0.3}),
        "self": (nano, {"rescorer": "self", "rescorer_weight": 0.3}),
        "hybrid": (nano, {"hybrid": 0.2}),
        "two models": (magnet, {"hybrid": 0.2, "hybrid_model": musicgen}),
    }
    model, options = cases[how]
    batch = model.generate(PROMPTS, SHORT, [5, 6, 7], frames=FRAMES, **options)
    for item, prompt in enumerate(PROMPTS):
        alone = model.generate([prompt], SHORT, [5 + item], frames=FRAMES, **options)
        assert torch.equal(alone.codes[0], batch.codes[item])


def test_the_prefix_of_two_models_is_the_writers(magnet: Model, musicgen: Model) -> None:
    written = musicgen.generate(PROMPTS, seeds=[5, 6, 7], frames=FRAMES)
    both = magnet.generate(
        PROMPTS, SHORT, [5, 6, 7], frames=FRAMES, hybrid=0.2, hybrid_model=musicgen
    )
    assert torch.equal(both.codes[..., :10], written.codes[..., :10])
    assert not torch.equal(both.codes[..., 10:], written.codes[..., 10:])


def test_a_hybrid_model_decodes_both_ways(nano: Model) -> None:
    events: list[StepEvent] = []

    def parts(**options: Any) -> list[str]:
        events.clear()
        nano.generate(["x"], SHORT, [1], frames=FRAMES, on_step=events.append, **options)
        return list(dict.fromkeys(event.part for event in events))

    assert parts() == ["masked", "codec"]
    assert parts(hybrid=0.2) == ["autoregressive", "masked", "codec"]
    assert parts(hybrid=0.8) == ["autoregressive", "codec"]
    assert len([event for event in events if event.part == "autoregressive"]) == FRAMES + 3


def test_a_checkpoints_habit_of_hybrid_is_for_clips_from_nothing(nano: Model) -> None:
    habit = DecodingConfig(hybrid=0.2, hybrid_temperature=0.5)
    model = Model(dataclasses.replace(nano.parts, defaults=habit))
    known = torch.zeros(1, 4, FRAMES, dtype=torch.int64)
    mask = torch.zeros(1, 4, FRAMES, dtype=torch.bool)
    mask[..., -5:] = True

    def writes_on(**options: Any) -> bool:
        events: list[StepEvent] = []
        model.generate(["x"], SHORT, [1], frames=FRAMES, on_step=events.append, **options)
        return any(event.part == "autoregressive" for event in events)

    assert writes_on()
    assert not writes_on(hybrid=0.0)
    assert not writes_on(known_codes=known, known_mask=mask)
    assert writes_on(known_codes=known, known_mask=mask, hybrid=0.2)
    for begun, going_on in ((5, True), (10, False)):  # the default is ten frames
        first = torch.zeros_like(mask)
        first[..., :begun] = True
        assert writes_on(known_codes=known, known_mask=first) == going_on
    first[..., 3:] = False
    first[:, 1:, :] = False
    assert not writes_on(known_codes=known, known_mask=first)  # one stream of four
    asked = nano.generate(["x"], SHORT, [1], frames=FRAMES, hybrid=0.2)
    cooler = model.generate(["x"], SHORT, [1], frames=FRAMES)
    assert not torch.equal(asked.codes[..., :10], cooler.codes[..., :10])


def test_a_piece_begins_as_the_clip_of_its_seed_does(nano: Model) -> None:
    habit = DecodingConfig(hybrid=0.2)
    model = Model(dataclasses.replace(nano.parts, defaults=habit))
    config = dataclasses.replace(SHORT, full_length=True)
    piece = extend(model, Direction.of("x", 1, config=config), FRAMES)
    assert torch.equal(piece.codes, model.generate(["x"], config, [1], frames=FRAMES).codes)
    assert not torch.equal(piece.codes, nano.generate(["x"], config, [1], frames=FRAMES).codes)
    # A continuation is decoded autoregressively as far as the default exceeds what is known.
    begun = piece.codes[..., :5]
    longer = extend(model, Direction.of("x", 1, config=config), FRAMES, beginning=begun)
    plain = extend(nano, Direction.of("x", 1, config=config), FRAMES, beginning=begun)
    assert torch.equal(longer.codes[..., :5], begun)
    assert not torch.equal(longer.codes[..., 5:10], plain.codes[..., 5:10])
    # So are prompts by time; only an explicit 0 is masked decoding alone.
    cues = (Cue(0.0, "x"), Cue(0.3, "y"))
    timed = extend(model, Direction(cues, seed=1, config=config), FRAMES)
    assert timed.settings["decoding"]["hybrid"] == 0.2
    # If the first window is known it does not use the default, but later ones do.
    known = extend(
        model, Direction.of("x", 1, config=config), FRAMES, beginning=piece.codes[..., :20]
    )
    assert "hybrid" not in known.settings["decoding"]
    masked = [
        extend(one, Direction(cues, seed=1, config=asked), FRAMES).codes
        for one, asked in ((model, dataclasses.replace(config, hybrid=0.0)), (nano, config))
    ]
    assert torch.equal(*masked)
    assert not torch.equal(timed.codes[..., :10], masked[0][..., :10])


def test_guidance_of_the_prefix_is_cfg_coef(nano: Model) -> None:
    def prefix(cfg_coef: float, max_cfg_coef: float) -> torch.Tensor:
        config = dataclasses.replace(SHORT, cfg_coef=cfg_coef, max_cfg_coef=max_cfg_coef)
        return nano.generate(["x"], config, [1], frames=FRAMES, hybrid=0.4).codes[..., :20]

    assert torch.equal(prefix(3, 10), prefix(3, 1))
    assert not torch.equal(prefix(3, 10), prefix(1, 10))


def test_known_codes_stay_in_the_prefix(nano: Model) -> None:
    known = torch.randint(0, 64, (1, 4, FRAMES), generator=torch.Generator().manual_seed(1))
    mask = torch.zeros(1, 4, FRAMES, dtype=torch.bool)
    mask[..., 3:6] = mask[..., 30:] = True
    got = nano.generate(["x"], SHORT, [1], known_codes=known, known_mask=mask, frames=FRAMES,
                        hybrid=0.2, rescorer="self")  # fmt: skip
    assert torch.equal(got.codes[mask], known[mask])


def test_settings_say_who_took_part(magnet: Model, musicgen: Model, nano: Model) -> None:
    plain = magnet.generate(["x"], SHORT, [1], frames=9).settings
    assert "rescorer" not in plain
    assert not {"rescorer_weight", "rescore_streams", "hybrid", "cfg_coef"} & set(plain["decoding"])

    rescored = magnet.generate(["x"], SHORT, [1], frames=9, rescorer=musicgen).settings
    assert rescored["rescorer"]["repo"] == "facebook/musicgen-small"
    assert rescored["decoding"]["rescore_streams"] == [0, 1, 2, 3]
    assert rescored["decoding"]["rescorer_weight"] == 0.5
    told = magnet.generate(["x"], SHORT, [1], frames=9, rescorer=musicgen, rescorer_weight=0.25)
    assert told.settings["decoding"]["rescorer_weight"] == 0.25

    both = nano.generate(["x"], SHORT, [1], frames=9, hybrid=0.1, rescorer="self").settings
    assert both["rescorer"] == {"model": "self"}
    assert both["decoding"]["hybrid"] == 0.1
    assert "hybrid_model" not in both
    assert json.loads(json.dumps(both)) == both


@pytest.mark.parametrize("frames", [8, FRAMES])  # shorter and longer than the default of ten
@pytest.mark.parametrize(
    "asked",
    [
        {},  # its first seconds have a temperature that is no default
        {"hybrid": 0.0},
        {"hybrid": 0.1},
        {"top_k": 5},
        {"top_p": 0.0},
        {"hybrid_top_p": 0.5},
        {"temperature": 0.5},
    ],
)
def test_what_a_result_says_makes_it_again(nano: Model, asked: dict[str, Any], frames: int) -> None:
    """A result records whether a default hybrid beginning was used."""
    habit = dataclasses.replace(nano.defaults, decoding_steps=(4, 2, 2, 2), hybrid=0.2)
    model = Model(dataclasses.replace(nano.parts, defaults=habit))
    result = model.generate(["x"], DecodingConfig(**asked), [1], frames=frames)
    said = json.loads(json.dumps(result.settings))
    again = model.generate(
        said["prompts"], DecodingConfig(**said["decoding"]), said["seeds"], frames=said["frames"]
    )
    assert torch.equal(again.codes, result.codes)
    assert again.settings == result.settings


def test_what_a_clip_of_two_models_says_makes_it_again(magnet: Model, musicgen: Model) -> None:
    config = dataclasses.replace(SHORT, top_k=3)
    result = magnet.generate(["x"], config, [1], frames=FRAMES, hybrid=0.2, hybrid_model=musicgen)
    said = json.loads(json.dumps(result.settings))
    again = magnet.generate(
        ["x"], DecodingConfig(**said["decoding"]), [1], frames=FRAMES, hybrid_model=musicgen
    )
    assert torch.equal(again.codes, result.codes)
    assert said["decoding"]["hybrid_top_k"] == 250


def test_a_model_of_another_codec_is_refused(magnet: Model) -> None:
    """Loaded by name; unlike the released files, golden's have different codecs."""
    with pytest.raises(UsageError, match="different codecs"):
        magnet.generate(["x"], SHORT, [1], frames=9, rescorer="facebook/musicgen-small")


Ask = Callable[[Model, Model, Model], object]
BAD: dict[str, tuple[str, Ask]] = {
    "self of a masked model": (
        "cannot be its own rescorer",
        lambda magnet, musicgen, nano: magnet.generate(["x"], rescorer="self"),
    ),
    "a masked rescorer": (
        "it is not autoregressive",
        lambda magnet, musicgen, nano: nano.generate(["x"], rescorer=magnet),
    ),
    "the model itself, masked": (
        "it is not autoregressive",
        lambda magnet, musicgen, nano: magnet.generate(["x"], rescorer=magnet),
    ),
    "a weight without a rescorer": (
        "none is named",
        lambda magnet, musicgen, nano: magnet.generate(["x"], rescorer_weight=0.5),
    ),
    "a weight above 1": (
        "rescorer_weight cannot be 1.5",
        lambda magnet, musicgen, nano: magnet.generate(
            ["x"], rescorer=musicgen, rescorer_weight=1.5
        ),
    ),
    "a weight that is no number": (
        "rescorer_weight cannot be nan",
        lambda magnet, musicgen, nano: magnet.generate(
            ["x"], rescorer=musicgen, rescorer_weight=float("nan")
        ),
    ),
    "a stream that is not there": (
        "the model has 4 streams",
        lambda magnet, musicgen, nano: magnet.generate(
            ["x"], DecodingConfig(rescore_streams=(4,)), rescorer=musicgen
        ),
    ),
    "a prefix longer than the clip": (
        "longer than the clip of 0.8 s",
        lambda magnet, musicgen, nano: nano.generate(["x"], frames=FRAMES, hybrid=0.9),
    ),
    "a prefix longer than the segment": (
        "longer than the clip of 10 s",
        lambda magnet, musicgen, nano: nano.generate(["x"], hybrid=11),
    ),
    "a prefix of a masked model": (
        "cannot decode the first seconds itself",
        lambda magnet, musicgen, nano: magnet.generate(["x"], hybrid=1),
    ),
    "a masked model as its own writer": (
        "cannot decode the first seconds itself",
        lambda magnet, musicgen, nano: magnet.generate(["x"], hybrid=1, hybrid_model=magnet),
    ),
    "a writer without seconds": (
        "needs --hybrid, too",
        lambda magnet, musicgen, nano: magnet.generate(["x"], hybrid_model=musicgen),
    ),
    "a masked writer": (
        "it is not autoregressive",
        lambda magnet, musicgen, nano: nano.generate(["x"], hybrid=1, hybrid_model=magnet),
    ),
    "guidance of a prefix that is not there": (
        "cfg_coef cannot be used",
        lambda magnet, musicgen, nano: magnet.generate(["x"], DecodingConfig(cfg_coef=2)),
    ),
    "a rescorer of an autoregressive model": (
        "decodes autoregressively",
        lambda magnet, musicgen, nano: musicgen.generate(["x"], rescorer=musicgen),
    ),
    "a prefix of an autoregressive model": (
        "decodes autoregressively",
        lambda magnet, musicgen, nano: musicgen.generate(["x"], hybrid=1),
    ),
    "a weight of an autoregressive model": (
        "decodes autoregressively",
        lambda magnet, musicgen, nano: musicgen.generate(["x"], rescorer_weight=0.5),
    ),
    "spans of an autoregressive model": (
        "decodes autoregressively",
        lambda magnet, musicgen, nano: musicgen.generate(["x"], DecodingConfig(span_len=3)),
    ),
}


@pytest.mark.parametrize("case", BAD)
def test_what_cannot_be_is_said(magnet: Model, musicgen: Model, nano: Model, case: str) -> None:
    message, ask = BAD[case]
    with pytest.raises(UsageError, match=message) as caught:
        ask(magnet, musicgen, nano)
    assert caught.value.hint


def test_a_rescorer_is_not_asked_to_read_more_than_it_was_trained_on(nano: Model) -> None:
    short = dataclasses.replace(nano.lm.config, segment_duration=0.5)
    lm = LanguageModel(short).eval().requires_grad_(False)
    lm.load_state_dict(nano.lm.state_dict())
    rescorer = Model(dataclasses.replace(nano.parts, name="short", lm=lm))
    with pytest.raises(UsageError, match="trained on 0"):
        nano.generate(["x"], SHORT, [1], frames=FRAMES, rescorer=rescorer)
    nano.generate(["x"], SHORT, [1], frames=25, rescorer=rescorer)
