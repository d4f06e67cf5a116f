"""Training settings: a TOML file, flags that override it, and errors that name a field."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path
from typing import Any

import pytest

from magnet_cli.errors import UsageError
from magnet_cli.fields import settings_of
from magnet_cli.training.config import TrainConfig, located, read_config, to_toml, weighed
from magnet_cli.training.optimizers import rate_share
from magnet_cli.training.setup import make_trainer
from tests.training.test_loop import settings


def test_a_file_and_flags_over_it(tmp_path: Path) -> None:
    path = tmp_path / "t.toml"
    path.write_text('data = ["a", "b"]\nsteps = 5\nlearning_rate = 1\nvalid = "v"\n')
    config = read_config(path, {"steps": 7, "seed": None, "hidden_scale": 2})
    assert config == TrainConfig(
        data=("a", "b"), steps=7, learning_rate=1.0, valid="v", hidden_scale=2
    )


def test_what_is_written_is_read_back(tmp_path: Path) -> None:
    config = TrainConfig(
        data=('odd "name"\\', "ü", "🎹\x7f"),
        sample_prompts=("a\nb", "𝄞"),
        tensorboard=True,
        learning_rate=3e-4,
    )
    path = tmp_path / "t.toml"
    path.write_text(to_toml(config), encoding="utf-8")
    assert read_config(path, {}) == config


@pytest.mark.parametrize(
    ("text", "what"),
    [
        ("steps = ", "not TOML"),
        ("step = 5", "unknown field 'step'"),
        ('steps = "5"', "must be a whole number"),
        ("steps = true", "must be a whole number"),
        ("steps = 1.5", "must be a whole number"),
        ("data = [1]", "must be a text"),
        ("tensorboard = 1", "must be true or false"),
        ('modeling = "causal"', "modeling cannot be 'causal'"),
        ("steps = 0", "steps cannot be 0"),
        ("condition_dropout = 1.5", "condition_dropout cannot be"),
        ("batch_size = 6\nmicro_batch = 4", "micro_batch cannot be 4"),
        ("dim = 30", "dim cannot be 30"),
        ("dim = 2\nnum_heads = 1", "dim cannot be 2"),
        ("beta1 = 1", "beta1 cannot be 1"),
        ("beta2 = 1.0", "beta2 cannot be 1"),
        ("seed = 9223372036854775808", "seed cannot be"),
        ("subcodes_context = -2", "subcodes_context cannot be -2"),
        ("stage_weights = [0.0, 0.0]", "stage_weights"),
        ("no_prefix_share = 0.8\nfull_prefix_share = 0.8", "full_prefix_share"),
    ],
)
def test_what_cannot_be_is_refused(tmp_path: Path, text: str, what: str) -> None:
    path = tmp_path / "t.toml"
    path.write_text(text)
    with pytest.raises(UsageError, match=what):
        read_config(path, {})


@pytest.mark.parametrize("name", ["music", "sound"])
def test_the_papers_recipes_are_read(name: str) -> None:
    config = read_config(Path(__file__).parents[2] / "recipes" / f"{name}.toml", {})
    assert (config.dim, config.num_layers, config.span_len, config.modeling) == (
        1024,
        24,
        3,
        "masked",
    )
    assert config.condition_dropout == {"music": 0.3, "sound": 0.1}[name]


# What audiocraft's MAGNeT configurations set (config/solver/magnet and what they include), by group.
OF_AUDIOCRAFT = {
    "transformer_lm": "dim num_heads num_layers hidden_scale card n_q causal subcodes_context "
    "compression_model_framerate dropout norm_first bias_ff layer_scale weight_init checkpointing",
    "masking": "span_len",
    "dataset": "segment_duration batch_size num_workers min_segment_ratio sample_on_weight "
    "sample_on_duration aug_p mix_p mix_snr_low mix_snr_high mix_min_overlap merge_text_p "
    "drop_desc_p drop_other_p valid.num_samples shuffle_seed",
    "optim": "epochs updates_per_epoch optimizer lr max_norm ema.use ema.updates ema.decay ema.device "
    "eager_sync adam.betas adam.weight_decay adam.eps",
    "schedule": "lr_scheduler cosine.warmup cosine.lr_min_ratio cosine.cycle_length "
    "inverse_sqrt.warmup warmup_init_lr",
    "conditioners": "description.t5.name t5.finetune description.t5.word_dropout t5.normalize_text",
    "generate": "use_sampling temp top_k top_p max_cfg_coef min_cfg_coef decoding_steps anneal_temp "
    "span_scoring span_arrangement generate.every",
    "": "training_dropout autocast autocast_dtype fsdp.use compression_model_checkpoint channels "
    "sample_rate codebooks_pattern.modeling efficient_attention_backend deadlock.use cache.path "
    "log_tensorboard continue_from evaluate.every checkpoint.save_every checkpoint.keep_last seed",
}


def test_every_parameter_of_audiocraft_has_its_counterpart() -> None:
    text = (Path(__file__).parents[2] / "docs" / "from-audiocraft.md").read_text("utf-8")
    said = " ".join(re.findall(r"`([^`]+)`", text))
    for name in " ".join(OF_AUDIOCRAFT.values()).split():
        assert re.search(rf"(?<!\w){re.escape(name)}(?!\w)", said), name
    table = text.partition("## Training")[2].partition("## Evaluating")[0]
    rows = [line.rsplit(" | ", 1) for line in table.splitlines() if line.startswith("| `")]
    assert len(rows) > 30
    ours = re.findall(r"`([a-z][a-z0-9_]*)(?: =[^`]*)?`", " ".join(cell for _, cell in rows))
    theirs = {"warmup_init_lr", "mix_min_overlap", "mix_p", "weight"}
    assert set(ours) - theirs <= set(settings_of(TrainConfig))


def test_a_missing_file_is_said(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="cannot be read"):
        read_config(tmp_path / "none.toml", {})


def test_every_setting_says_what_it_is() -> None:
    settings = settings_of(TrainConfig)
    assert list(settings) == [field.name for field in dataclasses.fields(TrainConfig)]
    for each in settings.values():
        assert each.about.endswith("."), each.name
        assert each.panel, each.name


@pytest.mark.parametrize(
    ("schedule", "expected"),
    [
        ("constant", [0.5, 1.0, 1.0, 1.0, 1.0]),
        ("inverse_sqrt", [0.5, 1.0, (2 / 3) ** 0.5, (2 / 6) ** 0.5, (2 / 10) ** 0.5]),
        ("cosine", [0.5, 1.0, 1.0, 0.1 + 0.9 * 0.691, 0.1 + 0.9 * 0.038]),
    ],
)
def test_learning_rates(schedule: Any, expected: list[float]) -> None:
    config = TrainConfig(schedule=schedule, warmup_steps=2, steps=10, final_rate=0.1)
    got = [rate_share(step, config) for step in (0, 1, 2, 5, 9)]
    assert got == pytest.approx(expected, abs=1e-3)


def test_the_documents_list_every_setting() -> None:
    text = (Path(__file__).parents[2] / "docs" / "training.md").read_text("utf-8")
    for field in settings_of(TrainConfig).values():
        default = field.default
        if default in (None, ()):
            shown = ""
        else:
            shown = str(default).lower() if isinstance(default, bool) else f"`{default}`"
        assert f"| `{field.name}` | {shown} | {field.about} |" in text, field.name


def test_the_file_that_the_documents_show_is_read(tmp_path: Path) -> None:
    text = (Path(__file__).parents[2] / "docs" / "training.md").read_text("utf-8")
    shown = text.partition("```toml\n")[2].partition("```")[0]
    (tmp_path / "tiny.toml").write_text(shown)
    config = read_config(tmp_path / "tiny.toml", {"steps": 7})
    assert (config.modeling, config.data, config.steps) == ("hybrid", ("tokens/train",), 7)


def test_a_folder_may_say_how_often_its_clips_are_drawn(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert weighed("tokens/a:3") == ("tokens/a", 3.0)
    assert weighed("tokens/a:0.5") == ("tokens/a", 0.5)
    assert weighed("C:\\tokens") == ("C:\\tokens", 1.0)
    (tmp_path / "take:2").mkdir()
    assert weighed("take:2") == ("take:2", 1.0)
    for none in ("a:0", "a:-1", "a:nan", "a:inf"):
        with pytest.raises(UsageError, match="weight"):
            weighed(none)
    (tmp_path / "tokens").mkdir()
    (elsewhere := tmp_path / "runs" / "x").mkdir(parents=True)
    monkeypatch.chdir(elsewhere)
    there = located(TrainConfig(data=("tokens:3", "gone:2")), elsewhere)
    assert there.data == (f"{tmp_path / 'tokens'}:3", "gone:2")


def test_a_run_draws_by_weight_and_duration(workshop: Path) -> None:
    tokens = str(workshop / "tokens")
    twice = make_trainer(
        settings(workshop, data=(f"{tokens}:2", tokens), draw_by="duration"), workshop / "out"
    )
    source = twice.train.source
    first, second = source.folders
    assert (source.weights, source.by_duration) == ((2.0, 1.0), True)
    drawn = [source.clip_of(0, item)[0] for item in range(160)]
    assert 1.7 < drawn.count(first) / drawn.count(second) < 2.4
    with pytest.raises(UsageError, match="is training data"):
        make_trainer(settings(workshop, data=(f"{tokens}:2",), valid=tokens), workshop / "other")
