"""The directory that a run writes: at any time a model that `magnet gen -m DIR` plays."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from safetensors.torch import save_file
from torch import Tensor

from magnet_cli.audio.finish import write_sound
from magnet_cli.checkpoints import native
from magnet_cli.checkpoints.native import ModelCard
from magnet_cli.errors import UsageError
from magnet_cli.files import atomic_path
from magnet_cli.models.codec import AudioCodec
from magnet_cli.models.lm import LanguageModel
from magnet_cli.models.text import TextEncoder
from magnet_cli.settings import OutputConfig
from magnet_cli.training.config import TrainConfig, to_toml

CONFIG_NAME = "train.toml"
SAMPLES = "samples"


class OutputModel:
    """The parts of the model in training, and the directory that it is kept in.

    Codec and text encoder do not change, so they are written once; the language model's file is
    replaced whole, and the directory is a working model from the first moment on.
    """

    def __init__(
        self,
        directory: Path,
        lm: LanguageModel,
        codec: AudioCodec,
        text_encoder: TextEncoder,
        card: ModelCard,
    ) -> None:
        self.directory, self.lm, self.codec = directory, lm, codec
        self.text_encoder, self.card = text_encoder, card

    def create(self, config: TrainConfig) -> None:
        """Write the directory, before the first step.

        Raises:
            UsageError: something is there already.
        """
        if self.directory.is_dir() and not any(self.directory.iterdir()):
            self.directory.rmdir()
        if self.directory.exists():
            raise UsageError(
                f"{self.directory} exists already.",
                "Go on with what it holds by --resume, or choose another directory.",
            )
        native.save(self.directory, self.lm, self.codec, self.text_encoder, self.card)
        self.write_config(config)

    def write_config(self, config: TrainConfig) -> None:
        """Keep the settings beside the model."""
        with atomic_path(self.directory / CONFIG_NAME) as partial:
            partial.write_text(to_toml(config), encoding="utf-8")

    def update(self, weights: Mapping[str, Tensor]) -> None:
        """Replace the language model's weights by a training module's state, named `lm.…`."""
        state = {
            name.removeprefix("lm."): tensor.detach().cpu().contiguous().clone()
            for name, tensor in weights.items()
        }
        with atomic_path(self.directory / native.LM_FILE) as partial:
            save_file(state, partial)

    def samples(self, step: int, config: TrainConfig) -> Path:
        """Generate the sample prompts with the kept model, into `samples/step-…`."""
        from magnet_cli.pipeline import load_model

        folder = self.directory / SAMPLES / f"step-{step:08d}"
        folder.mkdir(parents=True, exist_ok=True)
        model = load_model(str(self.directory.resolve()), device="cpu", dtype="float32")
        for number, prompt in enumerate(config.sample_prompts or ("",)):
            result = model.generate([prompt], seeds=[config.seed])
            write_sound(
                folder / f"{number:02d}.wav",
                [result.audio[0].numpy()],
                result.sample_rate,
                "wav",
                OutputConfig(normalize=False),
            )
        return folder
