"""The floor of every table of molecules: a random forest on Morgan fingerprints."""

from __future__ import annotations

import time
import warnings

import numpy as np
import torch
from numpy.typing import NDArray
from rdkit.Chem import rdFingerprintGenerator
from sklearn.ensemble import RandomForestClassifier, RandomForestRegressor

from benchmarks.outcome import outcome
from datasets import GraphDataModule
from plstm_graph.chem import read_smiles
from plstm_graph.errors import InputError
from training.cli import Result

RADIUS, BITS, TREES, SMALLEST_LEAF = 2, 1024, 300, 2


def fingerprints(smiles: list[str]) -> NDArray[np.uint8]:
    """Morgan fingerprints, [molecules, bits]; zeros where RDKit cannot read a SMILES."""
    generator = rdFingerprintGenerator.GetMorganGenerator(radius=RADIUS, fpSize=BITS)
    bits = np.zeros((len(smiles), BITS), np.uint8)
    unread = 0
    for row, text in enumerate(smiles):
        try:
            bits[row] = generator.GetFingerprintAsNumPy(read_smiles(text))
        except InputError:
            unread += 1
    if unread:
        warnings.warn(
            f"RDKit cannot read {unread} of {len(smiles)} SMILES; their fingerprints are zeros.", stacklevel=2
        )
    return bits


def fit_forest(module: GraphDataModule, seed: int) -> Result:
    """Train a forest for each task on its labelled molecules, and score it as networks are scored.

    Args:
        module: Molecules; fingerprints are taken from their SMILES.
        seed: Of the forests.
    """
    module.prepare_data()
    module.setup("fit")
    started = time.monotonic()
    predictions = forest_predictions(module, seed)
    seconds = time.monotonic() - started
    return outcome(module, f"Morgan fingerprint, {TREES} trees", predictions, epochs=0, seconds=seconds)


def forest_predictions(module: GraphDataModule, seed: int) -> torch.Tensor:
    """Values or probabilities of all molecules of a module that is set up: [molecules, T] float64."""
    bits = fingerprints(module.dataset.smiles)
    targets = module.dataset.tensors["y"].double()
    train = module.rows.train.numpy()
    predictions = [_predict(bits, column.numpy(), train, module.task, seed) for column in targets.unbind(1)]
    return torch.tensor(np.stack(predictions, 1))


def _predict(
    bits: NDArray[np.uint8], targets: NDArray[np.float64], train: NDArray[np.int64], task: str, seed: int
) -> NDArray[np.float64]:
    """Values, or probabilities of class 1, of all molecules by a forest that saw the training rows."""
    rows = train[~np.isnan(targets[train])]
    settings = {"n_estimators": TREES, "min_samples_leaf": SMALLEST_LEAF, "random_state": seed}
    if task == "regression":
        return RandomForestRegressor(**settings).fit(bits[rows], targets[rows]).predict(bits)
    forest = RandomForestClassifier(**settings).fit(bits[rows], targets[rows])
    shares = dict(zip(forest.classes_, forest.predict_proba(bits).T, strict=True))
    return shares.get(1.0, np.zeros(len(bits)))
