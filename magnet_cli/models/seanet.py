"""SEANet, EnCodec's convolutional network, evaluated on any range of its output.

The encoder and the decoder consist of convolutions, an LSTM at the frame rate and more convolutions
(audiocraft's seanet.py and conv.py; Défossez et al., 2022, arXiv 2210.13438). Each layer knows which range
of its input a range of its output depends on, and can compute just that. Long audio is therefore processed
in chunks whose result equals a single pass: each chunk has the exact receptive field as context, padding is
added only at the true ends, and the LSTM's state is carried over.

Ranges are Python ranges of positions in the whole signal: a tensor [B, C, 1, len(have)] covers `have`, the
range `want` is requested, and `total` is the length of the whole signal.

Tensors between layers have an extra dimension of size 1 so that they can be channels-last in memory, where
oneDNN neither reorders nor transposes on a CPU: the decoder takes a third less time.
"""

from __future__ import annotations

import itertools
import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from magnet_cli.config import CodecConfig

LSTMState = tuple[Tensor, Tensor]


class Layer(nn.Module, ABC):
    """A layer that can compute ranges; by default each output depends only on the input at its position."""

    def length(self, total: int) -> int:
        """The output length for an input of length `total`."""
        return total

    def window(self, want: range, total: int) -> range:
        """The range of the input that the outputs `want` depend on."""
        return want

    @abstractmethod
    def forward(self, x: Tensor, have: range, want: range, total: int) -> Tensor:
        """Compute the outputs `want` from an input that covers at least `window(want)`.

        May overwrite `x` (see Chain).
        """


