"""SEANet: a range of the output depends on exactly its window of the input."""

import dataclasses

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from magnet_cli.config import CodecConfig
from magnet_cli.models import seanet

TINY = CodecConfig(
    sample_rate=1600, channels=1, ratios=(4, 3, 2), n_filters=2, dimension=5, n_q=2, card=8
)

configs = st.builds(
    lambda **changes: dataclasses.replace(TINY, **changes),
    channels=st.integers(1, 2),
    ratios=st.sampled_from([(4, 3, 2), (5,), (2, 2)]),
    lstm_layers=st.integers(0, 2),
    n_residual_layers=st.integers(0, 3),
    kernel_size=st.sampled_from([1, 4, 7]),
    last_kernel_size=st.sampled_from([1, 3, 7]),
    dilation_base=st.integers(1, 3),
    causal=st.booleans(),
    pad_mode=st.sampled_from(["constant", "zero", "reflect", "replicate"]),
    true_skip=st.booleans(),
)


def whole(net: seanet.SEANet, x: torch.Tensor) -> torch.Tensor:
    """In one pass."""
    (y,) = net.pieces(lambda part: x[..., part.start : part.stop], x.shape[-1], 10**9)
    return y


def in_pieces(net: seanet.SEANet, x: torch.Tensor, most: int) -> list[torch.Tensor]:
    return list(net.pieces(lambda part: x[..., part.start : part.stop], x.shape[-1], most))


@settings(max_examples=60, deadline=None)
@given(configs, st.integers(1, 150), st.integers(1, 9), st.integers(0, 99))
@torch.no_grad()
def test_pieces_of_the_encoder_are_one_pass(config, samples, most, seed):
    torch.manual_seed(seed)
    net = seanet.encoder(config)
    audio = torch.randn(2, config.channels, samples)
    pieces = in_pieces(net, audio, most)
    assert all(piece.shape[-1] <= most for piece in pieces)
    once = whole(net, audio)
    assert once.shape == (2, config.dimension, -(-samples // config.hop_length))
    assert torch.allclose(torch.cat(pieces, -1), once, atol=1e-5)


@settings(max_examples=60, deadline=None)
@given(configs, st.integers(1, 25), st.integers(1, 9), st.integers(0, 99))
@torch.no_grad()
def test_pieces_of_the_decoder_are_one_pass(config, frames, most, seed):
    torch.manual_seed(seed)
    if config.causal:
        config = dataclasses.replace(config, trim_right_ratio=(seed % 5) / 4)
    net = seanet.decoder(config)
    latent = torch.randn(2, config.dimension, frames)
    once = whole(net, latent)
    assert once.shape == (2, config.channels, frames * config.hop_length)
    # Any number of positions will do, not only whole frames.
    pieces = in_pieces(net, latent, most * config.hop_length - seed % 2)
    assert torch.allclose(torch.cat(pieces, -1), once, atol=1e-5)


@settings(max_examples=40, deadline=None)
@given(configs, st.integers(20, 60), st.data())
@torch.no_grad()
def test_a_window_is_all_that_a_range_hangs_on(config, frames, data):
    """Nothing outside the window matters; its first and last positions do."""
    torch.manual_seed(0)
    net = seanet.decoder(dataclasses.replace(config, lstm_layers=0))
    chain = seanet.Chain(list(net.layers))
    latent = torch.randn(1, config.dimension, frames, dtype=torch.float64)
    net.double()
    start = data.draw(st.integers(0, frames * config.hop_length - 1))
    want = range(start, min(start + data.draw(st.integers(1, 40)), frames * config.hop_length))
    window = chain.window(want, frames)
    once = chain(latent, range(frames), range(frames * config.hop_length), frames)
    part = chain(latent[..., window.start : window.stop], window, want, frames)
    assert torch.allclose(part, once[..., want.start : want.stop], atol=1e-12)


@torch.no_grad()
def test_windows_hold_no_more_than_the_receptive_field():
    """A position in the middle of the input changes exactly the outputs whose windows contain it."""
    torch.manual_seed(0)
    net = seanet.decoder(dataclasses.replace(TINY, lstm_layers=0, kernel_size=1)).double()
    chain = seanet.Chain(list(net.layers))
    frames, hop = 30, TINY.hop_length
    latent = torch.randn(1, TINY.dimension, frames, dtype=torch.float64)
    changed = latent.clone()
    changed[..., 15] += 1
    before, after = (
        chain(x, range(frames), range(frames * hop), frames) for x in (latent, changed)
    )
    moved = (before != after)[0, 0].nonzero().flatten().tolist()
    held = [n for n in range(frames * hop) if 15 in chain.window(range(n, n + 1), frames)]
    assert (min(moved), max(moved)) == (min(held), max(held))


@pytest.mark.parametrize("pad_mode", ["constant", "reflect"])
def test_memory_does_not_hang_on_the_length(pad_mode):
    config = dataclasses.replace(TINY, pad_mode=pad_mode)
    torch.manual_seed(0)
    net, most = seanet.decoder(config), 8 * config.hop_length
    longest: dict[str, int] = {}
    for name, layer in net.named_modules():
        if isinstance(layer, seanet.Layer):
            layer.register_forward_pre_hook(
                lambda _, args, name=name: longest.update(
                    {name: max(longest.get(name, 0), args[0].shape[-1])}
                )
            )
    seen = []
    for frames in (40, 400):
        longest.clear()
        reads = []

        def read(part, frames=frames, reads=reads):
            reads.append(len(part))
            return torch.randn(1, config.dimension, frames)[..., part.start : part.stop]

        with torch.no_grad():
            for piece in net.pieces(read, frames, most):
                assert piece.shape[-1] <= most
        seen.append((max(reads), dict(longest)))
    assert seen[0] == seen[1]
    tail = seanet.Chain(list(net.layers)[net.split + 1 :])
    context = len(tail.window(range(most, 2 * most), 400)) - 8
    assert context <= 4
    # Everything that the tail is handed: the piece's frames, its context, no more.
    assert seen[1][1][f"layers.{net.split + 1}"] <= 8 + 2 * context
