"""Resumption: a run that was killed goes on as it would have."""

from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback, ModelCheckpoint
from lightning.pytorch.plugins.io import TorchCheckpointIO

from plstm_graph.datasets.files import whole_file
from plstm_graph.datasets.seeds import seed_of


class WholeFiles(TorchCheckpointIO):
    """Writes checkpoints beside their final names, on the same disk, and then renames them.

    Lightning's own goes by the system's folder for temporary files: from there to another disk it copies, and
    a run that is killed meanwhile leaves half a file.
    """

    def save_checkpoint(
        self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any | None = None
    ) -> None:
        """Write a checkpoint, whole or not at all."""
        with whole_file(Path(path), "wb") as file:
            torch.save(checkpoint, file)


class MovableCheckpoint(ModelCheckpoint):
    """Keeps the checkpoint of the best epoch, and restores it after a resume.

    On ties, which are frequent with few validation graphs, it keeps the latest epoch. Lightning's own keeps
    the first. It also forgets which epoch was best, and how good it was, if the folder was moved or is named
    differently.
    """

    def check_monitor_top_k(self, trainer: Trainer, current: torch.Tensor | None = None) -> bool:
        """Return if an epoch with this metric is kept: it is as good as the best before it, or better."""
        better = super().check_monitor_top_k(trainer, current)  # which all processes ask together
        return better or (current is not None and bool(current == self.best_model_score))

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Look for the files of the run's first part in the folder as it is called now."""
        folder = Path(self.dirpath or "")

        def here(path: str) -> str:
            return path and str(folder / Path(path).name)

        paths = {key: here(state_dict[key]) for key in state_dict if key.endswith("_path")}
        scores = {here(path): score for path, score in state_dict["best_k_models"].items()}
        super().load_state_dict(state_dict | paths | {"dirpath": self.dirpath, "best_k_models": scores})


class SeedEpochs(Callback):
    """Seeds every epoch by the run's seed and its number, so that a resumed run goes on as it would have."""

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Seed torch, on every process in its own way."""
        torch.manual_seed(seed_of("training", trainer.current_epoch, trainer.global_rank))
