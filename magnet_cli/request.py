"""Generation requests, completed and checked before any network runs."""

from __future__ import annotations

import dataclasses
import math
import operator
import secrets
from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass

import torch
from torch import Tensor

from magnet_cli.config import LMConfig
from magnet_cli.errors import UsageError
from magnet_cli.fields import shown
from magnet_cli.models.parts import Parts
from magnet_cli.models.text import said_bars
from magnet_cli.resolving import NONE, Partners, resolve
from magnet_cli.settings import BEATS_IN_BAR, MAX_SEED, DecodingConfig, required


@dataclass(frozen=True)
class GenerationRequest:
    """A batch of B items to generate."""

    prompts: tuple[str | None, ...]  # None: the null condition
    negative_prompts: tuple[str | None, ...]  # guidance leads away from these; None: null
    seeds: tuple[int, ...]
    config: DecodingConfig  # resolved
    known_codes: Tensor  # int64 [B, K, frames]
    known_mask: Tensor  # bool [B, K, frames]; these codes are kept
    hybrid_frames: int = 0  # whole frames that are decoded autoregressively before the rest
    prefix_config: DecodingConfig | None = None  # settings for these frames
    partners: Partners = NONE
    bars: tuple[float, ...] = ()  # frames per bar of each item, 0 without a tempo; (): not used
    tempoless: tuple[bool, ...] = ()  # no tempo in the prompt, nor drawn for it; (): not used
    sections: Tensor | None = None  # int64 [frames], the prompt of each; None: one for all

    @property
    def frames(self) -> int:
        """Length of the clips in frames."""
        return self.known_codes.shape[-1]

    @property
    def grid(self) -> tuple[float, ...]:
        """Frames per bar of items whose first bar starts at frame 0: where codes are known, it may be
        anywhere, and 0 stands for that. (): of none."""
        begun = self.known_mask.flatten(1).any(-1).tolist()
        return tuple(0.0 if known else bar for bar, known in zip(self.bars, begun, strict=False))


def make_request(
    asked: Parts,
    prompts: Sequence[str | None],
    *,
    config: DecodingConfig | None = None,
    seeds: Sequence[int] | None = None,
    negative_prompts: Sequence[str | None] | str | None = None,
    frames: int | None = None,
    prompt_codes: Tensor | None = None,
    known_codes: Tensor | None = None,
    known_mask: Tensor | None = None,
    partners: Partners = NONE,
) -> GenerationRequest:
    """Check the arguments of `Model.generate` and fill in defaults.
    Raises UsageError: an argument cannot be used, or does not fit the others."""
    lm = asked.lm.config
    if isinstance(prompts, str):
        raise UsageError("prompts is one text.", "Give a list of texts: one clip for each.")
    if not isinstance(prompts, Sequence) or isinstance(prompts, bytes):
        raise UsageError(f"prompts cannot be {prompts!r}.", "Give a list of texts.")
    count = len(prompts)
    if count == 0:
        raise UsageError("There is no prompt.", "Give at least one; None is the null condition.")
    if seeds is None:
        seeds = [secrets.randbelow(2**32) for _ in range(count)]
    if negative_prompts is None or isinstance(negative_prompts, str):
        negative_prompts = [negative_prompts] * count
    for name, values in (("seeds", seeds), ("negative_prompts", negative_prompts)):
        # numpy's arrays are not Sequences; sets and mappings have no order.
        if not hasattr(values, "__len__") or isinstance(values, (Mapping, Set, bytes)):
            raise UsageError(f"{name} cannot be {values!r}.", "Give a list, one for each prompt.")
        if len(values) != count:
            raise UsageError(
                f"There are {count} prompts, but {len(values)} {name}.", "Give one for each."
            )
    for text in (*prompts, *negative_prompts):
        if text is not None and not isinstance(text, str):
            raise UsageError(
                f"{text!r} is not a prompt.", "Give a text; None is the null condition."
            )
    seeds = [_seed(seed) for seed in seeds]
    given = DecodingConfig() if config is None else config
    if not isinstance(given, DecodingConfig):
        raise UsageError(f"config cannot be {given!r}.", "Give a DecodingConfig.")
    resolved = resolve(given, asked.defaults, lm, partners.rescorer is not None)
    shape = (count, lm.n_q, check_frames(frames, resolved, lm))
    codes, mask = _known(shape, lm.card, prompt_codes, known_codes, known_mask)
    hybrid_frames, prefix_config = 0, None
    if lm.modeling != "autoregressive":
        if given.hybrid is not None:
            check_hybrid(given.hybrid, frames, lm)
            hybrid_frames = min(round(given.hybrid * lm.frame_rate), shape[2])
        else:
            hybrid_frames = _habit(resolved, lm, mask)
        if resolved.hybrid:
            prefix_config = partners.prefix_config(resolved)
    bars, tempoless = _tempi(asked, prompts, seeds, resolved, mask.flatten(1).any(-1).tolist())
    return GenerationRequest(
        tuple(prompts),
        tuple(negative_prompts),
        tuple(seeds),
        resolved,
        codes,
        mask,
        hybrid_frames,
        prefix_config,
        partners,
        bars,
        tempoless,
    )


