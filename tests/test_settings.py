"""A setting is one field: it becomes a flag and a column, is checked, documented, and recorded in files."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any, Literal

import pytest

from magnet_cli import settings
from magnet_cli.cli.settings import DecodingOptions, ModelOptions, spelled
from magnet_cli.fields import NotOfTypeError, typed
from magnet_cli.resolving import for_prefix, resolve, used
from magnet_cli.settings import DecodingConfig, OutputConfig
from tests import processes
from tests.models.tiny import tiny_lm

ROOT = Path(__file__).parent.parent

# The field that a newcomer adds by CONTRIBUTING.md, in a copy of settings.py.
FIELD = """
    swing: float | None = _decoding(
        "How late every second beat is.", flags="--swing-by", metavar="X", low=0, high=1, usual=0.25,
        only="masked", before=0.0,
    )
"""

FINDS_IT = """
import sys, types
from pathlib import Path

import magnet_cli
module = types.ModuleType("magnet_cli.settings")
sys.modules[module.__name__] = magnet_cli.settings = module
before = "    score_noise: float | None = "
source = Path(sys.argv[1]).read_text("utf-8")
assert source.count(before) == 1
exec(source.replace(before, sys.argv[2] + before), vars(module))

import io
sys.path.insert(0, "docs")
from generate import reference_text
from magnet_cli.clips import Making
from magnet_cli.cli.again import command_for
from magnet_cli.data.prompt_files import read_prompts
from magnet_cli.resolving import resolve, used
from magnet_cli.errors import UsageError
from magnet_cli.settings import DecodingConfig, OutputConfig
from tests.models.tiny import tiny_lm

row = "| `--swing-by X` | How late every second beat is. Default: the checkpoint's own, usually 0.25. |"
assert row in reference_text()

(line,) = read_prompts(io.BytesIO(b"prompt,swing\\nrain,0.5\\n"), "csv")
(short,) = read_prompts(io.BytesIO(b'{"prompt": "rain", "swing-by": 0.5}'), "jsonl")
assert line.decoding == short.decoding == DecodingConfig(swing=0.5)
(line,) = read_prompts(io.BytesIO(b"prompt,swing\\nrain,2\\n"), "csv")
assert "swing cannot be 2. It takes a number from 0 to 1." in line.message

masked, causal = tiny_lm("masked").config, tiny_lm("autoregressive").config
assert resolve(DecodingConfig(), DecodingConfig(), masked).swing == 0.25
config = resolve(DecodingConfig(swing=0.5), DecodingConfig(), masked)
assert used(config, "masked", rescored=False)["swing"] == 0.5
assert "swing" not in used(config, "autoregressive", rescored=False)
try:
    resolve(DecodingConfig(swing=0.5), DecodingConfig(), causal)
    raise SystemExit("it is for masked models alone")
except UsageError as error:
    assert "swing cannot be used" in error.message

said = {"model": "small", "prompts": ["rain"], "negative_prompts": [None], "seeds": [1]}
made = Making(DecodingConfig(swing=0.5)).record(said, 0, OutputConfig())
assert made["given"] == {"swing": 0.5}
assert command_for(made, "a.wav")[-5:] == ["--swing-by", "0.5", "-o", "a.wav", "rain"]
# A file from before it was there swings as little as it did.
decoding = {"decoding_steps": [20, 10, 10, 10], "temperature": 3.0}
older = made | {"given": {}, "decoding": decoding}
assert command_for(older, "a.wav")[-5:] == ["--swing-by", "0", "-o", "a.wav", "rain"]
"""


@pytest.mark.process
def test_a_new_setting_is_one_field() -> None:
    program = [sys.executable, "-c", FINDS_IT, settings.__file__, FIELD]
    done = processes.run(program, capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stderr


def test_settings_that_come_from_checked_ones_are_not_checked_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """One clip checked its settings 48 times."""
    given, own = DecodingConfig(temperature=1.0, top_k=5), DecodingConfig(hybrid=0.5)

    def never(config: DecodingConfig) -> None:
        raise AssertionError("checked again")

    monkeypatch.setattr(settings, "check", never)
    config = resolve(given, own, tiny_lm("hybrid").config)
    assert (config.temperature, config.top_p, config.hybrid_top_k) == (1.0, 0.0, 5)
    used(config, "hybrid", rescored=False, hybrid=0.5, prefix=for_prefix(config, own))
    with pytest.raises(AssertionError):
        DecodingConfig()


def test_the_flags_that_set_values() -> None:
    values = {"normalize": False, "lufs": -20.0, "format": None, "bit_depth": "24"}
    words = ["--bit-depth", "24", "--no-normalize", "--lufs", "-20"]
    assert spelled(OutputConfig, values) == words
    assert spelled(OutputConfig, {"normalize": True}) == ["--normalize"]
    values = {"decoding_steps": [2, 1], "use_sampling": False, "anneal_temperature": True}
    assert spelled(DecodingOptions, values) == ["--steps", "2,1", "--anneal", "--greedy"]
    assert spelled(ModelOptions, {"offline": True}) == ["--offline"]
    assert spelled(ModelOptions, {"offline": False}) == []


STEPS = tuple[int, ...]


@pytest.mark.parametrize(
    ("kind", "value", "text", "means"),
    [
        (int, "7", True, 7),
        (int | None, 7, False, 7),
        (float, 7, False, 7.0),
        (float, " 1e-3 ", True, 1e-3),
        (bool, "Yes", True, True),
        (bool, "off", True, False),
        (str, " a ", True, " a "),
        (Literal["16", "24"], 16, False, "16"),
        (STEPS, "20,10", False, (20, 10)),
        (STEPS, "20 10", True, (20, 10)),
        (STEPS, [20, "10"], False, (20, 10)),
        (STEPS, 3, False, (3,)),
        (STEPS, [], False, ()),
        (tuple[float, ...], [1, 0.5], False, (1.0, 0.5)),
        (tuple[str, ...], "a, b", False, ("a, b",)),
    ],
)
def test_what_was_written_becomes_the_type(kind: Any, value: Any, text: bool, means: Any) -> None:
    found = typed(kind, value, text=text)
    assert found == means
    assert type(found) is type(means)


@pytest.mark.parametrize(
    ("kind", "value", "text", "takes"),
    [
        (int, "7", False, "a whole number"),
        (int, 7.0, False, "a whole number"),
        (int, True, False, "a whole number"),
        (float, "x", True, "a number"),
        (float, 10**400, False, "a number"),
        (bool, 1, False, "true or false"),
        (bool, "maybe", True, "true or false"),
        (str, 7, False, "a text"),
        (STEPS, "", False, "whole numbers, such as 2,1"),
        (STEPS, "20,,10", True, "whole numbers, such as 2,1"),
        (STEPS, [2.5], False, "whole numbers, such as 2,1"),
        (STEPS, None, False, "whole numbers, such as 2,1"),
    ],
)
def test_what_cannot_be_the_type_is_refused(kind: Any, value: Any, text: bool, takes: str) -> None:
    with pytest.raises(NotOfTypeError, match=takes):
        typed(kind, value, text=text, example="2,1")
