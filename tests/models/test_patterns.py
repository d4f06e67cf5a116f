"""The delay pattern against golden's layouts, and as an invertible map."""

from __future__ import annotations

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from magnet_cli.models.lm import DelayPattern
from tests.golden_cases import case, tensor


def test_layout_is_the_references() -> None:
    golden = case("musicgen/layout")
    frames = golden["settings"]["timesteps"]
    layout = golden["outputs"]["layout"]
    pattern = DelayPattern((0, 1, 2, 3))
    assert pattern.steps(frames) == len(layout)
    codes = torch.arange(4 * frames).view(1, 4, frames)
    sequence = pattern.apply(codes, -1)
    for step, entries in enumerate(layout):
        stands = dict.fromkeys(range(4), -1)
        stands |= {stream: stream * frames + t for t, stream in entries if t < frames}
        assert sequence[0, :, step].tolist() == list(stands.values())


def test_sequence_is_the_references() -> None:
    golden = case("musicgen/predictions")
    codes = tensor(golden["inputs"]["codes"])
    pattern = DelayPattern((0, 1, 2, 3))
    assert torch.equal(pattern.apply(codes, 64), tensor(golden["outputs"]["sequence_full"]))
    valid = tensor(golden["outputs"]["sequence_mask_full"]).bool()
    assert torch.equal(pattern.valid(codes.shape[-1]), valid)


@settings(max_examples=40, deadline=None)
@given(
    delays=st.lists(st.integers(0, 5), min_size=1, max_size=5),
    frames=st.integers(1, 12),
    rows=st.integers(0, 20),
)
def test_apply_and_revert_are_inverse(delays: list[int], frames: int, rows: int) -> None:
    pattern = DelayPattern(delays)
    codes = torch.arange(2 * len(delays) * frames).view(2, len(delays), frames)
    sequence = pattern.apply(codes, -1)
    assert torch.equal(pattern.revert(sequence, frames), codes)
    assert torch.equal(sequence[0] >= 0, pattern.valid(frames))
    # The codes within the first rows are those left when the rest is cut off.
    cut = sequence.clone()
    cut[:, :, rows:] = -1
    assert torch.equal(pattern.revert(cut, frames)[0] >= 0, pattern.rows_within(rows, frames))
