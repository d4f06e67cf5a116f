"""magnet's own format: written whole or not at all, and the errors for a damaged one."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from magnet_cli import files
from magnet_cli.checkpoints import building, native
from magnet_cli.checkpoints.place import find_place
from magnet_cli.errors import CheckpointError, UsageError
from magnet_cli.models.lm import LanguageModel
from magnet_cli.models.parts import Parts
from magnet_cli.settings import DecodingConfig
from tests.models.tiny import golden_model, tiny_lm

DEFAULTS = DecodingConfig(decoding_steps=(4, 3, 2, 1), temperature=2.5)


@pytest.fixture
def written(tmp_path: Path, hub_cache: Path) -> Path:
    save(tmp_path / "model", tiny_lm("hybrid"))
    return tmp_path / "model"


def save(directory: Path, lm: LanguageModel, **options: Any) -> None:
    other = golden_model("facebook/magnet-small-10secs")
    parts = Parts(
        "mine", lm, other.codec, other.text_encoder, DEFAULTS, kind="sound", licence="MIT"
    )
    native.save(directory, parts, {"steps": 7}, **options)


def test_what_is_written_comes_back(written: Path) -> None:
    model = native.load(written)
    expected = tiny_lm("hybrid")
    assert model.lm.config == expected.config
    for name, tensor in expected.state_dict().items():
        assert torch.equal(model.lm.state_dict()[name], tensor)
    assert model.defaults == DEFAULTS
    assert (model.name, model.kind, model.licence) == ("mine", "sound", "MIT")
    assert native.read_config(written)["provenance"]["steps"] == 7
    assert type(native.load_codec(written)) is type(model.codec)
    assert native.stored_dtype(written) == torch.float32


def test_a_name_that_is_not_utf_8_is_refused_before_anything_is_written(
    tmp_path: Path, hub_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The error came after all weights were written, and was unexpected."""
    monkeypatch.setattr(native, "_save_tensors", lambda *_: pytest.fail("weights were written"))
    parts = replace(golden_model("facebook/magnet-small-10secs").parts, name="out\udcff")
    with pytest.raises(UsageError, match="cannot hold a name that is not UTF-8"):
        native.save(tmp_path / "new", parts, {})
    assert list(tmp_path.iterdir()) == []


def test_half_precision_files(tmp_path: Path, hub_cache: Path) -> None:
    lm = tiny_lm("masked")
    save(tmp_path / "half", lm, lm_dtype=torch.float16, part_dtype=torch.float16)
    assert native.stored_dtype(tmp_path / "half") == torch.float16
    model = native.load(tmp_path / "half")
    assert {p.dtype for p in model.lm.parameters()} == {torch.float32}
    torch.testing.assert_close(model.lm.text_proj.weight, lm.text_proj.weight, rtol=1e-3, atol=1e-3)
    assert next(lm.parameters()).dtype == torch.float32, "the model itself is left alone"


def test_nothing_is_overwritten_unasked(written: Path) -> None:
    before = (written / native.LM_FILE).read_bytes()
    with pytest.raises(UsageError, match="exists already"):
        save(written, tiny_lm("masked", seed=2))
    assert (written / native.LM_FILE).read_bytes() == before
    save(written, tiny_lm("masked", seed=2), overwrite=True)
    assert native.load(written).lm.config.modeling == "masked"
    stranger = written.parent / "stranger"
    stranger.mkdir()
    (stranger / "diary.txt").write_text("dear diary")
    with pytest.raises(UsageError, match="exists already"):
        save(stranger, tiny_lm("masked"), overwrite=True)
    assert sorted(path.name for path in written.parent.iterdir()) == ["model", "stranger"]


@pytest.mark.parametrize("foreign", ["thesis.txt", "src/main.py", "tokenizer.json/notes.txt"])
def test_files_of_others_are_not_replaced_with_a_model(written: Path, foreign: str) -> None:
    """Any folder with a config.json was replaced, and everything else in it was deleted."""
    (written / building.TOKENIZER_FILE).unlink()
    (written / foreign).parent.mkdir(exist_ok=True)
    (written / foreign).write_text("years of work")
    with pytest.raises(UsageError, match=f"more than a model: {Path(foreign).parts[0]}"):
        save(written, tiny_lm("masked"), overwrite=True)
    assert (written / foreign).read_text() == "years of work"
    assert native.stored_dtype(written) == torch.float32


@pytest.mark.parametrize("config", ["{}", '{"format": "magnet-checkpoint", "version": 1}', "no"])
def test_a_folder_with_any_config_is_not_replaced(
    tmp_path: Path, hub_cache: Path, config: str
) -> None:
    """Nor is the directory of a codec for a model to be trained."""
    (tmp_path / "project").mkdir()
    (tmp_path / "project" / "config.json").write_text(config)
    with pytest.raises(UsageError, match="exists already, and holds no model"):
        save(tmp_path / "project", tiny_lm("masked"), overwrite=True)
    assert [path.name for path in (tmp_path / "project").iterdir()] == ["config.json"]


