"""Global settings of torch change no clip, training or measurement."""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from torch import Tensor

import magnet_cli
from magnet_cli.checkpoints import native
from magnet_cli.data.manifests import read_clips
from magnet_cli.data.tokens import TokenFolder
from magnet_cli.evaluation.embedders import MelEmbedder
from magnet_cli.evaluation.figures import noise as white_noise
from magnet_cli.training.encode import encode_clips, token_format
from magnet_cli.training.setup import make_trainer
from tests.editing.sounds import noise, write
from tests.training.conftest import workshop  # noqa: F401
from tests.training.test_loop import settings

Made = dict[str, Tensor]


@contextlib.contextmanager
def other_dtype() -> Iterator[None]:
    torch.set_default_dtype(torch.float64)
    try:
        yield
    finally:
        torch.set_default_dtype(torch.float32)


@contextlib.contextmanager
def other_device() -> Iterator[None]:
    """A device whose tensors hold nothing, so that anything put there by mistake is found."""
    torch.set_default_device("meta")
    try:
        yield
    finally:
        torch.set_default_device(None)


def clip(folder: Path) -> Made:
    model = magnet_cli.load_model("nano", device="cpu")
    made = model.generate(["lofi piano"], seeds=[3], duration=1)
    return {"codes": made.codes, "audio": made.audio}


def edits(folder: Path) -> Made:
    """With a model of the released kind, which has banded attention."""
    model = magnet_cli.load_model("facebook/magnet-small-10secs", device="cpu", offline=True)
    sound = write(folder / "a.wav", noise(1.0, 32_000), 32_000)
    how = {"seed": 3, "config": magnet_cli.DecodingConfig(decoding_steps=(1, 1, 1, 1))}
    varied = model.vary(sound, "rain", **how)
    longer = model.extend(sound, [(0, "rain"), (0.5, "wind")], 2.0, **how)
    return {"varied": varied.codes, "extended": longer.codes}


def trained(folder: Path) -> Made:
    trainer = make_trainer(settings(folder, steps=2), folder / "out", resume=False)
    trainer.run()
    return {name: tensor.clone() for name, tensor in trainer.output.lm.state_dict().items()}


def encoded(folder: Path) -> Made:
    sounds = folder / "sounds"
    sounds.mkdir()
    write(sounds / "a.wav", noise(2.0, 100), 100)
    (sounds / "a.txt").write_text("noise")
    codec = native.load_codec(folder / "codec")
    encode_clips(read_clips(sounds), codec, token_format(codec, "tiny"), folder / "made")
    shards = TokenFolder(folder / "made")
    return {"codes": shards.codes(shards.clips[0])}


def measured(folder: Path) -> Made:
    (sound,) = white_noise(16_000, 20_000, 1)
    return {"sound": sound, "mel": MelEmbedder().embed([sound])}


@pytest.mark.parametrize("other", [other_dtype, other_device])
@pytest.mark.parametrize("make", [clip, edits, encoded, measured, trained])
def test_the_defaults_of_others_change_nothing(
    workshop: Path,  # noqa: F811
    hub_cache: Path,
    tmp_path_factory: pytest.TempPathFactory,
    make: Callable[[Path], Made],
    other: Callable[[], contextlib.AbstractContextManager[None]],
) -> None:
    beside = shutil.copytree(workshop, tmp_path_factory.mktemp("beside"), dirs_exist_ok=True)
    before = make(workshop)
    with other():
        after = make(beside)
    for name, tensor in before.items():
        assert after[name].device.type == "cpu", name
        assert after[name].dtype == tensor.dtype, name
        assert torch.equal(after[name], tensor), name
