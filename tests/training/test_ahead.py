"""Work done during a step, on a GPU or with several processes, does not change the results."""

from __future__ import annotations

import io
import threading
from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
import torch
from rich.console import Console
from torch import Tensor

from magnet_cli.cli.train import _bar
from magnet_cli.models.text import T5Config, T5Encoder
from magnet_cli.models.word_pieces import WordPieceEncoder
from magnet_cli.training import loop
from magnet_cli.training.batches import Ahead, TextCache
from magnet_cli.training.loop import tf32
from magnet_cli.training.losses import ValidationLoss, validate
from magnet_cli.training.setup import make_trainer
from tests.training.conftest import tiny_text_encoder
from tests.training.test_loop import held_out, settings, weights


def test_the_next_step_is_drawn_in_a_thread_of_its_own() -> None:
    """Encoding a caption took 0.2 to 0.5 s in the training thread."""
    drawn: list[tuple[int, bool]] = []

    def draw(step: int) -> Any:
        drawn.append((step, threading.current_thread() is threading.main_thread()))
        return [step]

    with Ahead(draw, 12) as ahead:
        assert [ahead.take(step) for step in (3, 4, 9, 10, 11)] == [[3], [4], [9], [10], [11]]
    steps = [step for step, _ in drawn]
    assert max(steps) == 11, "nothing is drawn beyond the end"
    assert {3: True, 4: False, 5: False, 9: True, 10: False}.items() <= dict(drawn).items()


def test_what_goes_wrong_in_drawing_is_heard() -> None:
    def draw(step: int) -> Any:
        if step == 1:
            raise ValueError("a shard is broken")
        return []

    with Ahead(draw, 9) as ahead:
        ahead.take(0)
        with pytest.raises(ValueError, match="broken"):
            ahead.take(1)


class Listening(T5Encoder):
    """Records which texts are encoded together."""

    def encode_all(self, texts: Sequence[str]) -> list[Tensor]:
        self.asked = [*getattr(self, "asked", []), list(texts)]
        return self.encode_padded(texts)


def tiny_t5() -> Listening:
    torch.manual_seed(0)
    config = T5Config(100, 16, 4, 32, num_layers=2, num_heads=2)
    return Listening(config, tiny_text_encoder().tokenizer).eval()


def test_texts_of_a_batch_are_encoded_together_and_once() -> None:
    encoder = tiny_t5()
    cache = TextCache(encoder)
    texts = ["rain on a roof", "piano", "rain on a roof", "slow slow slow piano"]
    found = cache(texts)
    assert encoder.asked == [["rain on a roof", "piano", "slow slow slow piano"]]
    for text, hidden in zip(texts, found, strict=True):
        torch.testing.assert_close(hidden, encoder.encode(text), rtol=1e-5, atol=1e-5)
    assert torch.equal(cache(["piano", "rain"])[0], found[1])
    assert encoder.asked[1:] == [["rain"]]
    assert [tuple(each.shape) for each in encoder.encode_padded(["", "rain"])] == [(0, 16), (1, 16)]
    assert [tuple(each.shape) for each in encoder.encode_padded([""])] == [(0, 16)]


def test_a_cache_keeps_the_newest() -> None:
    encoder = tiny_t5()
    cache = TextCache(encoder, limit=3 * 16 * 4)
    for text in ("rain", "piano", "slow", "rain"):
        cache([text])
    assert len(encoder.asked) == 3, "three fit"
    cache(["fast"])  # and piano goes
    cache(["rain", "slow", "piano"])
    assert encoder.asked[3:] == [["fast"], ["piano"]]


