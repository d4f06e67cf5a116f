"""`magnet doctor`: describes this machine for a bug report, and checks a model."""

from __future__ import annotations

import contextlib
import importlib.metadata
import os
import platform
import re
import shutil
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import typer

from magnet_cli.cli import configuration
from magnet_cli.cli.evaluate import PlaceOptions
from magnet_cli.cli.settings import ModelOptions, TalkOptions, complete_model, takes_flags
from magnet_cli.cli.talk import Talk, printable
from magnet_cli.errors import PartialFailureError
from magnet_cli.version import __version__

app = typer.Typer(rich_markup_mode="markdown")

EXAMPLES = """
Examples:

    magnet doctor
    magnet doctor -m small
"""

_LIBRARIES = (
    "torch", "numpy", "safetensors", "tokenizers", "huggingface_hub", "soundfile", "soxr", "typer",
    "sounddevice", "transformers", "accelerate",
)  # fmt: skip
_INSTRUCTIONS = (
    "sse4_2", "avx", "avx2", "fma", "f16c", "avx512f", "avx512_vnni", "avx512_bf16", "avx_vnni",
    "amx_bf16", "amx_int8", "asimd", "asimddp", "bf16", "i8mm", "sve",
)  # fmt: skip
_PLAYERS = ("ffplay", "afplay", "aplay", "ffmpeg")


@app.command("doctor", epilog=EXAMPLES)
@takes_flags
def doctor(
    model: Annotated[
        str | None,
        typer.Option(
            "--model",
            "-m",
            metavar="NAME",
            help="Also check this model.",
            autocompletion=complete_model,
        ),
    ] = None,
    dtype: Annotated[
        str,
        typer.Option(
            metavar="NAME", help="auto, float32, float16 or bfloat16.", show_default=False
        ),
    ] = "auto",
    *,
    place: PlaceOptions,
    talk: TalkOptions,
) -> None:
    """Describe this machine for a bug report; check a model.

    Shows versions, processor, threads, a two-second speed test, devices, cache, configuration, completion
    and sound; your home folder is shown as ~. With -m MODEL, loads the model and checks its weights and
    sizes, a round trip through its codec, and its logits for a known prompt. The exit status is 4 if a
    check fails.
    """
    voice = Talk(talk)
    record: dict[str, Any] = {}
    for name, value in _facts(place.threads):
        record[name] = _private(value)
        if not voice.json:
            voice.print(f"{name:<15}{printable(record[name])}")
    if model is None:
        voice.data(record)
        return
    from magnet_cli.cli.loading import load
    from magnet_cli.evaluation.checkup import Finding, check_model

    began = time.monotonic()
    loaded = load(ModelOptions(model, place.device, dtype, place.threads, place.offline), voice)
    took = time.monotonic() - began
    findings = [Finding("load", True, f"{loaded.name} on {loaded.device} in {took:.1f} s")]
    findings += check_model(loaded)
    if not voice.json:
        voice.print("")
        for each in findings:
            said = printable(_private(each.what))
            voice.print(f"{each.name:<10}{'good' if each.good else 'BAD':<5}{said}")
    checks = [{**vars(each), "what": _private(each.what)} for each in findings]
    voice.data({**record, "model": checks})
    bad = [each.name for each in findings if not each.good]
    if bad:
        raise PartialFailureError(
            f"{loaded.name} fails these checks: {', '.join(bad)}.",
            "Its files may be damaged: download or make it again.",
        )


def _facts(threads: int | None) -> Iterator[tuple[str, str]]:
    system = f"{platform.system()} {platform.release()} {platform.machine()}"
    yield "magnet", f"{__version__}, Python {platform.python_version()}, {system}"
    yield "libraries", ", ".join(_versions())
    yield "processor", _cpuinfo().get("model name") or platform.processor() or "unknown"
    import torch

    if threads is not None:
        torch.set_num_threads(threads)
    yield "instructions", f"torch uses {torch.backends.cpu.get_cpu_capability()}; {_instructions()}"
    yield "threads", f"{torch.get_num_threads()} of {_cores()} cores{_said_threads()}"
    yield "memory", _memory()
    yield "speed", _speed()
    yield "devices", _devices()
    yield "cache", _cache()
    yield "configuration", _configuration()
    yield "completion", _completion()
    yield "sound", _sound()
    yield "locale", f"{sys.getfilesystemencoding()}, stdout {getattr(sys.stdout, 'encoding', None)}"


def _versions() -> Iterator[str]:
    import soundfile

    for name in _LIBRARIES:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            yield f"{name} {importlib.metadata.version(name)}"
    yield f"libsndfile {soundfile.__libsndfile_version__}"