def test_a_write_that_fails_leaves_what_was_there(
    written: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = {path.name: path.read_bytes() for path in written.iterdir()}

    def fail(*args: object, **kwargs: object) -> str:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(native.json, "dumps", fail)
    with pytest.raises(OSError, match="No space"):
        save(written, tiny_lm("masked", seed=2), overwrite=True)
    with pytest.raises(OSError, match="No space"):
        save(written.parent / "new", tiny_lm("masked"))
    assert {path.name: path.read_bytes() for path in written.iterdir()} == before
    assert [path.name for path in written.parent.iterdir()] == ["model"]


def test_a_rename_that_fails_puts_the_old_one_back(
    written: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rename = files.os.rename

    def fail_second(source: Path, target: Path) -> None:
        if target == written and ".old" not in str(source):
            raise OSError("gone")
        rename(source, target)

    monkeypatch.setattr(files.os, "rename", fail_second)
    with pytest.raises(OSError, match="gone"):
        save(written, tiny_lm("masked", seed=2), overwrite=True)
    assert native.load(written).lm.config.modeling == "hybrid"
    assert [path.name for path in written.parent.iterdir()] == ["model"]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"format": "other"}, "not the config of a model"),
        ({"version": 2}, "version 2 of the format"),
        ({"lm": {}}, "damaged"),
        ({"lm": None}, "damaged"),
        ({"defaults": {"top_p": 9}}, "damaged"),
        ({"codec": {"kind": "tape", "config": {}}}, "codec of the kind 'tape'"),
        ({"codec": {"kind": "encodec", "config": {}}}, "does not describe a codec"),
        ({"codec": "encodec"}, "does not describe a codec"),
        ({"text": {"kind": "bert", "config": {}}}, "text encoder of the kind 'bert'"),
        ({"text": {"kind": "t5", "config": {"depth": 1}}}, "does not describe a text encoder"),
    ],
)
def test_a_config_that_is_wrong_says_where(written: Path, change: dict, words: str) -> None:
    path = written / native.CONFIG_FILE
    path.write_text(json.dumps({**json.loads(path.read_text()), **change}))
    with pytest.raises(CheckpointError, match=words):
        native.load(written)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        *((field, value) for field in ("dim", "n_q") for value in ("x", None, 1.5, True, -1, [])),
        ("num_layers", {}),
        ("card", 0),
        ("num_heads", 7),  # dim is no multiple of it
        ("hidden_scale", -1),
        ("text_dim", 2**40),
        ("num_layers", 10_000_000),
        ("subcodes_context", "x"),
        ("subcodes_context", -2),
        ("span_len", None),
        ("frame_rate", "fast"),
        ("frame_rate", 1e30),
        ("segment_duration", 1e9),
        ("segment_duration", 0),
        ("modeling", ["masked"]),
        ("delays", [0, 1]),  # of four streams
        ("delays", [0, "x", 2, 3]),
        ("delays", [0, 1, 2, 10**12]),
        ("stages", [[0], [1], [2], [True]]),
        ("delays", 3),
    ],
)
def test_sizes_that_cannot_be_built_are_a_damaged_config(
    written: Path, field: str, value: object
) -> None:
    """They ended in a TypeError or RuntimeError of torch."""
    path = written / native.CONFIG_FILE
    config = json.loads(path.read_text())
    config["lm"][field] = value
    path.write_text(json.dumps(config))
    with pytest.raises(CheckpointError, match="damaged"):
        native.load(written)


@pytest.mark.parametrize("change", [{"d_ff": -1}, {"num_heads": "x"}, {"vocab_size": None}])
def test_parts_that_cannot_be_built_are_named(written: Path, change: dict) -> None:
    path = written / native.CONFIG_FILE
    config = json.loads(path.read_text())
    config["text"]["config"].update(change)
    path.write_text(json.dumps(config))
    with pytest.raises(CheckpointError, match="does not describe a text encoder"):
        native.load(written)


def test_missing_files_are_named(written: Path) -> None:
    (written / native.TEXT_FILE).unlink()
    with pytest.raises(CheckpointError, match=r"has no text\.safetensors"):
        find_place(str(written))
    (written / native.CONFIG_FILE).write_text("{")
    with pytest.raises(CheckpointError, match=r"config\.json cannot be read"):
        native.read_config(written)


def test_a_part_of_no_known_kind_is_refused() -> None:
    with pytest.raises(CheckpointError, match="cannot be stored"):
        building.describe(object(), building.CODECS)  # type: ignore[arg-type]
