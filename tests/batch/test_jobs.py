"""From lines to jobs: seeds, names, settings of a line that override the batch's."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from magnet_cli.batch.jobs import WHOLE, Job, Shard, parse_batch_size, parse_shard
from magnet_cli.data.prompts import BadLine, PromptLine
from magnet_cli.errors import UsageError
from magnet_cli.settings import DecodingConfig, OutputConfig
from tests.batch.batches import batch, jobs, planned, reason

HERE = Path("clips")


def test_seeds_and_names_follow_the_index() -> None:
    made = jobs(batch(HERE), "rain", PromptLine(2, "wind", num=2), PromptLine(3, "fire", seed=7))
    assert [job.index for job in made] == [0, 1, 2, 3]
    assert [job.target.seed for job in made] == [100, 101, 102, 7]
    assert [job.file for job in made] == [
        "0000-rain-100.wav", "0001-wind-101.wav", "0002-wind-102.wav", "0003-fire-7.wav",
    ]  # fmt: skip
    assert made[0].target.path == HERE / "0000-rain-100.wav"


def test_variations_of_a_line_have_following_seeds_and_numbered_files() -> None:
    made = jobs(batch(HERE), PromptLine(1, "rain", num=3, seed=5, out="a/rain.flac"))
    assert [job.target.seed for job in made] == [5, 6, 7]
    assert [job.file for job in made] == ["a/rain-1.flac", "a/rain-2.flac", "a/rain-3.flac"]


def test_a_bad_line_takes_an_index_so_that_repairing_it_moves_nothing() -> None:
    broken = planned(batch(HERE), "rain", BadLine(2, "?"), "fire")
    repaired = planned(batch(HERE), "rain", "wind", "fire")
    assert broken[2] == repaired[2]
    refused = planned(batch(HERE), "rain", PromptLine(2, "wind", out="../x.wav"), "fire")
    assert refused[2] == repaired[2]
    # With -n 2 a bad line stands for two clips; it took one index, which shifted all clips after it.
    broken = planned(batch(HERE, num=2), "rain", BadLine(2, "?"), "fire")
    assert broken[3:] == planned(batch(HERE, num=2), "rain", "wind", "fire")[4:]
    broken = planned(batch(HERE), "rain", BadLine(2, "?", num=3), "fire")
    assert broken[2:] == planned(batch(HERE), "rain", PromptLine(2, "wind", num=3), "fire")[4:]


def test_a_line_has_the_last_word() -> None:
    general = batch(
        HERE,
        negative="noise",
        preset="fast",
        decoding=DecodingConfig(temperature=2.0, top_p=0.5),
        output=OutputConfig(lufs=-20.0, format="flac"),
    )
    plain, own = jobs(
        general,
        "rain",
        PromptLine(
            2, "wind", duration=1.0, negative="", decoding=DecodingConfig(temperature=4.0),
            output={"lufs": -10.0, "format": "ogg"},
        ),
    )  # fmt: skip
    assert (plain.negative, plain.duration, plain.preset) == ("noise", 0.2, "fast")
    assert plain.file.endswith(".flac")
    assert (own.negative, own.duration) == (None, 1.0)
    assert own.decoding == DecodingConfig(temperature=4.0, top_p=0.5)
    assert own.output == OutputConfig(lufs=-10.0, format="ogg", true_peak=True)
    assert own.file.endswith(".ogg")


def test_what_a_line_says_of_steps_replaces_what_the_batch_says() -> None:
    steps = DecodingConfig(decoding_steps=(3,))
    (job,) = jobs(batch(HERE, decoding=steps), PromptLine(1, "a", preset="best"))
    assert (job.preset, job.decoding.decoding_steps) == ("best", None)
    general = batch(HERE, preset="best", decoding=DecodingConfig())
    (job,) = jobs(general, PromptLine(1, "a", decoding=steps))
    assert (job.preset, job.decoding.decoding_steps) == (None, (3,))


def test_equal_names_are_numbered_in_order() -> None:
    lines = [PromptLine(i, "rain", out="Rain.wav" if i % 2 else "rain.wav") for i in (1, 2, 3)]
    assert [job.file for job in jobs(batch(HERE), *lines)] == [
        "Rain.wav", "rain-2.wav", "Rain-3.wav",
    ]  # fmt: skip


def test_out_without_a_suffix_gets_the_formats() -> None:
    (job,) = jobs(batch(HERE, output=OutputConfig(format="mp3")), PromptLine(1, "a", out=" a/b "))
    assert (job.file, job.target.format) == ("a/b.mp3", "mp3")


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (PromptLine(1, "a", out="../../x"), "may lead out"),
        (PromptLine(1, "a", out="a.xyz"), "suffix"),
        (PromptLine(1, "a", out="a.wav", output={"format": "mp3"}), "--format is mp3"),
        (PromptLine(1, "a", output={"format": "opus", "sample_rate": 44_100}), "cannot hold"),
        (PromptLine(1, "a", output={"lufs": 3.0}), "lufs"),
        (PromptLine(1, "a", seed=2**63 - 1, num=2), "2^63"),
    ],
)
def test_lines_that_do_not_fit(line: PromptLine, message: str) -> None:
    assert message in reason(batch(HERE), line)


def test_names_that_could_not_be_written(tmp_path: Path) -> None:
    """They passed every check and failed once their clips were generated, on each run."""
    long = "x" * 251 + ".wav"  # 255 bytes, the most
    for more, outs, message in (
        ({}, ["sub.wav", "sub.wav/x.wav"], "cannot be a file and the folder of another"),
        ({}, ["Sub.wav/x.wav", "sub.wav"], "cannot be a file and the folder of another"),
        ({"codes": True}, ["a.wav", "a.wav.npz/x.wav"], "cannot be a file and the folder"),
        ({}, [long, long], "Names have at most 255 bytes"),  # numbered
        ({"codes": True}, ["a.wav", long], "Names have at most 255 bytes"),
    ):
        lines = [PromptLine(number, "a", out=out) for number, out in enumerate(outs, start=1)]
        first, second = planned(batch(tmp_path, **more), *lines)
        assert isinstance(first, Job)
        assert isinstance(second, BadLine)
        assert message in second.message
    assert "255 bytes" in reason(batch(tmp_path), PromptLine(1, "a", out=long, num=2))
    assert jobs(batch(tmp_path), PromptLine(1, "a", out=long))[0].file == long


def test_codes_lie_beside_their_clip() -> None:
    (job,) = jobs(batch(HERE, codes=True), PromptLine(1, "a", out="x/a.wav"))
    assert job.target.codes == HERE / "x" / "a.wav.npz"


def test_settings_hold_all_that_decides() -> None:
    models = {"model": "small", "rescorer": "musicgen"}
    (job,) = jobs(batch(HERE, models=models, output=OutputConfig(fade=0.1)), "rain")
    assert job.settings() == {
        "model": "small", "rescorer": "musicgen", "prompt": "rain", "seed": 100, "duration": 0.2,
        "format": "wav", "decoding_steps": [1], "fade": 0.1, "max_limiting": 4.0,
    }  # fmt: skip


def test_ten_thousands_of_equal_lines_are_planned_in_seconds() -> None:
    began = time.process_time()
    lines = [PromptLine(i + 1, "rain", out="a/rain.wav") for i in range(20_000)]
    made = jobs(batch(HERE), *lines)
    assert len({job.file for job in made}) == 20_000
    assert isinstance(made[-1], Job)
    assert time.process_time() - began < 6


def test_shards_share_the_clips() -> None:
    shards = [parse_shard(f"{number}/3") for number in (1, 2, 3)]
    assert [[index for index in range(7) if shard.has(index)] for shard in shards] == [
        [0, 3, 6], [1, 4], [2, 5],
    ]  # fmt: skip
    assert parse_shard(None) == WHOLE
    assert (WHOLE.suffix, Shard(2, 3).suffix) == ("", ".shard-2-of-3")
    assert Shard(2, 3).shares_nothing_with(".shard-1-of-3")
    assert not Shard(2, 3).shares_nothing_with(".shard-1-of-4")
    assert not Shard(2, 3).shares_nothing_with("")


@pytest.mark.parametrize(
    "text", ["0/3", "4/3", "1", "a/b", "1/0", "-1/3", "1/3/5", "", "1/99999999"]
)
def test_shards_that_are_none(text: str) -> None:
    with pytest.raises(UsageError):
        parse_shard(text)


@pytest.mark.parametrize("text", ["0", "-1", "1.5", "many", "99999", "", "²"])
def test_batch_sizes_that_are_none(text: str) -> None:
    with pytest.raises(UsageError, match="auto"):
        parse_batch_size(text)
    assert parse_batch_size("auto") == "auto"
    assert parse_batch_size("4") == 4
