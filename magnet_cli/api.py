"""What Python programs use: `load_model`, a model that generates and edits, and results that are saved.

    model = load_model("small")
    model.generate(["lofi piano"], seeds=[1]).save("piano.wav")
    model.extend("piano.wav", "drums enter", seconds=20).save("longer.wav")

Every file keeps how it was made, as those of the command line do: see `magnet show`.
"""

from __future__ import annotations

import os
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from torch import Tensor

from magnet_cli import provenance
from magnet_cli.audio.sound import Sound, open_sound
from magnet_cli.checkpoints.load import load_parts
from magnet_cli.checkpoints.place import find_place
from magnet_cli.clips import Making
from magnet_cli.decoding.contracts import OnStep
from magnet_cli.editing import looping, pieces, splicing, variation
from magnet_cli.editing.pieces import Direction
from magnet_cli.editing.transcoding import encode_sound, frames_holding, whole_frames_in
from magnet_cli.editing.windows import Cue, regions_of
from magnet_cli.errors import UsageError
from magnet_cli.models.parts import Parts
from magnet_cli.partners import gather
from magnet_cli.pipeline import GenerationResult, Pipeline
from magnet_cli.request import frames_for, make_request
from magnet_cli.results import EditResult, PieceResult, Result
from magnet_cli.settings import OUTPUT_DEFAULTS, DecodingConfig

# What an edit starts from: a sound file, codes [1, K, T], or what was made before.
Source = str | os.PathLike[str] | Tensor | GenerationResult | PieceResult
# A text for all of a piece, or texts with the second that each begins at.
Prompt = str | None | Sequence[tuple[float, str | None]]


