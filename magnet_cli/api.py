"""The Python API: `load_model`, a model that generates and edits sound, and results that can be saved.

    model = load_model("small")
    model.generate(["lofi piano"], seeds=[1]).save("piano.wav")
    model.extend("piano.wav", "drums enter", seconds=20).save("longer.wav")

Files record how they were made, as those of the command line do: see `magnet show`.
"""

from __future__ import annotations

import json
import os
import reprlib
import secrets
from collections.abc import Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from magnet_cli.audio.sound import Sound, open_sound
from magnet_cli.checkpoints.load import load_parts
from magnet_cli.checkpoints.loras import parse_loras
from magnet_cli.checkpoints.place import find_place
from magnet_cli.clips import Clip, Edit, Making, Result
from magnet_cli.decoding.contracts import OnStep
from magnet_cli.editing import bars, looping, pieces, transcoding, variation
from magnet_cli.editing.pieces import Direction
from magnet_cli.editing.transcoding import encode_sound, frames_holding, whole_frames_in
from magnet_cli.editing.windows import Cue, regions_of
from magnet_cli.errors import UsageError
from magnet_cli.models.parts import Parts
from magnet_cli.models.text import FASTEST, SLOWEST
from magnet_cli.pipeline import GenerationResult, Pipeline
from magnet_cli.request import frames_for, make_request
from magnet_cli.resolving import gather
from magnet_cli.settings import BarsConfig, DecodingConfig, steady


@dataclass(frozen=True)
class Heard:
    """A sound encoded by a model's codec, which several edits can start from."""

    codes: Tensor  # int64 [1, K, T]
    seconds: float
    input: str | None = None  # the file, as the command line names it; None: not from a file
    of: Mapping[str, Any] = field(default_factory=dict)  # {"of": the file's record}, if it has one
    bpm: float | None = None  # tempo of its bars, if known


# What an edit starts from: a sound file, an open sound, codes [1, K, T] or an earlier result.
Source = str | os.PathLike[str] | Sound | Tensor | GenerationResult | Clip | Heard
# One text for the whole piece, or pairs of a start in seconds and a text.
Prompt = str | None | Sequence[tuple[float, str | None]]

_LONGEST_RECORD = 10_000  # characters; the limit of a comment is about five times that


