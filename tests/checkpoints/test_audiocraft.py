"""The released layout: reading, refusing and writing it."""

from __future__ import annotations

import contextlib
import dataclasses
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from magnet_cli.checkpoints import audiocraft
from magnet_cli.checkpoints.audiocraft import LM_FILE, open_lm
from magnet_cli.checkpoints.audiocraft_export import write_lm
from magnet_cli.checkpoints.building import fill, read_pickle, read_safetensors
from magnet_cli.checkpoints.xp_cfg import put
from magnet_cli.config import LMConfig
from magnet_cli.errors import CheckpointError, UsageError
from magnet_cli.models.lm import LanguageModel
from magnet_cli.settings import DecodingConfig
from tests.golden_cases import index, snapshot

SMALL = snapshot("facebook/magnet-small-10secs") / LM_FILE
MUSICGEN = snapshot("facebook/musicgen-small") / LM_FILE
MODELS = [name for name, model in index()["models"].items() if "lm" in model]


@pytest.mark.parametrize("name", MODELS)
def test_the_sizes_are_the_golden_ones(name: str) -> None:
    golden = index()["models"][name]["lm"]
    file = open_lm(snapshot(name) / LM_FILE)
    config = audiocraft.lm_config(file, 50)
    for field in ("dim", "num_heads", "num_layers", "card", "segment_duration"):
        assert getattr(config, field) == golden[field]
    assert file.text_encoder == golden["t5"]
    assert config.text_dim == {"t5-base": 768, "t5-large": 1024}[golden["t5"]]
    if golden["span_len"] is None:
        assert config.modeling == "autoregressive"
        assert config.delays == (0, 1, 2, 3)
    else:
        assert config.modeling == "masked"
        assert config.delays == ()
        assert config.span_len == golden["span_len"]
        assert config.subcodes_context == golden["subcodes_context"]


def test_decoding_defaults_are_those_of_the_file() -> None:
    """The reference decodes 30 s and sound models by the settings of 10 s music."""
    sound = open_lm(snapshot("facebook/audio-magnet-small") / LM_FILE)
    said = audiocraft.decoding_defaults(sound)
    assert (said.temperature, said.top_p, said.max_cfg_coef) == (3.5, 0.8, 20.0)
    long = audiocraft.decoding_defaults(open_lm(snapshot("facebook/magnet-small-30secs") / LM_FILE))
    assert long.decoding_steps == (60, 10, 10, 10)
    musicgen = audiocraft.decoding_defaults(open_lm(MUSICGEN))
    assert (musicgen.top_k, musicgen.temperature, musicgen.cfg_coef) == (250, 1.0, 3.0)
    assert musicgen.decoding_steps is None


def test_a_frame_rate_that_is_not_the_codecs_is_refused() -> None:
    with pytest.raises(CheckpointError, match="50 frames per second"):
        audiocraft.lm_config(open_lm(SMALL), 25)


def with_settings(
    tmp_path: Path, change: Callable[[dict[str, Any]], Any], of: Path = SMALL
) -> Path:
    """A copy of a checkpoint with a changed xp.cfg."""
    package = torch.load(of, weights_only=True)
    settings = yaml.safe_load(package["xp.cfg"])
    change(settings)
    package["xp.cfg"] = yaml.safe_dump(settings)
    torch.save(package, tmp_path / LM_FILE)
    return tmp_path / LM_FILE


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("transformer_lm.activation", "relu"),
        ("transformer_lm.norm_first", False),
        ("transformer_lm.positional_embedding", "rope"),
        ("transformer_lm.qk_layer_norm", True),
        ("transformer_lm.bias_ff", True),
        ("fuser.cross", ["self_wav", "description"]),
        ("fuser.prepend", ["description"]),
        ("interleave_stereo_codebooks.use", True),
        ("conditioners.description.model", "clap"),
    ],
)
def test_what_we_do_not_have_is_refused_by_name(tmp_path: Path, key: str, value: Any) -> None:
    path = with_settings(tmp_path, lambda settings: put(settings, key, value))
    with pytest.raises(CheckpointError, match=key):
        open_lm(path)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("codebooks_pattern.modeling", "unroll"),
        ("lm_model", "transformer_lm_other"),
        ("transformer_lm.dim", "wide"),
        ("transformer_lm.num_layers", None),
        ("dataset.segment_duration", "long"),
        ("masking.span_len", None),
    ],
)
def test_settings_of_the_wrong_kind_are_refused(tmp_path: Path, key: str, value: Any) -> None:
    path = with_settings(tmp_path, lambda settings: put(settings, key, value))
    with pytest.raises(CheckpointError, match=f"{key}|{value}"):
        audiocraft.lm_config(open_lm(path), 50)


