"""Golden section 3 and 7: the reference's codes and audio, through the public API, offline."""

from __future__ import annotations

import pytest
import torch

from magnet_cli.decoding import autoregressive, iterative, sampling
from magnet_cli.decoding.contracts import Decoding
from magnet_cli.decoding.sampling import make_generators
from magnet_cli.models.session import CausalSession, MaskedSession
from magnet_cli.settings import DecodingConfig
from tests.golden_cases import case, case_id, cases, tensor
from tests.models.tiny import golden_model

pytestmark = pytest.mark.usefixtures("hub_cache")

# Texts of unequal token length, for which the reference's cross-attention sees padding.
PADDED = {
    "gen/batch2_unequal",
    "gen/batch2_stride1_prompt",
    "musicgen/gen20_batch2",
    "musicgen/gen20_two_step",
}
# Not codes, drawn from the global generator, or a steps list that leaves mask ids in the output.
ELSEWHERE = {"gen/schedule", "gen/short_steps_list", "api/defaults"}

GENERATIONS = [
    c for c in cases(3) + cases(7)
    if "codes" in c["outputs"] and "wav_every_61" not in c["outputs"]
    and c["id"] not in ELSEWHERE and not c["settings"].get("torch_manual_seed")
]  # fmt: skip
SAMPLED = [c for c in cases(3) if c["settings"].get("torch_manual_seed")]
API = [c for c in cases(3, "api/") if c["id"] not in ELSEWHERE]


def config_of(golden: dict) -> DecodingConfig:
    """The case's settings under our names."""
    given = golden["settings"]
    if "cfg_coef" in given:
        return DecodingConfig(use_sampling=False, cfg_coef=given["cfg_coef"])
    return DecodingConfig(
        decoding_steps=given["decoding_steps"],
        temperature=given.get("temp", given.get("temperature")),
        anneal_temperature=given.get("anneal_temp", True),
        top_p=given.get("top_p"),
        top_k=given.get("top_k"),
        use_sampling=given["use_sampling"],
        max_cfg_coef=given["max_cfg_coef"],
        min_cfg_coef=given["min_cfg_coef"],
        span_len=given.get("span_len"),
        span_arrangement=given["span_arrangement"],
        span_scoring=given.get("span_scoring"),
        full_length=False,
    )


def prompt_of(golden: dict) -> torch.Tensor | None:
    return tensor(golden["inputs"]["prompt"]) if "prompt" in golden["inputs"] else None


@pytest.mark.parametrize("golden", [c for c in GENERATIONS if c["id"] not in PADDED], ids=case_id)
def test_codes_are_the_references(golden: dict) -> None:
    result = golden_model(golden["model"]).generate(
        golden["inputs"]["texts"],
        config_of(golden),
        frames=golden["settings"]["max_gen_len"],
        prompt_codes=prompt_of(golden),
    )
    assert torch.equal(result.codes, tensor(golden["outputs"]["codes"]))


@pytest.mark.parametrize("golden", [c for c in GENERATIONS if c["id"] in PADDED], ids=case_id)
@torch.inference_mode()
def test_codes_are_the_references_with_padding_attended(golden: dict) -> None:
    """Below the API: conditions with zero padding that is attended to, as in the reference."""
    model = golden_model(golden["model"])
    conditions = list(model.encode_text(golden["inputs"]["texts"])[0])
    nulls = [None] * len(conditions)
    want = tensor(golden["outputs"]["codes"])
    known, mask = torch.zeros_like(want), torch.zeros_like(want, dtype=torch.bool)
    prompt = prompt_of(golden)
    if prompt is not None:
        known[..., : prompt.shape[-1]], mask[..., : prompt.shape[-1]] = prompt, True
    decoding = Decoding(
        config_of(golden).over(model.defaults), model.card, make_generators([0] * len(want))
    )
    if model.modeling == "autoregressive":
        codes = autoregressive.decode(
            CausalSession(model.lm, conditions, nulls),
            known,
            mask,
            decoding,
            pattern=model.lm.pattern,
        )
    else:
        codes = iterative.decode(MaskedSession(model.lm, conditions, nulls), known, mask, decoding)
    assert torch.equal(codes, want)


