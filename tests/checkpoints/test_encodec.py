"""EnCodec's published layouts: read, written, and refused if something does not fit."""

import json

import pytest
import torch
import yaml
from safetensors.torch import load_file, save_file

from magnet_cli.checkpoints import encodec, xp_cfg
from magnet_cli.checkpoints.building import fill
from magnet_cli.config import CodecConfig
from magnet_cli.errors import CheckpointError
from magnet_cli.models.encodec import EnCodec
from tests.golden_cases import snapshot

FILE = "compression_state_dict.bin"
RELEASED = [
    f"facebook/{name}" for name in ("magnet-small-10secs", "audio-magnet-small", "musicgen-small")
]
HALF, FULL = RELEASED[0], RELEASED[2]  # one is fp16, the other fp32
MISSING = "decoder.model.3.convtr.convtr.bias"


def package(model: str = HALF) -> dict:
    return torch.load(snapshot(model) / FILE, weights_only=True)


def saved(folder, content):
    torch.save(content, folder / FILE)
    return folder / FILE


def changed(folder, path: str, value, model: str = HALF):
    """The released file with one setting of xp.cfg changed; None removes it."""
    content = package(model)
    settings = yaml.safe_load(content["xp.cfg"])
    *folders, name = path.split(".")
    at = settings
    for part in folders:
        at = at[part]
    if value is None:
        del at[name]
    else:
        at[name] = value
    content["xp.cfg"] = yaml.safe_dump(settings)
    return saved(folder, content)


def codec(config: CodecConfig, state) -> EnCodec:
    with torch.device("meta"):
        built = EnCodec(config)
    fill(built, state, "the test")
    return built.eval()


def in_transformers_layout(folder, config=(), weights=None, drop=()):
    """A copy of the golden config.json and weights, with changes."""
    source = snapshot("facebook/encodec_32khz")
    said = json.loads((source / "config.json").read_text("utf-8")) | dict(config)
    for name in drop:
        del said[name]
    (folder / "config.json").write_text(json.dumps(said), "utf-8")
    state = load_file(source / "model.safetensors") if weights is None else weights
    save_file(state, folder / "model.safetensors")
    return folder / "config.json", folder / "model.safetensors"


def test_everything_is_read_from_xp_cfg():
    config, _ = encodec.read_released(snapshot("facebook/audio-magnet-small") / FILE)
    assert config == CodecConfig(
        sample_rate=16000,
        channels=1,
        ratios=(8, 5, 4, 2),
        n_filters=2,
        dimension=24,
        n_q=4,
        card=64,
        lstm_layers=2,
        pad_mode="constant",
    )
    assert encodec.read_released(snapshot(FULL) / FILE)[0].pad_mode == "reflect"


@pytest.mark.parametrize("model", RELEASED)
def test_weights_are_folded_in_float32(model):
    best_state = package(model)["best_state"]
    _, state = encodec.read_released(snapshot(model) / FILE)
    assert {tensor.dtype for tensor in state.values()} == {torch.float32}
    theirs, ours = "encoder.model.6.conv.conv", "encoder.layers.6.conv"
    conv = torch.nn.utils.parametrizations.weight_norm(
        torch.nn.Conv1d(*best_state[f"{theirs}.weight_v"].shape[1::-1], 8)
    )
    conv.parametrizations.weight.original0.data = best_state[f"{theirs}.weight_g"].float()
    conv.parametrizations.weight.original1.data = best_state[f"{theirs}.weight_v"].float()
    torch.testing.assert_close(state[f"{ours}.weight"], conv.weight.data, rtol=1e-6, atol=0)


@pytest.mark.parametrize("model", RELEASED)
def test_export_is_what_the_reference_loads(model, tmp_path):
    """The same keys and shapes, and settings by the names that the reference's builders take."""
    encodec.write_released(tmp_path / FILE, *encodec.read_released(snapshot(model) / FILE))
    original, exported = package(model), torch.load(tmp_path / FILE, weights_only=True)
    assert original.keys() == exported.keys()
    assert {name: t.shape for name, t in original["best_state"].items()} == {
        name: t.shape for name, t in exported["best_state"].items()
    }
    before, after = (xp_cfg.parse(content["xp.cfg"]) for content in (original, exported))
    for section in ("seanet", "encodec"):
        assert after[section] == before[section]
    assert after["rvq"].items() <= {**before["rvq"], "kmeans_init": False}.items()
    for name in ("compression_model", "sample_rate", "channels"):
        assert after[name] == before[name]