class Model(Pipeline):
    """A loaded model; `Pipeline` lists its attributes.

    The edits (`extend`, `inpaint`, `vary`, `loop`) also take `seed` (None draws one), `config`,
    `negative_prompt` and `on_step` as in `generate`, and `overlap` (seconds of known codes that a window
    sees; None: 0.3 segments).

    All methods raise UsageError (an argument has a wrong type or value, or the model does not support the
    edit: autoregressive ones support only `extend`) and AudioFileError (a sound cannot be read).
    """

    def __init__(self, parts: Parts, folder: str | None = None) -> None:
        """`folder`: the folder it was loaded from, as the user named it; None: loaded by name."""
        super().__init__(parts)
        self.folder = folder

    def generate(
        self,
        prompts: Sequence[str | None],
        config: DecodingConfig | None = None,
        seeds: Sequence[int] | None = None,
        negative_prompts: Sequence[str | None] | str | None = None,
        frames: int | None = None,
        prompt_codes: Tensor | None = None,
        known_codes: Tensor | None = None,
        known_mask: Tensor | None = None,
        on_step: OnStep | None = None,
        rescorer: Pipeline | Parts | str | None = None,
        rescorer_weight: float | None = None,
        hybrid: float | None = None,
        hybrid_model: Pipeline | Parts | str | None = None,
        *,
        duration: float | None = None,
    ) -> Result:
        """Generate one clip for each prompt.

        Args:
            prompts: texts; None (or "") is the null condition.
            config: decoding settings; None in a field means the checkpoint's default.
            seeds: one per prompt, 0 or more; None draws them. The same seeds, model, settings, device and
                dtype give the same codes. With masked decoding on a CPU an item's codes do not depend on
                the rest of the batch; otherwise a batch rounds differently, which can change a draw.
            negative_prompts: one per prompt, or one for all; guidance leads away from them.
            frames: length of the clip in frames, at most the segment, which is the default.
            prompt_codes: int64 [B or 1, K, T'], codes at the start, to continue from.
            known_codes, known_mask: int64 and bool [B or 1, K, frames]: codes to keep, anywhere.
            on_step: called after every decoding step.
            rescorer: an autoregressive or hybrid model with the same codec, or its name, whose
                probabilities are mixed into the span scores; `self`: a hybrid-trained model itself.
            rescorer_weight: this model's weight in the scores, 0..1; sets `config.rescorer_weight`.
            hybrid: seconds to decode autoregressively before the rest; sets `config.hybrid`.
            hybrid_model: the model that decodes them, with the same codec, or its name; a
                hybrid-trained model needs none.
            duration: length in seconds, instead of `frames`; the audio is cut to it.

        Raises:
            UsageError: an argument cannot be used, or does not fit the others.
            MagnetError: a model given by name cannot be loaded.
        """
        if duration is not None:
            if frames is not None:
                raise UsageError("frames and duration are both given.", "Leave one of them out.")
            duration = _length("duration", duration)
            frames = frames_for(duration, self.lm.config, self.name)
        given = _config(config)
        if rescorer_weight is not None or hybrid is not None:
            given = DecodingConfig(rescorer_weight=rescorer_weight, hybrid=hybrid).over(given)
        loaded: dict[str, Model] = {}

        def load(name: str) -> Parts:
            """Load another model on the same device and in the same precision."""
            loaded[name] = load_model(name, device=str(self.device), dtype=self.dtype)
            return loaded[name].parts

        partners = gather(
            self.parts,
            given,
            _parts_of("rescorer", rescorer),
            _parts_of("hybrid_model", hybrid_model),
            load,
        )
        request = make_request(
            self.parts,
            prompts,
            config=given,
            seeds=seeds,
            negative_prompts=negative_prompts,
            frames=frames,
            prompt_codes=prompt_codes,
            known_codes=known_codes,
            known_mask=known_mask,
            partners=partners,
        )
        made = self.run(request, on_step)
        if duration is not None:
            length = max(1, round(duration * self.sample_rate))
            made = replace(made, audio=made.audio[..., :length])
        elif frames is not None:
            duration = made.codes.shape[-1] / self.frame_rate
        folders = {}
        for role, other in {"rescorer": rescorer, "hybrid_model": hybrid_model}.items():
            model = loaded.get(other) if isinstance(other, str) else other
            if isinstance(model, Model) and model is not self and model.folder is not None:
                folders[role] = model.folder
        return Result(
            **vars(made), model=self, making=Making(given, duration, self.folder, folders)
        )

    def extend(self, source: Source | None, prompt: Prompt, seconds: float, **how: Any) -> Clip:
        """Continue a sound to a length of `seconds`, or generate a piece of that length.

        Args:
            source: the beginning of the piece; None: start from scratch.
            prompt: one text, or texts with times: [(0, "soft piano"), (6, "drums enter")].
            seconds: length of the whole piece; there is no maximum.

        Raises:
            UsageError: the piece would not be longer than the source.
        """
        *_, whole = self.growing(source, prompt, seconds, **how)
        return whole

    def growing(
        self, source: Source | None, prompt: Prompt, seconds: float, **how: Any
    ) -> Iterator[Clip]:
        """As `extend`, but yield the finished part after each window, so that a caller can stop early."""
        seconds = _length("seconds", seconds)
        direction, hooks = self._direction(prompt, **how)
        known, command = None, _gen(direction, loop=False)
        if source is not None:
            heard = self.hear(source, whole=True)
            known, direction = heard.codes, replace(direction, bpm=heard.bpm)
            command = _command(heard, "extend", {"to": seconds, "overlap": direction.overlap})
        frames = frames_holding(self, seconds)
        making = self._making(direction, command, seconds if source is None else None)
        for piece in pieces.growing(self, direction, frames, known, **hooks):
            finished, settings = piece.frames / self.frame_rate, piece.settings
            if piece.frames < frames:
                settings = {**settings, "partial": {"seconds": finished, "of": seconds}}
            yield Clip(self, piece.codes, settings, making, min(seconds, finished))

    def inpaint(
        self,
        source: Source,
        prompt: str | None,
        regions: Sequence[tuple[float, float]],
        *,
        through_codec: bool = False,
        **how: Any,
    ) -> Clip | Edit:
        """Regenerate regions of a sound and leave the rest unchanged.

        Args:
            source: a file, whose samples outside the regions are kept (gives an Edit), or codes (gives a
                Clip).
            prompt: describes the sound of the regions.
            regions: pairs of start and end in seconds, extended to whole frames.
            through_codec: also decode the rest of a file through the codec, for a uniform sound.

        Raises:
            UsageError: a region lies outside the sound.
        """
        pieces.need_masks(self, "fill in a region")
        direction, hooks = self._direction(prompt, **how)
        try:
            spans = [(float(start), float(stop)) for start, stop in regions]
        except (TypeError, ValueError):
            raise UsageError(
                f"regions cannot be {regions!r}.", "Give pairs of seconds: [(2.0, 5.5)]."
            ) from None
        flags = {
            "region": ["-".join(np.format_float_positional(t, trim="-") for t in s) for s in spans],
            "through_codec": through_codec,
            "overlap": direction.overlap,
        }
        if isinstance(source, (str, os.PathLike, Sound)) and not through_codec:
            opened = nullcontext(source) if isinstance(source, Sound) else open_sound(source)
            with opened as sound:
                heard = _heard(sound)
                direction = replace(direction, bpm=heard.bpm)
                edit = transcoding.edit_regions(self, direction, sound, spans, **hooks)
            making = self._making(direction, _command(heard, "edit", flags))
            return Edit(source if isinstance(source, Sound) else Path(source), edit, making)
        heard = self.hear(source)
        direction = replace(direction, bpm=heard.bpm)
        found = regions_of(spans, self.frame_rate, heard.codes.shape[-1])
        piece = pieces.inpaint(self, direction, heard.codes, found, **hooks)
        making = self._making(direction, _command(heard, "edit", flags))
        return Clip(self, piece.codes, piece.settings, making, heard.seconds)

    def vary(
        self,
        source: Source,
        prompt: str | None,
        strength: float = 0.5,
        *,
        keep_streams: int = 0,
        **how: Any,
    ) -> Clip:
        """Make a variation of a sound: keep a share of its codes and regenerate the others.

        Args:
            strength: from 0 (keep every code) to 1 (keep none).
            keep_streams: number of streams to keep whole, from the coarsest on.
        """
        strength = _number("strength", strength)
        if not isinstance(keep_streams, int):
            raise UsageError(f"keep_streams cannot be {keep_streams!r}.", "Give a whole number.")
        variation.check_variation(self, strength, keep_streams)
        direction, hooks = self._direction(prompt, **how)
        flags = {"strength": strength, "keep_streams": keep_streams, "overlap": direction.overlap}
        heard = self.hear(source)
        direction = replace(direction, bpm=heard.bpm)
        piece = variation.vary(self, direction, heard.codes, strength, keep_streams, **hooks)
        making = self._making(direction, _command(heard, "vary", flags))
        return Clip(self, piece.codes, piece.settings, making, heard.seconds)

    def loop(
        self,
        prompt: Prompt,
        seconds: float | None = None,
        *,
        source: Source | None = None,
        exact: bool = False,
        tries: int | None = None,
        **how: Any,
    ) -> Clip:
        """Make a seamless loop of whole frames.

        If the sound has a steady beat, the loop is a whole number of beats long, near the requested length
        (`Clip.beat`). If it only pulses, its length follows the strongest pulse. If it has hits but no
        certain beat, other seeds are tried (`Clip.tried`).

        Args:
            seconds: requested length; None: the segment's.
            source: a sound to turn into a loop, instead of generating one.
            exact: keep the requested length, whatever the beat.
            tries: seeds to try; None: 3.

        Raises:
            UsageError: the loop is too short, or `tries` is given where no seeds are tried.
        """
        BarsConfig(tries=tries).check_tries(loop=source is None and not exact)
        pieces.need_masks(self, "close a loop")
        direction, hooks = self._direction(prompt, **how)
        making, beat, tried = self._making(direction), None, 1
        if source is None:
            asked = self.segment_duration if seconds is None else _length("seconds", seconds)
            frames = frames_holding(self, asked)
            looping.check_loop(self, frames)
            once = {} if exact else {"tries": 1}  # for the seed that is taken
            command = _gen(direction, loop=True, exact=exact, **once)
            making = self._making(direction, command, asked)
            if exact:
                codes = pieces.extend(self, direction, frames, **hooks).codes
            else:
                steadied = replace(direction, config=steady(direction.config, self.parts.defaults))
                take = looping.best_take(self, steadied, frames, tries, **hooks)
                codes, beat, tried, direction = take.codes, take.beat, take.tried, take.direction
        elif seconds is None:
            heard = self.hear(source, whole=True)
            codes, direction = heard.codes, replace(direction, bpm=heard.bpm)
        else:
            raise UsageError("source and seconds are both given.", "Leave one of them out.")
        made = looping.close_loop(
            self, direction, codes, beat, found=source is not None, on_step=hooks["on_step"]
        )
        clip = Clip(self, made.codes, made.settings, making, decoded=made.audio[0], loop=made)
        return replace(clip, beat=beat, tried=tried)

    def bars(self, prompt: Prompt, wanted: BarsConfig, loop: bool = False, **how: Any) -> Clip:
        """Make bars at a tempo: model.bars("funk drums", BarsConfig(bpm=120, bars=4), loop=True).

        Tries a few seeds and takes the one with the nearest beat. If that is at most 4 % off, the sound is
        stretched to the exact length in samples; otherwise it is left as it is (`Clip.beat`).

        Args:
            wanted: bpm, bars and tries.
            loop: make a seamless loop.

        Raises:
            UsageError: `wanted` has no bars, or the library for stretching is not installed.
        """
        if not isinstance(wanted, BarsConfig) or wanted.bpm is None:
            raise UsageError(f"{wanted!r} has no bars.", "Give BarsConfig(bpm=120, bars=4).")
        if loop:
            pieces.need_masks(self, "close a loop")
        direction, hooks = self._direction(prompt, **how)
        made = bars.make_bars(self, direction, wanted, loop, **hooks)
        once = {"bpm": wanted.bpm, "bars": wanted.bars, "tries": 1}  # for the seed that was taken
        making = self._making(direction, _gen(direction, loop, exact=False, **once))
        clip = Clip(self, made.codes, made.settings, making, decoded=made.audio, loop=made.loop)
        return replace(clip, beat=made.beat, tried=made.tried)

    def hear(self, source: Source, whole: bool = False) -> Heard:
        """Encode a sound, so that several edits can start from it.

        Args:
            source: see `Source`.
            whole: drop a last frame that is only partly filled.

        Raises:
            UsageError: it is not a sound, or its codes do not fit this model's codec.
        """
        if isinstance(source, (str, os.PathLike, Sound)):
            opened = nullcontext(source) if isinstance(source, Sound) else open_sound(source)
            with opened as sound:
                codes = encode_sound(self, sound)
                if whole:
                    codes = codes[..., : whole_frames_in(self, sound)]
                return replace(_heard(sound), codes=codes)
        if isinstance(source, Heard):
            return source
        made = source if isinstance(source, Tensor) else getattr(source, "codes", None)
        if not isinstance(made, Tensor):
            raise UsageError(
                f"{reprlib.repr(source)} is not a sound.",
                "Give a file, codes [1, streams, frames] or a result; save an edit of a file first.",
            )
        pieces.check_codes(self, made)
        seconds, said = made.shape[-1] / self.frame_rate, getattr(source, "seconds", None)
        seconds = seconds if said is None else min(seconds, said)
        return Heard(made, seconds, bpm=_bpm_of(getattr(source, "settings", {})))

    def check_piece(self, prompt: Prompt, seconds: float, loop: bool = False, **how: Any) -> None:
        """Check, without generating, that the model can make a piece.
        Raises UsageError: the settings, the overlap or the prompts' times do not fit the model; for a
        loop, the model is autoregressive or the loop too short."""
        direction, _ = self._direction(prompt, **how)
        frames = frames_holding(self, seconds)
        pieces.Filler(self, direction, frames)
        if loop:
            looping.check_loop(self, frames)

    def _direction(
        self,
        prompt: Prompt,
        seed: int | None = None,
        config: DecodingConfig | None = None,
        negative_prompt: str | None = None,
        overlap: float | None = None,
        on_step: OnStep | None = None,
        on_window: pieces.OnWindow | None = None,
    ) -> tuple[Direction, dict[str, Any]]:
        """Check the arguments of an edit: its Direction, and the callbacks as keyword arguments."""
        try:
            timed = [(0.0, prompt)] if prompt is None or isinstance(prompt, str) else list(prompt)
            cues = tuple(Cue(float(start), text) for start, text in timed)
        except (TypeError, ValueError):
            raise UsageError(
                f"prompt cannot be {prompt!r}.",
                'Give a text, or texts with their seconds: [(0, "soft piano"), (6, "drums enter")].',
            ) from None
        for text in (negative_prompt, *(cue.prompt for cue in cues)):
            if text is not None and not isinstance(text, str):
                raise UsageError(f"{text!r} is not a prompt.", "Give a text, or None.")
        seed = secrets.randbelow(2**32) if seed is None else seed
        overlap = None if overlap is None else _number("overlap", overlap)
        hooks = {"on_step": on_step, "on_window": on_window}
        return Direction(cues, seed, negative_prompt, _config(config), overlap), hooks

    def _making(
        self,
        direction: Direction,
        command: Mapping[str, Any] | None = None,
        duration: float | None = None,
    ) -> Making:
        return Making(_config(direction.config), duration, self.folder, command=command or {})


