"""Learned judges loaded with transformers (extra `eval`): CLAP embeds sound and text, AST classifies sound.

CLAP (Wu et al., 2023, arXiv 2211.06687) crops sounds over ten seconds at random, so it is given windows
of that length. AST (Gong et al., 2021, arXiv 2104.01778) predicts AudioSet's classes. Weights come
from the hub's cache, a download or a folder, as models do.
"""

from __future__ import annotations

import hashlib
import importlib.util
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from magnet_cli.checkpoints import hub
from magnet_cli.errors import CheckpointError, ModelNotFoundError, UsageError
from magnet_cli.evaluation.embedders import short_name
from magnet_cli.evaluation.hearing import content_hash
from magnet_cli.foreign import reading

_WEIGHTS = ("model.safetensors", "pytorch_model.bin")  # in order of preference
_CLAP, _AST = "clap", "audio-spectrogram-transformer"


class _Learned:
    """A model on a device, and its feature extractor."""

    def __init__(self, name: str, identity: str, device: str, model: Any, extractor: Any) -> None:
        self.name, self.identity = name, identity
        self._model, self._extractor, self._device = model.to(device).eval(), extractor, device
        self.sample_rate = int(extractor.sampling_rate)

    def _features(self, windows: Sequence[Tensor]) -> Any:
        return self._extractor(
            [window.numpy() for window in windows],
            sampling_rate=self.sample_rate,
            return_tensors="pt",
        ).to(self._device)


class ClapEmbedder(_Learned):
    """CLAP, which embeds sound and text in one space."""

    def __init__(self, folder: Path, name: str, device: str) -> None:
        """Load the model from a folder. Raises CheckpointError: it cannot be loaded."""
        parts = _load(folder, _CLAP, ("ClapModel", "ClapFeatureExtractor", "AutoTokenizer"))
        *both, self._tokenizer = parts
        super().__init__(name, f"clap 1 {_identity(folder)}", device, *both)
        self.window = int(self._extractor.nb_max_samples)

    @torch.inference_mode()
    def embed(self, windows: Sequence[Tensor]) -> Tensor:
        """See Embedder. Not normalised, because windows are averaged over a clip first."""
        inputs = self._features(windows)
        # The extractor marks a random sound as too long even if all fit (for models with fusion).
        longer = torch.zeros(len(windows), 1, dtype=torch.bool, device=self._device)
        heard = self._model.audio_model(inputs["input_features"], is_longer=longer).pooler_output
        found: Tensor = self._model.audio_projection(heard)
        return found.float().cpu()

    @torch.inference_mode()
    def embed_texts(self, texts: Sequence[str]) -> Tensor:
        """See TextEmbedder."""
        inputs = self._tokenizer(
            list(texts), padding=True, truncation=True, return_tensors="pt"
        ).to(self._device)
        read = self._model.text_model(
            input_ids=inputs["input_ids"], attention_mask=inputs["attention_mask"]
        ).pooler_output
        found: Tensor = self._model.text_projection(read)
        return found.float().cpu()


class AstClassifier(_Learned):
    """AST, which classifies sound."""

    def __init__(self, folder: Path, name: str, device: str) -> None:
        """Load the model from a folder. Raises CheckpointError: it cannot be loaded."""
        both = _load(folder, _AST, ("ASTForAudioClassification", "ASTFeatureExtractor"))
        super().__init__(name, f"ast 1 {_identity(folder)}", device, *both)
        # Frames of 25 ms every 10 ms.
        hop, frame = self.sample_rate // 100, self.sample_rate // 40
        self.window, self._frame = (int(self._extractor.max_length) - 1) * hop + frame, frame

    @torch.inference_mode()
    def classify(self, windows: Sequence[Tensor]) -> Tensor:
        """See Classifier. Softmax, as in audiocraft's KL, although AST is a multi-label model."""
        padded = [
            torch.nn.functional.pad(window, (0, max(0, self._frame - len(window))))
            for window in windows
        ]
        logits: Tensor = self._model(**self._features(padded)).logits
        return logits.float().softmax(-1).cpu()


