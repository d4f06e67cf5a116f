"""How the frozen examples were made, once, by the code of commit 70f972b: never make them again.

They stand for what users have. A test that fails on one of them has found a change that users would
notice; the change is mended, not the example. Examples of later formats come beside them.

    python tests/frozen/make.py FOLDER      # in an empty folder, with that commit's package
"""

from __future__ import annotations

import json
import os
import shutil
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
GOLDEN = HERE.parent / "golden"
os.environ.update(HF_HUB_CACHE=str(GOLDEN / "hf_cache"), HF_HUB_OFFLINE="1", OMP_NUM_THREADS="1")

SMALL, MUSICGEN = "facebook/magnet-small-10secs", "facebook/musicgen-small"
SOUND, LONG = "facebook/audio-magnet-small", "facebook/magnet-small-30secs"

# The file, and the arguments that made it.
SOUNDS = {
    "masked.wav": ["gen", "lofi piano", "-m", SMALL, "-d", "0.4", "--seed", "1"],
    "sound.flac": ["gen", "rain on a roof", "-m", SOUND, "-d", "0.5", "--seed", "2"],
    "steps.wav": ["gen", "piano", "-m", MUSICGEN, "-d", "0.4", "--seed", "3"],
    "steps-told.flac": [
        "gen", "piano", "-m", MUSICGEN, "-d", "0.4", "--seed", "4", "--top-p", "0.8",
        "--cfg-coef", "2", "--coherence-boost", "0.5", "--frequency-penalty", "0.3",
    ],
    "rescored.wav": [
        "gen", "piano", "-m", SMALL, "--steps", "8,4,2,2", "-d", "0.4", "--seed", "5",
        "--rescorer", "twin", "--rescorer-weight", "0.02", "--rescore-streams", "0,1",
    ],
    "rescored-plainly.flac": [
        "gen", "piano", "-m", SMALL, "-d", "0.4", "--seed", "6", "--rescorer", "twin",
    ],
    "hybrid.wav": [
        "gen", "piano", "-m", SMALL, "-d", "0.4", "--seed", "7", "--hybrid", "0.1",
        "--hybrid-model", "twin",
    ],
    "hybrid-told.wav": [
        "gen", "piano", "-m", SMALL, "-d", "0.4", "--seed", "8", "--hybrid", "0.2",
        "--hybrid-model", "twin", "--hybrid-temperature", "0.9", "--hybrid-top-p", "0.7",
    ],
    "fast.wav": ["gen", "drums", "-m", SMALL, "-d", "0.4", "--seed", "9", "--preset", "fast"],
    "negative.flac": [
        "gen", "it's a \"quiet\" night; `x` $HOME", "-m", "small", "-d", "0.4", "--seed", "10",
        "--negative", "voices", "--max-cfg-coef", "4", "--no-normalize",
    ],
    "stride1.wav": [
        "gen", "strings", "-m", SMALL, "-d", "0.4", "--seed", "11", "--spans", "stride1",
        "--span-len", "4", "--top-k", "50", "--no-anneal", "--temperature", "1.5",
        "--score-noise", "1",
    ],
    "trimmed.wav": [
        "gen", "strings", "-m", SMALL, "-d", "0.33", "--seed", "12", "--trim", "--greedy",
        "--span-scoring", "prod", "--steps", "4",
    ],
    "segment.wav": ["gen", "slow pad", "-m", SMALL, "--seed", "13", "--sample-rate", "4000"],
    "clip.ogg": ["gen", "bells", "-m", SOUND, "-d", "0.5", "--seed", "14"],
    "clip.opus": ["gen", "bells", "-m", SOUND, "-d", "0.5", "--seed", "15", "--channels", "2"],
    "clip.mp3": ["gen", "bells", "-m", SMALL, "-d", "0.4", "--seed", "16"],
    "float.wav": [
        "gen", "bells", "-m", SOUND, "-d", "0.4", "--seed", "17", "--bit-depth", "float",
        "--lufs", "-20", "--peak", "-3", "--fade", "0.05",
    ],
    "deep.flac": [
        "gen", "bells", "-m", SOUND, "-d", "0.4", "--seed", "18", "--bit-depth", "24",
    ],
    "loop.wav": [
        "gen", "a loop", "-m", SOUND, "-d", "1.2", "--seed", "19", "--loop", "--steps", "4",
    ],
    "long.wav": [
        "gen", "a long one", "-m", SOUND, "-d", "12", "--seed", "20", "--sample-rate", "4000",
        "--steps", "2",
    ],
    "timed.flac": [
        "gen", "slow strings", "--at", "1", "drums enter", "-m", SOUND, "-d", "2", "--seed", "21",
        "--steps", "4", "--sample-rate", "8000",
    ],
    "overlapping.wav": [
        "gen", "a long one", "-m", SOUND, "-d", "11", "--seed", "22", "--sample-rate", "4000",
        "--steps", "1", "--overlap", "4",
    ],
    "extended.wav": [
        "extend", "input.wav", "goes on", "-m", SOUND, "--to", "1.6", "--seed", "23",
        "--steps", "4",
    ],
    "patched.wav": [
        "edit", "input.wav", "birdsong", "-m", SOUND, "--region", "0.2-0.5", "--seed", "24",
        "--steps", "4",
    ],
    "through-codec.flac": [
        "edit", "input.wav", "birdsong", "-m", SOUND, "--region", "0.1-0.3", "--region",
        "0.6-0.8", "--seed", "25", "--through-codec", "--steps", "4",
    ],
    "varied.wav": [
        "vary", "input.wav", "the same in rain", "-m", SOUND, "--strength", "0.6", "--seed", "26",
        "--steps", "4",
    ],
    "kept-streams.flac": [
        "vary", "input.wav", "the same in rain", "-m", SOUND, "--keep-streams", "1", "--seed",
        "27", "--steps", "4",
    ],
}  # fmt: skip

