"""A model that is extended to a codec with more streams."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
import torch

from magnet_cli.checkpoints import native
from magnet_cli.checkpoints.load import load_parts
from magnet_cli.checkpoints.place import find_place
from magnet_cli.errors import UsageError
from magnet_cli.models.encodec import EnCodec
from magnet_cli.training.encode import token_format
from magnet_cli.training.initial import with_streams_of
from magnet_cli.training.setup import make_trainer
from tests.models.tiny import stage_hidden
from tests.training.conftest import tiny_codec, write_tokens
from tests.training.test_loop import run, settings, weights


def wide_codec() -> EnCodec:
    """The tiny codec with two more streams."""
    codec = EnCodec(dataclasses.replace(tiny_codec().config, n_q=4))
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in codec.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.3)
    return codec.eval()


@pytest.mark.parametrize("modeling", ["masked", "autoregressive", "hybrid"])
def test_what_a_model_said_of_its_streams_it_still_says(workshop: Path, modeling: str) -> None:
    run(workshop, "small", steps=2, modeling=modeling)
    small = load_parts(find_place(str(workshop / "small")), "cpu", "float32").lm
    wide = wide_codec()
    grown = with_streams_of(small, wide, wide.codebooks())
    assert grown.config.n_q == len(grown.emb) == len(grown.linears) == 4
    assert grown.config.delays == (() if modeling == "masked" else (0, 1, 2, 3))
    generator = torch.Generator().manual_seed(0)
    codes = torch.randint(16, (2, 4, 12), generator=generator)
    for stage in range(2 if modeling == "masked" else 0):
        said = stage_hidden(small, codes[:, :2], stage, None)
        again = stage_hidden(grown, codes, stage, None)
        torch.testing.assert_close(again, said)
        torch.testing.assert_close(grown.head(again, stage), small.head(said, stage))
    if modeling == "masked":
        return
    following = grown.teacher_forced(codes, None)
    torch.testing.assert_close(following[:, :2], small.teacher_forced(codes[:, :2], None))


def test_only_a_codec_with_its_streams_will_do(workshop: Path) -> None:
    run(workshop, "small", steps=2)
    small = load_parts(find_place(str(workshop / "small")), "cpu", "float32").lm
    assert with_streams_of(small, tiny_codec(), None) is small
    grown = with_streams_of(small, wide_codec(), None)
    with pytest.raises(UsageError, match="2 streams of 16 codes"):
        with_streams_of(grown, tiny_codec(), None)


def test_a_run_that_adds_streams_goes_on(workshop: Path) -> None:
    run(workshop, "small", steps=2)
    wide = wide_codec()
    native.save_part(workshop / "wide", wide)
    clip = torch.randint(16, (4, 30), generator=torch.Generator().manual_seed(2))
    write_tokens(workshop / "more", {"rain": clip, "piano": clip + 0}, token_format(wide, "wide"))
    more = settings(
        workshop,
        data=(str(workshop / "more"),),
        init=str(workshop / "small"),
        codec=str(workshop / "wide"),
        steps=2,
    )
    first = make_trainer(more, workshop / "grown")
    first.run()
    going_on = make_trainer(dataclasses.replace(more, steps=4), workshop / "grown", resume=True)
    for name, weight in weights(first).items():
        torch.testing.assert_close(weights(going_on)[name], weight)
    going_on.run()
    loaded = load_parts(find_place(str(workshop / "grown")), "cpu", "float32")
    assert loaded.lm.config.n_q == loaded.codec.n_q == 4