@pytest.mark.parametrize("model", RELEASED)
def test_round_trip(model, tmp_path):
    config, state = encodec.read_released(snapshot(model) / FILE)
    encodec.write_released(tmp_path / FILE, config, state)
    again_config, again = encodec.read_released(tmp_path / FILE)
    assert again_config == config
    assert again.keys() == state.keys()
    for name, tensor in state.items():
        torch.testing.assert_close(again[name], tensor, rtol=1e-6, atol=0)
    codes = torch.randint(config.card, (1, config.n_q, 20))
    audio = codec(config, state).decode(codes)
    torch.testing.assert_close(codec(again_config, again).decode(codes), audio, rtol=0, atol=1e-6)


def test_transformers_layout_can_be_exported(tmp_path):
    config, state = encodec.read_transformers(*in_transformers_layout(tmp_path))
    encodec.write_released(tmp_path / FILE, config, state)
    again_config, again = encodec.read_released(tmp_path / FILE)
    assert again_config == config
    for name, tensor in state.items():
        torch.testing.assert_close(again[name], tensor, rtol=1e-6, atol=0)


def test_settings_survive_the_export(tmp_path):
    config = CodecConfig(
        sample_rate=8000,
        channels=2,
        ratios=(3, 2),
        n_filters=4,
        dimension=6,
        n_q=2,
        card=8,
        lstm_layers=0,
        n_residual_layers=2,
        kernel_size=5,
        residual_kernel_size=5,
        last_kernel_size=3,
        dilation_base=3,
        compress=4,
        causal=True,
        pad_mode="reflect",
        true_skip=False,
        trim_right_ratio=0.5,
        elu_alpha=0.7,
    )
    state = EnCodec(config).state_dict()
    encodec.write_released(tmp_path / FILE, config, state)
    again_config, again = encodec.read_released(tmp_path / FILE)
    assert again_config == config
    assert again.keys() == state.keys()


def test_a_filter_of_zeros_survives(tmp_path):
    """v / ‖v‖ is NaN for a filter of zeros, and one NaN spreads to all of the audio."""
    config, state = encodec.read_released(snapshot(HALF) / FILE)
    state["encoder.layers.3.conv.weight"][1] = 0
    encodec.write_released(tmp_path / FILE, config, state)
    _, again = encodec.read_released(tmp_path / FILE)
    assert not again["encoder.layers.3.conv.weight"][1].any()
    v = torch.load(tmp_path / FILE, weights_only=True)["best_state"]
    v = v["encoder.model.3.conv.conv.weight_v"]
    assert torch.linalg.vector_norm(v, dim=(1, 2)).min() > 0


def test_weights_without_norm_are_taken_as_they_are(tmp_path):
    content = package()
    state = content["best_state"]
    _, folded = encodec.read_released(snapshot(HALF) / FILE)
    for part in ("weight_g", "weight_v"):
        del state[f"encoder.model.0.conv.conv.{part}"]  # as with disable_norm_outer_blocks: 1
    state["encoder.model.0.conv.conv.weight"] = folded["encoder.layers.0.conv.weight"]
    _, again = encodec.read_released(saved(tmp_path, content))
    assert all(torch.equal(again[name], folded[name]) for name in folded)


