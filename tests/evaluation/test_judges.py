"""Judges: windows of the exact length, deterministic results, clear errors."""

from __future__ import annotations

import shutil
from importlib.metadata import EntryPoint
from pathlib import Path

import huggingface_hub
import pytest
import torch
from huggingface_hub import constants

from magnet_cli.errors import CheckpointError, ModelNotFoundError, UsageError
from magnet_cli.evaluation import embedders, judges
from magnet_cli.evaluation.embedders import (
    Classifier,
    Embedder,
    MelEmbedder,
    TextEmbedder,
    find_embedder,
    windows_of,
)
from tests.checkpoints.hub_server import Hub, serving
from tests.evaluation.judges import save_ast, save_clap, tone


def sound(samples: int, seed: int = 0) -> torch.Tensor:
    return 0.1 * torch.randn(samples, generator=torch.Generator().manual_seed(seed))


@pytest.fixture(scope="module")
def clap(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_clap(tmp_path_factory.mktemp("judges") / "clap-tiny")


def test_windows_are_heard_once_and_a_small_rest_is_left_out() -> None:
    assert [len(part) for part in windows_of(sound(25), 10)] == [10, 10, 5]
    assert [len(part) for part in windows_of(sound(24), 10)] == [10, 10]
    assert [len(part) for part in windows_of(sound(3), 10)] == [3]


def test_mel_tells_spectra_apart_and_nothing_of_its_numbers_is_chance() -> None:
    mel = find_embedder("mel")
    assert isinstance(mel, Embedder)
    assert not isinstance(mel, TextEmbedder)
    low, high = torch.from_numpy(tone(200)), torch.from_numpy(tone(2000))
    again = mel.embed([low, high, torch.from_numpy(tone(200, seed=1)), sound(100)])
    assert again.shape == (4, 192)
    assert torch.equal(
        again, mel.embed([low, high, torch.from_numpy(tone(200, seed=1)), sound(100)])
    )
    assert (again[0] - again[2]).norm() < (again[0] - again[1]).norm() / 5


def test_clap_hears_sound_and_reads_text_into_one_space(clap: Path) -> None:
    embedder = find_embedder(str(clap))
    assert isinstance(embedder, TextEmbedder)
    assert (embedder.name, embedder.sample_rate, embedder.window) == ("clap-tiny", 48_000, 48_000)
    assert embedder.embed([sound(48_000), sound(20_000)]).shape == (2, 16)
    assert embedder.embed_texts(["a piano", "rain on a roof"]).shape == (2, 16)


@pytest.mark.parametrize("fusion", [False, True])
def test_clap_says_the_same_every_time_also_with_fusion(tmp_path: Path, fusion: bool) -> None:
    # If all sounds of a batch fit, transformers marks a random one as longer than the window.
    embedder = judges.load_clap(str(save_clap(tmp_path / "clap", fusion)))
    windows = [sound(48_000, seed) for seed in range(3)]
    first = embedder.embed(windows)
    for _ in range(3):
        assert torch.equal(embedder.embed(windows), first)
    torch.testing.assert_close(embedder.embed(windows[1:2])[0], first[1])


def test_clap_is_transformers_own_once_normalised(clap: Path) -> None:
    import transformers

    embedder = find_embedder(str(clap))
    window = sound(48_000)
    theirs = transformers.ClapModel.from_pretrained(clap).eval()
    extractor = transformers.ClapFeatureExtractor.from_pretrained(clap)
    inputs = extractor(window.numpy(), sampling_rate=48_000, return_tensors="pt")
    with torch.inference_mode():
        features = theirs.get_audio_features(**inputs)
    expected = getattr(features, "pooler_output", features)
    ours = torch.nn.functional.normalize(embedder.embed([window]), dim=-1)
    torch.testing.assert_close(ours, expected)


def test_ast_gives_probabilities_of_windows_of_its_own_length(tmp_path: Path) -> None:
    classifier = judges.load_classifier(str(save_ast(tmp_path / "ast-tiny")))
    assert isinstance(classifier, Classifier)
    assert (classifier.name, classifier.window) == ("ast-tiny", 99 * 160 + 400)
    found = classifier.classify([sound(classifier.window), sound(5000), sound(10)])
    assert found.shape == (3, 5)
    torch.testing.assert_close(found.sum(-1), torch.ones(3))


def test_identity_follows_the_weights_and_not_the_folder(clap: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(clap, tmp_path / "other")
    assert find_embedder(str(copy)).identity == find_embedder(str(clap)).identity
    config = copy / "preprocessor_config.json"
    config.write_text(config.read_text("utf-8").replace("14000", "12000"), "utf-8")
    assert find_embedder(str(copy)).identity != find_embedder(str(clap)).identity


def test_what_cannot_serve_is_said(tmp_path: Path, clap: Path) -> None:
    with pytest.raises(UsageError, match="no embedder 'vgg'") as unknown:
        find_embedder("vgg")
    assert "mel" in unknown.value.hint
    with pytest.raises(CheckpointError, match="type 'clap', not a classifier"):
        judges.load_classifier(str(clap))
    (tmp_path / "empty").mkdir()
    with pytest.raises(CheckpointError, match="is not a judge's folder"):
        find_embedder(str(tmp_path / "empty"))
    broken = save_ast(tmp_path / "ast")
    (broken / "model.safetensors").write_bytes(b"no weights")
    with pytest.raises(CheckpointError, match="cannot be loaded"):
        judges.load_classifier(str(broken))


def test_offline_a_judge_of_the_hub_is_looked_for_in_the_cache_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, clap: Path
) -> None:
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(ModelNotFoundError, match="laion/tiny is not on this machine"):
        find_embedder("laion/tiny", offline=True)
    with pytest.raises(ModelNotFoundError, match="no judge 'a/b/c'"):
        find_embedder("a/b/c", offline=True)
    kept = tmp_path / "models--laion--tiny"
    shutil.copytree(clap, kept / "snapshots" / ("a" * 40))
    (kept / "refs").mkdir()
    (kept / "refs" / "main").write_text("a" * 40)
    assert find_embedder("laion/tiny", offline=True).name == "tiny"


def test_of_a_hubs_repository_what_is_needed_is_fetched_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, clap: Path
) -> None:
    for variable in ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE", "HF_TOKEN"):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "no-token"))
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "cache"))
    there = shutil.copytree(clap, tmp_path / "repository")
    for name in ("pytorch_model.bin", "tf_model.h5", "README.md", "model.safetensors.index.json"):
        (there / name).write_bytes(b"not needed")
    with serving(Hub({"laion/tiny": ("b" * 40, there)})) as up:
        monkeypatch.setenv("HF_ENDPOINT", up.url)
        huggingface_hub.close_session()
        told: list[object] = []
        embedder = find_embedder("laion/tiny", progress=told.append)
        files = up.files()
        assert told
        assert sorted(set(files)) == sorted(path.name for path in clap.iterdir())
        assert find_embedder("laion/tiny").identity == embedder.identity
        assert up.files() == files  # what is cached is not requested again
        huggingface_hub.close_session()


