"""Draw docs/images and make docs/sounds again, for README, docs/nano.md and docs/editing.md.

    pip install -c constraints.txt -e '.[recipes]'     # matplotlib, for the twenty seeds
    python docs/pictures.py

Takes minutes on two cores. Run it when the built-in model or its decoding has changed; then look at the
pictures and check the text about them.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import soundfile
from PIL import Image

IMAGES = Path(__file__).resolve().parent / "images"
COLOURS = 128
SMALL, SMALLER = (768, 390), (576, 292)  # pixels; the originals are 1280 wide
SEED = 10
FOUR = ("lofi piano", "sad solo cello", "funk drums", "heavy rain")
FIRST = {"lofi piano": 10, "heavy rain": 9}  # on README's first screen: prompt -> seed
SOUNDS = IMAGES.parent / "sounds"
TWENTY = "lofi piano"
HIGHEST = 6000  # Hz in the picture of twenty

EDITING = {  # picture -> the sound that it shows
    "longer-than-the-segment": "long.wav",
    "prompts-by-time": "timed.wav",
    "loop-twice": "twice.wav",
    "extend": "longer.wav",
    "edit": "solo.wav",
    "vary": "other-1.wav",
}


def magnet(folder: Path, *words: str) -> None:
    """Run a command of the program in a folder."""
    subprocess.run([sys.executable, "-m", "magnet_cli", *words, "--quiet"], cwd=folder, check=True)


def picture(folder: Path, sound: str) -> Image.Image:
    """The picture drawn by `magnet show SOUND --spectrogram`."""
    drawn = folder / f"{sound}.png"
    command = [sys.executable, "-m", "magnet_cli", "show", sound, "--spectrogram", drawn.name]
    subprocess.run(command, cwd=folder, check=True, stdout=subprocess.DEVNULL)
    with Image.open(drawn) as image:
        return image.convert("RGB")


def save(image: Image.Image, name: str) -> None:
    """Save to docs/images with few colours."""
    image.quantize(COLOURS).save(IMAGES / f"{name}.png", optimize=True)
    print(f"docs/images/{name}.png", flush=True)


def draw_editing(folder: Path) -> None:
    """Run the commands of docs/editing.md verbatim, and draw their results."""
    magnet(folder, "gen", "slow strings", "-d", "15", "--seed", "3", "-o", "long.wav")
    timed = ("--at", "0", "soft piano", "--at", "6", "drums enter")
    guided = ("--max-cfg-coef", "6", "--min-cfg-coef", "3")
    magnet(folder, "gen", *timed, "-d", "12", "--seed", "4", *guided, "-o", "timed.wav")
    magnet(folder, "gen", "funk drums", "-d", "8", "--loop", "--seed", "4", "-o", "loop.wav")
    louder = "techno, drums get louder"
    magnet(folder, "extend", "loop.wav", louder, "--to", "12", "--seed", "3", "-o", "longer.wav")
    solo = ("piano solo", "--region", "2.0-5.5", "--seed", "3")
    magnet(folder, "edit", "timed.wav", *solo, "-o", "solo.wav")
    other = ("lofi piano", "--strength", "0.6", "-n", "2", "--seed", "3")
    magnet(folder, "vary", "timed.wav", *other, "-o", "other.wav")
    loop, rate = soundfile.read(folder / "loop.wav")
    soundfile.write(folder / "twice.wav", np.concatenate([loop, loop]), rate)
    for name, sound in EDITING.items():
        save(picture(folder, sound).resize(SMALL, Image.Resampling.LANCZOS), name)


def draw_four(folder: Path) -> None:
    """Draw the four prompts of docs/nano.md."""
    sheet = Image.new("RGB", (2 * SMALLER[0], 2 * SMALLER[1]))
    for index, prompt in enumerate(FOUR):
        sound = f"{prompt.replace(' ', '-')}.wav"
        magnet(folder, "gen", prompt, "--seed", str(SEED), "-o", sound)
        place = (index % 2 * SMALLER[0], index // 2 * SMALLER[1])
        sheet.paste(picture(folder, sound).resize(SMALLER, Image.Resampling.LANCZOS), place)
    save(sheet, "nano")


def make_first(folder: Path) -> None:
    """Draw README's two clips side by side, and save them as mp3."""
    SOUNDS.mkdir(exist_ok=True)
    sheet = Image.new("RGB", (2 * SMALLER[0], SMALLER[1]))
    for index, (prompt, seed) in enumerate(FIRST.items()):
        sound = f"{prompt.replace(' ', '-')}.mp3"
        magnet(folder, "gen", prompt, "--seed", str(seed), "-o", sound, "--force")
        shutil.copy(folder / sound, SOUNDS / sound)
        drawn = picture(folder, sound).resize(SMALLER, Image.Resampling.LANCZOS)
        sheet.paste(drawn, (index * SMALLER[0], 0))
    save(sheet, "first")


def draw_twenty() -> None:
    """Draw twenty seeds of one prompt on a linear frequency axis, which shows hits clearly."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    import magnet_cli

    model = magnet_cli.load_model("nano", offline=True)
    figure, axes = pyplot.subplots(10, 2, figsize=(9.9, 10.8))
    made = model.generate([TWENTY] * 20, seeds=range(20))
    for seed, (place, clip) in enumerate(zip(axes.flat, made.audio, strict=True)):
        sound = clip.mean(0).numpy() + 1e-5 * np.sin(np.arange(clip.shape[-1]))  # no log of 0
        place.specgram(sound, NFFT=1024, noverlap=768, Fs=model.sample_rate, vmin=-130)
        place.set_ylim(0, HIGHEST)
        place.set_title(str(seed), fontsize=7, pad=2)
        place.tick_params(labelsize=5, pad=1)
    figure.tight_layout(pad=0.4)
    figure.canvas.draw()
    width, height = figure.canvas.get_width_height()
    shown = Image.frombuffer("RGBA", (width, height), figure.canvas.buffer_rgba())  # type: ignore[attr-defined]
    save(shown.convert("RGB"), "nano-twenty-seeds")


def main() -> None:
    """Draw everything."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        make_first(folder)
        draw_twenty()
        draw_four(folder)
        draw_editing(folder)


if __name__ == "__main__":
    main()
