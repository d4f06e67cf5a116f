"""Settings of the spectral codec. No torch here."""

from __future__ import annotations

from dataclasses import dataclass

from magnet_cli.errors import CheckpointError
from magnet_cli.fields import setting

_SIZES = "Sizes of a new codec"


@dataclass(frozen=True)
class SpectralCodecConfig:
    """The spectral codec. Defaults are what the built-in model's began as: its own has 12 streams of 96
    components (recipes/nano/README.md, Codec)."""

    sample_rate: int = 24_000
    spectral_hop: int = 320  # samples from one spectral frame to the next
    overlap: int = 4  # hops in a window
    stack: int = 3  # spectral frames in a frame of codes
    linear_hz: float = 4000.0  # up to here each bin is a band
    high_bands: int = 80  # mel bands above
    floor: float = 5e-4  # amplitude that levels fade out below: log(1 + amplitude / floor)
    mel_weight: float = 0.5  # a band counts by its width on the mel scale to this power
    groups: int = setting(4, _SIZES, "Groups of neighbouring bands, coded apart.")
    dimension: int = setting(48, _SIZES, "Principal components of each group.")
    n_q: int = setting(8, _SIZES, "Streams, a multiple of the groups.")
    card: int = setting(1024, _SIZES, "Codes in each stream.")
    encoder_blocks: int = 0  # convolutional blocks over latents before the quantizer
    latent_blocks: int = 2  # over latents after it
    level_blocks: int = 2  # over the levels of spectral frames
    block_width: int = 2  # hidden channels of a block over its channels
    kernel_size: int = 7  # of a block, in frames
    correction: float = 0.5  # share of what the trained convolutions add to the linear path
    smoothing: float = 0.15  # nepers; frames that differ by less are averaged (smoothing.py)
    phase_iterations: int = 32
    channels: int = 1

    def __post_init__(self) -> None:
        check_config(self)

    @property
    def hop_length(self) -> int:
        """Samples in a frame of codes."""
        return self.spectral_hop * self.stack


def check_config(config: SpectralCodecConfig) -> None:
    """Refuse settings that cannot be built.

    Raises:
        CheckpointError: naming the setting.
    """

    def need(holds: bool, field: str, takes: str) -> None:
        if not holds:
            raise CheckpointError(
                f"The codec's {field} is {getattr(config, field)!r}.", f"It must be {takes}."
            )

    for field in ("sample_rate", "spectral_hop", "stack", "groups", "dimension", "card"):
        need(getattr(config, field) >= 1, field, "1 or more")
    for field in ("encoder_blocks", "latent_blocks", "level_blocks", "phase_iterations"):
        need(getattr(config, field) >= 0, field, "0 or more")
    whole = config.n_q >= config.groups and config.n_q % config.groups == 0
    need(whole, "n_q", "a multiple of groups")
    need(config.spectral_hop % 2 == 0, "spectral_hop", "even")
    need(config.overlap >= 2, "overlap", "2 or more")
    need(
        0 < config.linear_hz <= config.sample_rate / 2, "linear_hz", "within the sound's bandwidth"
    )
    need(config.high_bands >= 1, "high_bands", "1 or more")
    need(config.floor > 0, "floor", "above 0")
    need(config.smoothing >= 0, "smoothing", "0 or more")
    need(0 <= config.correction <= 1, "correction", "from 0 to 1")
    need(config.kernel_size % 2 == 1, "kernel_size", "odd")
    need(config.block_width >= 1, "block_width", "1 or more")
    need(config.channels == 1, "channels", "1")