TIME = 10**18  # times of a codec's sounds, in nanoseconds, by which its training identifies them

PROMPTS = [
    {"prompt": "rain"},
    {"prompt": "wind", "seed": 41, "temperature": 1.5, "out": "deep/wind.flac"},
    {"prompt": "fire", "num": 2, "steps": [2, 1, 1, 1], "negative": "voices"},
    {"prompt": "a door"},
    {"prompt": "ice", "preset": "fast", "fade": 0.01},
]


def run(*arguments: str) -> int:
    from magnet_cli.cli.app import run as magnet

    status = magnet(list(arguments))
    print(status, *arguments)
    return status


def sounds(out: Path) -> None:
    """The sound files, the inputs of edits, and a hybrid pair's model."""
    twin(Path("twin"))
    assert run("gen", "a beginning", "-m", SOUND, "-d", "1", "--seed", "40", "-o", "input.wav") == 0
    for name, arguments in SOUNDS.items():
        assert run(*arguments, "-o", str(out / name)) == 0, name
    shutil.copy("input.wav", out)


def twin(folder: Path) -> None:
    """A folder with golden's MusicGen and golden's MAGNeT's codec; the released models share one."""
    (music,) = (GOLDEN / "hf_cache/models--facebook--musicgen-small/snapshots").iterdir()
    (small,) = (GOLDEN / "hf_cache/models--facebook--magnet-small-10secs/snapshots").iterdir()
    folder.mkdir()
    shutil.copy(music / "state_dict.bin", folder)
    shutil.copy(small / "compression_state_dict.bin", folder)


def batch(out: Path) -> None:
    """A batch with one failed and one lost clip, stopped before its last."""
    from magnet_cli.pipeline import Model

    out.mkdir()
    prompts = out / "prompts.jsonl"
    prompts.write_text("".join(json.dumps(line) + "\n" for line in PROMPTS))
    generate = Model.generate

    def broken(self, texts, *arguments, **more):
        if "a door" in texts:
            raise RuntimeError("the door broke it")
        if "ice" in texts:
            raise KeyboardInterrupt
        return generate(self, texts, *arguments, **more)

    Model.generate = broken
    status = run(
        "batch", str(prompts), "-O", str(out / "clips"), "-m", SMALL, "--steps", "1", "-d", "0.2",
        "--seed", "5", "--batch-size", "1",
    )  # fmt: skip
    Model.generate = generate
    assert status == 130
    (out / "clips" / "0000-rain-5.wav").unlink()


