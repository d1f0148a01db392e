"""The floor of every table: a random forest on fingerprints."""

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from rdkit.Chem import rdFingerprintGenerator
from sklearn.ensemble import RandomForestClassifier, RandomForestRegressor

from plstm_graph.chem import read_smiles
from plstm_graph.datasets import GraphDataModule


def count_fingerprints(smiles: list[str]) -> NDArray[np.uint32]:
    """Counts of Morgan fingerprints of radius 2, [molecules, 2048]."""
    generator = rdFingerprintGenerator.GetMorganGenerator(radius=2, fpSize=2048)
    return np.stack([generator.GetCountFingerprintAsNumPy(read_smiles(text)) for text in smiles])


def forest_predictions(
    module: GraphDataModule, features: NDArray[np.generic], **settings: Any
) -> torch.Tensor:
    """Train a forest for each target on its labelled training rows, and predict for all rows.

    Args:
        module: Data that are set up.
        features: [graphs, size].
        **settings: Arguments of scikit-learn's forests.

    Returns:
        Values or probabilities, [graphs, T] float64.
    """
    targets = module.dataset.tensors["y"].double()
    train = module.rows.train.numpy()
    classes = {"regression": [], "classification": [1], "multiclass": list(range(module.num_tasks))}
    predictions = [
        _predict(features, column.numpy(), train, classes[module.task], settings)
        for column in targets.unbind(1)
    ]
    return torch.tensor(np.concatenate(predictions, 1))


def _predict(
    features: NDArray[np.generic],
    targets: NDArray[np.float64],
    train: NDArray[np.int64],
    classes: list[int],
    settings: dict[str, Any],
) -> NDArray[np.float64]:
    """Probabilities of the classes, or values if there are none, of all graphs: [graphs, classes or 1]."""
    rows = train[~np.isnan(targets[train])]
    if not classes:
        values = RandomForestRegressor(**settings).fit(features[rows], targets[rows]).predict(features)
        return values[:, None]
    forest = RandomForestClassifier(**settings).fit(features[rows], targets[rows])
    shares = dict(zip(forest.classes_, forest.predict_proba(features).T, strict=True))
    return np.stack([shares.get(number, np.zeros(len(features))) for number in classes], 1)
