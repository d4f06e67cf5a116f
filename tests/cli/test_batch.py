"""`magnet batch` from the command line, on a golden checkpoint."""

from __future__ import annotations

import json
import os
import signal
import subprocess
from pathlib import Path

import pytest

from magnet_cli.api import Model
from magnet_cli.batch.jobs import WHOLE
from magnet_cli.batch.manifest import open_manifest
from magnet_cli.checkpoints.load import import_checkpoint
from magnet_cli.checkpoints.place import find_place
from magnet_cli.models import precision
from tests import processes, sounds
from tests.batch.hands import hires
from tests.cli.conftest import QUICK, SMALL, Magnet

FAST = ("-m", SMALL, "--steps", "1", "-d", "0.2")


@pytest.fixture
def prompts(home: Path) -> str:
    (home / "p.txt").write_text("rain\n# two more\nwind\nfire\n")
    return "p.txt"


def names(folder: str = "clips") -> list[str]:
    return sorted(path.name for path in Path(folder).rglob("*") if not path.name.startswith("."))


def test_a_file_becomes_a_folder_of_clips_that_equal_gens(magnet: Magnet, prompts: str) -> None:
    outcome = magnet("batch", prompts, "-O", "clips", *QUICK)
    assert (outcome.status, outcome.stdout) == (0, b"")
    assert names() == ["0000-rain-5.wav", "0001-wind-6.wav", "0002-fire-7.wav", "manifest.jsonl"]
    assert "[3/3] clips/0002-fire-7.wav: 0.2 s, -14" in outcome.err
    assert "clips/min" in outcome.err
    assert "Made 3 clips" in outcome.err
    assert magnet("gen", "wind", *FAST, "--seed", "6", "-o", "alone.wav").status == 0
    assert Path("clips/0001-wind-6.wav").read_bytes() == Path("alone.wav").read_bytes()