def load_model(
    name: str | os.PathLike[str] | None = None,
    *,
    device: str = "auto",
    dtype: str = "auto",
    offline: bool = False,
    revision: str | None = None,
    progress: Any = None,
    lora: Any = None,
) -> Model:
    """Load a model by name, hub id or directory; None is the built-in one.

    Args:
        name: `small`, `facebook/magnet-small-10secs[@revision]`, a directory (a Path always is), ...
        device: auto, cpu, cuda, cuda:1, mps.
        dtype: auto (float16 on CUDA, bfloat16 for large models on processors that multiply it themselves,
            float32 elsewhere), float32, float16, bfloat16, int8 (CPU).
        offline: never use the network (as HF_HUB_OFFLINE=1 does).
        revision: a branch, tag or commit of the hub repository.
        progress: receives the progress of downloads, see `checkpoints.place.find_place`.
        lora: adapters to merge into the model: a path, "path:0.7", (path, 0.7), or a list of these.

    Raises:
        ModelNotFoundError: it is neither on this machine nor can be downloaded.
        CheckpointError: its files are not a model, or an adapter is for another model.
        UsageError: there is no such device or dtype, too little memory, or `lora` is not an adapter.
    """
    loras = [one.check() for one in parse_loras(lora)] if lora else []
    if isinstance(name, os.PathLike):
        name = os.path.join(".", os.fspath(name))
    if name is not None and not isinstance(name, str):
        raise UsageError(f"{name!r} is not a model.", "Give a name, a hub id or a folder.")
    resolved = find_place(name, offline=offline, revision=revision, progress=progress)
    folder = name if resolved.repo is None and resolved.known is None else None
    return Model(load_parts(resolved, device, dtype, loras), folder)


