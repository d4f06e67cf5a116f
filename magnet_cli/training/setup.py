"""Builds a training run from its settings: codec, text encoder, language model and data."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Collection, Sequence
from pathlib import Path

import torch

from magnet_cli.checkpoints import native
from magnet_cli.checkpoints.adapters import check_base, load_adapter
from magnet_cli.checkpoints.hub import ProgressHook
from magnet_cli.checkpoints.load import load_codec, load_parts, load_text_encoder
from magnet_cli.checkpoints.loras import WEIGHTS_FILE as ADAPTER_FILE
from magnet_cli.checkpoints.place import (
    find_codec,
    find_place,
    find_text_encoder,
    source_of,
    t5_of,
)
from magnet_cli.config import LMConfig, Modeling, check_lm
from magnet_cli.data.tokens import TokenFolder, TokenFormat
from magnet_cli.errors import UsageError
from magnet_cli.models.lm import LanguageModel
from magnet_cli.models.lora import add_adapters, frozen_in_bfloat16
from magnet_cli.models.parts import Parts
from magnet_cli.models.text import T5Encoder
from magnet_cli.settings import DecodingConfig
from magnet_cli.training.batches import BatchDrawer, Source, TextCache, own_defaults
from magnet_cli.training.config import TrainConfig, check_unseen, weighed
from magnet_cli.training.encode import check_tokens
from magnet_cli.training.initial import initialise, initialise_from_codec, with_streams_of
from magnet_cli.training.lock import locked
from magnet_cli.training.loop import Trainer, make_accelerator, shared_out
from magnet_cli.training.output import OutputModel, board_writer, check_trackers


@own_defaults()
def make_trainer(
    config: TrainConfig,
    out: Path,
    resume: bool = False,
    progress: ProgressHook | None = None,
    given: Collection[str] = (),
) -> Trainer:
    """Create a new run in the folder `out`, or resume one. `progress`: called with the progress of downloads.
    `given`: names of settings that were asked for, also those at their defaults.

    Raises:
        UsageError: settings are missing or do not fit each other, or `out` exists already.
        DataError, CheckpointError, ModelNotFoundError: tokens or models cannot be read.
    """
    if not config.data:
        raise UsageError(
            "There is nothing to train on.", "Name folders of token shards with --data."
        )
    going_on = resume and (out / native.CONFIG_FILE).is_file()
    for name in ("lora_alpha", "lora_targets"):  # train.toml has them in any case
        asked = getattr(config, name) != getattr(TrainConfig, name)
        if not config.lora_rank and asked and (name in given or not going_on):
            flag = "--" + name.replace("_", "-")
            raise UsageError(
                f"{flag} is for a LoRA.", f"Give --lora-rank, too, or leave {flag} out."
            )
    folders, weights = zip(*map(weighed, config.data), strict=True)
    if not going_on:  # runs started that way may finish
        check_unseen(config.valid, folders)
    # Checked first, so that a run that cannot start leaves no folder behind.
    if config.tensorboard:
        board_writer()
    check_trackers(config.track)
    accelerator = make_accelerator(config, out)
    config = shared_out(config, accelerator.num_processes)
    opened = tuple(TokenFolder(folder) for folder in folders)
    source = Source(opened, weights=weights, by_duration=config.draw_by == "duration")
    tokens = source.folders[0].format
    # Codec, text encoder and sizes are those of the existing folder; `resume` loads the weights. An
    # adapter's base is the model that the run started from: the folder's own model has the adapter merged.
    spec = config
    if going_on and not config.lora_rank:
        spec = dataclasses.replace(config, init=str(out.resolve()), codec=None, text_encoder=None)
    parts = parts_to_train(spec, tokens, out.resolve().name, progress)
    if spec.init is not None:
        config = with_sizes_of(config, parts.lm.config, given)
    check_tokens(tokens, parts.codec)
    _check_goal(config, parts.lm.config.modeling, given, going_on)
    if config.lora_rank:
        if going_on and (out / ADAPTER_FILE).is_file():
            check_base(
                load_adapter(out), parts.lm.config, parts.lm.state_dict(), config.init or "it"
            )
        alpha = config.lora_alpha or float(config.lora_rank)
        add_adapters(parts.lm, config.lora_rank, alpha, config.lora_targets, config.seed)
    for part, count in (("stage", len(parts.lm.config.stage_streams)), ("stream", tokens.n_q)):
        number = len(getattr(config, f"{part}_weights"))
        if number not in (0, count):
            raise UsageError(
                f"There are {number} {part}_weights for {count} {part}s.",
                f"Give one for each {part}, or none.",
            )
    provenance = {
        "text_encoder": parts.text_encoder_name,
        "init": config.init,
        "data": list(config.data),
    }
    output = OutputModel(out, dataclasses.replace(parts, name=out.resolve().name), provenance)
    # On a CPU this would save nothing: merging needs the float32 base, which shares its memory.
    half = accelerator.mixed_precision == "bf16" and accelerator.device.type != "cpu"
    if config.lora_rank and half:
        frozen_in_bfloat16(parts.lm)
    held_out = None
    if config.valid is not None:
        held_out = Source((TokenFolder(config.valid),))
        Source((*source.folders, *held_out.folders))  # all of one codec
    elif config.valid_share:
        source, held_out = source.split(config.valid_share)
    alike = parts.lm.config, config, TextCache(parts.text_encoder)
    train = BatchDrawer(source, *alike)
    valid = None if held_out is None else BatchDrawer(held_out, *alike)
    trainer = Trainer(config, output, train, valid, accelerator)
    if trainer.accelerator.is_main_process and not going_on:
        output.create(config)
    trainer.accelerator.wait_for_everyone()
    parts.text_encoder.to(trainer.accelerator.device)
    if going_on:
        trainer.resume()
        if trainer.accelerator.is_main_process:
            with locked(out):
                output.write_config(config)
    return trainer


# Settings of an objective, by the kinds of model that have it.
_GOALS: dict[str, tuple[Modeling, ...]] = {
    "stage_weights": ("masked", "hybrid"),
    "block_share": ("masked", "hybrid"),
    "no_prefix_share": ("hybrid",),
    "full_prefix_share": ("hybrid",),
    "prefix_weight": ("hybrid",),
    "stream_weights": ("autoregressive", "hybrid"),
}


def _check_goal(
    config: TrainConfig, modeling: Modeling, given: Collection[str], going_on: bool
) -> None:
    """Raises UsageError: a setting is of an objective that this kind of model has not."""
    for name, kinds in _GOALS.items():
        asked = getattr(config, name) != getattr(TrainConfig, name)
        if modeling not in kinds and asked and (name in given or not going_on):
            raise UsageError(
                f"{name} would have no effect: the model is {modeling}.",
                f"Leave it out; it is for a model that is {' or '.join(kinds)}.",
            )


def parts_to_train(
    config: TrainConfig, tokens: TokenFormat, name: str, progress: ProgressHook | None
) -> Parts:
    """The parts of the model to train, from a checkpoint or new."""
    if config.init is not None:
        return _from_checkpoint(config, progress)
    if config.codec is None or config.text_encoder is None:
        raise UsageError(
            "A new model needs a codec and a text encoder.",
            "Name them with --codec and --text-encoder, or fine-tune a model with --init.",
        )
    codec = load_codec(find_codec(config.codec, progress=progress), "cpu")
    text_encoder = load_text_encoder(find_text_encoder(config.text_encoder, progress=progress))
    lm = LanguageModel(new_lm_config(config, tokens, text_encoder.width))
    initialise(lm, config.seed)
    if config.init_from_codec:
        initialise_from_codec(lm, codec.codebooks(), config.seed)
    # A T5's name is recorded with the model; a local folder's would mean nothing elsewhere.
    named = isinstance(text_encoder, T5Encoder) and source_of(config.text_encoder) is None
    t5 = t5_of(config.text_encoder) if named else None
    return Parts(name, lm, codec, text_encoder, DecodingConfig(), text_encoder_name=t5)


def _from_checkpoint(config: TrainConfig, progress: ProgressHook | None) -> Parts:
    assert config.init is not None
    loaded = load_parts(find_place(config.init, progress=progress), "cpu", "float32")
    loaded.lm.requires_grad_(True)
    lm, codec, defaults = loaded.lm, loaded.codec, loaded.defaults
    if config.text_encoder is not None and not _is_text_encoder(config.text_encoder, loaded):
        raise UsageError(
            f"{config.init} cannot be given the text encoder {config.text_encoder}: it has its own.",
            "Leave --text-encoder out, or train a new model, without --init.",
        )
    if config.codec is not None:
        codec = load_codec(find_codec(config.codec, progress=progress), "cpu")
        if config.lora_rank and (codec.n_q, codec.card) != (lm.config.n_q, lm.config.card):
            raise UsageError(
                f"A LoRA cannot add streams to {config.init}: its weights are frozen.",
                "Leave --codec out, or train all weights, without --lora-rank.",
            )
        lm = with_streams_of(lm, codec, codec.codebooks() if config.init_from_codec else None)
        steps = defaults.decoding_steps
        if steps and len(steps) == loaded.lm.config.n_q:  # additional streams use the last one's
            steps += steps[-1:] * (codec.n_q - len(steps))
            defaults = dataclasses.replace(defaults, decoding_steps=steps)
    return dataclasses.replace(loaded, lm=lm, codec=codec, defaults=defaults)


def _is_text_encoder(asked: str, loaded: Parts) -> bool:
    """Whether `--text-encoder` names the model's own text encoder."""
    if t5_of(asked) == loaded.text_encoder_name:
        return True
    t5 = isinstance(loaded.text_encoder, T5Encoder)
    if source_of(asked) is None and (loaded.text_encoder_name is not None or not t5):
        return False  # another T5's name: no need to download it for comparison
    ours = loaded.text_encoder.state_dict()
    theirs = load_text_encoder(find_text_encoder(asked)).state_dict()
    return ours.keys() == theirs.keys() and all(
        torch.equal(ours[name], theirs[name]) for name in ours
    )