def _tempi(
    asked: Parts,
    prompts: Sequence[str | None],
    seeds: Sequence[int],
    config: DecodingConfig,
    begun: Sequence[bool],
) -> tuple[tuple[float, ...], tuple[bool, ...]]:
    """`bars` and `tempoless` of a request. Items with known codes have a tempo already, so their bars do not
    get one that was drawn. A model that draws no tempi knows of none, unless sounds are asked for."""
    repeating = bool(config.bar_repeat or config.half_bar_repeat or asked.lm.config.bar_position)
    said, head = said_bars(prompts, asked.lm.config), asked.lm.tempo
    telling = bool(config.sound_temperature or (config.later_codes == "mean" and head is not None))
    if not (repeating or telling):
        return (), ()
    drawn = [
        BEATS_IN_BAR * head.draw(asked.text_encoder.encode(prompt), seed)
        if not bar and prompt and head is not None
        else bar
        for bar, prompt, seed in zip(said, prompts, seeds, strict=True)
    ]
    bars = [own if known else bar for own, bar, known in zip(said, drawn, begun, strict=True)]
    tempoless = [bool(prompt) and not bar for prompt, bar in zip(prompts, drawn, strict=True)]
    return tuple(bars) if repeating else (), tuple(tempoless) if telling else ()


def for_window(
    request: GenerationRequest, lm: LMConfig, codes: Tensor, known: Tensor, seed: int
) -> GenerationRequest:
    """Copy a request with other known codes, int64 and bool [1, K, T], and another seed.

    Its settings are resolved and checked already. Whether a checkpoint's default hybrid decoding applies
    depends on what is known.

    Raises:
        UsageError: a known code is out of range.
    """
    _check_range(codes, known, lm.card)
    frames = 0 if lm.modeling == "autoregressive" else _habit(request.config, lm, known)
    return dataclasses.replace(
        request, seeds=(seed,), known_codes=codes, known_mask=known, hybrid_frames=frames
    )


def _habit(config: DecodingConfig, lm: LMConfig, known: Tensor) -> int:
    """Frames to decode autoregressively by a checkpoint's default, with known codes bool [B, K, T].

    Autoregressive decoding does not see known codes that lie ahead, so the default applies only to clips
    from scratch and to continuations.
    """
    frames = min(round(required(config.hybrid) * lm.frame_rate), known.shape[-1])
    return frames if _opens(known, frames) else 0


def _seed(given: object) -> int:
    """Check a seed and convert it, numpy's integers included, to an int."""
    try:
        seed = operator.index(given)  # type: ignore[arg-type]
    except TypeError:
        seed = -1
    if not 0 <= seed <= MAX_SEED:
        raise UsageError(f"{given} is not a seed.", "Give a whole number from 0 to 2^63 - 1.")
    return seed


def _whole(name: str, given: object) -> int:
    """Convert a whole number, numpy's included but no bool, to an int."""
    try:
        if isinstance(given, bool):
            raise TypeError
        return operator.index(given)  # type: ignore[arg-type]
    except TypeError:
        raise UsageError(f"{name} cannot be {shown(given)}.", "Give a whole number.") from None


def _opens(known: Tensor, frames: int) -> bool:
    """Whether bool [B, K, T] marks only whole frames at the start, and fewer than `frames`."""
    whole = known.all(1)
    in_front = not bool((whole[:, 1:] & ~whole[:, :-1]).any())
    return in_front and torch.equal(known.any(1), whole) and int(whole.sum(-1).max()) < frames


