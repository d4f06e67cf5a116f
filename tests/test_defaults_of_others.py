"""What others set in torch changes no clip."""

from __future__ import annotations

import torch

import magnet_cli


def test_another_default_dtype_gives_the_same_codes() -> None:
    model = magnet_cli.load_model("nano", device="cpu")
    before = model.generate(["lofi piano"], seeds=[3], duration=1).codes
    torch.set_default_dtype(torch.float64)
    try:
        after = model.generate(["lofi piano"], seeds=[3], duration=1).codes
    finally:
        torch.set_default_dtype(torch.float32)
    assert torch.equal(before, after)


def test_another_default_device_gives_the_same_codes() -> None:
    before = magnet_cli.load_model("nano", device="cpu").generate(["lofi"], seeds=[3], duration=1)
    torch.set_default_device("meta")
    try:
        model = magnet_cli.load_model("nano", device="cpu")
        after = model.generate(["lofi"], seeds=[3], duration=1)
    finally:
        torch.set_default_device(None)
    assert after.codes.device.type == "cpu"
    assert torch.equal(before.codes, after.codes)
    assert torch.equal(before.audio, after.audio)