def with_sizes_of(config: TrainConfig, lm: LMConfig, given: Collection[str]) -> TrainConfig:
    """Set the sizes of a run that starts from a model to that model's.
    Raises UsageError: a setting asks for another size: it is given, or not at its default."""
    ours = {name: getattr(lm, name) for name in _SIZES}
    ours["stage_sizes"] = tuple(map(len, lm.stages))
    for name, value in ours.items():
        asked = getattr(config, name)
        if asked != value and (name in given or asked != getattr(TrainConfig, name)):
            raise UsageError(
                f"{name} cannot be {asked!r}: the model that training starts from has {value!r}.",
                "Leave the setting out, or train a new model, without --init.",
            )
    return dataclasses.replace(config, **ours)


_SIZES = (
    "modeling",
    "dim",
    "num_heads",
    "num_layers",
    "hidden_scale",
    "segment_duration",
    "subcodes_context",
    "span_len",
    "bar_position",
)


def new_lm_config(config: TrainConfig, tokens: TokenFormat, text_dim: int) -> LMConfig:
    """The sizes of a new model. Raises UsageError: no model of such a size could be loaded."""
    sizes = LMConfig(
        **{name: getattr(config, name) for name in _SIZES},
        n_q=tokens.n_q,
        card=tokens.card,
        text_dim=text_dim,
        frame_rate=tokens.frame_rate,
        delays=tuple(range(tokens.n_q)) if config.modeling != "masked" else (),
        stages=_stages(config.stage_sizes, tokens.n_q),
    )
    return check_lm(sizes, None)


def _stages(sizes: Sequence[int], n_q: int) -> tuple[tuple[int, ...], ...]:
    """The streams of stages of these sizes, in order."""
    if sum(sizes) not in (0, n_q):
        raise UsageError(
            f"The stages of {' '.join(map(str, sizes))} streams do not add up to {n_q}.",
            f"Give stage_sizes that add up to {n_q}, or none.",
        )
    ends = list(itertools.accumulate(sizes))
    return tuple(tuple(range(end - size, end)) for size, end in zip(sizes, ends, strict=True))