def test_defaults_that_cannot_be_are_refused(tmp_path: Path) -> None:
    path = with_settings(tmp_path, lambda s: put(s, "generate.lm.top_p", 7))
    with pytest.raises(CheckpointError, match="top_p"):
        audiocraft.decoding_defaults(open_lm(path))


def built(path: Path) -> LanguageModel:
    file = open_lm(path)
    with torch.device("meta"):
        lm = LanguageModel(audiocraft.lm_config(file, 50))
    fill(lm, audiocraft.lm_state(file), path.name)
    return lm


OUTPUT_PROJ = "condition_provider.conditioners.description.output_proj"


@pytest.mark.parametrize(
    ("change", "named"),
    [
        (lambda s: s.pop("out_norm.bias"), "out_norm.bias"),
        (lambda s: s.pop("transformer.layers.1.linear2.weight"), "layers.1.linear2"),
        (lambda s: s.pop(f"{OUTPUT_PROJ}.bias"), "text_proj.bias"),
        (lambda s: s.update(extra=torch.ones(1)), "extra"),
        (lambda s: s.update({"emb.4.weight": s["emb.0.weight"]}), r"emb\.4\.weight"),
        (
            lambda s: s.update({"linears.0.weight": torch.ones(2, 2)}),
            r"linears\.0\.weight is \[2, 2\]",
        ),
    ],
)
def test_a_key_that_is_missing_left_over_or_misshapen_is_named(
    tmp_path: Path, change: Callable[[dict[str, Any]], Any], named: str
) -> None:
    package = torch.load(SMALL, weights_only=True)
    change(package["best_state"])
    torch.save(package, tmp_path / LM_FILE)
    with pytest.raises(CheckpointError, match=named):
        built(tmp_path / LM_FILE)


