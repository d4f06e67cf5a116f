"""Run by test_processes.py in processes of its own: the next training step, its loss and gradients saved.

python -m tests.training.one_step WORKSHOP OUT [micro_batch]
"""

from __future__ import annotations

import sys
from pathlib import Path

import torch

from magnet_cli.training.config import TrainConfig
from magnet_cli.training.setup import make_trainer


def main(workshop: Path, out: Path) -> None:
    config = TrainConfig(
        data=(str(workshop / "tokens"),),
        codec=str(workshop / "codec"),
        text_encoder=str(workshop / "text"),
        modeling="hybrid",
        dim=16,
        num_heads=2,
        num_layers=1,
        segment_duration=2.4,
        steps=2,
        batch_size=8,
        micro_batch=2,
        clip_norm=0.0,
        ema_every=1,
        seed=4,
    )
    trainer = make_trainer(config, out / "model", resume=True)
    counts = [
        trainer.train.batch(
            trainer.step, trainer.accelerator.process_index * trainer.share + n
        ).counts()
        for n in range(trainer.share)
    ]
    kept: dict[str, torch.Tensor] = {}

    def keep(*_: object) -> None:
        for name, parameter in trainer.output.lm.named_parameters():
            if parameter.grad is not None:
                kept[name] = parameter.grad.clone()

    for optimizer in trainer.optimizers:
        optimizer.optimizer.register_step_pre_hook(keep)
    loss, norm, sums = trainer.take_step()
    trainer.checkpoint()
    weights = {name: p.detach().clone() for name, p in trainer.output.lm.named_parameters()}
    rank = trainer.accelerator.process_index
    torch.save(
        {
            "loss": loss,
            "norm": norm,
            "sums": sums,
            "counts": counts,
            "gradients": kept,
            "weights": weights,
            "averages": trainer.ema.state_dict()["shadow"],
            "step": trainer.step,
            "processes": trainer.accelerator.num_processes,
        },
        out / f"step-{rank}.pt",
    )
    trainer.accelerator.end_training()


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