def _heard(sound: Sound) -> Heard:
    """An open sound's length, file and record for the record of an edit, still without codes."""
    made, of, bpm = sound.metadata, {}, None
    if made is not None:
        bpm = _bpm_of(made)
        # Without its own input, or records would grow with every edit; none if a comment could not hold it.
        if isinstance(edit := made.get("edit"), Mapping):
            made = {**made, "edit": {name: value for name, value in edit.items() if name != "of"}}
        if len(json.dumps(made)) <= _LONGEST_RECORD:
            of = {"of": dict(made)}
    return Heard(torch.zeros(1, 0, 0, device="cpu"), sound.duration, sound.source, of, bpm)


def _bpm_of(made: Mapping[str, Any]) -> float | None:
    """The tempo of the bars of what was made; None if there is none, or it was stretched to another."""
    bpm, edit = made.get("bpm"), made.get("edit")
    bpm = bpm[0] if isinstance(bpm, list) and len(bpm) == 1 else bpm
    beat = edit.get("beat") if isinstance(edit, Mapping) else None
    if isinstance(beat, Mapping) and "stretch" in beat:
        return None
    return float(bpm) if isinstance(bpm, (int, float)) and SLOWEST <= bpm <= FASTEST else None


def _command(heard: Heard, name: str, flags: Mapping[str, Any]) -> dict[str, Any]:
    """The command that makes an edit again; empty if the source was codes, which no command takes."""
    if heard.input is None:
        return {}
    return {"command": name, "input": heard.input, "flags": dict(flags), **heard.of}


