"""What a training run knew, kept in its checkpoint, by which predictions are calibrated."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray

from plstm_graph.checkpoint import read_checkpoint
from plstm_graph.chem import read_each
from plstm_graph.datasets.files import whole_file
from plstm_graph.predictor import Predictor
from plstm_graph.similarity import Similar, morgan_bits, nearest

if TYPE_CHECKING:  # Lightning takes seconds to load
    from plstm_graph.datasets import GraphDataModule

_KEY = "plstm_graph_reference"
_MOST = 100_000  # training molecules: to search more takes several times as long as to predict


@dataclass(frozen=True)
class Reference:
    """Validation rows as the network predicts them and, of molecules up to 100,000, the training rows.

    Of these, m have SMILES that RDKit can read.

    Args:
        val_predictions: float32 [n, T], in the unit of the targets, or probabilities.
        val_targets: float32 [n, T], or [n, 1] of classes; NaN where a value is missing.
        val_similarity: float32 [n], of every validation molecule to the nearest training molecule; 0 where
            RDKit cannot read its SMILES.
        train_fingerprints: uint8 [m, 256], see :func:`~plstm_graph.similarity.morgan_bits`.
        train_smiles: m strings.
        train_targets: float32 [m, T] or [m, 1].
    """

    val_predictions: NDArray[np.float32]
    val_targets: NDArray[np.float32]
    val_similarity: NDArray[np.float32] | None = None
    train_fingerprints: NDArray[np.uint8] | None = None
    train_smiles: list[str] | None = None
    train_targets: NDArray[np.float32] | None = None

    @classmethod
    def of(cls, checkpoint: dict[str, Any]) -> "Reference | None":
        """That of a checkpoint which was read, if it has one."""
        parts = checkpoint.get(_KEY, {})
        arrays = {key: part.numpy() for key, part in parts.items() if torch.is_tensor(part)}
        return cls(**parts | arrays) if parts else None

    def nearest(self, fingerprints: NDArray[np.uint8], number: int = 1) -> Similar:
        """Training molecules nearest to others [n, 256], see :func:`~plstm_graph.similarity.nearest`."""
        assert self.train_fingerprints is not None
        return nearest(fingerprints, self.train_fingerprints, number)


@torch.random.fork_rng(devices=[])
@torch.inference_mode()
def keep_reference(path: str | Path, module: "GraphDataModule") -> None:
    """Write the reference into a run's checkpoint, unless its network is of the user's own.

    Args:
        path: The checkpoint, which is replaced at once or not at all.
        module: The run's data, set up.
    """
    checkpoint = read_checkpoint(path)
    if checkpoint["hyper_parameters"]["network"] is None:
        return
    predictor, data, (train, val, _) = Predictor.from_parts(checkpoint).eval(), module.dataset, module.rows
    batches = map(data.__getitems__, val.split(module.batch_size))
    parts: dict[str, Any] = {"val_targets": module.val_targets}
    parts["val_predictions"] = torch.cat([predictor(batch).float() for batch in batches])
    if data.smiles is not None and len(train) <= _MOST:
        smiles = [[data.smiles[row] for row in rows.tolist()] for rows in (train, val)]
        known, others = map(read_each, smiles)  # OGB's sets have some that RDKit cannot read
        fingerprints, searched = (morgan_bits([*mols.values()]) for mols in (known, others))
        if known:
            similarity = torch.zeros(len(val), dtype=torch.float32)
            similarity[[*others]] = torch.from_numpy(nearest(searched, fingerprints, 1)[0][:, 0])
            parts |= {"train_smiles": [smiles[0][place] for place in known], "val_similarity": similarity}
            parts |= {"train_targets": module.train_targets[[*known]]}
            parts |= {"train_fingerprints": torch.from_numpy(fingerprints)}
    with whole_file(Path(path), "wb") as file:
        torch.save(checkpoint | {_KEY: parts}, file)
