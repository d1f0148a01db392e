"""What a run draws, written down beside its checkpoints."""

from pathlib import Path

import torch
from lightning.pytorch.callbacks import Callback
from torch.nn import functional as F


class Drawn(Callback):
    """Notes a process's starting weights, and for every batch its rows and what dropout is about to draw."""

    def __init__(self) -> None:
        self.rows: dict[int, list[torch.Tensor]] = {}
        self.masks: dict[int, list[torch.Tensor]] = {}

    def setup(self, trainer, pl_module, stage) -> None:
        # Before DDP hands the first process's weights to the others.
        self.weights = {name: value.clone() for name, value in pl_module.state_dict().items()}

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx) -> None:
        with torch.random.fork_rng():
            mask = F.dropout(torch.ones(64), 0.5)
        self.rows.setdefault(trainer.current_epoch, []).append(batch.row.clone())
        self.masks.setdefault(trainer.current_epoch, []).append(mask)

    def on_train_end(self, trainer, pl_module) -> None:
        noted = {"weights": self.weights, "rows": self.rows, "masks": self.masks}
        torch.save(noted, Path(trainer.default_root_dir) / f"drawn{trainer.global_rank}.pt")
