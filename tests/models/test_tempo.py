"""The tempo of a clip: from the prompt, or drawn from the text."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest
import torch

from magnet_cli.api import Model, load_model
from magnet_cli.checkpoints import native
from magnet_cli.editing.pieces import Direction, Filler, bars_said
from magnet_cli.errors import CheckpointError
from magnet_cli.models.lm import LanguageModel
from magnet_cli.models.text import TempoHead, said_tempo
from magnet_cli.request import make_request
from magnet_cli.settings import DecodingConfig

HELD = DecodingConfig(bar_repeat=2.0)
FREE = DecodingConfig(bar_repeat=0.0, half_bar_repeat=0.0)


@pytest.fixture(scope="module")
def nano() -> Model:
    return load_model(None, device="cpu", dtype="float32", offline=True)


@pytest.mark.parametrize(
    ("prompt", "bpm"),
    [
        ("techno, 120 bpm", 120.0), ("82.5 BPM lofi", 82.5), ("a 90-bpm beat", 90.0),
        ("techno", None), ("0 bpm", None), ("9999 bpm", None), ("", None), (None, None),
        ("1e9bpm of x120bpms", None),
    ],
)  # fmt: skip
def test_a_prompt_says_a_tempo(prompt: str | None, bpm: float | None) -> None:
    assert said_tempo(prompt) == bpm


def test_a_seed_draws_a_tempo_as_often_as_the_text_makes_it_likely() -> None:
    head = TempoHead(2, (10.0, 20.0))
    head.weight[1, 0], head.weight[2, 1] = 2.0, 2.0
    text = torch.tensor([[1.0, 0.0], [0.0, 0.0]])  # its mean: half of the first
    chances = torch.tensor([0.0, 1.0, 0.0]).softmax(-1)
    drawn = [head.draw(text, seed) for seed in range(2000)]
    for tempo, chance in zip((0.0, 10.0, 20.0), chances, strict=True):
        assert drawn.count(tempo) / len(drawn) == pytest.approx(float(chance), abs=0.04)
    assert head.draw(text, 7) == head.draw(text, 7)
    assert head.draw(torch.zeros(0, 2), 7) == 0.0


def untold(model: Model) -> Model:
    """The same without the position in the bar as an input."""
    lm = LanguageModel(dataclasses.replace(model.lm.config, bar_position=False)).eval()
    lm.load_state_dict(model.lm.state_dict(), strict=False)
    return Model(dataclasses.replace(model.parts, lm=lm))


def bars(
    model: Model, *prompts: str | None, seed: int = 1, config: DecodingConfig = HELD
) -> list[float]:
    request = make_request(
        model.parts, prompts, config=config, seeds=[seed] * len(prompts), frames=25
    )
    return list(request.bars)


def test_the_built_in_model_draws_one_for_music(nano: Model) -> None:
    """Frames per bar, at 25 a second and four beats."""
    techno, said, rain, nothing, empty = bars(
        nano, "techno with drums", "techno, 100 bpm", "heavy rain", None, ""
    )
    assert techno in {4 * tempo for tempo in nano.lm.config.tempi}
    assert said == 64.0  # 93.75 bpm, the nearest of its own
    assert bars(nano, "techno, 125 bpm", "200 bpm") == [48.0, 30.0]  # none of its own is near 200
    assert (rain, nothing, empty) == (0.0, 0.0, 0.0)
    assert bars(nano, "techno with drums", config=FREE) == [techno]  # told, not repeated
    assert bars(untold(nano), "techno with drums", config=FREE) == []
    half = DecodingConfig(bar_repeat=0.0, half_bar_repeat=1.0)
    assert bars(nano, "techno with drums", config=half) == [techno]


def test_what_is_there_already_has_the_tempo_that_its_prompt_says(nano: Model) -> None:
    known = torch.zeros(1, nano.n_q, 10, dtype=torch.int64)
    for prompt, bar in (("techno with drums", 0.0), ("techno, 120 bpm", 48.0)):
        request = make_request(
            nano.parts, [prompt], config=HELD, seeds=[1], frames=25, prompt_codes=known
        )
        assert request.bars == (bar,)
        assert bars_said(nano, Direction.of(prompt, 1)) == (bar,)
    free = Direction.of("techno, 120 bpm", 1, config=FREE)
    unheld = Filler(nano, free, 600, bars=bars_said(nano, free))
    assert unheld.request.bars == ()  # and its record says none
    filler = Filler(nano, Direction.of("techno with drums", 1, config=HELD), 600)
    assert filler.request.bars == tuple(bars(nano, "techno with drums"))


def test_the_record_says_the_tempo(nano: Model) -> None:
    made = nano.generate(
        ["techno, 100 bpm", "heavy rain"],
        dataclasses.replace(HELD, decoding_steps=(1,)),
        [1, 2],
        frames=10,
    )
    assert made.settings["bpm"] == [93.75, None]
    silent = dataclasses.replace(FREE, decoding_steps=(1,))
    for model, said in ((nano, [93.75]), (untold(nano), None)):
        made = model.generate(["techno, 100 bpm"], silent, [1], frames=10)
        assert made.settings.get("bpm") == said


def test_edits_hold_the_tempo_of_the_sound_where_the_prompt_says_none(
    nano: Model, tmp_path: Path
) -> None:
    """They held none, although the sound's record has the tempo of its bars."""
    how = {"seed": 1, "config": dataclasses.replace(HELD, decoding_steps=(1,), hybrid=None)}
    made = nano.generate(["techno, 125 bpm"], how["config"], [1], frames=20)
    path = tmp_path / "a.wav"
    made.save(path)
    for source in (str(path), made, nano.hear(path)):
        assert nano.extend(source, "piano", 1.0, **how).settings["bpm"] == [125.0]
    assert nano.extend(path, "piano, 95 bpm", 1.0, **how).settings["bpm"] == [93.75]
    assert nano.vary(path, "piano", 0.5, **how).settings["bpm"] == [125.0]
    assert nano.inpaint(made, "piano", [(0.2, 0.5)], **how).settings["bpm"] == [125.0]
    assert nano.inpaint(path, None, [(0.2, 0.5)], **how).settings["bpm"] == [125.0]
    assert nano.loop("piano", source=path, **how).settings["bpm"] == [125.0]
    stretched = dataclasses.replace(
        made, settings=made.settings | {"edit": {"beat": {"stretch": 1.04}}}
    )
    assert "bpm" not in nano.extend(stretched, "piano", 1.0, **how).settings


def test_it_is_saved_with_the_model_and_never_trained(nano: Model, tmp_path: Path) -> None:
    assert nano.lm.tempo is not None
    assert not {"tempo.weight", "tempo.bias"} & {name for name, _ in nano.lm.named_parameters()}
    native.save(tmp_path / "copy", nano.parts, {})
    again = native.load(tmp_path / "copy").lm
    assert again.tempo is not None
    assert again.config.tempi == nano.lm.config.tempi
    torch.testing.assert_close(again.tempo.weight, nano.lm.tempo.weight)


@pytest.mark.parametrize("tempi", ["fast", [0.0], [1e9], ["12"], [True], [1.0] * 65, {"a": 1}])
def test_tempi_that_cannot_be_are_refused(nano: Model, tmp_path: Path, tempi: object) -> None:
    native.save(tmp_path / "copy", nano.parts, {})
    path = tmp_path / "copy" / "config.json"
    config = json.loads(path.read_text("utf-8"))
    config["lm"]["tempi"] = tempi
    path.write_text(json.dumps(config), encoding="utf-8")
    with pytest.raises(CheckpointError, match="tempi"):
        native.load(tmp_path / "copy")