def test_texts_are_encoded_on_the_device_of_the_run(
    workshop: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They were encoded on the CPU, where a T5 takes up to half a second per caption."""
    moved: list[object] = []
    monkeypatch.setattr(WordPieceEncoder, "to", lambda self, place: moved.append(place))
    trainer = make_trainer(settings(workshop), workshop / "out")
    assert moved[-1] is trainer.accelerator.device


@pytest.mark.parametrize("processes", [1, 2, 5])
def test_validation_is_shared_out(workshop: Path, processes: int) -> None:
    """Every process computed all of it."""
    trainer = make_trainer(
        settings(workshop, valid=held_out(workshop), micro_batch=2), workshop / "out"
    )
    assert trainer.valid is not None
    whole = validate(trainer.accelerator, trainer.model, trainer.valid)
    parts: list[Tensor] = []
    passes = 0

    class One:
        device, num_processes = torch.device("cpu"), processes

        def __init__(self, index: int) -> None:
            self.process_index = index

        def reduce(self, tensor: Tensor, how: str) -> Tensor:
            parts.append(tensor)
            return tensor

    def counted(batch: Any) -> Any:
        nonlocal passes
        passes += 1
        return trainer.model(batch)

    class Model(torch.nn.Module):
        forward = staticmethod(counted)

    count = len(list(trainer.valid.validation_batches()))
    for index in range(processes):
        validate(One(index), Model(), trainer.valid)
    assert passes == processes * -(-count // processes), "of collectives each takes part in as many"
    sums = torch.stack(parts).sum(0)
    masked = [float(total / n) for total, n in zip(sums[0], sums[1], strict=True)]
    following = [float(total / n) for total, n in zip(sums[2], sums[3], strict=True)]
    assert ValidationLoss(masked, following).mean == pytest.approx(whole.mean, rel=1e-9)


def test_samples_are_made_on_the_device_one_at_a_time(
    workshop: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All were made on the CPU, while the other processes waited until their time-out."""
    chosen = settings(workshop, steps=2, sample_every=2, sample_prompts=("rain", "piano", "x"))
    trainer = make_trainer(chosen, workshop / "out")
    told: list[str] = []
    kept, sample = trainer.output.kept_model, trainer.output.sample
    wait = trainer.accelerator.wait_for_everyone
    monkeypatch.setattr(trainer.output, "kept_model", lambda d: told.append(d) or kept(d))
    monkeypatch.setattr(trainer.output, "sample", lambda *a: told.append(a[3]) or sample(*a))
    monkeypatch.setattr(
        trainer.accelerator, "wait_for_everyone", lambda: told.append("-") or wait()
    )
    trainer.run()
    first = told.index("rain")
    assert told[first - 1 : first + 6] == ["cpu", "rain", "-", "piano", "-", "x", "-"]
    folder = workshop / "out" / "samples" / "step-00000002"
    assert sorted(path.name for path in folder.iterdir()) == ["00.wav", "01.wav", "02.wav"]


def test_a_gpus_fast_matrices_are_on_for_the_run_alone() -> None:
    before = torch.get_float32_matmul_precision()
    with tf32(torch.device("cpu")):
        assert torch.get_float32_matmul_precision() == before
    with tf32(torch.device("cuda")):
        assert torch.get_float32_matmul_precision() == "high"
    assert torch.get_float32_matmul_precision() == before


def test_drawing_ahead_changes_nothing(workshop: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ahead = make_trainer(settings(workshop, steps=3), workshop / "ahead")
    fast: list[torch.device] = []
    monkeypatch.setattr(loop, "tf32", lambda device: fast.append(device) or nullcontext())
    drawn: list[tuple[int, bool]] = []
    draw = ahead._draw

    def noted(step: int) -> Any:
        drawn.append((step, threading.current_thread() is threading.main_thread()))
        return draw(step)

    monkeypatch.setattr(ahead, "_draw", noted)
    ahead.run()
    assert fast == [ahead.accelerator.device]
    assert drawn == [(0, True), (1, False), (2, False)]
    alone = make_trainer(settings(workshop, steps=3), workshop / "alone")
    for _ in range(3):
        alone.take_step()
    for name, weight in weights(alone).items():
        assert torch.equal(weight, weights(ahead)[name]), name


def test_a_terminal_shows_how_far_a_run_is_and_its_smoothed_loss() -> None:
    class Voice:
        live = True
        console = Console(file=io.StringIO(), force_terminal=True, width=80)

    class Run:
        step = 2

        class accelerator:  # noqa: N801
            is_main_process = True

    voice: Any = Voice()
    with _bar(Run(), voice, 10) as on_step:  # type: ignore[arg-type]
        on_step(3, 4.0)
        on_step(4, 2.0)
    said = voice.console.file.getvalue()
    assert "4/10" in said
    assert "loss 2.990" in said
    Voice.live = False
    with _bar(Run(), voice, 10) as on_step:  # type: ignore[arg-type]
        on_step(3, 4.0)