@pytest.mark.parametrize("golden", API, ids=case_id)
def test_codes_and_audio_are_the_references(golden: dict) -> None:
    model = golden_model(golden["model"])
    prompt = None
    if "prompt_wav" in golden["inputs"]:
        prompt = model.codec.encode(tensor(golden["inputs"]["prompt_wav"]))
        assert prompt.shape[-1] == golden["extra"]["prompt_frames"]
    result = model.generate(golden["inputs"]["texts"], config_of(golden), prompt_codes=prompt)
    assert torch.equal(result.codes, tensor(golden["outputs"]["codes"]))
    assert list(result.audio.shape) == golden["extra"]["wav_shape"]
    audio = {
        "wav_first": result.audio[..., :4000],
        "wav_last": result.audio[..., -2000:],
        "wav_every_61": result.audio[..., ::61],
    }
    for name, reference in golden["outputs"].items():
        if name != "codes":
            assert float((audio[name] - tensor(reference)).abs().max()) < 1e-5


class ReferenceNoise:
    """The draws of the reference: `torch.multinomial` over all frames, from the global generator.

    `torch.multinomial` draws an exponential number for every probability, and takes the highest
    ratio; under top-p the reference hands it the probabilities in falling order.
    """

    def __init__(self, card: int, ordered: bool) -> None:
        self.card, self.ordered = card, ordered
        self.numbers = torch.empty(0)

    def uniform_noise(
        self, generators: object, drawing: object, count: int, device: torch.device
    ) -> torch.Tensor:
        """Instead of noise, float [1, count]: the row of numbers for each frame."""
        self.numbers = torch.empty(count, self.card).exponential_()
        return torch.arange(count).float()[None]

    def draw(self, probs: torch.Tensor, rows: torch.Tensor) -> torch.Tensor:
        """Probabilities [N, card], rows [N] -> tokens [N]."""
        order = torch.arange(self.card).expand_as(probs)
        if self.ordered:
            order = probs.argsort(dim=-1, descending=True, stable=True)
        best = (probs.gather(-1, order) / self.numbers[rows.long()]).argmax(-1, keepdim=True)
        return order.gather(-1, best)[:, 0]


def draws_as_the_reference_did() -> bool:
    """Torch does not promise equal random numbers on another version or processor than that of the files."""
    torch.manual_seed(5)
    return torch.allclose(
        torch.empty(4).exponential_(), torch.tensor([1.0273, 0.3008, 0.4476, 0.3785]), atol=1e-4
    )


@pytest.mark.parametrize("golden", SAMPLED, ids=case_id)
def test_sampled_codes_are_the_references_under_its_noise(
    golden: dict, monkeypatch: pytest.MonkeyPatch
) -> None:
    with torch.random.fork_rng(devices=[]):
        if not draws_as_the_reference_did():
            pytest.skip("this torch draws other numbers than the one that made the golden files")
        model = golden_model(golden["model"])
        noise = ReferenceNoise(model.card, ordered=golden["settings"]["top_p"] > 0)
        monkeypatch.setattr(iterative, "uniform_noise", noise.uniform_noise)
        monkeypatch.setattr(sampling, "draw", noise.draw)
        torch.manual_seed(golden["settings"]["torch_manual_seed"])
        result = model.generate(
            golden["inputs"]["texts"], config_of(golden), frames=golden["settings"]["max_gen_len"]
        )
    assert torch.equal(result.codes, tensor(golden["outputs"]["codes"]))


@pytest.mark.parametrize("golden", SAMPLED, ids=case_id)
def test_sampled_codes_hang_on_the_seed_and_not_on_the_global_generator(golden: dict) -> None:
    """The reference uses the global generator, ours a generator per item."""
    model, before = golden_model(golden["model"]), torch.random.get_rng_state()
    one, other = (
        model.generate(
            golden["inputs"]["texts"],
            config_of(golden),
            seeds=[seed],
            frames=golden["settings"]["max_gen_len"],
        ).codes
        for seed in (5, 6)
    )
    assert float((one != other).float().mean()) > 0.3
    assert torch.equal(torch.random.get_rng_state(), before)


def test_defaults_are_each_checkpoints_own() -> None:
    """The reference's API has one set of defaults for all; ours follow the model cards."""
    shared = case("api/defaults")["outputs"]["params"]["magnet-small-10secs"]
    music = golden_model("facebook/magnet-small-10secs").defaults
    assert list(music.decoding_steps or ()) == shared["decoding_steps"]
    assert (music.temperature, music.top_p) == (shared["temp"], shared["top_p"])
    sound = golden_model("facebook/audio-magnet-small").defaults
    assert (sound.temperature, sound.top_p, sound.max_cfg_coef) == (3.5, 0.8, 20.0)
    assert golden_model("facebook/magnet-small-30secs").defaults.decoding_steps == (60, 10, 10, 10)
    causal = golden_model("facebook/musicgen-small").defaults
    assert (causal.top_k, causal.temperature, causal.cfg_coef) == (250, 1.0, 3.0)
