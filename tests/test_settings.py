"""A setting is one field: it is a flag, a column, checked and documented, and kept in files."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from magnet_cli import settings

ROOT = Path(__file__).parent.parent

# The field that CONTRIBUTING.md's newcomer would write, into a copy of settings.py.
FIELD = """
    swing: float | None = setting(
        None, _DECODING, "How late every second beat is.", flags="--swing-by", metavar="X", low=0,
        high=1, usual=0.25, only="masked",
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
from magnet_cli import provenance
from magnet_cli.cli.again import command_for
from magnet_cli.data.prompt_files import read_prompts
from magnet_cli.decoding.resolving import resolve, used
from magnet_cli.errors import UsageError
from magnet_cli.settings import DecodingConfig, OutputConfig
from tests.models.tiny import tiny_lm

row = "| `--swing-by X` | How late every second beat is. Default: the checkpoint's own, usually 0.25. |"
assert row in reference_text()

(line,) = read_prompts(io.BytesIO(b"prompt,swing\\nrain,0.5\\n"), "csv")
(short,) = read_prompts(io.BytesIO(b'{"prompt": "rain", "swing-by": 0.5}'), "jsonl")
assert line.decoding == short.decoding == DecodingConfig(swing=0.5)
(line,) = read_prompts(io.BytesIO(b"prompt,swing\\nrain,2\\n"), "csv")
assert "swing cannot be 2.0. --swing takes a number from 0 to 1." in line.message

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

said = {"prompts": ["rain"], "negative_prompts": [None], "seeds": [1]}
made = provenance.record(said, 0, DecodingConfig(swing=0.5), OutputConfig())
assert made["given"] == {"swing": 0.5}
assert command_for(made, "a.wav")[-5:] == ["--swing-by", "0.5", "-o", "a.wav", "rain"]
"""


def test_a_new_setting_is_one_field() -> None:
    program = [sys.executable, "-c", FINDS_IT, settings.__file__, FIELD]
    done = subprocess.run(program, capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stderr