class Plugin(MelEmbedder):
    name = "mine"
    argument: str | None = None


def load_plugin(argument: str | None, device: str) -> Plugin:
    if argument == "nothing":
        raise ValueError("no such thing")
    found = Plugin()
    found.argument = argument
    return found


def load_nothing(argument: str | None, device: str) -> object:
    return object()


def test_plugins_are_found_by_their_entry_points(monkeypatch: pytest.MonkeyPatch) -> None:
    def entry_points(group: str) -> list[EntryPoint]:
        here = "tests.evaluation.test_judges"
        return [
            EntryPoint("mine", f"{here}:load_plugin", group),
            EntryPoint("none", f"{here}:load_nothing", group),
            EntryPoint("gone", f"{here}:no_such_thing", group),
        ]

    monkeypatch.setattr("importlib.metadata.entry_points", entry_points)
    assert find_embedder("mine").name == "mine"
    found = find_embedder("mine=weights.bin")
    assert isinstance(found, Plugin)
    assert found.argument == "weights.bin"
    for spec, said in (
        ("mine=nothing", "no such thing"),
        ("none", "did not return an embedder"),
        ("gone", "gone"),
    ):
        with pytest.raises(CheckpointError, match=said):
            find_embedder(spec)
    with pytest.raises(UsageError) as unknown:
        find_embedder("yours")
    assert "mel, gone, mine, none" in unknown.value.hint


def test_without_transformers_the_extra_is_named(
    monkeypatch: pytest.MonkeyPatch, clap: Path
) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(UsageError) as missing:
        find_embedder(str(clap))
    assert "magnet-cli[eval]" in missing.value.hint
    assert embedders.short_name("laion/larger_clap_music@main") == "larger_clap_music"