class Conv(Layer):
    """A convolution with ceil(total / stride) output positions.

    Padded as in the reference by `reach - stride`: all of it on the left if causal, else half on each side
    (the odd one on the left); the right side also gets what the last stride needs.
    """

    def __init__(
        self,
        config: CodecConfig,
        width_in: int,
        width_out: int,
        kernel: int,
        stride: int = 1,
        dilation: int = 1,
    ) -> None:
        super().__init__()
        self.conv = nn.Conv1d(width_in, width_out, kernel, stride, dilation=dilation)
        self.stride = stride
        self.dilation = dilation
        self.reach = (kernel - 1) * dilation + 1  # span of the kernel, in positions
        padding = self.reach - stride
        self.before = padding if config.causal else padding - padding // 2
        self.mode = "constant" if config.pad_mode == "zero" else config.pad_mode

    def length(self, total: int) -> int:
        return -(-total // self.stride)

    def window(self, want: range, total: int) -> range:
        under = self._under(want)
        start, stop = max(under.start, 0), min(under.stop, total)
        if self.mode == "reflect":
            if self._is_short(total):
                return range(total)
            if under.start < 0:  # reflected at 0
                stop = max(stop, 1 - under.start)
            if under.stop > total:  # reflected at total - 1
                start = min(start, 2 * total - 1 - under.stop)
        return range(start, stop)

    def forward(self, x: Tensor, have: range, want: range, total: int) -> Tensor:
        if self.mode == "reflect" and self._is_short(total):
            return self._convolve(self._mirror_short(x), 0)[..., want.start : want.stop]
        under = self._under(want)
        left, right = max(-under.start, 0), max(under.stop - total, 0)
        if self.mode == "constant":
            x = _crop(x, have, range(max(under.start, 0), min(under.stop, total)))
            # Equal zero padding on both sides is free inside the convolution; anything else needs a copy.
            both = min(left, right)
            if left != right:
                x = F.pad(x, (left - both, right - both))
        else:
            both = 0
            if left or right:
                x = F.pad(x, (left, right, 0, 0), self.mode)
            x = _crop(x, range(have.start - left, have.stop + right), under)
        return self._convolve(x, both)

    def _convolve(self, x: Tensor, padding: int) -> Tensor:
        y = F.conv2d(
            x,
            self.conv.weight.unsqueeze(2),
            self.conv.bias,
            stride=(1, self.stride),
            padding=(0, padding),
            dilation=(1, self.dilation),
        )
        # With one input channel the memory layout is ambiguous, and the result would have the slow one.
        return y.contiguous(memory_format=_layout(y))

    def _under(self, want: range) -> range:
        """The range under the kernel, including padding: may start before 0 and end after `total`."""
        start = want.start * self.stride - self.before
        return range(start, start + (len(want) - 1) * self.stride + self.reach)

    def _padding(self, total: int) -> tuple[int, int]:
        return self.before, self._under(range(self.length(total))).stop - total

    def _is_short(self, total: int) -> bool:
        """Whether the audio is too short for reflection padding."""
        return total <= max(self._padding(total))

    def _mirror_short(self, x: Tensor) -> Tensor:
        """Reflection-pad whole audio that is too short for it: as in the reference, append silence first
        and remove as much from the end afterwards."""
        left, right = self._padding(x.shape[-1])
        silence = max(left, right) - x.shape[-1] + 1
        mirrored = F.pad(F.pad(x, (0, silence)), (left, right, 0, 0), "reflect")
        return mirrored[..., : mirrored.shape[-1] - silence]


class TransposedConv(Layer):
    """Upsampling by `stride` with kernel 2 * stride, trimmed to total * stride positions."""

    def __init__(self, config: CodecConfig, width_in: int, width_out: int, stride: int) -> None:
        super().__init__()
        self.convtr = nn.ConvTranspose1d(width_in, width_out, 2 * stride, stride)
        self.stride = stride
        if config.causal:
            self.trim = stride - math.ceil(stride * config.trim_right_ratio)
        else:
            self.trim = stride - stride // 2  # positions trimmed on the left

    def length(self, total: int) -> int:
        return total * self.stride

    def window(self, want: range, total: int) -> range:
        # Input i contributes to outputs i * stride - trim and the 2 * stride - 1 after it.
        start = (want.start + self.trim) // self.stride - 1
        stop = (want.stop - 1 + self.trim) // self.stride + 1
        return range(max(start, 0), min(stop, total))

    def forward(self, x: Tensor, have: range, want: range, total: int) -> Tensor:
        need = self.window(want, total)
        x = _crop(x, have, need)
        y = self._convolve(x)
        begin = need.start * self.stride - self.trim
        return _crop(y, range(begin, begin + y.shape[-1]), want)

    def _convolve(self, x: Tensor) -> Tensor:
        """One matrix product whose overlapping outputs are added in place; the result is large, so each
        pass over it counts.

        F.conv_transpose2d is hardly faster, and in torch 2.5 oneDNN takes seconds to prepare for each new
        input length.
        """
        weight = self.convtr.weight.permute(0, 2, 1).flatten(1)  # [in, 2 * stride * out]
        y = x.squeeze(2).transpose(1, 2) @ weight
        now, later = y.unflatten(2, (2, -1)).unbind(2)  # [B, T, stride * out] each
        y = F.pad(now, (0, 0, 0, 1))
        y[:, 1:] += later
        y = y.reshape(len(x), -1, self.convtr.out_channels)
        y += cast(Tensor, self.convtr.bias)
        return y.transpose(1, 2).unsqueeze(2)  # channels-last in memory


class Activation(Layer):
    """ELU."""

    def __init__(self, alpha: float) -> None:
        super().__init__()
        self.alpha = alpha

    def forward(self, x: Tensor, have: range, want: range, total: int) -> Tensor:
        return F.elu(_crop(x, have, want), self.alpha, inplace=True)


class ResidualBlock(Layer):
    """shortcut(x) + widen(ELU(narrow(ELU(x)))); `narrow` is the dilated convolution."""

    def __init__(self, config: CodecConfig, width: int, dilation: int) -> None:
        super().__init__()
        self.alpha = config.elu_alpha
        hidden = width // config.compress
        kernel = config.residual_kernel_size
        self.narrow = Conv(config, width, hidden, kernel, dilation=dilation)
        self.widen = Conv(config, hidden, width, 1)
        self.shortcut = None if config.true_skip else Conv(config, width, width, 1)

    def window(self, want: range, total: int) -> range:
        under = self.narrow.window(want, total)
        return range(min(under.start, want.start), max(under.stop, want.stop))

    def forward(self, x: Tensor, have: range, want: range, total: int) -> Tensor:
        y = F.elu(x, self.alpha)  # not in place: the shortcut needs x
        y = self.narrow(y, have, want, total)
        y = F.elu(y, self.alpha, inplace=True)
        y = self.widen(y, want, want, total)
        skip = _crop(x, have, want)
        return y.add_(skip if self.shortcut is None else self.shortcut(skip, want, want, total))


class LSTM(nn.Module):
    """An LSTM with a skip connection over [B, C, frames]; takes and returns its state."""

    def __init__(self, width: int, num_layers: int) -> None:
        super().__init__()
        self.lstm = nn.LSTM(width, width, num_layers)

    def forward(self, x: Tensor, state: LSTMState | None) -> tuple[Tensor, LSTMState]:
        if x.is_cuda:
            self.lstm.flatten_parameters()  # weights loaded one by one are not contiguous, and cuDNN warns
        x = x.permute(2, 0, 1)  # [frames, B, C]
        y, state = self.lstm(x, state)
        return (y + x).permute(1, 2, 0), state


class Chain:
    """A sequence of layers. Its input is not modified; tensors between layers are overwritten."""

    def __init__(self, layers: Sequence[Layer]) -> None:
        self.layers = layers

    def length(self, total: int) -> int:
        for layer in self.layers:
            total = layer.length(total)
        return total

    def window(self, want: range, total: int) -> range:
        """As `Layer.window`, through all layers."""
        return self._windows(want, total)[0][0]

    def __call__(self, x: Tensor, have: range, want: range, total: int) -> Tensor:
        """As `Layer.forward`, through all layers, from [B, C, len(have)] to [B, C', len(want)]."""
        x = x.unsqueeze(2)
        if isinstance(self.layers[0], Activation):
            x = x.clone(memory_format=_layout(x))
        else:
            x = x.contiguous(memory_format=_layout(x))
        windows = self._windows(want, total)
        wants = [window for window, _ in windows[1:]] + [want]
        for layer, (_, length), wanted in zip(self.layers, windows, wants, strict=True):
            x = layer(x, have, wanted, length)
            have = wanted
        return x.squeeze(2)

    def _windows(self, want: range, total: int) -> list[tuple[range, int]]:
        """For each layer, the input range it needs and the total length of its input."""
        totals = list(
            itertools.accumulate(self.layers, lambda n, layer: layer.length(n), initial=total)
        )
        windows = []
        for layer, length in zip(reversed(self.layers), reversed(totals[:-1]), strict=True):
            want = layer.window(want, length)
            windows.append((want, length))
        return windows[::-1]


class SEANet(nn.Module):
    """Convolutions (head), an optional LSTM, convolutions (tail).

    Parameters are named `layers.{n}`, numbered as in the reference, where activations count.
    """

    def __init__(self, head: list[Layer], lstm: LSTM | None, tail: list[Layer]) -> None:
        super().__init__()
        self.layers = nn.ModuleList([*head, *([] if lstm is None else [lstm]), *tail])
        self.has_lstm = lstm is not None
        self.split = len(head)

    def pieces(self, read: Callable[[range], Tensor], total: int, most: int) -> Iterator[Tensor]:
        """Compute the output for an input of length `total`, in chunks of up to `most` positions.

        Yields tensors [B, C, up to `most`] whose concatenation equals a single pass. `read(range)` returns
        that part of the input. The input is not kept, and of the LSTM's output only what later chunks need,
        so memory depends on `most`, not on `total`.
        """
        layers = cast("list[Layer]", list(self.layers))
        head, tail = Chain(layers[: self.split]), Chain(layers[self.split + self.has_lstm :])
        frames = head.length(total)
        length = tail.length(frames)
        wants = [range(start, min(start + most, length)) for start in range(0, length, most)]
        windows = [tail.window(want, frames) for want in wants]
        # The first position of the LSTM's output that is still needed after each chunk.
        starts = list(itertools.accumulate((w.start for w in reversed(windows)), min))[::-1]
        keep_from = [*starts, frames][1:]

        state: LSTMState | None = None
        have = range(0)
        kept: Tensor | None = None  # the LSTM's output over `have`
        for want, window, keep in zip(wants, windows, keep_from, strict=True):
            fresh = range(have.stop, window.stop)
            if fresh:
                under = head.window(fresh, total)
                new = head(read(under), under, fresh, total)
                if self.has_lstm:
                    new, state = self.layers[self.split](new, state)
                kept = new if kept is None else torch.cat([kept, new], dim=-1)
                have = range(have.start, fresh.stop)
            assert kept is not None
            yield tail(kept, have, want, frames)
            kept = kept[..., keep - have.start :].clone()  # a view would keep all of it alive
            have = range(keep, have.stop)


def encoder(config: CodecConfig) -> SEANet:
    """Audio [B, channels, samples] -> latent [B, dimension, frames]."""
    width = config.n_filters
    head: list[Layer] = [Conv(config, config.channels, width, config.kernel_size)]
    for ratio in reversed(config.ratios):
        head += _residual_blocks(config, width)
        head += [Activation(config.elu_alpha), Conv(config, width, 2 * width, 2 * ratio, ratio)]
        width *= 2
    tail: list[Layer] = [
        Activation(config.elu_alpha),
        Conv(config, width, config.dimension, config.last_kernel_size),
    ]
    return SEANet(head, _lstm(config, width), tail)


def decoder(config: CodecConfig) -> SEANet:
    """Latent [B, dimension, frames] -> audio [B, channels, frames * hop_length]."""
    width = config.n_filters * 2 ** len(config.ratios)
    head: list[Layer] = [Conv(config, config.dimension, width, config.kernel_size)]
    lstm = _lstm(config, width)
    tail: list[Layer] = []
    for ratio in config.ratios:
        tail += [Activation(config.elu_alpha), TransposedConv(config, width, width // 2, ratio)]
        width //= 2
        tail += _residual_blocks(config, width)
    tail += [
        Activation(config.elu_alpha),
        Conv(config, width, config.channels, config.last_kernel_size),
    ]
    return SEANet(head, lstm, tail)


def _residual_blocks(config: CodecConfig, width: int) -> list[Layer]:
    dilations = [config.dilation_base**n for n in range(config.n_residual_layers)]
    return [ResidualBlock(config, width, dilation) for dilation in dilations]


def _lstm(config: CodecConfig, width: int) -> LSTM | None:
    return LSTM(width, config.lstm_layers) if config.lstm_layers else None


def _crop(x: Tensor, have: range, want: range) -> Tensor:
    """Crop a tensor that covers `have` to `want`."""
    if have == want:
        return x
    return x[..., want.start - have.start : want.stop - have.start]


def _layout(x: Tensor) -> torch.memory_format:
    """The memory format in which convolutions are fastest."""
    last = x.device.type == "cpu" and torch.backends.mkldnn.is_available()
    return torch.channels_last if last else torch.contiguous_format
