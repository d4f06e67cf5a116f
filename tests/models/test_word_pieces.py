"""The word-piece encoder: every text has a vector, order has some effect, there is no padding."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer

from magnet_cli.checkpoints import native
from magnet_cli.checkpoints.registry import ASSETS
from magnet_cli.models.word_pieces import WordPieceConfig, WordPieceEncoder
from recipes.nano.teach_text import grown
from tests.training.conftest import tiny_text_encoder


def load_nano_text() -> WordPieceEncoder:
    """nano's text encoder, loaded alone."""
    folder = ASSETS / "nano"
    said = json.loads((folder / "config.json").read_text())["text"]["config"]
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    return WordPieceEncoder(WordPieceConfig(**said), tokenizer)


@pytest.fixture(scope="module")
def encoder() -> WordPieceEncoder:
    return tiny_text_encoder()


def test_the_empty_text_is_the_null_condition(encoder: WordPieceEncoder) -> None:
    assert encoder.encode("").shape == (0, encoder.width)
    assert encoder.encode(" \n").shape == (0, encoder.width)


def test_a_piece_has_its_own_vector_and_what_stands_before_it(encoder: WordPieceEncoder) -> None:
    dim = encoder.config.dim
    after_slow = encoder.encode("slow piano")[2]
    after_fast = encoder.encode("fast piano")[2]
    own = encoder.vectors(torch.tensor(encoder.piece_ids("piano")))[0]
    assert torch.equal(after_slow[:dim], own)
    assert torch.equal(after_fast[:dim], own)
    assert not torch.equal(after_slow[dim:], after_fast[dim:])
    assert torch.equal(encoder.encode("piano")[1, dim:], torch.zeros(dim))


def test_the_first_row_is_the_whole_text(encoder: WordPieceEncoder) -> None:
    dim = encoder.config.dim
    rows = encoder.encode("rain on a roof")
    assert torch.equal(rows[0, :dim], encoder.sentence("rain on a roof"))
    assert torch.equal(encoder.sentence("piano slow"), encoder.sentence("slow piano"))


def test_unknown_words_break_up_and_unknown_signs_are_one_piece(encoder: WordPieceEncoder) -> None:
    assert len(encoder.piece_ids("rain")) == 1
    assert len(encoder.piece_ids("zyx")) == 3
    assert encoder.piece_ids("🎹") == [0]
    assert encoder.piece_ids("RAIN") == encoder.piece_ids("rain") == encoder.piece_ids("raïn")


def test_a_text_of_another_script_holds_no_word_that_is_known() -> None:
    encoder = load_nano_text()
    for text in ("钢琴", "пианино", "ピアノ", "ελληνικά", "♥ ♥", "", "...", "b"):
        assert not encoder.knows(text), text
    for text in ("piano", "Klavier", "808", "钢琴 piano", "tïhm"):
        assert encoder.knows(text), text


@given(st.text(max_size=40))
@settings(max_examples=60, deadline=None)
def test_any_text_has_finite_vectors(encoder: WordPieceEncoder, text: str) -> None:
    rows = encoder.encode(text)
    assert rows.dtype == torch.float32
    assert rows.shape[1] == encoder.width
    assert torch.isfinite(rows).all()


def test_lone_surrogates_nul_and_endless_texts(encoder: WordPieceEncoder) -> None:
    assert torch.isfinite(encoder.encode("rain \ud83c \0 piano")).all()
    assert len(encoder.encode("rain " * 5000)) == 1 + encoder.config.max_pieces


def test_it_is_stored_and_comes_back(encoder: WordPieceEncoder, tmp_path: Path) -> None:
    native.save_part(tmp_path / "text", encoder)
    loaded = native.load_text_encoder(tmp_path / "text")
    for text in ("slow piano", "zyx 🎹", ""):
        assert torch.equal(loaded.encode(text), encoder.encode(text))


def test_a_reader_starts_as_nothing(encoder: WordPieceEncoder) -> None:
    read = grown(encoder, 2, 0)
    for text in ("slow piano", "rain", "zyx 🎹", ""):
        assert torch.equal(read.encode(text), encoder.encode(text))


def test_a_reader_tells_a_word_among_others_and_is_stored(
    encoder: WordPieceEncoder, tmp_path: Path
) -> None:
    read = grown(encoder, 2, 0)
    assert read.reader is not None
    torch.nn.init.eye_(read.reader.out.weight)
    # The first row of the table is independent of order; the attention layers' output is not.
    assert torch.equal(read.rows("slow piano")[0], read.rows("piano slow")[0])
    assert not torch.equal(read.encode("slow piano")[0], read.encode("piano slow")[0])
    assert read.encode(" ").shape == (0, read.width)
    assert not read.encode("rain").requires_grad
    native.save_part(tmp_path / "text", read)
    loaded = native.load_text_encoder(tmp_path / "text")
    assert torch.equal(loaded.encode("slow piano"), read.encode("slow piano"))
