"""`magnet data` and `magnet train lm`: from a folder of sounds to a model for `magnet gen`."""

from __future__ import annotations

import json
import os
import shlex
import shutil
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile

from magnet_cli.api import load_model
from magnet_cli.checkpoints import hub
from magnet_cli.cli.settings import TalkOptions
from magnet_cli.cli.talk import Talk
from magnet_cli.cli.train import _say_run
from magnet_cli.config import SpectralCodecConfig
from magnet_cli.data.tokens import TokenFolder
from magnet_cli.errors import ModelNotFoundError
from magnet_cli.fields import settings_of
from magnet_cli.models import precision
from magnet_cli.settings import DecodingConfig
from magnet_cli.training.config import CodecTrainConfig, TrainConfig
from tests.cli.conftest import SMALL, Magnet
from tests.cli.test_app import help_rows


@pytest.fixture
def sounds(home: Path) -> Path:
    """Four captioned sounds, and one that is broken."""
    folder = home / "sounds"
    folder.mkdir()
    generator = np.random.default_rng(0)
    for number, caption in enumerate(("rain", "slow piano", "a drum loop", "wind")):
        soundfile.write(folder / f"{number}.wav", generator.normal(0, 0.1, 16_000), 16_000)
        (folder / f"{number}.txt").write_text(caption)
    (folder / "broken.wav").write_bytes(b"RIFF")
    (folder / "broken.txt").write_text("broken")
    return folder


def test_check_names_what_is_broken_and_goes_on(sounds: Path, magnet: Magnet) -> None:
    outcome = magnet("data", "check", "sounds", "--json")
    assert outcome.status == 4
    problem, summary = outcome.records
    assert problem["where"].endswith("broken.wav")
    said = summary.pop("sounds")
    assert summary == {"kind": "summary", "good": 4, "incomplete": 0, "broken": 1, "merged": 0}
    assert said["rates"] == {"16000 Hz, 1 ch": 4}
    assert said["seconds"] == [1.0, 1.0, 1.0]
    assert all(-19 < each < -17 for each in said["loudness"]), "noise of deviation 0.1"
    (sounds / "broken.wav").unlink()
    assert magnet("data", "check", "sounds").status == 0