def frames_for(duration: float | None, lm: LMConfig, name: str) -> int | None:
    """Number of frames that hold `duration` seconds; None stands for the segment.
    Raises UsageError: it is longer than the segment of the model, called `name`."""
    if duration is None:
        return None
    if duration > lm.segment_duration + 1e-6:
        raise UsageError(
            f"{name} makes {lm.segment_duration:g} seconds at most, not {duration:g}.",
            f"Use --duration {lm.segment_duration:g} or less.",
        )
    # Tolerant of rounding: 0.06 s at 50 frames per second are 3 frames.
    frames = max(1, math.ceil(duration * lm.frame_rate - 1e-6))
    return min(frames, lm.segment_frames)  # a segment need not be whole frames


def check_hybrid(seconds: float, frames: int | None, lm: LMConfig) -> None:
    """Check the length of the autoregressive part. Raises UsageError: it is longer than the clip."""
    longest = lm.segment_frames if frames is None else frames
    if round(seconds * lm.frame_rate) > longest:
        clip = longest / lm.frame_rate
        raise UsageError(
            f"--hybrid {seconds:g} is longer than the clip of {clip:g} s.",
            f"Use {clip:g} or less; {clip:g} decodes the whole clip autoregressively.",
        )


def check_frames(frames: int | None, config: DecodingConfig, lm: LMConfig) -> int:
    """Number of frames to decode: by default the segment, cut to whole spans without `full_length`.
    Raises UsageError: there is no frame, more than a segment, or less than a span."""
    longest = lm.segment_frames
    frames = longest if frames is None else _whole("frames", frames)
    if not 1 <= frames <= longest:
        raise UsageError(
            f"A clip of {frames} frames ({frames / lm.frame_rate:.2f} s) cannot be made at once.",
            f"This model makes 1 to {longest} frames ({lm.segment_duration:g} s).",
        )
    span_len = required(config.span_len)
    on_grid = lm.modeling != "autoregressive" and config.span_arrangement == "nonoverlap"
    if config.full_length or not on_grid:
        return frames
    if frames < span_len:
        raise UsageError(
            f"{frames} frames are less than one span of {span_len}.",
            "Make the clip longer, or leave full_length on.",
        )
    return frames - frames % span_len


def _known(
    shape: tuple[int, int, int],
    card: int,
    prompt_codes: Tensor | None,
    known_codes: Tensor | None,
    known_mask: Tensor | None,
) -> tuple[Tensor, Tensor]:
    """Known codes, zero where unknown, and their mask, both [B, K, T]."""
    for name, given in (
        ("prompt_codes", prompt_codes), ("known_codes", known_codes), ("known_mask", known_mask)
    ):  # fmt: skip
        if given is not None and not isinstance(given, Tensor):
            raise UsageError(f"{name} cannot be {shown(given)}.", "Give a tensor of torch.")
    if (known_codes is None) != (known_mask is None):
        raise UsageError("Half of the known codes is missing.", "Give known_codes and known_mask.")
    if prompt_codes is not None and known_codes is not None:
        raise UsageError(
            "prompt_codes and known_codes cannot both be given.",
            "Put the prompt's codes into known_codes.",
        )
    codes = torch.zeros(shape, dtype=torch.int64, device="cpu")
    mask = torch.zeros(shape, dtype=torch.bool, device="cpu")
    if prompt_codes is not None:
        length = prompt_codes.shape[-1]
        _check_shape("prompt codes", prompt_codes, (shape[0], shape[1], length))
        if length >= shape[2]:
            raise UsageError(
                f"The prompt of {length} frames fills the clip of {shape[2]} frames.",
                "Give a shorter prompt or a longer clip.",
            )
        codes[..., :length] = prompt_codes
        mask[..., :length] = True
    if known_codes is not None and known_mask is not None:
        _check_shape("known codes", known_codes, shape)
        _check_shape("known mask", known_mask, shape)
        mask = known_mask.to("cpu", torch.bool).expand(shape).clone()
        codes = torch.where(mask, known_codes.to("cpu", torch.int64), codes)
    _check_range(codes, mask, card)
    return codes, mask


def _check_range(codes: Tensor, known: Tensor, card: int) -> None:
    within = torch.where(known, codes, 0)
    if not 0 <= int(within.min()) <= int(within.max()) < card:
        raise UsageError("A known code is out of range.", f"Codes are 0 to {card - 1}.")


def _check_shape(name: str, tensor: Tensor, shape: tuple[int, int, int]) -> None:
    fits = tensor.dim() == 3 and tensor.shape[0] in (1, shape[0]) and tensor.shape[1:] == shape[1:]
    if not fits:
        raise UsageError(
            f"The {name} are {list(tensor.shape)}, but must be {list(shape)}.",
            "They are [items or 1, streams, frames].",
        )
