"""Quick checks of a loaded model: weights, sizes, a round trip through the codec, a known prompt.

They take seconds and find broken or mismatched weights. They say nothing about how a model sounds.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from magnet_cli.pipeline import Pipeline

PROMPT = "lofi piano"
_SECONDS = 2.0  # length of the test sound and of the tested logits


@dataclass(frozen=True)
class Finding:
    """The result of one check.

    Attributes:
        name: the name of the check.
        good: whether it passed.
        what: figures, or the fault.
    """

    name: str
    good: bool
    what: str


def check_model(model: Pipeline) -> Iterator[Finding]:
    """Run all checks on a model; a failing check does not stop the next."""
    codes: list[Tensor] = []
    checks: list[tuple[str, Callable[[], str]]] = [
        ("weights", lambda: _weights(model)),
        ("sizes", lambda: _sizes(model)),
        ("codec", lambda: _round_trip(model, codes)),
        ("text", lambda: _text(model)),
        ("logits", lambda: _logits(model, codes)),
    ]
    for name, look in checks:
        try:
            yield Finding(name, True, look())
        except Exception as error:
            said = " ".join(str(error).split())[:300] or type(error).__name__
            yield Finding(name, False, said)


def _expect(right: bool, what: str) -> None:
    if not right:
        raise ValueError(what)


def _weights(model: Pipeline) -> str:
    """Check that all weights are finite and no matrix is zero."""
    count = 0
    for part, network in (("model", model.lm), ("codec", model.codec)):
        for name, tensor in network.named_parameters():
            count += tensor.numel()
            values = tensor.detach().float()
            _expect(
                bool(torch.isfinite(values).all()), f"{part}: {name} has NaN or infinite values"
            )
            is_matrix = values.dim() > 1 and values.numel() > 1
            _expect(not is_matrix or bool(values.any()), f"{part}: {name} is all zero")
    return f"{count / 1e6:.1f} million parameters in {model.dtype}, all finite"


def _sizes(model: Pipeline) -> str:
    """Check that the language model and its codec use the same codes."""
    lm, codec = model.lm.config, model.codec
    _expect(lm.n_q == codec.n_q, f"the model has {lm.n_q} streams, its codec {codec.n_q}")
    _expect(lm.card == codec.card, f"the model has {lm.card} codes, its codec {codec.card}")
    rates = f"{lm.frame_rate:g} frames a second, its codec {codec.frame_rate:g}"
    _expect(math.isclose(lm.frame_rate, codec.frame_rate, rel_tol=1e-3), f"the model has {rates}")
    return (
        f"{model.modeling}, {lm.n_q} streams of {lm.card} codes at {lm.frame_rate:g} Hz, "
        f"{lm.segment_duration:g} s at {codec.sample_rate} Hz, {codec.channels} "
        f"{'channel' if codec.channels == 1 else 'channels'}"
    )


@torch.inference_mode()
def _round_trip(model: Pipeline, kept: list[Tensor]) -> str:
    """Check that a known sound encodes to codes within range and decodes to its length."""
    codec = model.codec
    sound = _known_sound(codec.sample_rate)[None, None].expand(1, codec.channels, -1)
    sound = sound.to(next(codec.parameters()).device)
    codes = codec.encode(sound)
    frames = math.ceil(sound.shape[-1] / codec.hop_length)
    _expect(
        codes.shape == (1, codec.n_q, frames),
        f"codes are {list(codes.shape)}, not {[1, codec.n_q, frames]}",
    )
    _expect(int(codes.min()) >= 0 and int(codes.max()) < codec.card, "codes are out of range")
    back = codec.decode(codes)[..., : sound.shape[-1]].float()
    _expect(back.shape == sound.shape, f"sound is {list(back.shape)}, not {list(sound.shape)}")
    _expect(bool(torch.isfinite(back).all()), "sound has NaN or infinite values")
    kept.append(codes)
    used = min(len(torch.unique(codes[0, stream])) for stream in range(codec.n_q))
    alike = _alike(sound[0, 0].cpu(), back[0, 0].cpu())
    return f"{_SECONDS:g} s round trip: spectral correlation {alike:.2f}, {used} or more codes a stream"


def _known_sound(rate: int) -> Tensor:
    """Plucked tones with a little noise, float32 [samples] in -1..1, the same on every call."""
    time = torch.arange(round(_SECONDS * rate)) / rate
    beat = time % 0.5
    tones = [torch.sin(2 * math.pi * hertz * time) for hertz in (220.0, 277.2, 329.6, 440.0)]
    noise = torch.randn(len(time), generator=torch.Generator().manual_seed(0))
    return 0.15 * sum(tones) * torch.exp(-6 * beat) + 0.01 * noise


def _alike(one: Tensor, other: Tensor) -> float:
    """The correlation of two sounds' log spectra."""
    window = torch.hann_window(1024)
    spectra = [
        torch.stft(each.float(), 1024, window=window, return_complex=True).abs().add(1e-3).log()
        for each in (one, other)
    ]
    return float(torch.corrcoef(torch.stack([each.flatten() for each in spectra]))[0, 1])


def _text(model: Pipeline) -> str:
    """Check that two prompts give finite conditions that differ."""
    condition, mask = model.encode_text([PROMPT, "rain on a roof"])
    _expect(bool(torch.isfinite(condition).all()), "its condition has NaN or infinite values")
    length = min(int(mask[0].sum()), int(mask[1].sum()))
    _expect(int(mask[0].sum()) > 0, f"{PROMPT!r} has no word in its vocabulary")
    _expect(
        not torch.equal(condition[0, :length], condition[1, :length]),
        "two prompts have the same condition",
    )
    return f"{PROMPT!r} is {int(mask[0].sum())} vectors of {condition.shape[-1]}"


def _logits(model: Pipeline, codes: list[Tensor]) -> str:
    """Check that logits for a known prompt are finite and not constant."""
    frames = min(model.segment_frames, round(_SECONDS * model.frame_rate))
    if model.modeling == "autoregressive":
        _expect(bool(codes), "it cannot be tested without the codec's codes")
        asked, stages = codes[0][..., :frames], [None]
    else:
        masked = torch.full((1, model.n_q, frames), model.lm.config.mask_id)
        asked, stages = masked, [0, len(model.lm.config.stage_streams) - 1]  # type: ignore[list-item]
        if codes:  # the last stage is predicted from the others
            known = codes[0][..., :frames].to(masked.device)
            asked = torch.cat([known[:, :-1], masked[:, -1:]], dim=1)
    surest = []
    for stage in stages:
        given = torch.full_like(asked, model.lm.config.mask_id) if stage == 0 else asked
        said = model.logits(given, [PROMPT], stage).float()
        _expect(bool(torch.isfinite(said).all()), f"stage {stage}: a logit is NaN or infinite")
        _expect(said.shape[-1] == model.card, f"{said.shape[-1]} logits for {model.card} codes")
        _expect(float(said.std()) > 0, f"stage {stage}: all codes are equally likely")
        surest.append(float(said.softmax(-1).amax(-1).mean()))
    shares = ", ".join(f"{share:.2f}" for share in surest)
    return f"finite for {PROMPT!r}; mean probability of the likeliest code {shares}"
