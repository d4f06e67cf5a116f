"""The known checkpoints."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from magnet_cli.checkpoints import audiocraft, registry
from magnet_cli.errors import CheckpointError, ModelNotFoundError
from tests import processes
from tests.golden_cases import index, snapshot


def test_names_and_aliases_are_unique() -> None:
    names = registry.names()
    assert len(names) == len(set(names))
    repos = [entry.repo for entry in registry.RELEASED]
    assert len(repos) == len(set(repos))
    assert not set(names) & set(repos)


@pytest.mark.parametrize(
    ("spec", "repo"),
    [
        ("small", "facebook/magnet-small-10secs"),
        ("magnet-small-10secs", "facebook/magnet-small-10secs"),
        ("facebook/magnet-small-10secs", "facebook/magnet-small-10secs"),
        ("medium", "facebook/magnet-medium-10secs"),
        ("small-30", "facebook/magnet-small-30secs"),
        ("audio-small", "facebook/audio-magnet-small"),
        ("audio-medium", "facebook/audio-magnet-medium"),
        ("musicgen-large", "facebook/musicgen-large"),
        ("audiogen-medium", "facebook/audiogen-medium"),
    ],
)
def test_find(spec: str, repo: str) -> None:
    found = registry.find(spec)
    assert found is not None
    assert found.repo == repo
    assert found.licence == "CC-BY-NC-4.0"


@pytest.mark.parametrize("spec", ["", "smal", "Small", "facebook/", "someone/magnet-small-10secs"])
def test_find_does_not_guess(spec: str) -> None:
    assert registry.find(spec) is None


def test_an_unknown_name_lists_near_ones() -> None:
    assert "magnet-small-10secs" in registry.unknown_name("magnet-smal-10sec").hint
    assert "small" in registry.unknown_name("smal").hint
    assert "medium" in registry.unknown_name("MEDIUM").hint
    far = registry.unknown_name("\0" * 20_000)
    assert "facebook" not in far.hint
    assert "magnet-small-10secs" in far.hint, "where none is near, all are listed"
    assert len(far.message) < 500


@pytest.mark.parametrize("repo", [m for m in index()["models"] if registry.find(m)])
def test_the_table_agrees_with_the_files(repo: str) -> None:
    known = registry.find(repo)
    assert known is not None
    file = audiocraft.open_lm(snapshot(repo) / audiocraft.LM_FILE)
    config = audiocraft.lm_config(file, frame_rate=50)
    assert known.modeling == config.modeling
    assert known.segment_duration == config.segment_duration
    assert known.text_encoder == file.text_encoder
    assert known.sample_rate == file.settings["sample_rate"]
    said = audiocraft.decoding_defaults(file).given()
    assert {**said, **known.decoding.given()} == said


def test_a_built_in_model_is_known_where_its_files_are(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(registry, "ASSETS", tmp_path)
    assert registry.find("nano") is None
    with pytest.raises(ModelNotFoundError, match="none is built") as error:
        registry.builtin_name()
    assert "magnet models use" in error.value.hint
    (tmp_path / "nano").mkdir()
    config = {
        "licence": "MIT",
        "kind": "music",
        "parameters": 9,
        "lm": {"modeling": "masked", "segment_duration": 10.0},
        "codec": {"kind": "spectral", "config": {"sample_rate": 32000}},
        "defaults": {"temperature": 2.0, "decoding_steps": [4, 2]},
    }
    (tmp_path / "nano" / "config.json").write_text(json.dumps(config))
    nano = registry.find("nano")
    assert nano is not None
    assert registry.builtin_name() == "nano"
    assert (nano.repo, nano.directory, nano.download_mb) == (None, tmp_path / "nano", 0)
    assert nano.decoding.decoding_steps == (4, 2)
    assert registry.known_checkpoints()[0] == nano
    (tmp_path / "nano" / "config.json").write_text("{}")
    with pytest.raises(CheckpointError, match="damaged"):
        registry.find("nano")


@pytest.mark.process
def test_lists_need_no_torch() -> None:
    code = (
        "import sys; from magnet_cli.checkpoints import hub, place, registry; "
        "hub.cached('a/b'); registry.names(); assert 'torch' not in sys.modules; "
        "assert 'huggingface_hub' not in sys.modules"
    )
    processes.run([sys.executable, "-c", code], check=True)
