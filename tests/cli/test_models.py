"""`magnet models`: lists, details, conversions, the default and removal, on copies of the golden cache."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import huggingface_hub
import numpy as np
import pytest
from huggingface_hub import constants

from magnet_cli.checkpoints import registry
from magnet_cli.models import precision
from tests import sounds
from tests.checkpoints.hub_server import Hub, serving
from tests.cli.conftest import QUICK, SMALL, Magnet
from tests.golden_cases import HUB_CACHE, snapshot


@pytest.fixture
def own_cache(magnet: Magnet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache that tests may change."""
    cache = tmp_path / "cache"
    shutil.copytree(HUB_CACHE, cache, symlinks=True)
    monkeypatch.setenv("HF_HUB_CACHE", str(cache))
    return cache


def test_list_tells_what_is_here(magnet: Magnet) -> None:
    outcome = magnet("models", "list")
    assert outcome.status == 0
    rows = {line.split()[0]: line for line in outcome.out.splitlines()}
    assert "cached" in rows["magnet-small-10secs"]
    assert "CC-BY-NC-4.0" in rows["magnet-small-10secs"]
    assert "not here" in rows["magnet-medium-10secs"]
    assert "GB" in rows["magnet-medium-10secs"]
    assert len(rows) == len(registry.known_checkpoints()) + 1


def test_list_as_json(magnet: Magnet) -> None:
    records = magnet("models", "list", "--json").records
    small = next(record for record in records if record["name"] == "magnet-small-10secs")
    assert small["status"] == "cached"
    assert small["aliases"] == ["small", "small-10"]
    assert small["decoding"]["temperature"] == 3.0
    assert small["size"] > 100_000


def test_models_of_others_are_listed_and_half_ones_told(magnet: Magnet, own_cache: Path) -> None:
    small = own_cache / "models--facebook--magnet-small-10secs"
    shutil.copytree(small, own_cache / "models--someone--tuned")
    (snapshot,) = (small / "snapshots").iterdir()
    (snapshot / "compression_state_dict.bin").unlink()
    records = {r["name"]: r for r in magnet("models", "list", "--json").records}
    assert records["someone/tuned"]["status"] == "cached"
    assert records["magnet-small-10secs"]["status"] == "incomplete"
    assert "someone/tuned" in magnet("models", "info", "someone/tuned").out


def test_info_tells_licence_defaults_and_place(magnet: Magnet) -> None:
    out = magnet("models", "info", "small").out
    for words in ("CC-BY-NC-4.0", "temperature 3.0", "facebook/magnet-small-10secs", "t5-base"):
        assert words in out
    assert str(HUB_CACHE) in out
    assert "Download" in magnet("models", "info", "medium").out


def test_pull_of_what_is_here_is_done_at_once(magnet: Magnet) -> None:
    outcome = magnet("models", "pull", "small", "--json")
    assert outcome.status == 0
    assert outcome.records[0]["repo"] == SMALL
    assert "CC-BY-NC" in outcome.err
    assert "CC-BY-NC" not in magnet("models", "pull", "small").err


def test_import_and_export_keep_the_sound(magnet: Magnet) -> None:
    assert magnet("models", "import", "small", "models/mine").status == 0
    assert magnet("models", "export", "./models/mine", "released").status == 0
    info = magnet("models", "info", "./models/mine")
    assert info.status == 0
    assert "Size" in info.out
    for name in (SMALL, "./models/mine", "./released"):
        outcome = magnet("gen", "rain", *QUICK, "-m", name, "-o", f"{len(name)}.wav")
        assert outcome.status == 0, outcome.err
    first, *others = [
        sounds.read(f"{len(n)}.wav").samples for n in (SMALL, "./models/mine", "./released")
    ]
    for other in others:
        np.testing.assert_array_equal(other, first)