def training(out: Path) -> None:
    """A language model's and a codec's training, each stopped between two steps."""
    sys.path.insert(0, str(HERE.parent.parent))
    import numpy as np
    import soundfile
    import torch

    from magnet_cli.checkpoints import native
    from magnet_cli.models.spectral_codec import SpectralCodec  # noqa: F401
    from tests.training.conftest import tiny_codec, tiny_text_encoder

    out.mkdir()
    os.chdir(out)
    native.save_part(Path("codec"), tiny_codec())
    native.save_part(Path("text"), tiny_text_encoder())
    generator = np.random.default_rng(0)
    Path("sounds").mkdir()
    for number, caption in enumerate(("rain", "slow piano", "a roof", "fast on")):
        soundfile.write(
            f"sounds/{number}.wav", generator.normal(0, 0.1, 300), 100, subtype="PCM_16"
        )
        Path(f"sounds/{number}.txt").write_text(caption)
    assert run("data", "encode", "sounds", "tokens", "--codec", "./codec") == 0
    shutil.copytree(
        "tokens", "held-out"
    )  # what is trained on is not a validation set under its own name
    torch.manual_seed(0)
    common = (
        "--data", "tokens", "--codec", "./codec", "--text-encoder", "./text", "--modeling",
        "hybrid", "--dim", "16", "--num-heads", "2", "--num-layers", "1", "--segment-duration",
        "2.4", "--batch-size", "4", "--micro-batch", "2", "--warmup-steps", "2", "--seed", "4",
        "--learning-rate", "0.01", "--log-every", "1", "--checkpoint-every", "2", "--ema-every",
        "2", "--valid", "held-out", "--valid-every", "3", "--keep-checkpoints", "1",
    )  # fmt: skip
    from magnet_cli.training.loop import Trainer

    step = Trainer.take_step

    def stopping(self, *batches):
        if self.step == stop:
            raise KeyboardInterrupt
        return step(self, *batches)

    stop = 3
    Trainer.take_step = stopping
    assert run("train", "lm", "model", *common, "--steps", "6") == 130
    Trainer.take_step = step
    os.chdir("..")
    # The result of an uninterrupted run.
    shutil.copytree(out, "whole")
    os.chdir("whole")
    shutil.rmtree("model")
    assert run("train", "lm", "model", *common, "--steps", "6") == 0
    os.chdir("..")
    (out / "whole").mkdir()
    for name in ("lm.safetensors", "log.jsonl"):
        shutil.copy(f"whole/model/{name}", out / "whole")


def codec_training(out: Path) -> None:
    """A spectral codec's training, stopped after its first checkpoint, and its uninterrupted result."""
    from magnet_cli.training.codec import train_codec
    from tests.training.test_codec import settings

    sounds = out / "tones"
    sounds.mkdir()
    import numpy as np
    import soundfile

    time = np.arange(3200) / 3200
    for index in range(3):
        tone = 0.4 * np.sin(2 * np.pi * 110 * 2 ** (index / 8) * time)
        tone *= np.exp(-4 * (time * (2 + index % 3) % 1))
        soundfile.write(sounds / f"{index}.wav", tone, 3200)
        os.utime(sounds / f"{index}.wav", ns=(TIME, TIME))
        (sounds / f"{index}.txt").write_text("a tone")

    def stop(record):
        if record.get("step") == 6:
            raise KeyboardInterrupt

    try:
        train_codec(settings(sounds, out / "codec-run"), stop)
    except KeyboardInterrupt:
        print("stopped")
    made = train_codec(settings(sounds, out.parent / "codec-whole"), lambda record: None)
    shutil.copytree(made.directory, out / "codec-whole")


def main(out: Path) -> None:
    made = out.resolve()
    (made / "sounds").mkdir(parents=True)
    (made / "work").mkdir()
    os.chdir(made / "work")
    sounds(made / "sounds")
    batch(made / "batch")
    training(made / "training")
    codec_training(made / "training")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