def _cpuinfo() -> dict[str, str]:
    """The first processor in /proc/cpuinfo, or {}."""
    try:
        text = Path("/proc/cpuinfo").read_text("utf-8", "replace").partition("\n\n")[0]
    except OSError:
        return {}
    pairs = (line.partition(":") for line in text.splitlines())
    return {name.strip(): value.strip() for name, _, value in pairs}


def _instructions() -> str:
    found = _cpuinfo()
    said = (found.get("flags") or found.get("Features") or "").split()
    return " ".join(name for name in _INSTRUCTIONS if name in said) or "others unknown"


def _cores() -> str:
    from magnet_cli.models.precision import available_cores

    mine, count = available_cores(), os.cpu_count() or 1
    return str(mine) if mine == count else f"{mine} (of the machine's {count})"


def _said_threads() -> str:
    names = ("OMP_NUM_THREADS", "MKL_NUM_THREADS")
    said = [f"{name}={os.environ[name]}" for name in names if name in os.environ]
    return f" ({', '.join(said)})" if said else ""


def _memory() -> str:
    try:
        whole = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (ValueError, OSError, AttributeError):
        return "unknown"
    return f"{whole / 2**30:.1f} GiB"


def _speed() -> str:
    """Speed of matrix products, one second with all threads and one second with one."""
    import torch

    threads = torch.get_num_threads()
    every = _product_rate(1.0)
    if threads == 1:
        return f"{every:.0f} GFLOP/s with one thread (float32 products)"
    torch.set_num_threads(1)
    one = _product_rate(1.0)
    torch.set_num_threads(threads)
    return f"{every:.0f} GFLOP/s, {one:.0f} with one thread (float32 products)"


def _product_rate(seconds: float) -> float:
    import torch

    size = 768
    one = torch.rand(size, size)
    one @ one
    began, products = time.monotonic(), 0
    while (took := time.monotonic() - began) < seconds:
        one @ one
        products += 1
    return 2 * size**3 * products / max(took, 1e-9) / 1e9


def _devices() -> str:
    import torch

    found = ["cpu"]
    for number in range(torch.cuda.device_count() if torch.cuda.is_available() else 0):
        facts = torch.cuda.get_device_properties(number)
        found.append(f"cuda:{number} {facts.name}, {facts.total_memory / 2**30:.0f} GiB")
    if torch.backends.mps.is_available():
        found.append("mps")
    return "; ".join(found)


def _cache() -> str:
    from magnet_cli.checkpoints import hub
    from magnet_cli.cli.inventory import inventory

    folder = hub.cache_directory()
    here = [entry.name for entry in inventory() if entry.status in ("cached", "incomplete")]
    try:
        # It or its nearest parent that exists.
        there = next((path for path in (folder, *folder.parents) if path.exists()), Path("/"))
        free = f"{shutil.disk_usage(there).free / 1e9:.0f} GB free"
    except OSError as error:
        free = f"free space unknown: {error.strerror}"
    return f"{folder}: {', '.join(here) if here else 'no models'}; {free}"


def _configuration() -> str:
    found = configuration.read()
    said = [f"{name} {'set' if name == 'model' else each}" for name, each in found.defaults.items()]
    said += [f"profile {name}" for name in found.profiles]
    if found.problems:
        said.append(f"{len(found.problems)} problems: see magnet config")
    names = ("MAGNET_MODEL", "MAGNET_PROFILE", "MAGNET_DEBUG", "HF_HUB_OFFLINE", "HF_HOME")
    said += [f"{name} is set" for name in names if os.environ.get(name)]
    return ", ".join(said) or "none"


def _completion() -> str:
    shell = Path(os.environ.get("SHELL", "")).name or "unknown shell"
    home = Path.home()
    # Written by `magnet --install-completion`.
    places = (
        ".bash_completions/magnet.sh",
        ".zfunc/_magnet",
        ".config/fish/completions/magnet.fish",
    )
    found = [place for place in places if (home / place).exists()]
    installed = f"installed: {', '.join(found)}" if found else "not installed by magnet"
    return f"{shell}, {installed}"


def _sound() -> str:
    players = [name for name in _PLAYERS if shutil.which(name)]
    said = f"programs: {', '.join(players) or 'none'}"
    try:
        import sounddevice

        outputs = sum(each["max_output_channels"] > 0 for each in sounddevice.query_devices())
        return f"{outputs} outputs through sounddevice; {said}"
    except ImportError:
        return f"no sounddevice; {said}"
    except OSError:
        return f"sounddevice finds no PortAudio; {said}"
    except Exception as error:  # PortAudio may raise anything
        return f"sounddevice fails ({type(error).__name__}); {said}"


def _private(text: str) -> str:
    """Remove the user's home folder and name."""
    home = Path.home()
    if len(str(home)) > 1:
        text = text.replace(str(home), "~")
    if len(home.name) > 2 and home.name != "root":
        text = re.sub(rf"\b{re.escape(home.name)}\b", "USER", text)
    return text