def test_a_batch_keeps_the_precision_that_it_was_begun_with(
    magnet: Magnet, prompts: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`auto` may differ on the next machine, and shards of one batch run on several."""
    both = ("batch", prompts, "-O", "clips", *QUICK)
    assert magnet(*both, "--shard", "1/2").status == 0
    monkeypatch.setattr(precision, "_LARGE", 1.0)
    monkeypatch.setattr(precision, "multiplies_bfloat16", lambda: True)
    outcome = magnet(*both, "--shard", "2/2")
    assert outcome.status == 0
    assert "bfloat16" not in outcome.err
    assert {
        sounds.read(f"clips/{name}").metadata["dtype"] for name in names() if "wav" in name
    } == {"float32"}
    # A new batch uses this processor's best dtype, reports it once, and its files record it.
    outcome = magnet("batch", prompts, "-O", "new", *QUICK)
    assert outcome.err.count("runs in bfloat16") == 1
    made = magnet("show", "new/0000-rain-5.wav", "--json").records[0]
    assert "--dtype bfloat16" in made["command"]
    # So do the first clips, which were made in float32.
    assert (
        "--dtype float32" in magnet("show", "clips/0000-rain-5.wav", "--json").records[0]["command"]
    )
    # Another dtype is noticed.
    Path("new/0002-fire-7.wav").unlink()
    outcome = magnet("batch", prompts, "-O", "new", *QUICK, "--dtype", "float32")
    assert "The dtype was bfloat16, is float32" in outcome.err


def test_the_same_command_makes_what_is_missing(magnet: Magnet, prompts: str) -> None:
    """Also without --seed: the random seed is kept in the manifest."""
    command = ("batch", prompts, "-O", "clips", *FAST)
    assert magnet(*command).status == 0
    made = names()
    lost = Path("clips") / made[1]
    before, kept = lost.read_bytes(), (Path("clips") / made[0]).stat().st_mtime_ns
    lost.unlink()
    outcome = magnet(*command)
    assert outcome.status == 0
    assert "2 of 3 clips are done already." in outcome.err
    assert "[1/1]" in outcome.err
    assert names() == made
    assert lost.read_bytes() == before
    assert (Path("clips") / made[0]).stat().st_mtime_ns == kept
    assert "3 of 3 clips are done already" in magnet(*command).err


def test_an_inserted_line_and_a_cut_file_are_said(magnet: Magnet, prompts: str) -> None:
    command = ("batch", prompts, "-O", "clips", *QUICK)
    assert "no line of" not in magnet(*command).err
    wind = Path("clips/0001-wind-6.wav")
    wind.write_bytes(wind.read_bytes()[:-100])
    outcome = magnet(*command)
    assert outcome.status == 0
    assert "Smaller than when written" in outcome.err
    assert "0001-wind-6.wav" in outcome.err
    wind.unlink()
    assert "Smaller" not in magnet(*command).err
    Path(prompts).write_text("first\n" + Path(prompts).read_text())
    for more in (("--dry-run",), ()):
        outcome = magnet(*command, *more)
        assert outcome.status == 0
        assert "has 3 clips that no line of p.txt asks for: 0000-rain-5.wav" in outcome.err
        assert "An inserted line changes the numbers" in outcome.err


@pytest.mark.parametrize(("model", "said"), [("nano", True), (SMALL, False)])
def test_another_batch_size_is_said_where_mates_round(
    magnet: Magnet, prompts: str, model: str, said: bool
) -> None:
    """Masked decoding on a CPU computes item by item, so there it makes no difference."""
    common = ("batch", prompts, "-O", "clips", "-m", model, "-d", "0.2", "--seed", "5")
    assert magnet(*common, "--steps", "1", "--batch-size", "3").status == 0
    Path("clips/0001-wind-6.wav").unlink()
    outcome = magnet(*common, "--steps", "1", "--batch-size", "1")
    assert outcome.status == 0
    assert ("The batch size was 3, is 1" in outcome.err) == said


def test_wildcards_stand_drawn_in_names_files_and_the_manifest(magnet: Magnet, home: Path) -> None:
    (home / "prompts").mkdir()
    (home / "prompts" / "moods.txt").write_text("sad\nhappy\n")
    (home / "prompts" / "p.txt").write_text("__moods__ {piano|harp}\n")
    command = ("batch", "prompts/p.txt", "-O", "clips", "-n", "3", *QUICK)
    plain = magnet(*command, "--dry-run")  # braces are plain text unless the flag is given
    assert "0000-moods-piano-harp-5.wav  (seed 5)  __moods__ {piano|harp}" in plain.out
    outcome = magnet(*command, "--wildcards")
    assert outcome.status == 0
    with open_manifest(Path("clips"), WHOLE) as manifest:
        clips = list(manifest.clips.values())
    for clip in clips:
        assert clip["prompt"] in {f"{a} {b}" for a in ("sad", "happy") for b in ("piano", "harp")}
        assert clip["settings"]["prompt"] == clip["prompt"]
        assert clip["file"].removeprefix(f"000{clip['index']}-").startswith(clip["prompt"][:3])
    assert "3 of 3 clips are done" in magnet(*command, "--wildcards").err
    (home / "prompts" / "moods.txt").write_text("odd\n")
    changed = magnet(*command, "--wildcards", "--dry-run")
    assert "The folder has 3 clips that no line of prompts/p.txt asks for" in changed.err
    (home / "prompts" / "moods.txt").unlink()
    missing = magnet(*command, "--wildcards")
    assert missing.status == 2
    assert "Line 1: There is no prompts/moods.txt for __moods__" in missing.err
    piped = magnet("batch", "-", "-O", "other", "--wildcards", *QUICK, stdin=b"{a|b}\n")
    assert (piped.status, "stdin has none" in piped.err) == (2, True)


def test_names_from_files_and_folders_end_in_no_unexpected_error(
    magnet: Magnet, home: Path
) -> None:
    """Too long ones ended the batch even with --skip-bad; names that are not UTF-8 could not be printed."""
    lines = [{"prompt": "rain", "lora": "x" * 300}, {"prompt": "wind"}]
    (home / "p.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    folder = os.fsdecode(b"cl\xff")
    outcome = magnet("batch", "p.jsonl", "-O", folder, *QUICK, "--skip-bad", "--dry-run", "--print")
    assert (outcome.status, outcome.stdout) == (4, b"cl\xff/0001-wind-6.wav\n")
    assert "Line 1: There is no LoRA 'xxx" in outcome.err
    outcome = magnet("batch", "p.jsonl", "-O", "x" * 300, *QUICK, "--dry-run")
    assert (outcome.status, "Unexpected" in outcome.err) == (2, False), outcome.err


def test_a_flags_fault_is_said_once(magnet: Magnet, prompts: str) -> None:
    """Each line of the file was named as bad."""
    outcome = magnet("batch", prompts, "-O", "clips", *QUICK, "--steps", "1,2")
    assert outcome.status == 2
    assert outcome.err.count("There are 2 numbers of steps") == 1
    assert "Line 1" not in outcome.err


def test_a_changed_setting_is_noticed_and_named(magnet: Magnet, prompts: str) -> None:
    command = ("batch", prompts, "-O", "clips", *QUICK)
    assert magnet(*command).status == 0
    for more, message in (
        (("--temperature", "2"), "temperature was not given, is 2"),
        (("--lufs", "-20"), "lufs was not given, is -20"),
        (("--seed", "9"), "seed was 5, is 9"),
        (("--name", "{slug}"), "name was {index:04d}-{slug}-{seed}, is {slug}"),
        (("-m", "audio-small"), "model was facebook/magnet-small-10secs, is audio-small"),
    ):
        outcome = magnet(*command, *more)
        assert outcome.status == 2
        assert message in outcome.err
        assert "--force" in outcome.err
    old = Path("clips/0001-wind-6.wav").read_bytes()
    assert magnet(*command, "--temperature", "2", "--force").status == 0
    assert Path("clips/0001-wind-6.wav").read_bytes() != old
    assert "3 of 3" in magnet(*command, "--temperature", "2").err


def test_another_revision_of_the_model_is_noticed(magnet: Magnet, prompts: str) -> None:
    """It was noticed only if a clip was missing, after loading the model."""
    command = ("batch", prompts, "-O", "clips", *QUICK)
    assert magnet(*command).status == 0
    assert "3 of 3 clips are done" in magnet(*command, "-m", "magnet-small-10secs").err
    manifest = Path("clips/manifest.jsonl")
    text = manifest.read_text()
    revision = json.loads(text.splitlines()[0])["run"]["revision"]
    manifest.write_text(text.replace(revision, "0" * 40).replace('"cpu"', '"cuda"'))
    outcome = magnet(*command)
    assert outcome.status == 2
    assert "the model's weights changed" in outcome.err
    assert f"{SMALL}@{'0' * 12}, now {SMALL}@{revision[:12]}" in " ".join(outcome.err.split())
    outcome = magnet(*command, "--force")
    assert outcome.status == 0
    assert "[3/3]" in outcome.err
    assert "The device was cuda, is cpu" in outcome.err


def test_what_an_earlier_version_noted_of_a_model_is_heeded(magnet: Magnet, prompts: str) -> None:
    """Its clips have no ids, but its runs have the hub's revision."""
    command = ("batch", prompts, "-O", "clips", *QUICK)
    assert magnet(*command).status == 0
    without_ids()
    outcome = magnet(*command)
    assert outcome.status == 0
    assert "No model is recorded for 3 clips; --force makes them again." in outcome.err
    manifest = Path("clips/manifest.jsonl")
    text = manifest.read_text()
    revision = json.loads(text.splitlines()[0])["run"]["revision"]
    manifest.write_text(text.replace(revision, "0" * 40))
    Path("clips/0001-wind-6.wav").unlink()
    outcome = magnet(*command)
    assert outcome.status == 2
    assert f"revision was {'0' * 40}, is {revision}" in outcome.err
    outcome = magnet(*command, "--force")
    assert outcome.status == 0
    assert "[3/3]" in outcome.err
    assert "do not say" not in magnet(*command).err


def without_ids() -> None:
    """The manifest as it was before it had the ids of models."""
    manifest = Path("clips/manifest.jsonl")
    records = [json.loads(line) for line in manifest.read_text().splitlines()]
    for record in records:
        record.get("run", {}).pop("model_id", None)
        record.get("settings", {}).pop("model_id", None)
    manifest.write_text("".join(json.dumps(record) + "\n" for record in records))


@pytest.fixture
def folder_model(home: Path) -> Path:
    """A model in a folder, in magnet's own format."""
    import_checkpoint(find_place(SMALL), home / "m")
    return home / "m"


def retrained(model: Path) -> None:
    config = json.loads((model / "config.json").read_text())
    config["provenance"]["steps"] = 1
    (model / "config.json").write_text(json.dumps(config))


def test_a_replaced_model_is_noticed(magnet: Magnet, prompts: str, folder_model: Path) -> None:
    """After further training in a model's folder, old clips counted as done and new ones were mixed in."""
    command = ("batch", prompts, "-O", "clips", *QUICK[2:])
    assert magnet(*command, "-m", "./m").status == 0
    assert "3 of 3 clips are done" in magnet(*command, "-m", "m").err
    retrained(folder_model)
    Path("clips/0001-wind-6.wav").unlink()
    outcome = magnet(*command, "-m", "./m")
    assert outcome.status == 2
    assert "the model's weights changed" in outcome.err
    assert names() == ["0000-rain-5.wav", "0002-fire-7.wav", "manifest.jsonl"]
    outcome = magnet("batch", "-", *command[2:], "-m", "./m", stdin=b"rain\nwind\n")
    assert outcome.status == 4
    assert "Line 1: 1 clip of this batch is done with other settings" in outcome.err
    assert "0001-wind-6.wav" in names()


def test_a_forced_run_that_was_interrupted_is_gone_on_with(
    magnet: Magnet, prompts: str, folder_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The new run was recorded first, and then the old model's other clips counted as done."""
    command = ("batch", prompts, "-O", "clips", *QUICK[2:], "-m", "./m")
    assert magnet(*command).status == 0
    retrained(folder_model)
    generate = Model.generate

    def once(self: Model, texts: list[str], *arguments: object, **more: object) -> object:
        if "rain" not in texts:
            raise KeyboardInterrupt
        return generate(self, texts, *arguments, **more)  # type: ignore[arg-type]

    with monkeypatch.context() as broken:
        broken.setattr(Model, "generate", once)
        assert magnet(*command, "--force").status == 130
    outcome = magnet(*command)
    assert outcome.status == 2
    assert "2 clips of this batch are done with other settings" in outcome.err
    outcome = magnet(*command, "--force")
    assert outcome.status == 0
    assert "1 of 3 clips are done already" in outcome.err
    assert "[2/2]" in outcome.err


def test_status_tells_how_far_it_is(magnet: Magnet, prompts: str) -> None:
    assert magnet("batch", prompts, "-O", "clips", *QUICK).status == 0
    Path("clips/0001-wind-6.wav").unlink()
    outcome = magnet("batch", "--status", "clips")
    assert outcome.status == 0
    heading, row = (line.split() for line in outcome.out.splitlines())
    assert heading[:5] == ["clips", "done", "failed", "missing", "clips/min"]
    assert row[:5] == ["all", "3", "2", "0", "1"]
    assert row[-1] == "ago"
    (record,) = magnet("batch", "--status", "clips", "--json").records
    assert (record["name"], record["clips"], record["missing"]) == ("all", 3, 1)
    assert magnet("batch", prompts, "-O", "parts", *QUICK, "--shard", "2/3").status == 0
    outcome = magnet("batch", "--status", "parts", "--json")
    assert [(r["name"], r["clips"], r["done"]) for r in outcome.records] == [
        ("all", 3, 1),
        ("2/3", 1, 1),
    ]
    assert "Not begun: 2 shards." in outcome.err
    for wrong in (("--status", "clips", "-O", "clips"), (prompts,), ("-O", "clips")):
        assert magnet("batch", *wrong).status == 2


def test_workers_make_what_one_process_makes(
    magnet: Magnet, prompts: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Workers are threads here; for processes see test_batch_kill."""
    monkeypatch.setattr(
        "magnet_cli.batch.processes.hire_processes", lambda setup, where: hires(setup)
    )
    command = ("batch", prompts, *QUICK, "--workers", "2")
    assert magnet("batch", prompts, "-O", "one", *QUICK).status == 0
    outcome = magnet(*command, "-O", "two", "--print")
    assert outcome.status == 0, outcome.err
    assert "Worker 1 is ready, on cpu." in outcome.err
    assert "Made 3 clips" in outcome.err
    assert sorted(outcome.out.splitlines()) == [f"two/{name}" for name in names("two")[:3]]
    assert names("two") == names("one")
    for name in names("one")[:3]:
        assert (Path("two") / name).read_bytes() == (Path("one") / name).read_bytes()
    # A run started in one way can be finished in the other.
    Path("one/0001-wind-6.wav").unlink()
    outcome = magnet(*command, "-O", "one")
    assert outcome.status == 0
    assert "2 of 3 clips are done already." in outcome.err
    assert names("two") == names("one")
    rows = magnet("batch", "--status", "one", "--json").records
    assert [(row["name"], row["done"]) for row in rows] == [("all", 3), ("worker 1", 1)]
    # Lines from a pipe, and unsupported lines.
    outcome = magnet("batch", "-", "-O", "three", *QUICK, "--workers", "2", stdin=b"rain\nwind\n")
    assert outcome.status == 0
    assert len(names("three")) == 3
    Path("p.csv").write_text("prompt,hybrid\nrain,\nwind,1\n")
    outcome = magnet("batch", "p.csv", "-O", "four", *QUICK, "--workers", "1")
    assert outcome.status == 2
    assert "Line 3: magnet-small-10secs cannot decode the first seconds itself" in outcome.err


def test_files_of_others_are_not_replaced(magnet: Magnet, prompts: str) -> None:
    Path("clips").mkdir()
    Path("clips/0001-wind-6.wav").write_text("mine")
    outcome = magnet("batch", prompts, "-O", "clips", *QUICK)
    assert outcome.status == 2
    assert "did not make: 0001-wind-6.wav" in outcome.err
    assert Path("clips/0001-wind-6.wav").read_text() == "mine"
    assert magnet("batch", prompts, "-O", "clips", *QUICK, "--force").status == 0


def test_lines_have_their_own_settings(magnet: Magnet) -> None:
    lines = [
        {"prompt": "rain", "out": "deep/er/rain.flac", "seed": 3, "duration": 0.1, "fade": 0.01},
        {
            "prompt": "wind",
            "negative": "voices",
            "temperature": 1.5,
            "num": 2,
            "steps": [2, 1, 1, 1],
        },
        {"prompt": "fire", "preset": "fast", "channels": 2},
    ]
    Path("p.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    outcome = magnet(
        "batch", "p.jsonl", "-O", "clips", "-m", SMALL, "-d", "0.2", "--seed", "5", "--json", "-q"
    )
    assert outcome.status == 0
    events = outcome.records
    assert [event["event"] for event in events] == ["start", *["clip"] * 4, "end"]
    assert events[0]["clips"] == 4
    assert [event["file"] for event in events[1:5]] == [
        "deep/er/rain.flac", "0001-wind-6.wav", "0002-wind-7.wav", "0003-fire-8.wav",
    ]  # fmt: skip
    assert (events[5]["made"], events[5]["failed"]) == (4, 0)
    rain = sounds.read("clips/deep/er/rain.flac")
    assert (rain.samples.shape, (rain.metadata or {})["seed"]) == ((1, 3200), 3)
    wind = sounds.read("clips/0002-wind-7.wav").metadata or {}
    assert wind["negative"] == "voices"
    assert wind["given"] == {"decoding_steps": [2, 1, 1, 1], "temperature": 1.5}
    fire = sounds.read("clips/0003-fire-8.wav")
    assert fire.samples.shape == (2, 6400)
    assert (fire.metadata or {})["given"] == {"decoding_steps": [10, 5, 5, 5]}
    manifest = [json.loads(line) for line in Path("clips/manifest.jsonl").read_text().splitlines()]
    assert [{"event": "clip", **line} for line in manifest[1:]] == events[1:5]


def test_bad_lines_are_said_with_their_numbers_before_a_model_is_loaded(magnet: Magnet) -> None:
    Path("p.csv").write_text("prompt,seed,out\nrain,1,\nwind,x,\nfire,,../../x.wav\nice,2,\n")
    command = ("batch", "p.csv", "-O", "clips", "-m", "no/such-model")
    outcome = magnet(*command)
    assert outcome.status == 2
    assert "Line 3: seed cannot be 'x'" in outcome.err
    assert "Line 4: '../../x.wav' may lead out" in outcome.err
    assert "2 lines of p.csv cannot be used" in outcome.err
    assert not Path("clips").exists()
    outcome = magnet("batch", "p.csv", "-O", "clips", *FAST, "--skip-bad", "--json")
    assert outcome.status == 4
    assert "Skipped lines: 2." in outcome.err
    assert [e["line"] for e in outcome.records if e["event"] == "bad"] == [3, 4]
    assert len(names()) == 3
    assert not Path("../../x.wav").exists()


def test_what_the_model_cannot_do_is_said_before_anything_is_made(magnet: Magnet) -> None:
    Path("p.csv").write_text(
        'prompt,duration,steps,hybrid\nrain,0.2,,\nwind,0.2,,1\nfire,0.2,"1,2"\n'
    )
    command = ("batch", "p.csv", "-O", "clips", "-m", SMALL, "--seed", "5", "--steps", "1")
    outcome = magnet(*command)
    assert outcome.status == 2
    assert "Line 3: magnet-small-10secs cannot decode the first seconds itself" in outcome.err
    assert "Line 4: There are 2 numbers of steps" in outcome.err
    assert names() == []
    assert magnet(*command, "--skip-bad").status == 4
    assert names() == ["0000-rain-5.wav", "manifest.jsonl"]


def test_a_failing_clip_is_noted_and_the_others_are_made(
    magnet: Magnet, prompts: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    generate = Model.generate

    def sometimes(self: Model, texts: list[str], *arguments: object, **more: object) -> object:
        if "wind" in texts:
            raise RuntimeError("the wind broke it")
        return generate(self, texts, *arguments, **more)  # type: ignore[arg-type]

    with monkeypatch.context() as broken:
        broken.setattr(Model, "generate", sometimes)
        outcome = magnet("batch", prompts, "-O", "clips", *QUICK)
    assert outcome.status == 4
    assert "1 of 3 clips could not be made." in outcome.err
    assert "0001-wind-6.wav (line 3): Unexpected RuntimeError: the wind broke it" in outcome.err
    assert names() == ["0000-rain-5.wav", "0002-fire-7.wav", "manifest.jsonl"]
    outcome = magnet("batch", prompts, "-O", "clips", *QUICK)
    assert outcome.status == 0
    assert len(names()) == 4


def test_a_stream_goes_on_over_bad_lines(magnet: Magnet) -> None:
    command = ("batch", "-", "-O", "clips", *QUICK)
    outcome = magnet(*command, "--print", stdin=b"rain\n\xff\nfire\n")
    assert outcome.status == 4
    assert outcome.out.splitlines() == ["clips/0000-rain-5.wav", "clips/0002-fire-7.wav"]
    assert "Line 2: Byte 1 is not UTF-8" in outcome.err
    outcome = magnet(*command, "--print0", stdin=b"rain\nwind\nfire\n")
    assert (outcome.status, outcome.stdout) == (0, b"clips/0001-wind-6.wav\0")
    assert "Already done: 2 clips." in outcome.err
    outcome = magnet(*command, "--temperature", "2", stdin=b"rain\n")
    assert outcome.status == 4
    assert "temperature was not given" in outcome.err


def test_prompts_between_nuls(magnet: Magnet) -> None:
    outcome = magnet("batch", "-", "-0", "-O", "clips", *QUICK, stdin=b"#rain,\nloud\0wind\0")
    assert outcome.status == 0
    assert names() == ["0000-rain-loud-5.wav", "0001-wind-6.wav", "manifest.jsonl"]
    outcome = magnet("batch", "-", "-0", "--from", "csv", "-O", "clips", *QUICK)
    assert outcome.status == 2


def test_a_dry_run_lists_and_makes_nothing(magnet: Magnet, prompts: str) -> None:
    outcome = magnet("batch", prompts, "-O", "clips", *QUICK, "--dry-run")
    assert outcome.status == 0
    assert outcome.out.splitlines()[1] == "to make     0001-wind-6.wav  (seed 6)  wind"
    assert "3 of 3 clips would be made." in outcome.err
    assert not Path("clips").exists()
    magnet("batch", prompts, "-O", "clips", *QUICK)
    Path("clips/0000-rain-5.wav").unlink()
    outcome = magnet("batch", prompts, "-O", "clips", *QUICK, "--dry-run", "--json")
    plan = [record["status"] for record in outcome.records if record["event"] == "plan"]
    assert plan == ["to make", "done", "done"]
    outcome = magnet("batch", "-", "-O", "new", *QUICK, "--dry-run", "--print", stdin=b"ice\n")
    assert outcome.out == "new/0000-ice-5.wav\n"


def test_a_dry_run_says_the_seed_that_makes_what_it_lists(magnet: Magnet, prompts: str) -> None:
    """Each run without --seed draws its own, so the listed names were never made."""
    dry = magnet("batch", prompts, "-O", "clips", *FAST, "--dry-run", "--json")
    listed = [record["file"] for record in dry.records if record["event"] == "plan"]
    seed = dry.records[-1]["seed"]
    assert f"use --seed {seed} for these names" in dry.err
    told = ("batch", prompts, "-O", "clips", *FAST, "--seed", str(seed), "--dry-run", "--json")
    again = magnet(*told)
    assert [record["file"] for record in again.records[:-1]] == listed
    assert again.records[-1]["seed"] == seed
    assert "drawn" not in again.err


def test_shards_make_each_clip_once_and_the_whole_knows(magnet: Magnet, prompts: str) -> None:
    command = ("batch", prompts, "-O", "clips", *QUICK)
    assert magnet(*command, "--shard", "1/2").status == 0
    assert magnet(*command, "--shard", "2/2").status == 0
    assert names() == [
        "0000-rain-5.wav", "0001-wind-6.wav", "0002-fire-7.wav",
        "manifest.shard-1-of-2.jsonl", "manifest.shard-2-of-2.jsonl",
    ]  # fmt: skip
    assert "3 of 3 clips are done already" in magnet(*command).err
    assert magnet("batch", prompts, "-O", "clips", *FAST, "--shard", "1/2").status == 2
    assert magnet(*command, "--shard", "3/2").status == 2


def test_two_batches_of_one_folder_do_not_meet(magnet: Magnet, prompts: str) -> None:
    with open_manifest(Path("clips"), WHOLE):
        outcome = magnet("batch", prompts, "-O", "clips", *QUICK)
    assert outcome.status == 2
    assert "Another batch is running in clips" in outcome.err


def test_codes_are_kept_where_they_are_wanted(magnet: Magnet, prompts: str) -> None:
    assert (
        magnet("batch", prompts, "-O", "clips", *QUICK, "--codes", "--name", "{slug}").status == 0
    )
    assert names()[:4] == ["fire.wav", "fire.wav.npz", "manifest.jsonl", "rain.wav"]


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "has no prompts"),
        (b"\n \n# only this\n", "has no prompts"),
        (b"\0" * 50, "holds a NUL"),
        (b"x" * 10_000_000, "longer than 1 MB"),
        (b"\xff" * 100, "not UTF-8"),
        ("\ufeff".encode("utf-16"), "UTF-16"),
        (b"\x1b[2J\n", "control character"),
    ],
)
def test_hostile_files_are_refused(magnet: Magnet, data: bytes, message: str) -> None:
    Path("p.txt").write_bytes(data)
    outcome = magnet("batch", "p.txt", "-O", "clips", *QUICK)
    assert outcome.status == 2
    assert message in outcome.err
    assert "Traceback" not in outcome.err
    assert not Path("clips").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((".", "-O", "clips"), "is a folder"),
        (("no.txt", "-O", "clips"), "There is no file no.txt"),
        (("p.txt",), "-O"),
        (("p.json", "-O", "clips"), "one JSON value"),
        (("p.txt", "-O", "p.txt/x"), "p.txt"),
        (("p.txt", "-O", "clips", "--json", "--print"), "stdout"),
        (("p.txt", "-O", "clips", "--name", "{sed}"), "no field 'sed'"),
        (("p.txt", "-O", "clips", "--batch-size", "0"), "auto"),
        (("p.txt", "-O", "clips", "--shard", "2"), "I/N"),
        (("p.txt", "-O", "clips", "-d", "-1"), "--duration"),
        (("p.txt", "-O", "clips", "--from", "xls"), "--from"),
        (("p.txt", "-O", "clips", "--rescorer-weight", "0.5"), "needs a rescorer"),
        (("-", "-O", "clips"), "stdin has no prompts"),
    ],
)
def test_what_cannot_be_is_said(
    magnet: Magnet, prompts: str, arguments: tuple[str, ...], message: str
) -> None:
    outcome = magnet("batch", *arguments, *QUICK[:4])
    assert outcome.status == 2
    assert message in outcome.err
    assert "Traceback" not in outcome.err


def test_many_bad_lines_are_counted(magnet: Magnet) -> None:
    Path("p.txt").write_bytes(b"\xff\n" * 100_000)
    outcome = magnet("batch", "p.txt", "-O", "clips", *QUICK)
    assert outcome.status == 2
    assert "99,980 more bad lines." in outcome.err
    assert len(outcome.err.splitlines()) < 30


@pytest.mark.parametrize(("name", "most"), [("noise.txt", 100_001), ("-", 1001)])
def test_noise_is_not_read_to_its_end(magnet: Magnet, name: str, most: int) -> None:
    """Each of its lines was kept, of however many gigabytes."""
    Path("noise.txt").write_bytes(b"\xff\n" * 200_000)
    outcome = magnet("batch", name, "-O", "out", *QUICK, stdin=b"\xff\n" * 5000)
    assert outcome.status == 2
    assert f"{most} of the first {most} lines of" in outcome.err


def test_a_flag_that_does_not_fit_the_model_is_named_once(magnet: Magnet, prompts: str) -> None:
    """It was named as a field, once for each line, which were to be repaired."""
    outcome = magnet("batch", prompts, "-O", "out", *QUICK, "--cfg-coef", "3")
    assert outcome.status == 2
    assert outcome.err.count("--cfg-coef cannot be used with this model") == 1
    assert "Line" not in outcome.err


def test_hostile_lines_do_no_harm(magnet: Magnet, tmp_path: Path) -> None:
    lines = [
        "../../x",
        "مطر على السقف",
        "\u202egpj.exe",
        "🎹🥁",
        "con",
        "a" * 500,
        "rain\r",
        "-rf",
    ]
    Path("p.txt").write_text("\ufeff" + "\n".join(lines), newline="")
    outcome = magnet("batch", "p.txt", "-O", "clips", *QUICK)
    assert outcome.status == 0, outcome.err
    made = list(Path("clips").rglob("*.wav"))
    assert len(made) == len(lines)
    assert not list(tmp_path.glob("x*"))
    assert {(sounds.read(path).metadata or {})["prompt"] for path in made} == {
        line.strip() for line in lines
    }


@pytest.mark.process
def test_lines_are_made_as_they_arrive_and_ctrl_c_keeps_them(home: Path) -> None:
    maker = processes.start(
        [*processes.MAGNET, "batch", "-", "-O", "clips", *QUICK, "--print"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    assert maker.stdin is not None
    assert maker.stdout is not None
    for number, prompt in enumerate(("rain", "wind")):
        maker.stdin.write(f"{prompt}\n".encode())
        maker.stdin.flush()
        path = maker.stdout.readline().decode().rstrip("\n")
        assert path == f"clips/{number:04d}-{prompt}-{5 + number}.wav"
        assert sounds.read(path).samples.shape == (1, 6400)
    maker.send_signal(signal.SIGINT)
    _, said = maker.communicate(timeout=60)
    assert maker.returncode == 130
    assert b"Interrupted" in said
    assert b"Traceback" not in said
    assert names() == ["0000-rain-5.wav", "0001-wind-6.wav", "manifest.jsonl"]
    assert len(Path("clips/manifest.jsonl").read_text().splitlines()) == 3


@pytest.mark.process
def test_a_reader_that_leaves_ends_the_run(home: Path) -> None:
    Path("p.txt").write_text("rain\n" * 10_000)
    maker = processes.start(
        [*processes.MAGNET, "batch", "p.txt", "-O", "clips", *QUICK, "--print", "-q"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    assert maker.stdout is not None
    assert maker.stdout.readline() == b"clips/0000-rain-5.wav\n"
    maker.stdout.close()
    assert maker.stderr is not None
    assert maker.stderr.read() == b""
    assert maker.wait() == 141


def test_a_file_is_no_folder_of_a_batch(magnet: Magnet, home: Path) -> None:
    """The hint was to move its manifest away, although the file may be the prompts."""
    Path("prompts.txt").write_text("rain\n")
    outcome = magnet("batch", "prompts.txt", "-O", "prompts.txt", *QUICK)
    assert outcome.status == 2
    assert "prompts.txt is not a folder.\n  Choose a folder with -O." in outcome.err
