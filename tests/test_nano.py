"""The built-in model is in the wheel, and works outside the checkout."""

from __future__ import annotations

import math
import os
import sys
import zipfile
from pathlib import Path

import pytest
import soundfile
import torch

import magnet_cli
from magnet_cli.api import Model
from magnet_cli.checkpoints import registry
from magnet_cli.decoding.contracts import StepEvent
from magnet_cli.decoding.sampling import make_generators
from tests import processes

ROOT = Path(__file__).parent.parent


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the unpacked wheel."""
    folder = tmp_path_factory.mktemp("wheel")
    command = [
        sys.executable,
        "-m",
        "pip",
        "wheel",
        "-q",
        "--no-deps",
        "-w",
        str(folder),
        str(ROOT),
    ]
    processes.run(command, check=True, cwd=folder)
    (wheel,) = folder.glob("*.whl")
    assert wheel.stat().st_size < 30_000_000
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(folder / "site")
    return folder / "site"


@pytest.mark.slow
def test_the_wheel_generates_outside_the_checkout(installed: Path, tmp_path: Path) -> None:
    arguments = ["gen", "lofi piano", "-o", "out.wav", "--seed", "1", "-d", "2", "--steps", "2"]
    environment = {
        **os.environ,
        "PYTHONPATH": str(installed),
        "HF_HUB_OFFLINE": "1",
        "HF_HUB_CACHE": str(tmp_path / "empty"),
        "XDG_CONFIG_HOME": str(tmp_path / "config"),
    }
    environment.pop("MAGNET_MODEL", None)
    code = "import magnet_cli; print(magnet_cli.__file__)"
    run = [sys.executable, "-P", "-c", code]
    found = processes.run(run, env=environment, cwd=tmp_path, capture_output=True, text=True)
    assert found.stdout.startswith(str(installed))
    done = processes.run(
        [sys.executable, "-P", "-m", "magnet_cli", *arguments],
        env=environment,
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert "built-in model nano" in done.stderr
    audio, rate = soundfile.read(tmp_path / "out.wav")
    assert rate == 24_000
    assert len(audio) == 2 * rate
    assert float(abs(audio).max()) > 0.1


def test_prompts_and_seeds_make_different_sound() -> None:
    (entry,) = [e for e in registry.known_checkpoints() if e.repo is None]
    assert entry.name == "nano"
    model = magnet_cli.load_model(None, device="cpu", offline=True)
    config = magnet_cli.DecodingConfig(decoding_steps=(4,))
    piano, again, seed, rain = (
        model.generate([prompt], config, [number], frames=50).codes
        for prompt, number in (("piano", 1), ("piano", 1), ("piano", 2), ("heavy rain", 1))
    )
    assert torch.equal(piano, again)
    for other in (seed, rain):
        assert float((piano != other).float().mean()) > 0.3


def likelihood(model: Model, codes: torch.Tensor, prompt: str, stage: int | None) -> float:
    """Mean log probability, in nats, of a clip's codes under the model.

    With a stage: of every fourth code of its streams, masked together with all streams above it. Without: of
    all codes, each from those before it.
    """
    seen, asked = codes.clone(), torch.ones_like(codes, dtype=torch.bool)
    if stage is None:
        logits = model.logits(seen, [prompt])
    else:
        streams = list(model.lm.config.stage_streams[stage])
        asked = torch.zeros_like(asked)
        asked[:, streams, ::4] = True
        seen[asked] = model.card
        seen[:, streams[-1] + 1 :] = model.card
        # [B, T, card], or of several streams [B, T, G, card]
        said = model.logits(seen, [prompt], stage)
        logits = torch.full((*codes.shape, model.card), torch.nan)
        logits[:, streams] = said.view(*said.shape[:2], len(streams), -1).transpose(1, 2)
    logs = logits.log_softmax(-1)
    return float(logs.gather(-1, codes[..., None])[..., 0][asked].mean())


@pytest.mark.parametrize(
    ("seconds", "parts"),
    [
        (0.0, {"masked", "codec"}),
        (1.0, {"autoregressive", "masked", "codec"}),
        (2.0, {"autoregressive", "codec"}),
    ],
)
def test_it_decodes_both_ways(seconds: float, parts: set[str]) -> None:
    """It is hybrid: the output of either mode is far from noise to both."""
    model = magnet_cli.load_model("nano", device="cpu", offline=True)
    assert model.modeling == "hybrid"
    events: list[StepEvent] = []
    result = model.generate(
        ["slow choir"], seeds=[3], frames=50, hybrid=seconds, on_step=events.append
    )
    assert {event.part for event in events} == parts
    assert float(result.audio.abs().max()) > 0.1
    chance = -math.log(model.card)
    for stage in (0, None):
        assert likelihood(model, result.codes, "slow choir", stage) > chance + 1
        noise = torch.randint(model.card, result.codes.shape, generator=make_generators([0])[0])
        assert likelihood(model, noise, "slow choir", stage) < chance