def _gen(direction: Direction, loop: bool, **own: Any) -> dict[str, Any]:
    """The command that makes a piece from scratch again, with its flags."""
    return {"command": "gen", "flags": {"loop": loop, **own, "overlap": direction.overlap}}


def _config(given: object) -> DecodingConfig:
    if given is None or isinstance(given, DecodingConfig):
        return given or DecodingConfig()
    raise UsageError(f"config cannot be {given!r}.", "Give a DecodingConfig.")


def _parts_of(name: str, given: object) -> Parts | str | None:
    if given is None or isinstance(given, (str, Parts)):
        return given
    if isinstance(given, Pipeline):
        return given.parts
    raise UsageError(f"{name} cannot be {given!r}.", "Give a loaded model, or its name.")


def _number(name: str, given: object) -> float:
    """Convert any real number, numpy's included, to a float."""
    try:
        if isinstance(given, (str, bytes)):
            raise TypeError
        return float(given)  # type: ignore[arg-type]
    except (TypeError, ValueError):
        raise UsageError(f"{name} cannot be {given!r}.", "Give a number.") from None


def _length(name: str, given: object) -> float:
    seconds = _number(name, given)
    if not 0 < seconds < 1e6:
        raise UsageError(f"{name} cannot be {seconds:g}.", "It takes seconds above 0.")
    return seconds
