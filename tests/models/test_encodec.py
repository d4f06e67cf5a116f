"""EnCodec: golden cases, equality with transformers, and chunks that equal one pass."""

import dataclasses
import functools
import json

import pytest
import torch
import transformers
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file

from magnet_cli.checkpoints import encodec as layouts
from magnet_cli.checkpoints.building import fill
from magnet_cli.config import CodecConfig
from magnet_cli.errors import CheckpointError
from magnet_cli.models.encodec import EnCodec
from tests.golden_cases import case_id, cases, snapshot, tensor

TINY = CodecConfig(
    sample_rate=1600, channels=1, ratios=(4, 2, 2), n_filters=4, dimension=8, n_q=3, card=16
)


def build(config: CodecConfig, state: dict[str, torch.Tensor]) -> EnCodec:
    with torch.device("meta"):
        codec = EnCodec(config)
    fill(codec, state, "the test")
    return codec.eval()


@functools.cache
def golden(model: str) -> EnCodec:
    folder = snapshot(model)
    if (folder / "config.json").exists():
        paths = folder / "config.json", folder / "model.safetensors"
        return build(*layouts.read_transformers(*paths))
    return build(*layouts.read_released(folder / "compression_state_dict.bin"))


def random_codec(config: CodecConfig, seed: int = 0) -> EnCodec:
    torch.manual_seed(seed)
    codec = EnCodec(config).eval()
    for rows in codec.quantizer.codebooks:
        torch.nn.init.normal_(rows)
    return codec


@pytest.mark.parametrize("chunk_frames", [None, 1, 3])
@pytest.mark.parametrize("case", cases(prefix="codec/"), ids=case_id)
def test_golden(case, chunk_frames):
    codec, inputs, outputs = golden(case["model"]), case["inputs"], case["outputs"]
    if "wav" in inputs:
        codes = codec.encode(tensor(inputs["wav"]), chunk_frames)
        assert codes.dtype == torch.int64
        assert torch.equal(codes, tensor(outputs["codes"]))
    else:
        codes = tensor(inputs["codes"])
    if "decoded" in outputs:
        audio = codec.decode(codes, chunk_frames)
        assert audio.dtype == torch.float32
        torch.testing.assert_close(audio, tensor(outputs["decoded"]), rtol=0, atol=1e-5)
    if "latent" in outputs:
        latent = codec.quantizer.decode(codes)
        torch.testing.assert_close(latent, tensor(outputs["latent"]), rtol=0, atol=1e-5)


TRANSFORMERS_SETTINGS = {
    "released": {"use_causal_conv": False, "pad_mode": "reflect", "use_conv_shortcut": False},
    "causal": {"use_causal_conv": True, "pad_mode": "reflect"},
    "causal, trimmed": {"use_causal_conv": True, "pad_mode": "constant", "trim_right_ratio": 0.4},
    "deep": {"use_causal_conv": False, "num_residual_layers": 3, "dilation_growth_rate": 3},
    "stereo": {"use_causal_conv": False, "audio_channels": 2, "pad_mode": "replicate"},
    "odd": {"use_causal_conv": False, "upsampling_ratios": [5, 3], "last_kernel_size": 4},
    "one LSTM layer": {"use_causal_conv": False, "num_lstm_layers": 1, "compress": 4},
}


