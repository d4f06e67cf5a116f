"""T5's encoder: equal to the reference and to transformers, and independent of the batch."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer

from magnet_cli.checkpoints.t5 import load_t5
from magnet_cli.errors import CheckpointError
from magnet_cli.models.text import T5Config, T5Encoder, relative_buckets
from tests.golden_cases import case, case_id, cases, snapshot, tensor
from tests.models.tiny import golden_model

TOKENIZER = snapshot("t5-base") / "tokenizer.json"


@pytest.fixture(scope="module")
def t5_base() -> T5Encoder:
    return load_t5(snapshot("t5-base"))


def test_token_ids_are_the_references(t5_base: T5Encoder) -> None:
    golden = case("t5/tokenize")
    ids = [t5_base.token_ids(text) for text in golden["inputs"]["texts"]]
    assert ids == golden["outputs"]["ids"]


def test_hidden_states_are_the_references(t5_base: T5Encoder) -> None:
    golden = case("t5/hidden")
    hidden = t5_base.encode(golden["inputs"]["texts"][0])
    expected = tensor(golden["outputs"]["hidden"])[0]
    assert hidden.dtype == torch.float32
    torch.testing.assert_close(hidden[: len(expected)], expected, rtol=0, atol=1e-5)


CONDITIONS = [*cases(1, "t5/t5base/"), *cases(1, "t5/t5large/"), *cases(1, "t5/provider/")]


@pytest.mark.parametrize("golden", CONDITIONS, ids=case_id)
def test_conditions_are_the_references(golden: dict, hub_cache: Path) -> None:
    """The reference pads a batch and zeroes the padding; ours has only the valid positions."""
    model = golden_model(golden["model"])
    outputs = golden["outputs"]
    embeddings = tensor(outputs["embeddings"])
    mask = tensor(outputs["attention_mask" if "attention_mask" in outputs else "mask"]).bool()
    ids = tensor(outputs["input_ids"]) if "input_ids" in outputs else None
    texts = list(golden["inputs"]["texts"])
    texts += [None] * (len(mask) - len(texts))  # provider: the other half is the null condition
    for row, text in enumerate(texts):
        hidden = model.text_encoder.encode(text or "")
        assert len(hidden) == int(mask[row].sum())
        condition = model.lm.project_text(hidden)
        torch.testing.assert_close(condition, embeddings[row][mask[row]], rtol=0, atol=1e-4)
        if ids is not None and text:
            assert model.text_encoder.token_ids(text) == ids[row][mask[row]].tolist()


def test_the_empty_text_is_nothing_and_a_space_is_not(t5_base: T5Encoder) -> None:
    assert t5_base.encode("").shape == (0, t5_base.width)
    assert t5_base.encode(" ").shape == (1, t5_base.width)


@pytest.mark.parametrize("feed_forward", ["relu", "gated-gelu"])
@pytest.mark.parametrize("pickled", [False, True])
def test_equal_to_transformers(tmp_path: Path, feed_forward: str, pickled: bool) -> None:
    """A whole T5 as released, including decoder, tied copies and texts beyond 512 tokens."""
    theirs = write_transformers_t5(tmp_path, feed_forward, pickled)
    ours = load_t5(tmp_path)
    for text in ("slow piano and strings", "x", "drums, " * 200):
        ids = torch.tensor([ours.token_ids(text)])
        with torch.no_grad():
            expected = theirs.encoder(ids).last_hidden_state[0]
        torch.testing.assert_close(ours.encode(text), expected, rtol=0, atol=1e-5)
    assert ids.shape[1] > 512


def test_a_text_of_another_script_holds_no_word_that_is_known(t5_base: T5Encoder) -> None:
    assert t5_base.knows("lofi piano")
    for text in ("钢琴", "♥", " "):
        assert not t5_base.knows(text), text


def test_equal_buckets_to_transformers() -> None:
    from transformers.models.t5.modeling_t5 import T5Attention

    distance = torch.arange(-3000, 3001)
    for buckets, largest in ((32, 128), (16, 50)):
        expected = T5Attention._relative_position_bucket(distance, True, buckets, largest)
        assert torch.equal(relative_buckets(distance, buckets, largest), expected)


def test_what_the_tokenizer_file_says_of_cutting_and_padding_is_not_done() -> None:
    tokenizer = Tokenizer.from_file(str(TOKENIZER))
    tokenizer.enable_truncation(4)
    tokenizer.enable_padding(length=64)
    config = T5Config(vocab_size=80, d_model=8, d_kv=4, d_ff=8, num_layers=1, num_heads=2)
    encoder = T5Encoder(config, tokenizer)
    whole = Tokenizer.from_file(str(TOKENIZER)).encode("slow piano and strings").ids
    assert encoder.token_ids("slow piano and strings") == whole


def test_a_tensor_that_is_missing_left_over_or_misshapen_is_named(tmp_path: Path) -> None:
    write_transformers_t5(tmp_path, "relu", pickled=False)
    path = tmp_path / "model.safetensors"
    state = load_file(path)
    norm = "encoder.final_layer_norm.weight"
    for changed, name in (
        ({k: v for k, v in state.items() if k != norm}, "norm.weight"),
        ({**state, "encoder.extra": torch.ones(1)}, "encoder.extra"),
        ({**state, norm: torch.ones(3)}, "norm.weight"),
    ):
        save_file(changed, path)
        with pytest.raises(CheckpointError, match=name):
            load_t5(tmp_path)


def test_a_sentencepiece_file_alone_says_what_to_do(tmp_path: Path) -> None:
    write_transformers_t5(tmp_path, "relu", pickled=False)
    (tmp_path / "tokenizer.json").rename(tmp_path / "spiece.model")
    with pytest.raises(CheckpointError, match=r"no tokenizer\.json") as error:
        load_t5(tmp_path)
    assert "spiece.model" in error.value.hint


@pytest.mark.parametrize(
    ("file", "content"),
    [
        ("config.json", "{"),
        ("config.json", "{}"),
        ("config.json", "[]"),
        ("tokenizer.json", "{}"),
        ("model.safetensors", "no"),
    ],
)
def test_damaged_files_are_named(tmp_path: Path, file: str, content: str) -> None:
    write_transformers_t5(tmp_path, "relu", pickled=False)
    (tmp_path / file).write_text(content)
    with pytest.raises(CheckpointError, match=file):
        load_t5(tmp_path)


def test_an_activation_that_we_do_not_have_is_refused(tmp_path: Path) -> None:
    write_transformers_t5(tmp_path, "relu", pickled=False)
    config = json.loads((tmp_path / "config.json").read_text())
    config["feed_forward_proj"] = "gated-silu"
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(CheckpointError, match="gated-silu"):
        load_t5(tmp_path)


def write_transformers_t5(
    directory: Path, feed_forward: str, pickled: bool
) -> transformers.T5ForConditionalGeneration:
    """A tiny random T5 in the released files: encoder, decoder, tied copies."""
    config = transformers.T5Config(
        vocab_size=80,
        d_model=24,
        d_kv=6,
        d_ff=40,
        num_layers=3,
        num_heads=2,
        feed_forward_proj=feed_forward,
        decoder_start_token_id=0,
    )
    with torch.random.fork_rng():
        torch.manual_seed(7)
        model = transformers.T5ForConditionalGeneration(config).eval()
        for parameter in model.parameters():
            torch.nn.init.normal_(parameter, std=0.4)
    state = {name: tensor.clone().contiguous() for name, tensor in model.state_dict().items()}
    assert "encoder.embed_tokens.weight" in state
    assert any(name.startswith("decoder.") for name in state)
    if pickled:
        torch.save(state, directory / "pytorch_model.bin")
    else:
        save_file(state, directory / "model.safetensors")
    (directory / "config.json").write_text(json.dumps(config.to_dict()))
    (directory / "tokenizer.json").write_text(TOKENIZER.read_text())
    return model