@pytest.mark.parametrize(
    ("change", "names"),
    [
        (lambda state: state.pop(MISSING), r"lacks decoder\.layers\.3\.convtr\.bias"),
        (lambda state: state.update(extra=torch.zeros(1)), "extra"),
        (
            lambda state: state.update({MISSING: torch.zeros(3)}),
            r"decoder\.layers\.3\.convtr\.bias is \[3\]",
        ),
        (
            lambda state: state.pop("encoder.model.0.conv.conv.weight_g"),
            r"lacks encoder\.layers\.0\.conv\.weight",
        ),
        (
            lambda state: state.update({"encoder.model.0.conv.conv.weight": torch.zeros(4, 1, 7)}),
            r"encoder\.layers\.0\.conv\.weight_g",
        ),
        (
            lambda state: state.update({"quantizer.vq.layers.4._codebook.embed": torch.zeros(1)}),
            r"quantizer\.codebooks\.4",
        ),
        (lambda state: state.update({MISSING: "text"}), "is a str, not a tensor"),
    ],
    ids=["missing", "left over", "shape", "half a norm", "weight twice", "more streams", "text"],
)
def test_tensors_that_do_not_fit_are_named(change, names, tmp_path):
    content = package()
    change(content["best_state"])
    with pytest.raises(CheckpointError, match=names):
        encodec.read_released(saved(tmp_path, content))


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("compression_model", "dac"),
        ("encodec.autoencoder", "other"),
        ("encodec.quantizer", "no_quant"),
        ("encodec.renormalize", True),
        ("seanet.activation", "ReLU"),
        ("seanet.norm", "time_group_norm"),
        ("seanet.encoder", {"n_filters": 4}),
        ("seanet.decoder.n_filters", 4),
        ("seanet.decoder.final_activation", "Tanh"),
        ("seanet.pad_mode", "circular"),
        ("seanet.n_filters", "two"),
        ("seanet.n_filters", None),
        ("seanet.n_residual_layers", 10_000_000),
        ("seanet.dilation_base", 10**9),
        ("rvq.n_q", 10_000_000),
        ("seanet.ratios", [2] * 400),
        ("rvq.bins", None),
    ],
)
def test_settings_that_are_not_here_are_named(path, value, tmp_path):
    with pytest.raises(CheckpointError, match=path.split(".")[-1]):
        encodec.read_released(changed(tmp_path, path, value))


def test_other_sizes_than_the_tensors_are_refused(tmp_path):
    with pytest.raises(CheckpointError, match="its settings make it"):
        encodec.read_released(changed(tmp_path, "seanet.n_filters", 8))
    with pytest.raises(CheckpointError, match="lacks quantizer"):
        encodec.read_released(changed(tmp_path, "rvq.n_q", 5))


@pytest.mark.parametrize("content", [{"pretrained": "facebook/encodec_32khz"}, {"best_state": {}}])
def test_another_layout_is_refused(content, tmp_path):
    with pytest.raises(CheckpointError, match="released layout"):
        encodec.read_released(saved(tmp_path, content))


def test_transformers_silence_means_their_default(tmp_path):
    """facebook/encodec_24khz was published before `use_conv_shortcut` existed."""
    paths = in_transformers_layout(tmp_path, drop=["use_conv_shortcut"])
    with pytest.raises(CheckpointError, match=r"lacks .*shortcut"):
        encodec.read_transformers(*paths)


@pytest.mark.parametrize(
    "change",
    [
        {"model_type": "dac"},
        {"norm_type": "time_group_norm"},
        {"normalize": True},
        {"chunk_length_s": 1.0},
        {"codebook_dim": 4},
        {"num_filters": "two"},
        {"pad_mode": "circular"},
    ],
)
def test_transformers_settings_that_are_not_here_are_refused(change, tmp_path):
    (name,) = change
    with pytest.raises(CheckpointError, match="EnCodec" if name == "model_type" else name):
        encodec.read_transformers(*in_transformers_layout(tmp_path, change))


def test_transformers_tensors_that_do_not_fit_are_named(tmp_path):
    weights = load_file(snapshot("facebook/encodec_32khz") / "model.safetensors")
    del weights["decoder.layers.3.conv.bias"]
    with pytest.raises(CheckpointError, match=r"lacks decoder\.layers\.3\.convtr\.bias"):
        encodec.read_transformers(*in_transformers_layout(tmp_path, weights=weights))
    (tmp_path / "config.json").write_text("{", "utf-8")
    with pytest.raises(CheckpointError, match="cannot be read"):
        encodec.read_transformers(tmp_path / "config.json", tmp_path / "model.safetensors")