def test_one_line_for_each_caption_is_no_mistake(sounds: Path, magnet: Magnet) -> None:
    lines = [{"path": "0.wav", "caption": caption} for caption in ("rain", "a storm")]
    (sounds / "clips.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    outcome = magnet("data", "check", "sounds/clips.jsonl", "--json")
    assert outcome.status == 0
    (summary,) = outcome.records
    assert (summary["good"], summary["broken"], summary["merged"]) == (1, 0, 1)
    assert "1 line with more captions of clips that earlier lines had named" in outcome.err


def test_what_is_there_twice_and_what_is_silent_is_told(sounds: Path, magnet: Magnet) -> None:
    """Copies have too large a weight, and a header does not show that a file is silent."""
    (sounds / "broken.wav").unlink()
    (sounds / "broken.txt").unlink()
    (sounds / "copy.wav").write_bytes((sounds / "1.wav").read_bytes())
    (sounds / "copy.txt").write_text("slow piano again")
    soundfile.write(sounds / "3.wav", np.zeros(16_000), 16_000)
    outcome = magnet("data", "check", "sounds", "--json")
    assert outcome.status == 0
    said = [r["what"] for r in outcome.records if r["kind"] == "problem"]
    assert said == ["it is silent", "it is the same sound as sounds/1.wav"]
    assert outcome.records[-1]["sounds"]["loudness"][0] == -70
    assert "5 at 16000 Hz, 1 ch" in magnet("data", "check", "sounds").err


def test_a_sound_that_ends_early_is_not_counted_as_good(sounds: Path, magnet: Magnet) -> None:
    """It was, and only a line that named it twice distinguished it from the others."""
    (sounds / "broken.wav").unlink()
    (sounds / "broken.txt").unlink()
    whole = (sounds / "1.wav").read_bytes()
    (sounds / "1.wav").write_bytes(whole[: len(whole) * 3 // 4])
    outcome = magnet("data", "check", "sounds", "--json")
    assert outcome.status == 4
    problem, summary = outcome.records
    assert (problem["skipped"], problem["incomplete"]) == (False, True)
    assert (summary["good"], summary["incomplete"], summary["broken"]) == (3, 1, 0)
    said = magnet("data", "check", "sounds").err
    assert "sounds/1.wav: it ends early: at 0.75 s of 1.00 s\n" in said
    assert "Clips: 3 good, 1 incomplete, 0 broken." in said
    encoded = magnet("data", "encode", "sounds", "tokens", "--codec", SMALL, "--json")
    assert encoded.status == 0
    assert (encoded.records[-1]["encoded"], encoded.records[-1]["incomplete"]) == (4, 1)
    assert "1 of them incomplete" in encoded.err


def test_a_copied_folder_is_not_encoded_again(
    sounds: Path, magnet: Magnet, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Clips known by path and date were all encoded again when a set was copied or moved."""
    (sounds / "broken.wav").unlink()
    assert magnet("data", "encode", "sounds", "tokens", "--codec", SMALL).status == 0
    before = TokenFolder("tokens")
    (home := sounds.parent / "copy").mkdir()
    for path in sounds.iterdir():
        (home / f"new-{path.name}").write_bytes(path.read_bytes())
    (home / "new-0.txt").write_text("other words")
    from magnet_cli.models.encodec import EnCodec

    monkeypatch.delattr(EnCodec, "encode")
    outcome = magnet("data", "encode", "copy", "tokens", "--codec", SMALL, "--json")
    assert outcome.status == 0, outcome.err
    assert (outcome.records[-1]["encoded"], outcome.records[-1]["kept"]) == (0, 4)
    after = TokenFolder("tokens")
    assert [clip.id for clip in after.clips] == [f"new-{n}.wav" for n in range(4)]
    assert after.clips[0].captions == ("other words",)
    for old, new in zip(before.clips, after.clips, strict=True):
        assert before.codes(old).equal(after.codes(new))


def test_an_interrupted_encoding_says_how_to_go_on(
    sounds: Path, magnet: Magnet, monkeypatch: pytest.MonkeyPatch
) -> None:
    from magnet_cli.training import encode

    def interrupted(*what: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(encode, "encode_clips", interrupted)
    outcome = magnet("data", "encode", "sounds", "tokens", "--codec", SMALL)
    assert outcome.status == 130
    assert "Run the same command again to continue." in outcome.err


def test_a_source_that_lists_nothing_is_a_mistake(home: Path, magnet: Magnet) -> None:
    """`data check` reported no problem."""
    (home / "empty").mkdir()
    (home / "empty.jsonl").write_text("\n")
    for source in ("empty", "empty.jsonl"):
        for command in (("check", source), ("encode", source, "tokens", "--codec", SMALL)):
            outcome = magnet("data", *command)
            assert outcome.status == 2
            assert f"{source} holds no sounds" in outcome.err
    assert not Path("tokens").exists()


def test_parquet_and_archives_are_said_to_be_unread(home: Path, magnet: Magnet) -> None:
    """A folder of them had no sounds, and a file was a list with a line that is not JSON."""
    (home / "set/data").mkdir(parents=True)
    (home / "set/data/train-0.parquet").write_bytes(b"PAR1\0PAR1")
    for source in ("set", "set/data/train-0.parquet"):
        outcome = magnet("data", "check", source)
        assert outcome.status == 2
        assert "Parquet files and archives are not read: write their sounds out" in outcome.err


def test_a_sound_is_named_once(sounds: Path, magnet: Magnet) -> None:
    (sounds / "empty.wav").write_bytes(b"")
    (sounds / "empty.txt").write_text("rain")
    err = magnet("data", "check", "sounds").err
    assert f"sounds{os.sep}empty.wav: it is empty" in err


def test_a_file_in_the_way_of_tokens_is_no_full_disk(sounds: Path, magnet: Magnet) -> None:
    Path("tokens").write_text("mine")
    outcome = magnet("data", "encode", "sounds", "tokens", "--codec", SMALL)
    assert outcome.status == 2
    assert "tokens cannot be written: File exists" in outcome.err
    assert "Free some space" not in outcome.err


def test_there_is_no_run_to_resume(home: Path, magnet: Magnet) -> None:
    """For a misspelled folder the error said that --data is missing."""
    outcome = magnet("train", "lm", "mien", "--resume")
    assert outcome.status == 2
    assert "mien has no run to resume." in outcome.err
    assert not Path("mien").exists()


def test_clips_that_are_left_out_are_told(sounds: Path, magnet: Magnet) -> None:
    (sounds / "broken.wav").unlink()
    first = magnet("data", "encode", "sounds", "tokens", "--codec", SMALL, "--json")
    assert first.status == 0, first.err
    assert first.records[-1]["left_out"] == 0
    assert "left out" not in first.err
    (sounds / "1.wav").unlink()
    (sounds / "2.wav").unlink()
    second = magnet("data", "encode", str(sounds), "tokens", "--codec", SMALL, "--json")
    assert second.status == 0
    assert second.records[-1]["left_out"] == 2
    assert "Left out: 2 clips of earlier runs, no longer listed or broken now." in second.err
    assert [clip.id for clip in TokenFolder("tokens").clips] == ["0.wav", "3.wav"]


def test_from_a_folder_to_a_fine_tuned_model_that_plays(
    sounds: Path, magnet: Magnet, monkeypatch: pytest.MonkeyPatch
) -> None:
    outcome = magnet("data", "encode", "sounds", "tokens", "--codec", SMALL, "--json")
    assert outcome.status == 4, "one was skipped"
    assert outcome.records[-1]["encoded"] == 4
    again = magnet("data", "encode", "sounds", "tokens", "--codec", SMALL, "--json")
    assert again.records[-1]["kept"] == 4

    # Sizes that are a new model's defaults, and not this model's, were ignored.
    tune = ("train", "lm", "mine", "--data", "tokens", "--init", SMALL)
    for flag, name in {"--num-layers": "num_layers", "--dim": "dim"}.items():
        value = str(getattr(TrainConfig, name))
        refused = magnet(*tune, flag, value)
        Path("sizes.toml").write_text(f"{name} = {value}\n")
        assert refused.status == magnet(*tune, "--config", "sizes.toml").status == 2
        assert f"{name} cannot be {value}" in refused.err
    assert not Path("mine").exists()

    quick = ("--batch-size", "2", "--log-every", "1")
    trained = magnet(
        "train", "lm", "mine", "--data", "tokens", "--init", SMALL, "--steps", "2",
        "--checkpoint-every", "1", "--learning-rate", "1e-2", "--warmup-steps", "1", *quick, "--json",
    )  # fmt: skip
    assert trained.status == 0, trained.err
    kinds = [record["kind"] for record in trained.records]
    assert kinds == ["started", "step", "checkpoint", "step", "checkpoint", "finished"]
    assert magnet("train", "lm", "mine", "--resume", "--num-layers", "6").status == 2
    gone_on = magnet("train", "lm", "mine", "--resume", "--steps", "3")
    assert gone_on.status == 0, gone_on.err
    assert "Resuming after step 2 of 3" in gone_on.err
    # Of several processes one talks: each said what had changed.
    monkeypatch.setenv("RANK", "1")
    other = magnet("train", "lm", "mine", "--resume")
    assert (other.status, other.err) == (0, "")
    monkeypatch.delenv("RANK")

    asked = ("--seed", "3", "--steps", "2", "-d", "1")
    before = magnet("gen", "rain", "-m", SMALL, "-o", "before.wav", *asked)
    after = magnet("gen", "rain", "-m", "./mine", "-o", "after.wav", *asked)
    assert before.status == after.status == 0, after.err
    one, other = soundfile.read("before.wav")[0], soundfile.read("after.wav")[0]
    assert one.shape == other.shape
    assert not np.array_equal(one, other)


def test_a_lora_is_trained_by_flags_and_its_folder_plays(sounds: Path, magnet: Magnet) -> None:
    (sounds / "broken.wav").unlink()
    magnet("data", "encode", "sounds", "tokens", "--codec", SMALL)
    run = ("train", "lm", "mine", "--data", "tokens", "--init", SMALL, "--steps", "1",
           "--batch-size", "1", "--lora-rank", "2")  # fmt: skip
    wrong = magnet(*run, "--lora-targets", "nose")
    assert wrong.status == 2
    assert "self, cross, feed and codes" in wrong.err
    trained = magnet(*run, "--lora-targets", "self", "--lora-targets", "cross")
    assert trained.status == 0, trained.err
    assert 'lora_targets = ["self", "cross"]' in Path("mine/train.toml").read_text()
    # The command printed at the end makes a sound with the LoRA, also at another scale.
    said = trained.err.splitlines()[-1]
    assert said == f'Try it: magnet gen "a prompt" -m {SMALL} --lora mine'
    tried = magnet(*shlex.split(said)[3:], "-o", "tried.wav", "-d", "1")
    assert tried.status == 0, tried.err
    assert magnet("train", "lm", "mine", "--resume", "--steps", "2").status == 0
    assert magnet("gen", "rain", "-m", "./mine", "-o", "out.wav", "-d", "1").status == 0
    assert magnet("train", "lm", "other", "--data", "tokens", "--lora-rank", "2").status == 2


def test_a_run_says_what_it_is_and_goes_on_from_elsewhere(
    sounds: Path, magnet: Magnet, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It printed nothing for ten steps; resumed from another folder, its data were not found; and changes
    since the last run were not reported."""
    (sounds / "broken.wav").unlink()
    magnet("data", "encode", "sounds", "tokens", "--codec", SMALL)
    assert magnet("models", "import", SMALL, "base").status == 0
    run = ("train", "lm", "runs/mine", "--data", "tokens", "--init", "./base", "--batch-size", "2")
    first = magnet(*run, "--steps", "2", "--log-every", "1")
    assert first.status == 0, first.err
    begins = first.err.splitlines()
    assert begins[0].startswith("4 clips (0.1 min), seen 1 times; training ")
    assert begins[0].endswith("parameters on cpu in 1 process")
    assert begins[1].startswith("A checkpoint takes ")
    assert "masked" in begins[2], "the streams can be compared, the loss of any of them cannot"
    (sounds / "3.wav").unlink()
    magnet("data", "encode", "sounds", "tokens", "--codec", SMALL)
    (elsewhere := sounds.parent / "elsewhere").mkdir()
    monkeypatch.chdir(elsewhere)
    again = magnet("train", "lm", "../runs/mine", "--resume", "--steps", "3", "--learning-rate", "1e-3",
                   "--init", "../base")  # fmt: skip
    assert again.status == 0, again.err
    assert "steps was 2, is 3" in again.err
    assert "learning_rate was 0.0001, is 0.001" in again.err
    assert "clips was 4, is 3" in again.err
    assert "data was" not in again.err, "the same folder, from elsewhere"
    magnet("data", "encode", "../sounds", "tokens", "--codec", str(sounds.parent / "base"))
    moved = magnet("train", "lm", "../runs/mine", "--resume", "--steps", "4", "--data", "./tokens")
    assert moved.status == 0, moved.err
    assert "data was" in moved.err, "another folder, which happens to be called the same"
    other = magnet("train", "lm", "../runs/mine", "--resume", "--init", "nano")
    assert other.status == 2
    assert "--init cannot be nano" in other.err


@pytest.mark.parametrize("native", [False, True])
def test_bfloat16_is_said_to_be_slow_where_it_is(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], native: bool
) -> None:
    monkeypatch.setattr(precision, "multiplies_bfloat16", lambda: native)
    run: dict[str, Any] = dict.fromkeys(
        ("clips", "hours", "passes", "trained", "parameters", "processes", "checkpoint_bytes",
         "disk_bytes", "free_bytes"), 1
    )  # fmt: skip
    for chosen, slow in (("bf16", not native), ("no", False)):
        _say_run(Talk(TalkOptions()), {**run, "device": "cpu", "precision": chosen})
        assert ("--mixed-precision no is faster" in capsys.readouterr().err) == slow


def test_what_is_wrong_around_a_run_is_said_before_it_begins(
    sounds: Path, magnet: Magnet, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Too little disk space, and one process although a launcher was to start two."""
    magnet("data", "encode", "sounds", "tokens", "--codec", SMALL)
    usage = shutil.disk_usage(".")._replace(free=1000)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage)
    monkeypatch.setattr("magnet_cli.training.loop.launched_alone", lambda processes: True)
    run = ("train", "lm", "mine", "--data", "tokens", "--init", SMALL, "--batch-size", "1")
    outcome = magnet(*run, "--steps", "1")
    assert outcome.status == 0
    assert "too little room" in outcome.err
    assert "accelerate launch starts one process on a CPU" in outcome.err


def test_downloads_are_told_of(
    sounds: Path, magnet: Magnet, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A run printed nothing until its model was downloaded, minutes for some gigabytes."""
    assert magnet("data", "encode", "sounds", "tokens", "--codec", SMALL).status == 4

    def download(repo: str, choose: Any, revision: Any, progress: Any, again: Any) -> None:
        progress(hub.Progress(repo, "state_dict.bin", 10**6, 3 * 10**6))
        raise ModelNotFoundError(f"No network for {repo}.", "")

    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    monkeypatch.setattr(hub, "download", download)
    train = ("train", "lm", "mine", "--data", "tokens")
    new = (*train, "--codec", "some/codec", "--text-encoder", SMALL)
    for command, name in (
        (("data", "encode", "sounds", "others", "--codec", "some/model"), "some/model"),
        ((*train, "--init", "some/model"), "some/model"),
        (new, "some/codec"),
    ):
        outcome = magnet(*command)
        assert outcome.status == 3
        assert f"{name}: state_dict.bin: 1 of 3 MB" in outcome.err


@pytest.fixture
def usual() -> Iterator[Any]:
    """The effect of Ctrl-C in a terminal, whatever the suite's handler."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield signal.default_int_handler
    signal.signal(signal.SIGINT, before)


def test_ctrl_c_ends_with_a_checkpoint(
    sounds: Path, magnet: Magnet, monkeypatch: pytest.MonkeyPatch, usual: Any
) -> None:
    """README's 200 steps end before the first checkpoint: an interrupt lost everything."""
    magnet("data", "encode", "sounds", "tokens", "--codec", SMALL)
    from magnet_cli.training.loop import Trainer

    take_step = Trainer.take_step

    def interrupted(trainer: Trainer, *batches: Any) -> Any:
        if trainer.step == 1:
            os.kill(os.getpid(), signal.SIGINT)
        return take_step(trainer, *batches)

    monkeypatch.setattr(Trainer, "take_step", interrupted)
    run = ("train", "lm", "mine", "--data", "tokens", "--init", SMALL, "--batch-size", "1")
    # In the background (nohup, &) the signal is not for us.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    ignored = magnet(*run[:2], "other", *run[3:], "--steps", "2")
    assert (ignored.status, "Stopping" in ignored.err) == (0, False), ignored.err
    signal.signal(signal.SIGINT, usual)
    stopped = magnet(*run, "--steps", "4")
    assert stopped.status == 130, stopped.err
    assert "Stopping after this step" in stopped.err
    assert "Resume it with: magnet train lm mine --resume" in stopped.err
    assert signal.getsignal(signal.SIGINT) is usual
    monkeypatch.setattr(Trainer, "take_step", take_step)
    gone_on = magnet("train", "lm", "mine", "--resume")
    assert gone_on.status == 0, gone_on.err
    assert "Resuming after step 2 of 4" in gone_on.err
    more = magnet("train", "lm", "mine", "--resume", "--steps", "3")
    assert "mine has done 4 steps, and 3 were asked for." in more.err, (
        "it resumed after step 4 of 3"
    )


def test_mistakes_are_explained(sounds: Path, magnet: Magnet) -> None:
    missing = magnet("train", "lm", "mine")
    assert missing.status == 2
    assert "--data" in missing.err
    unknown = magnet("data", "encode", "sounds", "tokens", "--codec", "no-such-model")
    assert unknown.status == 3
    Path("bad.toml").write_text("step = 1\n")
    bad = magnet("train", "lm", "mine", "--config", "bad.toml")
    assert bad.status == 2
    assert "'step'" in bad.err
    nothing = magnet("data", "check", "nowhere.jsonl")
    assert nothing.status == 2
    assert not Path("mine").exists()


@pytest.mark.parametrize(
    ("command", "classes"),
    [("lm", [TrainConfig]), ("codec", [CodecTrainConfig, SpectralCodecConfig])],
)
def test_help_says_the_defaults_of_the_settings(
    magnet: Magnet, monkeypatch: pytest.MonkeyPatch, command: str, classes: list[Any]
) -> None:
    monkeypatch.setenv("COLUMNS", "1000")
    rows = help_rows(magnet("train", command, "--help").out)
    settings = [each for class_ in classes for each in settings_of(class_).values()]
    assert len(settings) > 15
    for field in settings:
        row = rows["--" + field.name.replace("_", "-")]
        if isinstance(field.default, bool):
            assert f"Default: {str(field.default).lower()}." in row
        elif field.default in (None, ()):
            assert "Default:" not in row
        else:
            plain = f"{field.default:g}" if isinstance(field.default, float) else field.default
            plain = ", ".join(plain) if isinstance(plain, tuple) else plain
            assert f"Default: {plain}." in row


def test_settings_kept_beside_the_model_are_those_of_the_run(sounds: Path, magnet: Magnet) -> None:
    magnet("data", "encode", "sounds", "tokens", "--codec", SMALL)
    magnet(
        "train", "lm", "mine", "--data", "tokens", "--init", SMALL, "--steps", "1", "--seed", "9"
    )
    kept = Path("mine/train.toml").read_text()
    assert "seed = 9" in kept
    config = json.loads(Path("mine/config.json").read_text())
    assert config["provenance"]["init"] == SMALL


def readme_commands() -> list[list[str]]:
    """The commands of README's "Your own sounds", verbatim."""
    text = (Path(__file__).parents[2] / "README.md").read_text("utf-8")
    section = text.split("**Your own sounds**")[1].split("\n**")[0]
    return [shlex.split(line) for line in section.splitlines() if line.startswith("    magnet ")]


def test_readmes_fine_tuning_changes_what_a_model_makes(home: Path, magnet: Magnet) -> None:
    """Twenty clips of one tone, 200 steps: the model then generates the tone's codes instead of noise."""
    (home / "sounds").mkdir()
    time = np.arange(16_000) / 16_000
    for number in range(20):
        tone = 0.3 * np.sin(2 * np.pi * 220 * time + number)
        soundfile.write(home / "sounds" / f"{number}.wav", tone, 16_000)
        (home / "sounds" / f"{number}.txt").write_text("rain on a tin roof")
    check, encode, train, generate = readme_commands()
    for command in (check, encode, train):
        outcome = magnet(*command[1:])
        assert outcome.status == 0, outcome.err
    lines = [json.loads(line) for line in Path("mine/log.jsonl").read_text().splitlines()]
    losses = [line["loss"] for line in lines if line["kind"] == "step"]
    assert losses[-1] < losses[0] - 1.0

    tokens = TokenFolder("tokens")
    known = {int(code) for clip in tokens.clips for code in tokens.codes(clip)[0].unique()}

    def share_known(name: str) -> float:
        model = load_model(name, device="cpu")
        plain = DecodingConfig(temperature=1.0, decoding_steps=(10, 1, 1, 1))
        made = model.generate(["rain on a tin roof"], plain, seeds=[1], frames=50)
        return sum(int(code) in known for code in made.codes[0, 0]) / 50

    assert share_known("./mine") > share_known("small") + 0.2
    assert magnet(*generate[1:], "-d", "1").status == 0


def test_without_accelerate_it_is_said_what_to_install(
    sounds: Path, magnet: Magnet, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "accelerate", None)
    for name in [name for name in sys.modules if name.startswith("magnet_cli.training.")]:
        if name != "magnet_cli.training.config":
            package, _, child = name.rpartition(".")
            # Importing it again sets this, too; other tests need the module as it was.
            monkeypatch.setattr(sys.modules[package], child, sys.modules[name])
            monkeypatch.delitem(sys.modules, name)
    assert magnet("data", "check", "sounds").status == 4
    outcome = magnet("train", "lm", "mine", "--data", "tokens")
    assert outcome.status == 2
    assert "pip install accelerate" in outcome.err