class Model(Pipeline):
    """A loaded model: see `Pipeline` for what is known of it.

    The edits (`extend`, `inpaint`, `vary`, `loop`) also take `seed` (None draws one), `config` and
    `negative_prompt` as `generate` has them, `overlap` (seconds that windows share with what is known;
    None: 0.3 segments) and `on_step`.

    Raises, all of them: UsageError: an argument has a wrong type or value, or the model cannot do it
    (autoregressive ones only `extend`). AudioFileError: a sound cannot be read.
    """

    def __init__(self, parts: Parts, folder: str | None = None) -> None:
        """`folder`: where it was loaded from, as the user named it; None: by a name."""
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
            config: decoding settings; None in a field means the checkpoint's own default.
            seeds: one for each prompt, 0 or more; None draws fresh ones. The same seeds, model,
                settings, device and dtype give the same codes. An item's are those that it gets alone
                where masks are filled on a CPU; elsewhere, and where codes are written step by step,
                up to the rounding of a batch, which can flip a draw.
            negative_prompts: one for each prompt, or one for all: what to lead away from.
            frames: length of the clip in frames; the default and the most is the segment.
            prompt_codes: int64 [B or 1, K, T'], codes to continue from: known ones at the start.
            known_codes, known_mask: int64 and bool [B or 1, K, frames]: codes to keep, anywhere.
            on_step: called after every decoding step.
            rescorer: an autoregressive or hybrid model with the same codec, or its name, whose
                opinion goes into the span scores; `self`: a hybrid-trained model's own.
            rescorer_weight: this model's share in the scores, 0..1; sets `config.rescorer_weight`.
            hybrid: seconds to write autoregressively before the rest; sets `config.hybrid`.
            hybrid_model: what writes them, a model with the same codec or its name; a
                hybrid-trained model needs none.
            duration: length in seconds, in place of `frames`: the audio is cut to it.

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
            """Another model, on the same device and in the same precision."""
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
        making = Making(given, OUTPUT_DEFAULTS, duration, self.folder, folders)
        return Result(**vars(made), making=making)

    def extend(
        self, source: Source | None, prompt: Prompt, seconds: float, **how: Any
    ) -> PieceResult:
        """Continue a sound until all of it is `seconds` long, or make so long a piece from nothing.

        Args:
            source: what it begins with; None: nothing.
            prompt: what is to be heard; with times, [(0, "soft piano"), (6, "drums enter")].
            seconds: of the whole piece, to any length.

        Raises:
            UsageError: the piece would not be longer than its beginning.
        """
        seconds = _length("seconds", seconds)
        direction, on_step = self._direction(prompt, **how)
        known, command = None, _gen(direction, loop=False)
        if source is not None:
            flags = {"to": seconds, "overlap": direction.overlap}
            known, _, command = self._codes(source, "extend", flags, whole=True)
        frames = frames_holding(self, seconds)
        piece = pieces.extend(self, direction, frames, known, on_step=on_step)
        making = self._making(direction, seconds if source is None else None)
        return PieceResult(piece, seconds, self, making, command)

    def inpaint(
        self,
        source: Source,
        prompt: str | None,
        regions: Sequence[tuple[float, float]],
        *,
        through_codec: bool = False,
        **how: Any,
    ) -> PieceResult | EditResult:
        """Make regions of a sound anew and leave the rest alone.

        Args:
            source: of a file, all samples outside the regions stay as they are (an EditResult). Codes
                stay codes (a PieceResult).
            prompt: what is to be heard.
            regions: seconds, from - to; they grow to whole frames.
            through_codec: send all of a file through the codec, too, so that it sounds alike.

        Raises:
            UsageError: a region lies outside the sound.
        """
        pieces.need_masks(self, "fill in a region")
        direction, on_step = self._direction(prompt, **how)
        try:
            spans = [(float(start), float(stop)) for start, stop in regions]
        except (TypeError, ValueError):
            raise UsageError(
                f"regions cannot be {regions!r}.", "Give pairs of seconds: [(2.0, 5.5)]."
            ) from None
        flags = {
            "region": [f"{start}-{stop}" for start, stop in spans],
            "through_codec": through_codec,
            "overlap": direction.overlap,
        }
        if isinstance(source, (str, os.PathLike)) and not through_codec:
            file = Path(source)
            with open_sound(file) as sound:
                edit = splicing.edit_regions(self, direction, sound, spans, on_step=on_step)
                command = _command(file, "edit", flags, sound)
            return EditResult(file, edit, self._making(direction), command)
        codes, seconds, command = self._codes(source, "edit", flags)
        found = regions_of(spans, self.frame_rate, codes.shape[-1])
        piece = pieces.inpaint(self, direction, codes, found, on_step=on_step)
        return PieceResult(piece, seconds, self, self._making(direction), command)

    def vary(
        self,
        source: Source,
        prompt: str | None,
        strength: float = 0.5,
        *,
        keep_streams: int = 0,
        **how: Any,
    ) -> PieceResult:
        """Make a variation of a sound: a share of its codes is kept, the rest decoded anew.

        Args:
            strength: 0 keeps every code, 1 none.
            keep_streams: streams that are kept whole, from the coarsest on.
        """
        strength = _number("strength", strength)
        if not isinstance(keep_streams, int):
            raise UsageError(f"keep_streams cannot be {keep_streams!r}.", "Give a whole number.")
        variation.check_variation(self, strength, keep_streams)
        direction, on_step = self._direction(prompt, **how)
        flags = {"strength": strength, "keep_streams": keep_streams, "overlap": direction.overlap}
        codes, seconds, command = self._codes(source, "vary", flags)
        piece = variation.vary(self, direction, codes, strength, keep_streams, on_step=on_step)
        return PieceResult(piece, seconds, self, self._making(direction), command)

    def loop(
        self,
        prompt: Prompt,
        seconds: float | None = None,
        *,
        source: Source | None = None,
        **how: Any,
    ) -> PieceResult:
        """Make a loop without a seam, as long as whole frames of the codec.

        Args:
            seconds: its length; None: the segment's.
            source: a sound to make into a loop, in place of a new one.

        Raises:
            UsageError: the loop is too short.
        """
        pieces.need_masks(self, "close a loop")
        direction, on_step = self._direction(prompt, **how)
        command: Mapping[str, Any] = {}
        if source is None:
            asked = self.segment_duration if seconds is None else _length("seconds", seconds)
            frames = frames_holding(self, asked)
            looping.check_loop(self, frames)
            command = _gen(direction, loop=True)
            codes = pieces.extend(self, direction, frames, on_step=on_step).codes
        elif seconds is None:
            codes, asked, _ = self._codes(source, "loop", {}, whole=True)
        else:
            raise UsageError("A sound is as long as it is.", "Give source or seconds, not both.")
        closed = looping.close_loop(self, direction, codes, on_step=on_step)
        made = closed.audio.shape[-1] / self.sample_rate
        making = self._making(direction, asked if command else None)
        return PieceResult(closed, made, self, making, command)

    def _direction(
        self,
        prompt: Prompt,
        seed: int | None = None,
        config: DecodingConfig | None = None,
        negative_prompt: str | None = None,
        overlap: float | None = None,
        on_step: OnStep | None = None,
    ) -> tuple[Direction, OnStep | None]:
        """What the new codes are to be, of the right types."""
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
                raise UsageError(f"{text!r} is no prompt.", "Give a text, or None.")
        seed = secrets.randbelow(2**32) if seed is None else seed
        overlap = None if overlap is None else _number("overlap", overlap)
        return Direction(cues, seed, negative_prompt, _config(config), overlap), on_step

    def _codes(
        self, source: Source, command: str, flags: Mapping[str, Any], whole: bool = False
    ) -> tuple[Tensor, float, dict[str, Any]]:
        """Codes [1, K, T] of what an edit starts from, its seconds, and what says so in a file.

        `whole` leaves out a last frame that holds less sound than a frame is long.
        """
        if isinstance(source, (str, os.PathLike)):
            with open_sound(Path(source)) as sound:
                codes = encode_sound(self, sound)
                if whole:
                    codes = codes[..., : whole_frames_in(self, sound)]
                return codes, sound.duration, _command(Path(source), command, flags, sound)
        made = source if isinstance(source, Tensor) else getattr(source, "codes", None)
        if not isinstance(made, Tensor):
            raise UsageError(
                f"{source!r} is no sound.", "Give a file, codes [1, streams, frames] or a result."
            )
        pieces.check_codes(self, made)
        seconds = made.shape[-1] / self.frame_rate
        return made, min(seconds, getattr(source, "seconds", seconds)), {}

    def _making(self, direction: Direction, duration: float | None = None) -> Making:
        return Making(_config(direction.config), OUTPUT_DEFAULTS, duration, self.folder)


def load_model(
    name: str | os.PathLike[str] | None = None,
    *,
    device: str = "auto",
    dtype: str = "auto",
    offline: bool = False,
    revision: str | None = None,
    progress: Any = None,
) -> Model:
    """Load a model by name, hub id or directory; None is the built-in one.

    Args:
        name: `small`, `facebook/magnet-small-10secs[@revision]`, a directory (a Path always is), ...
        device: auto, cpu, cuda, cuda:1, mps.
        dtype: auto (float16 on CUDA, float32 elsewhere), float32, float16, bfloat16.
        offline: never use the network (as HF_HUB_OFFLINE=1 does).
        revision: a branch, tag or commit of the hub repository.
        progress: told of downloads, see `checkpoints.place.find_place`.

    Raises:
        ModelNotFoundError: it is not here and cannot be had.
        CheckpointError: its files are not a model.
        UsageError: no such device or dtype.
    """
    if isinstance(name, os.PathLike):
        name = os.path.join(".", os.fspath(name))
    if name is not None and not isinstance(name, str):
        raise UsageError(f"{name!r} is no model.", "Give a name, a hub id or a directory.")
    resolved = find_place(name, offline=offline, revision=revision, progress=progress)
    folder = name if resolved.repo is None and resolved.known is None else None
    return Model(load_parts(resolved, device=device, dtype=dtype), folder)


def _command(file: Path, name: str, flags: Mapping[str, Any], sound: Sound) -> dict[str, Any]:
    """The command that makes an edit of a file again, and how the file was made."""
    of = provenance.of_input(sound.metadata)
    return {"command": name, "input": str(file), "flags": dict(flags), **of}


def _gen(direction: Direction, loop: bool) -> dict[str, Any]:
    """The command that makes a piece from nothing again."""
    return {"command": "gen", "flags": {"loop": loop, "overlap": direction.overlap}}


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
    """A number of any kind, numpy's too."""
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