def in_transformers(**changes) -> transformers.EncodecModel:
    """transformers' EnCodec at a tiny size with random weights."""
    config = transformers.EncodecConfig(
        **{
            "sampling_rate": 1600,
            "audio_channels": 1,
            "upsampling_ratios": [4, 2, 2],
            "num_filters": 4,
            "hidden_size": 8,
            "codebook_dim": 8,
            "codebook_size": 16,
            **changes,
        }
    )
    hop = 1
    for ratio in config.upsampling_ratios:
        hop *= ratio
    config.target_bandwidths = [4 * -(-1600 // hop) / 1000, 3 * 4 * -(-1600 // hop) / 1000]
    torch.manual_seed(0)
    model = transformers.EncodecModel(config).eval()
    for name, values in model.state_dict().items():
        scale = 1.0 if "embed" in name else 0.3
        values.copy_(torch.randn(values.shape) * scale)
    return model


def ours(model: transformers.EncodecModel, folder) -> EnCodec:
    (folder / "config.json").write_text(json.dumps(model.config.to_dict()), "utf-8")
    state = {name: values.contiguous() for name, values in model.state_dict().items()}
    save_file(state, folder / "model.safetensors")
    paths = folder / "config.json", folder / "model.safetensors"
    return build(*layouts.read_transformers(*paths))


@pytest.mark.parametrize("changes", TRANSFORMERS_SETTINGS.values(), ids=list(TRANSFORMERS_SETTINGS))
@torch.no_grad()
def test_equal_to_transformers(changes, tmp_path):
    theirs = in_transformers(**changes)
    codec = ours(theirs, tmp_path)
    assert codec.n_q == 3
    for samples in (1, 2, 7, 100, 333):
        audio = torch.randn(2, codec.channels, samples)
        (latent,) = codec.encoder.pieces(
            lambda part, audio=audio: audio[..., part.start : part.stop], samples, 10**6
        )
        torch.testing.assert_close(latent, theirs.encoder(audio), rtol=0, atol=1e-5)
        codes = theirs.quantizer.encode(latent, 10.0).transpose(0, 1)
        assert torch.equal(codec.quantizer.encode(latent), codes)
        assert torch.equal(codec.encode(audio), codes)
        expected = theirs.decode(codes[None], [None])[0]
        torch.testing.assert_close(codec.decode(codes), expected, rtol=0, atol=1e-5)


@torch.no_grad()
def test_without_lstm(tmp_path):
    """transformers cannot build one, but an LSTM of zeros adds nothing to its skip connection."""
    theirs = in_transformers(num_lstm_layers=1, use_causal_conv=False)
    for name, values in theirs.state_dict().items():
        if ".lstm." in name:
            values.zero_()
    with_lstm = ours(theirs, tmp_path)
    state = {}
    for name, values in with_lstm.state_dict().items():
        side, _, rest = name.partition(".layers.")
        if not rest or ".lstm." in name:
            state |= {} if rest else {name: values}
            continue
        number, _, part = rest.partition(".")
        at = getattr(with_lstm, side).split
        state[f"{side}.layers.{int(number) - (int(number) > at)}.{part}"] = values
    codec = build(dataclasses.replace(with_lstm.config, lstm_layers=0), state)
    audio = torch.randn(1, 1, 200)
    codes = with_lstm.encode(audio)
    assert torch.equal(codec.encode(audio), codes)
    torch.testing.assert_close(codec.decode(codes), with_lstm.decode(codes), rtol=0, atol=1e-6)


@settings(max_examples=25, deadline=None)
@given(st.integers(1, 60), st.integers(1, 20), st.booleans(), st.integers(1, 3))
def test_chunks_are_one_pass(frames, chunk_frames, causal, batch):
    codec = random_codec(dataclasses.replace(TINY, causal=causal, pad_mode="reflect"))
    codes = torch.randint(codec.card, (batch, codec.n_q, frames))
    once = codec.decode(codes, 10**6)
    torch.testing.assert_close(codec.decode(codes, chunk_frames), once, rtol=0, atol=1e-4)
    pieces = list(codec.decode_chunks(codes, chunk_frames))
    assert len(pieces) == -(-frames // chunk_frames)
    assert torch.equal(torch.cat(pieces, -1), codec.decode(codes, chunk_frames))


def test_a_large_batch_shares_the_frames_at_once(monkeypatch):
    monkeypatch.setattr("magnet_cli.models.encodec.FRAMES_AT_ONCE", 200)
    codec = random_codec(TINY)
    asked = []
    inner = codec._decode_chunks
    codec._decode_chunks = lambda codes, chunk: asked.append(chunk) or inner(codes, chunk)
    for batch in (1, 2, 100):
        codec.decode(torch.zeros(batch, 3, 4, dtype=torch.int64))
    assert asked == [200, 100, 50]


def test_nothing_in_nothing_out():
    codec = random_codec(TINY)
    assert codec.encode(torch.zeros(2, 1, 0)).shape == (2, 3, 0)
    assert codec.decode(torch.zeros(2, 3, 0, dtype=torch.int64)).shape == (2, 1, 0)
    assert list(codec.decode_chunks(torch.zeros(2, 3, 0, dtype=torch.int64))) == []


def test_inputs_are_left_as_they_are():
    codec = random_codec(TINY)
    audio = torch.randn(1, 1, 100)
    codes = torch.randint(16, (1, 3, 20))
    before = audio.clone(), codes.clone()
    codec.encode(audio, 2)
    codec.decode(codes, 2)
    assert torch.equal(audio, before[0])
    assert torch.equal(codes, before[1])


@pytest.mark.parametrize(
    "codes",
    [
        torch.full((1, 3, 4), 16),  # one past the last code: the mask id of a language model
        torch.full((1, 3, 4), -1),
        torch.zeros(1, 2, 4, dtype=torch.int64),
        torch.zeros(3, 4, dtype=torch.int64),
    ],
)
def test_codes_that_no_encoder_made_are_refused(codes):
    codec = random_codec(TINY)
    for use in (codec.decode, codec.decode_chunks):  # at once, not later
        with pytest.raises(ValueError, match="codes must be"):
            use(codes)


def test_wrong_audio_and_chunks_are_refused():
    codec = random_codec(TINY)
    for audio in (torch.zeros(1, 2, 50), torch.zeros(1, 50)):
        with pytest.raises(ValueError, match=r"audio must be \[B, 1, samples\]"):
            codec.encode(audio)
    with pytest.raises(ValueError, match="chunk_frames"):
        codec.encode(torch.zeros(1, 1, 50), 0)
    with pytest.raises(ValueError, match="chunk_frames"):
        codec.decode_chunks(torch.zeros(1, 3, 4, dtype=torch.int64), 0)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("pad_mode", "circular"),
        ("trim_right_ratio", 0.5),  # not causal
        ("ratios", ()),
        ("n_q", 0),
        ("compress", 5),
        ("lstm_layers", -1),
    ],
)
def test_settings_that_cannot_be_built_are_refused(field, value):
    with pytest.raises(CheckpointError, match=f"codec's {field}"):
        EnCodec(dataclasses.replace(TINY, **{field: value}))