def load_clap(
    spec: str, *, device: str = "cpu", offline: bool = False, progress: Callable | None = None
) -> ClapEmbedder:
    """Load CLAP from its name on the hub or a folder.

    Raises:
        UsageError: the extra `eval` is not installed.
        ModelNotFoundError, CheckpointError: it could not be fetched, or is another kind of model.
    """
    return ClapEmbedder(_folder(spec, offline, progress), short_name(spec), device)


def load_classifier(
    spec: str, *, device: str = "cpu", offline: bool = False, progress: Callable | None = None
) -> AstClassifier:
    """Load AST from its name on the hub or a folder; raises what `load_clap` raises."""
    return AstClassifier(_folder(spec, offline, progress), short_name(spec), device)


def _folder(spec: str, offline: bool, progress: Callable | None) -> Path:
    """The folder of a judge's files, downloaded if necessary."""
    if importlib.util.find_spec("transformers") is None:
        raise UsageError(
            "Learned judges need transformers.", "Install them: pip install 'magnet-cli[eval]'."
        )
    folder = Path(spec).expanduser()
    if folder.is_dir():
        return folder
    repo, _, revision = spec.partition("@")
    if not hub.is_repo_id(repo) or "/" not in repo:
        raise ModelNotFoundError(
            f"There is no judge {spec[:200]!r}.",
            "Give a folder, or a model on the hub such as laion/larger_clap_music.",
        )
    snapshot = hub.cached(repo, revision or None)
    if snapshot is not None and not _missing(snapshot.names()):
        return snapshot.directory
    if offline or hub.offline():
        raise ModelNotFoundError(
            f"{repo} is not on this machine, and the network is off (--offline or HF_HUB_OFFLINE).",
            "Run the command once without --offline, or give the folder of a copy.",
        )
    return hub.download(repo, _needed, revision or None, progress).directory


def _missing(names: Sequence[str]) -> bool:
    return "config.json" not in names or not any(name in names for name in _WEIGHTS)


def _needed(names: Sequence[str]) -> list[str]:
    """The names of the configuration, the vocabulary and one weights file."""
    weights = [name for name in _WEIGHTS if name in names][:1]
    small = [
        name for name in names if name.endswith((".json", "merges.txt")) and "index" not in name
    ]
    return [*weights, *small]


def _load(folder: Path, kind: str, classes: Sequence[str]) -> list[Any]:
    """Load a judge's parts, one for each transformers class name.
    Raises CheckpointError: it is another kind of model, or cannot be loaded."""
    import transformers

    try:
        found = reading.read_object(folder / "config.json").get("model_type")
    except (OSError, ValueError) as error:
        raise CheckpointError(
            f"{folder} is not a judge's folder: its config.json cannot be read ({reading.reason(error)}).",
            "It needs what transformers saves: config.json, weights and the preprocessor's config.",
        ) from error
    if found != kind:
        role = "an embedder (CLAP)" if kind == _CLAP else "a classifier (AST)"
        raise CheckpointError(
            f"{folder} holds a model of type {found!r}, not {role}.",
            "--embedder takes CLAP (laion/larger_clap_music), --classifier takes AST "
            "(MIT/ast-finetuned-audioset-10-10-0.4593).",
        )
    before = transformers.logging.get_verbosity()
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    try:
        return [
            getattr(transformers, name).from_pretrained(folder, local_files_only=True)
            for name in classes
        ]
    except Exception as error:  # transformers may raise anything for a broken file
        reason = str(error).partition("\n")[0].strip() or type(error).__name__
        raise CheckpointError(
            f"The judge in {folder} cannot be loaded: {reason}.".replace("..", "."),
            "Download it again, or use another one.",
        ) from error
    finally:
        transformers.logging.set_verbosity(before)


def _identity(folder: Path) -> str:
    """A hash of the weights and the configuration."""
    digest = hashlib.sha256()
    for name in sorted(_needed([path.name for path in folder.iterdir() if path.is_file()])):
        digest.update(f"{name}\0{content_hash(folder / name)}".encode())
    return digest.hexdigest()
