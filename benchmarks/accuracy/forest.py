"""The floor of every table: a random forest on fingerprints."""

from __future__ import annotations

import time
import warnings

import numpy as np
import torch
from numpy.typing import NDArray
from rdkit.Chem import rdFingerprintGenerator

from benchmarks.accuracy.outcome import outcome
from plstm_graph.chem import read_smiles
from plstm_graph.commands import forest
from plstm_graph.commands.fit import Result
from plstm_graph.datasets import GraphDataModule
from plstm_graph.datasets.graphs import PackedGraphs
from plstm_graph.errors import InputError
from plstm_graph.models import Graphs
from plstm_graph.models.fingerprint import environment_counts

RADIUS, BITS, TREES, SMALLEST_LEAF = 2, 1024, 300, 2
#: Size of the fingerprints of graphs that are no molecules.
COUNTS = 4096


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


def features_of(graphs: PackedGraphs) -> NDArray[np.generic]:
    """Morgan fingerprints of molecules, counts of environments of other graphs: [graphs, size]."""
    if graphs.smiles is not None:
        return fingerprints(graphs.smiles)
    batch = Graphs.from_data(graphs.__getitems__(range(len(graphs))))
    return environment_counts(batch, COUNTS, radius=3).numpy()


def fit_forest(module: GraphDataModule, seed: int) -> Result:
    """Train a forest for each task on its labelled graphs, and score it as networks are scored.

    Args:
        module: Molecules, whose fingerprints are taken from their SMILES, or other graphs.
        seed: Of the forests.
    """
    module.prepare_data()
    module.setup("fit")
    started = time.monotonic()
    predictions = forest_predictions(module, features_of(module.dataset), seed)
    seconds = time.monotonic() - started
    kind = "Circular" if module.dataset.smiles is None else "Morgan"
    return outcome(module, f"{kind} fingerprint, {TREES} trees", predictions, epochs=0, seconds=seconds)


def forest_predictions(module: GraphDataModule, features: NDArray[np.generic], seed: int) -> torch.Tensor:
    """Values or probabilities of all graphs of a module that is set up: [graphs, T] float64."""
    settings = {"n_estimators": TREES, "min_samples_leaf": SMALLEST_LEAF, "random_state": seed}
    return forest.forest_predictions(module, features, **settings)