def test_int8_is_kept_in_a_folder_and_shown_in_the_command(magnet: Magnet) -> None:
    assert magnet("models", "import", "small", "mine", "--dtype", "int8").status == 0
    quick = ("--steps", "1", "-d", "0.2", "--seed", "1")
    assert magnet("gen", "rain", *quick, "-m", "./mine", "-o", "a.wav").status == 0
    assert (
        magnet("gen", "rain", *quick, "-m", "small", "--dtype", "int8", "-o", "b.wav").status == 0
    )
    for name in ("a.wav", "b.wav"):
        assert "--dtype int8" in magnet("show", name, "--json").records[0]["command"]
    refused = magnet("gen", "rain", *quick, "-m", "./mine", "--dtype", "float16", "-o", "c.wav")
    assert refused.status == 2
    assert "int8 weights" in refused.err


def test_bfloat16_is_said_to_be_slow_where_masks_are(
    magnet: Magnet, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An autoregressive step is bound by reading the weights, and is faster in any case."""
    for native, name, slow in (
        (False, "small", True),
        (True, "small", False),
        (False, "facebook/musicgen-small", False),
    ):
        monkeypatch.setattr(precision, "multiplies_bfloat16", lambda native=native: native)
        outcome = magnet(
            *("gen", "rain", "-d", "0.1", "-m", name, "--dtype", "bfloat16", "-o", "a.wav", "-f")
        )
        assert outcome.status == 0
        assert ("converts every product in bfloat16" in outcome.err) == slow


def test_import_replaces_a_model_and_nothing_else(magnet: Magnet) -> None:
    """--force deleted the folder of a training run with log and samples, or of any project."""
    magnet("models", "import", "small", "mine")
    assert magnet("models", "import", "small", "mine").status == 2
    assert magnet("models", "import", "small", "mine", "--force").status == 0
    Path("mine/samples").mkdir()
    Path("mine/train.toml").write_text("steps = 9")
    refused = magnet("models", "import", "small", "mine", "--force")
    assert refused.status == 2
    assert "samples and 1 more" in refused.err
    assert Path("mine/train.toml").read_text() == "steps = 9"


def test_a_model_in_a_folder_is_named_in_the_command(magnet: Magnet) -> None:
    magnet("models", "import", "small", "models/mine")
    magnet("gen", "rain", *QUICK, "-m", "./models/mine", "-o", "a.wav")
    command = magnet("show", "a.wav", "--json").records[0]["command"]
    assert "-m ./models/mine" in command


def test_use_sets_the_default_and_others_go_before_it(
    magnet: Magnet, monkeypatch: pytest.MonkeyPatch
) -> None:
    quick = ("--steps", "1", "-d", "0.1", "--json", "-q", "-f", "-o", "a.wav")

    def model(*arguments: str) -> str:
        return str(magnet("gen", "rain", *quick, *arguments).records[0]["settings"]["model"])

    assert magnet("models", "use", "small").status == 0
    assert model() == "magnet-small-10secs"
    row = next(line for line in magnet("models", "list").out.splitlines() if "small-10secs" in line)
    assert row.startswith("*")
    monkeypatch.setenv("MAGNET_MODEL", "audio-small")
    assert model() == "audio-magnet-small"
    assert model("-m", "facebook/magnet-small-30secs") == "magnet-small-30secs"
    monkeypatch.delenv("MAGNET_MODEL")
    assert magnet("models", "use", "--reset").status == 0
    monkeypatch.setattr(registry, "ASSETS", Path("nothing built in"))
    unchosen = magnet("gen", "rain", *quick)
    assert unchosen.status == 3
    assert "models use" in unchosen.err


def test_use_refuses_names_that_cannot_be_kept(magnet: Magnet) -> None:
    """They ended in an unexpected error."""
    strange = os.fsdecode(b"mine\xff")
    shutil.copytree(registry.ASSETS / "nano", strange)
    for name, message in ((f"./{strange}", "is not UTF-8"), ("x" * 300, "no model called 'xxx")):
        outcome = magnet("models", "use", name)
        assert message in " ".join(outcome.err.split())
    assert magnet("models", "use", "~nobody/x").status == 3


def starred(magnet: Magnet) -> list[str]:
    """The models marked by `list`, which are the defaults in its JSON."""
    rows = [line.split()[1] for line in magnet("models", "list").out.splitlines() if "*" in line]
    records = magnet("models", "list", "--json").records
    assert rows == [record["name"] for record in records if record["default"]]
    return rows


def test_list_marks_what_would_be_taken(
    magnet: Magnet, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing was marked if nothing was set, and a default folder was not listed."""
    assert starred(magnet) == ["nano"]
    magnet("models", "import", "small", "mine")
    magnet("models", "use", "mine")
    assert starred(magnet) == [str(home / "mine")]
    folder = magnet("models", "list", "--json").records[-1]
    assert (folder["status"], folder["segment_duration"]) == ("folder", 10.0)
    monkeypatch.setenv("MAGNET_MODEL", "./mine")
    assert starred(magnet) == ["./mine"]
    monkeypatch.setenv("MAGNET_MODEL", f"{SMALL}@main")
    assert starred(magnet) == ["magnet-small-10secs"]
    monkeypatch.setenv("MAGNET_MODEL", "./gone")
    gone = magnet("models", "list")
    assert gone.status == 0
    assert "*" not in gone.out
    assert "The default model ./gone is not available" in gone.err


def test_info_reads_what_a_folder_says_of_itself(magnet: Magnet) -> None:
    """For one's own model it showed only the size, and called it cached."""
    magnet("models", "import", "small", "models/mine")
    record = magnet("models", "info", "./models/mine", "--json").records[0]
    known = magnet("models", "info", "small", "--json").records[0]
    for key in ("licence", "kind", "modeling", "sample_rate", "segment_duration"):
        assert record[key] == known[key], key
    assert record["status"] == "folder"
    assert record["decoding"]["temperature"] == 3.0
    assert record["parameters"] > 0
    assert record["default"] is False
    out = magnet("models", "info", "./models/mine").out
    for words in ("CC-BY-NC-4.0", "music, 10 s at 32000 Hz", "masked", "temperature 3.0"):
        assert words in out
    Path("models/mine/config.json").write_text("{}")
    damaged = magnet("models", "info", "./models/mine")
    assert damaged.status == 3
    assert "Error: " in damaged.err
    assert "Unexpected" not in damaged.err


def test_use_keeps_folders_by_their_full_path(magnet: Magnet, home: Path, tmp_path: Path) -> None:
    magnet("models", "import", "small", "mine")
    assert magnet("models", "use", "mine").status == 0
    kept = (tmp_path / "config" / "magnet" / "config.toml").read_text()
    assert kept == f'model = "{home / "mine"}"\n'


def test_without_a_choice_the_built_in_model_is_taken(
    magnet: Magnet, home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As in the installed package: a model in assets/nano."""
    magnet("models", "import", "small", str(tmp_path / "assets" / "nano"))
    monkeypatch.setattr(registry, "ASSETS", tmp_path / "assets")
    outcome = magnet("gen", "rain", "--steps", "1", "-d", "0.1", "-o", "a.wav")
    assert outcome.status == 0, outcome.err
    assert "Using the built-in model nano" in outcome.err
    assert "use -m small; `magnet models use NAME` sets the default" in outcome.err
    again = magnet("gen", "rain", "--steps", "1", "-d", "0.1", "-o", "b.wav")
    assert "built-in" not in again.err
    assert "CC-BY-NC" not in outcome.err
    assert "built in" in magnet("models", "list").out
    assert magnet("models", "remove", "nano", "-y").status == 2


def test_remove_deletes_a_model_and_nothing_else(magnet: Magnet, own_cache: Path) -> None:
    before = {path.name for path in own_cache.iterdir()}
    outcome = magnet("models", "remove", "small", "--yes")
    assert outcome.status == 0, outcome.err
    after = {path.name for path in own_cache.iterdir() if list(path.rglob("*.bin"))}
    assert "models--facebook--magnet-small-10secs" not in after
    assert {name for name in before if "musicgen" in name} <= after
    assert magnet("gen", "rain", *QUICK).status == 3


def test_what_is_cached_at_a_commit_alone_is_listed_and_removed(
    magnet: Magnet, own_cache: Path
) -> None:
    """Without the default branch it was neither to be seen nor to be deleted."""
    folder = own_cache / "models--facebook--magnet-small-10secs"
    shutil.rmtree(folder / "refs")
    commit = snapshot(SMALL).name
    pinned = f"magnet-small-10secs@{commit[:12]}"
    assert [pinned, "cached"] in [
        row.lstrip("* ").split()[:2] for row in magnet("models", "list").out.splitlines()
    ]
    for name in ("small", f"small@{commit}", f"{SMALL}@{commit[:9]}"):
        record = magnet("models", "info", name, "--json").records[0]
        assert (record["name"], record["status"]) == (pinned, "cached")
        assert record["revision"] == commit
    assert magnet("models", "info", "small@gone", "--json").records[0]["status"] == "not here"
    assert "not downloaded yet" in magnet("models", "use", "small").err
    assert "not downloaded yet" not in magnet("models", "use", f"small@{commit}").err
    # One commit of two is removed, then what is left.
    other = folder / "snapshots" / ("0" * 40)
    shutil.copytree(folder / "snapshots" / commit, other)
    assert magnet("models", "remove", "small@gone", "--yes").status == 3
    assert f"{SMALL}@{commit}" in magnet("models", "remove", f"small@{commit}").err
    assert magnet("models", "remove", f"small@{commit}", "--yes").status == 0
    assert [path.name for path in other.parent.iterdir()] == [other.name]
    assert magnet("models", "remove", "small", "--yes").status == 0
    assert not folder.exists()


@pytest.fixture
def server(magnet: Magnet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    """A local hub with the small model and its text encoder, and an empty cache."""
    for variable in ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE", "HF_TOKEN"):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "no-token"))
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "empty"))
    model, encoder = snapshot(SMALL), snapshot("t5-base")
    repos = {SMALL: (model.name, model), "google-t5/t5-base": (encoder.name, encoder)}
    with serving(Hub(repos)) as up:
        monkeypatch.setenv("HF_ENDPOINT", up.url)
        huggingface_hub.close_session()
        yield up
        huggingface_hub.close_session()


def test_pull_downloads_and_says_so(magnet: Magnet, server: Hub) -> None:
    assert "not here" in magnet("models", "info", "small").out
    assert magnet("gen", "rain", *QUICK, "--offline").status == 3
    assert server.requests == []
    outcome = magnet("models", "pull", "small")
    assert outcome.status == 0, outcome.err
    for words in ("state_dict.bin", "tokenizer.json", "MB", "CC-BY-NC", "is here"):
        assert words in outcome.err
    asked = len(server.requests)
    assert magnet("gen", "rain", *QUICK, "-o", "a.wav").status == 0
    assert len(server.requests) == asked


def test_pull_mends_what_is_damaged(magnet: Magnet, server: Hub, tmp_path: Path) -> None:
    """The error said to delete the file and pull; pull failed with the same error."""
    magnet("models", "pull", "small")
    (weights,) = (tmp_path / "empty").glob("models--facebook*/snapshots/*/state_dict.bin")
    weights.resolve().write_bytes(weights.read_bytes()[:5000])
    damaged = magnet("gen", "rain", *QUICK, "-o", "a.wav")
    assert damaged.status == 3
    assert "magnet models pull" in damaged.err
    outcome = magnet("models", "pull", "small")
    assert outcome.status == 0, outcome.err
    assert magnet("gen", "rain", *QUICK, "-o", "a.wav").status == 0


def test_gen_fetches_the_model_that_it_names(magnet: Magnet, server: Hub) -> None:
    outcome = magnet("gen", "rain", *QUICK, "-o", "a.wav")
    assert outcome.status == 0, outcome.err
    assert "state_dict.bin" in outcome.err
    assert Path("a.wav").exists()


def test_a_hub_that_fails_is_said(magnet: Magnet, server: Hub) -> None:
    server.broken = 500
    outcome = magnet("models", "pull", "small")
    assert outcome.status == 3
    assert "Error: " in outcome.err
    assert "Traceback" not in outcome.err


def test_a_default_that_is_not_here_says_what_it_will_take(magnet: Magnet) -> None:
    outcome = magnet("models", "use", "medium")
    assert outcome.status == 0
    assert "It is not downloaded yet: the next clip downloads" in outcome.err
    assert "magnet models pull medium" in outcome.err
    assert "not here" not in magnet("models", "use", "nano").err
