"""Loading models, and converting between formats: equal outputs both ways."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from magnet_cli.api import Model
from magnet_cli.checkpoints import native
from magnet_cli.checkpoints.building import blank
from magnet_cli.checkpoints.load import (
    Parts,
    export_checkpoint,
    import_checkpoint,
    load_codec,
    load_parts,
    pick_device,
)
from magnet_cli.checkpoints.place import find_codec, find_place
from magnet_cli.errors import CheckpointError, UsageError
from magnet_cli.models.precision import pick_dtype
from magnet_cli.settings import DecodingConfig
from tests.golden_cases import snapshot

SMALL = "facebook/magnet-small-10secs"
NAMES = [
    SMALL,
    "facebook/audio-magnet-small",
    "facebook/magnet-small-30secs",
    "facebook/musicgen-small",
]


def loaded(spec: str, dtype: str = "float32") -> Parts:
    return load_parts(find_place(spec), "cpu", dtype)


@pytest.mark.parametrize("name", NAMES)
def test_imported_and_exported_it_makes_the_same(
    hub_cache: Path, tmp_path: Path, name: str
) -> None:
    """Released -> ours -> released: all tensors and outputs are equal."""
    original = loaded(name)
    import_checkpoint(find_place(name), tmp_path / "ours")
    ours = loaded(str(tmp_path / "ours"))
    export_checkpoint(find_place(str(tmp_path / "ours")), tmp_path / "released")
    released = loaded(str(tmp_path / "released"))

    for other in (ours, released):
        assert other.lm.config == original.lm.config
        assert other.defaults == original.defaults
        assert other.text_encoder_name == original.text_encoder_name
        for part in ("lm", "codec", "text_encoder"):
            expected = getattr(original, part).state_dict()
            found = getattr(other, part).state_dict()
            assert expected.keys() == found.keys()
            for key in expected:
                atol = 1e-7 if part == "codec" else 0  # weight norm is recomputed on export
                torch.testing.assert_close(found[key], expected[key], rtol=0, atol=atol)
    assert (ours.name, ours.licence, ours.kind) == (
        original.name,
        original.licence,
        original.kind,
    )
    results = [
        Model(model).generate(["slow piano and strings"], seeds=[3], frames=15)
        for model in (original, ours, released)
    ]
    for result in results[1:]:
        assert torch.equal(result.codes, results[0].codes)
        torch.testing.assert_close(result.audio, results[0].audio, rtol=0, atol=1e-6)


@pytest.mark.parametrize("name", [SMALL, "facebook/musicgen-small"])
@pytest.mark.parametrize("kind", ["sound", None])
def test_export_keeps_what_the_released_layout_has_no_place_for(
    hub_cache: Path, tmp_path: Path, name: str, kind: str | None
) -> None:
    """Guidance 5 came back as 3, guidance 0 too, and the licence was lost."""
    original = loaded(name)
    defaults = DecodingConfig(
        temperature=2.5,
        decoding_steps=(4, 3, 2, 1),
        cfg_coef=0.0,
        span_len=2,
        score_noise=4.0,
        full_length=False,
        rescorer_weight=0.25,
        rescore_streams=(0, 2),
        hybrid=1.5,
        hybrid_top_p=0.7,
    )
    parts = replace(original, name="mine", kind=kind, licence="MIT", defaults=defaults)
    native.save(tmp_path / "ours", parts, {"text_encoder": "t5-base"})
    export_checkpoint(find_place(str(tmp_path / "ours")), tmp_path / "released")
    import_checkpoint(find_place(str(tmp_path / "released")), tmp_path / "again")
    expected = loaded(str(tmp_path / "ours"))
    for place in ("released", "again"):
        found = loaded(str(tmp_path / place))
        assert found.defaults == expected.defaults
        assert (found.licence, found.kind) == ("MIT", kind)
        assert found.lm.config == expected.lm.config


def test_a_directory_of_ours_needs_nothing_else(
    hub_cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import_checkpoint(find_place("small-30"), tmp_path / "ours")
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "empty"))
    model = loaded(str(tmp_path / "ours"))
    assert model.codec.card == 64
    assert model.text_encoder.encode("x").shape[1] == 768
    names = sorted(path.name for path in (tmp_path / "ours").iterdir())
    files = ["codec.safetensors", "config.json", "lm.safetensors", "text.safetensors"]
    assert names == [*files, "tokenizer.json"]


def test_the_language_model_is_stored_as_it_was(hub_cache: Path, tmp_path: Path) -> None:
    import_checkpoint(find_place(SMALL), tmp_path / "ours")
    for name, tensor in load_file(tmp_path / "ours" / native.LM_FILE).items():
        assert tensor.dtype == torch.float16, name
    config = json.loads((tmp_path / "ours" / native.CONFIG_FILE).read_text())
    assert config["provenance"]["repo"] == SMALL
    assert config["provenance"]["revision"] == snapshot(SMALL).name
    assert config["licence"] == "CC-BY-NC-4.0"


def test_defaults_differ_by_checkpoint(hub_cache: Path) -> None:
    music, sound = loaded(SMALL).defaults, loaded("facebook/audio-magnet-small").defaults
    assert (music.temperature, music.top_p, music.max_cfg_coef) == (3.0, 0.9, 10.0)
    assert (sound.temperature, sound.top_p, sound.max_cfg_coef) == (3.5, 0.8, 20.0)
    assert loaded("small-30").defaults.decoding_steps == (60, 10, 10, 10)
    musicgen = loaded("musicgen-small").defaults
    assert (musicgen.temperature, musicgen.top_k, musicgen.top_p) == (1.0, 250, 0.0)
    for defaults in (music, sound, musicgen):
        open_ = [name for name, value in vars(defaults).items() if value is None]
        assert open_ == [
            "subcodes_context",
            "hybrid_temperature",
            "hybrid_top_p",
            "hybrid_top_k",
        ]  # the model's own, and that of whichever model writes


def test_a_directory_takes_its_defaults_from_the_file(hub_cache: Path) -> None:
    """A directory has no registry entry, so the defaults are those of generate.lm in xp.cfg."""
    resolved = find_place(str(snapshot("facebook/audio-magnet-small")))
    model = load_parts(resolved, "cpu")
    assert (model.repo, model.licence, model.kind) == (None, None, "sound")
    assert model.defaults == loaded("facebook/audio-magnet-small").defaults


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
def test_dtypes(hub_cache: Path, dtype: str) -> None:
    """Only the language model has the requested dtype."""
    model = loaded(SMALL, dtype)
    assert {p.dtype for p in model.lm.parameters()} == {getattr(torch, dtype)}
    for part in (model.codec, model.text_encoder):
        assert {p.dtype for p in part.parameters()} == {torch.float32}
        assert not any(p.requires_grad for p in part.parameters())
    assert not model.lm.training


def test_auto_dtype() -> None:
    assert pick_dtype("auto", torch.device("cpu")) == torch.float32
    assert pick_dtype("auto", torch.device("mps")) == torch.float32
    assert pick_dtype("auto", torch.device("cuda")) == torch.float16
    with pytest.raises(UsageError, match="int8"):
        pick_dtype("int8", torch.device("cpu"))


def test_devices(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)
    assert pick_device("auto") == torch.device("cuda")
    assert pick_device("cuda:1") == torch.device("cuda:1")
    with pytest.raises(UsageError, match="no device cuda:2"):
        pick_device("cuda:2")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert pick_device("auto") == torch.device("mps")
    with pytest.raises(UsageError, match="no device cuda"):
        pick_device("cuda")
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    assert pick_device("auto") == torch.device("cpu")
    for name in ("mps", "cuda", "gpu", "", "meta", "cpu:7", "😀", "vulkan"):
        with pytest.raises(UsageError) as error:
            pick_device(name)
        assert "auto" in error.value.hint


@pytest.mark.parametrize("spec", [SMALL, "facebook/encodec_32khz", "small-30"])
def test_a_codec_alone_is_that_of_the_model(hub_cache: Path, tmp_path: Path, spec: str) -> None:
    codec = load_codec(find_codec(spec), "cpu")
    model = loaded(SMALL if spec == SMALL else "small-30")
    for name, tensor in model.codec.state_dict().items():
        assert torch.equal(codec.state_dict()[name], tensor)
    import_checkpoint(find_place("small-30"), tmp_path / "ours")
    assert load_codec(find_codec(str(tmp_path / "ours")), "cpu").card == 64


def test_weights_can_be_trained_without_touching_the_file(hub_cache: Path, tmp_path: Path) -> None:
    """Tensors of the right dtype are mapped from the file; writing to them must not change it."""
    import_checkpoint(find_place(SMALL), tmp_path / "ours")
    path = tmp_path / "ours" / native.LM_FILE
    before = path.read_bytes()
    model = loaded(str(tmp_path / "ours"), "float16")
    with torch.no_grad():
        for parameter in model.lm.parameters():
            parameter.add_(1)
    assert path.read_bytes() == before


def test_parts_of_two_models_do_not_go_together(hub_cache: Path, tmp_path: Path) -> None:
    import_checkpoint(find_place(SMALL), tmp_path / "music")
    import_checkpoint(find_place("facebook/audio-magnet-small"), tmp_path / "sound")

    def mixed(part: str, file: str) -> Path:
        directory = tmp_path / f"mixed-{part}"
        shutil.copytree(tmp_path / "music", directory)
        shutil.copy(tmp_path / "sound" / file, directory / file)
        config = json.loads((directory / native.CONFIG_FILE).read_text())
        other = json.loads((tmp_path / "sound" / native.CONFIG_FILE).read_text())
        config[part] = other[part]
        (directory / native.CONFIG_FILE).write_text(json.dumps(config))
        return directory

    with pytest.raises(CheckpointError, match="width 768"):
        loaded(str(mixed("text", native.TEXT_FILE)))
    wrong = mixed("codec", native.CODEC_FILE)
    config = json.loads((wrong / native.CONFIG_FILE).read_text())
    config["lm"]["frame_rate"] = 25.0
    (wrong / native.CONFIG_FILE).write_text(json.dumps(config))
    with pytest.raises(CheckpointError, match="25 frames per second"):
        loaded(str(wrong))


def test_export_refuses_what_the_released_layout_cannot_say(
    hub_cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import_checkpoint(find_place(SMALL), tmp_path / "ours")
    path = tmp_path / "ours" / native.CONFIG_FILE
    config = json.loads(path.read_text())
    del config["provenance"]["text_encoder"]
    path.write_text(json.dumps(config))
    with pytest.raises(UsageError, match="cannot be exported"):
        export_checkpoint(find_place(str(tmp_path / "ours")), tmp_path / "released")
    assert not (tmp_path / "released").exists()


@pytest.mark.parametrize("change", ["missing", "left over", "shape"])
def test_native_tensors_are_held_against_the_config(
    hub_cache: Path, tmp_path: Path, change: str
) -> None:
    import_checkpoint(find_place(SMALL), tmp_path / "ours")
    path = tmp_path / "ours" / native.CODEC_FILE
    state = load_file(path)
    name = "quantizer.codebooks.0"
    if change == "missing":
        del state[name]
    elif change == "shape":
        state[name] = state[name][:5].clone()
    else:
        name = "quantizer.codebooks.9"
        state[name] = torch.ones(1)
    save_file(state, path)
    with pytest.raises(CheckpointError, match=name):
        loaded(str(tmp_path / "ours"))


def test_models_are_built_without_drawing_initial_values(monkeypatch: pytest.MonkeyPatch) -> None:
    """On meta tensors, initialization made torch import its compiler: two seconds per run."""

    def draw(*arguments: object, **more: object) -> None:
        raise AssertionError("an initial value was drawn")

    for name in ("normal_", "uniform_", "fill_", "zero_"):
        monkeypatch.setattr(torch.Tensor, name, draw)
    with blank():
        module = torch.nn.Sequential(torch.nn.Embedding(3, 2), torch.nn.Linear(2, 2))
    assert all(parameter.is_meta for parameter in module.parameters())