class Payload:
    """Code that an attacker would put into a checkpoint."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[Any, ...]:
        return (Path.touch, (self.mark,))


@pytest.mark.parametrize("protocol", ["torch", "pickle"])
def test_a_pickle_that_needs_code_is_refused_and_runs_nothing(
    tmp_path: Path, protocol: str
) -> None:
    mark = tmp_path / "ran"
    package = torch.load(SMALL, weights_only=True)
    package["payload"] = Payload(mark)
    if protocol == "torch":
        torch.save(package, tmp_path / LM_FILE)
    else:
        (tmp_path / LM_FILE).write_bytes(pickle.dumps(package, protocol=2))
    with pytest.raises(CheckpointError, match="would run code") as error:
        open_lm(tmp_path / LM_FILE)
    assert "trust" in error.value.hint
    assert not mark.exists()


def test_a_file_from_before_torch_1_6_is_read(tmp_path: Path) -> None:
    package = torch.load(SMALL, weights_only=True)
    torch.save(package, tmp_path / LM_FILE, _use_new_zipfile_serialization=False)
    assert open_lm(tmp_path / LM_FILE).text_encoder == "t5-base"


@pytest.mark.parametrize("kept", [0, 10, 1000, 100_000, -1])
def test_a_file_that_is_cut_short_is_damaged(tmp_path: Path, kept: int) -> None:
    (tmp_path / LM_FILE).write_bytes(SMALL.read_bytes()[:kept])
    with pytest.raises(CheckpointError, match="cannot be read"):
        open_lm(tmp_path / LM_FILE)


@pytest.mark.parametrize(
    "error", [AttributeError("dtype"), IndexError("list"), TypeError("set_()"), AssertionError()]
)
def test_whatever_torch_says_of_a_damaged_pickle_is_said_as_one(
    monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    """Single changed bytes made torch call its own functions with any arguments."""

    def load(*args: object, **kwargs: object) -> None:
        raise error

    monkeypatch.setattr(torch, "load", load)
    with pytest.raises(CheckpointError, match="cannot be read"):
        open_lm(SMALL)


@pytest.mark.parametrize("byte", [b"s\x07", b"t"])
def test_single_bytes_of_a_pickle_changed(tmp_path: Path, byte: bytes) -> None:
    """The same with real files: no error of torch is passed on, whichever byte is changed."""
    whole = SMALL.read_bytes()
    path = tmp_path / LM_FILE
    start = whole.index(b"best_state")
    refused = 0
    for place in range(start, start + 400, 7):
        path.write_bytes(whole[:place] + byte + whole[place + len(byte) :])
        refused += 1
        with contextlib.suppress(CheckpointError):
            file = open_lm(path)
            audiocraft.lm_config(file, 50)
            audiocraft.lm_state(file)
            refused -= 1
    assert refused, "the bytes must matter, or this shows nothing"


@pytest.mark.parametrize(
    ("value", "words"),
    [
        ("a text", "is a str, not a tensor"),
        (torch.eye(3).to_sparse(), "sparse"),
    ],
    ids=["text", "sparse"],
)
def test_what_is_no_plain_tensor_is_named(value: Any, words: str) -> None:
    file = open_lm(SMALL)
    with pytest.raises(CheckpointError, match=words):
        audiocraft.lm_state(dataclasses.replace(file, state={"emb.0.weight": value}))
    numbered: Any = {7: torch.eye(3)}
    with pytest.raises(CheckpointError, match="not a text"):
        audiocraft.lm_state(dataclasses.replace(file, state=numbered))
    file = dataclasses.replace(file, state={audiocraft.TEXT_WEIGHT: value})
    if not isinstance(value, torch.Tensor):
        with pytest.raises(CheckpointError, match="It is not a text model"):
            audiocraft.lm_config(file, 50)


def test_whole_numbers_are_no_weights() -> None:
    weights = {"weight": torch.ones(2, 3, dtype=torch.int64), "bias": torch.ones(2)}
    with pytest.raises(CheckpointError, match=r"weight is torch\.int64"):
        fill(torch.nn.Linear(3, 2, device="meta"), weights, "x.bin")


def test_other_pickles_and_safetensors_are_refused(tmp_path: Path) -> None:
    path = tmp_path / LM_FILE
    torch.save([1, 2], path)
    with pytest.raises(CheckpointError, match="not a model"):
        read_pickle(path)
    torch.save({"model": {}}, path)
    with pytest.raises(CheckpointError, match=r"best_state and xp\.cfg"):
        open_lm(path)
    for pointer in (3, "dac_44khz", "../encodec", "a/b/c"):
        torch.save({"pretrained": pointer}, path)
        with pytest.raises(CheckpointError, match="which is not supported"):
            audiocraft.codec_pointer(path)
    for content in (b"", b"no", b"\xff" * 100):
        path.with_suffix(".safetensors").write_bytes(content)
        with pytest.raises(CheckpointError, match="cannot be read"):
            read_safetensors(path.with_suffix(".safetensors"))


def test_pointers(tmp_path: Path) -> None:
    long = snapshot("facebook/magnet-small-30secs") / audiocraft.CODEC_FILE
    assert audiocraft.codec_pointer(long) == "facebook/encodec_32khz"
    assert audiocraft.codec_pointer(SMALL.parent / audiocraft.CODEC_FILE) is None
    torch.save({"pretrained": "someone/codec", "exported": True}, tmp_path / "pointer.bin")
    assert audiocraft.codec_pointer(tmp_path / "pointer.bin") == "someone/codec"


@pytest.mark.parametrize(
    ("ours", "expected"),
    [
        ({"licence": 3, "kind": ["x"], "decoding": {"score_noise": 2}}, (None, None, 2)),
        ({"licence": "MIT"}, ("MIT", "music", None)),
        ("a text", (None, "music", None)),
        ({"decoding": {"span": 3}}, "decoding settings"),
        ({"decoding": {"top_p": 7}}, "decoding settings"),
        ({"decoding": {"top_p": "x"}}, "decoding settings"),
        ({"decoding": 7}, "decoding settings"),
    ],
)
def test_what_this_program_adds_to_the_settings(
    tmp_path: Path, ours: object, expected: object
) -> None:
    """It is read from the key `magnet`, even if edited by hand."""
    file = open_lm(SMALL)
    file = dataclasses.replace(file, settings={**file.settings, audiocraft.OURS: ours})
    if isinstance(expected, str):
        with pytest.raises(CheckpointError, match=expected):
            audiocraft.decoding_defaults(file)
        return
    noise = audiocraft.decoding_defaults(file).score_noise
    assert (audiocraft.licence(file), audiocraft.kind(file, "music"), noise) == expected


@pytest.mark.parametrize("path", [SMALL, MUSICGEN], ids=["masked", "autoregressive"])
def test_written_and_read_again_it_is_the_same(tmp_path: Path, path: Path) -> None:
    file = open_lm(path)
    config, state = audiocraft.lm_config(file, 50), audiocraft.lm_state(file)
    defaults = audiocraft.decoding_defaults(file)
    write_lm(
        tmp_path / LM_FILE, config, state, defaults, text_encoder="t5-base", sample_rate=32_000
    )
    again = open_lm(tmp_path / LM_FILE)
    assert audiocraft.lm_config(again, 50) == config
    assert audiocraft.decoding_defaults(again) == defaults
    assert again.text_encoder == "t5-base"
    assert again.state.keys() == file.state.keys()
    for name, tensor in file.state.items():
        assert torch.equal(again.state[name], tensor)
        assert again.state[name].dtype == tensor.dtype


def test_the_written_settings_hold_what_audiocraft_reads(tmp_path: Path) -> None:
    """Every key of the released xp.cfg that its model builders use is in ours, and equal."""
    read = [
        "lm_model",
        "sample_rate",
        "channels",
        "transformer_lm",
        "codebooks_pattern.modeling",
        "codebooks_pattern.parallel",
        "classifier_free_guidance",
        "conditioners",
        "fuser",
        "dataset.segment_duration",
        "masking.span_len",
        "interleave_stereo_codebooks.use",
    ]
    file = open_lm(SMALL)
    config, state = audiocraft.lm_config(file, 50), audiocraft.lm_state(file)
    write_lm(
        tmp_path / LM_FILE,
        config,
        state,
        DecodingConfig(),
        text_encoder="t5-base",
        sample_rate=32_000,
    )
    ours = open_lm(tmp_path / LM_FILE).settings
    defaults_of_the_builder = {"emb_lr", "weight_init", "depthwise_init", "zero_bias_init"}
    training_only = {"checkpointing", "attention_dropout", "two_step_cfg", "attention_as_float32"}
    for key in read:
        expected, found = file.settings, ours
        for name in key.split("."):
            expected, found = expected[name], found[name]
        if isinstance(expected, dict) and key == "transformer_lm":
            skipped = defaults_of_the_builder | training_only
            expected = {k: v for k, v in expected.items() if k not in skipped}
        if key == "conditioners":
            expected["description"]["t5"]["word_dropout"] = 0.0  # of training
        assert found == expected, key


def test_no_restriction_of_context_is_written_and_read_as_the_reference_has_it(
    tmp_path: Path,
) -> None:
    # From the paper's ablation of context: such a checkpoint was called damaged.
    file = open_lm(SMALL)
    config = dataclasses.replace(audiocraft.lm_config(file, 50), subcodes_context=-1)
    state, path = audiocraft.lm_state(file), tmp_path / LM_FILE
    write_lm(path, config, state, DecodingConfig(), text_encoder="t5-base", sample_rate=32_000)
    again = open_lm(path)
    assert again.settings["transformer_lm"]["subcodes_context"] == -1
    assert audiocraft.lm_config(again, 50) == config


@pytest.mark.parametrize(
    "ours", [{"stages": ((0, 1), (2, 3))}, {"bar_position": True}], ids=["stages", "bar_position"]
)
def test_what_the_released_layout_has_no_name_for_is_not_exported(
    tmp_path: Path, ours: dict[str, Any]
) -> None:
    """Streams masked in groups were exported as if each were masked alone."""
    file = open_lm(SMALL)
    config = dataclasses.replace(audiocraft.lm_config(file, 50), **ours)
    state, path = audiocraft.lm_state(file), tmp_path / LM_FILE
    with pytest.raises(UsageError, match=f"with {next(iter(ours))} cannot be exported"):
        write_lm(path, config, state, DecodingConfig(), text_encoder="t5-base", sample_rate=32_000)
    assert not path.exists()


def test_a_hybrid_model_cannot_be_exported(tmp_path: Path) -> None:
    config = LMConfig(8, 2, 1, 4, 16, "hybrid", 8, 50, 1, delays=(0, 1, 2, 3))
    with pytest.raises(UsageError, match="hybrid"):
        write_lm(tmp_path / LM_FILE, config, {}, DecodingConfig(), text_encoder="t5", sample_rate=1)
    assert list(tmp_path.iterdir()) == []
