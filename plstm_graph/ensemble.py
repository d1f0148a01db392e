"""Networks of several checkpoints that predict the same; needs the extra ``train``."""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import IO, Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from plstm_graph.calibration import Array, Calibration, Numbers, combine
from plstm_graph.checkpoint import read_checkpoint
from plstm_graph.datasets.descriptors import table_columns
from plstm_graph.datasets.featurise import Featurised
from plstm_graph.errors import InputError, listed
from plstm_graph.predictor import Predictor
from plstm_graph.reference import Reference

_ATOMS = 64  # cap on the atoms of a batch, as a multiple of batch_size


class Prediction(NamedTuple):
    """Mean of networks [graphs, T] in the targets' unit or as calibrated probabilities, and their deviation.

    The deviation is that of calibrated probabilities too, and ``None`` for one network.
    """

    mean: Array
    std: Array | None


class Ensemble:
    """The checkpoints of an ensemble, ready to predict.

    Args:
        paths: Checkpoints of :class:`~plstm_graph.task.GraphTask`, or such files that are open.

    Raises:
        InputError: One is no such file, not for SMILES, or does not predict what the first one does.
    """

    def __init__(self, paths: Sequence[str | Path | IO[bytes]]) -> None:
        self.predictors, references = [], []
        for path in paths:
            checkpoint = read_checkpoint(path)
            self.predictors.append(Predictor.from_parts(checkpoint).eval())
            references.append(Reference.of(checkpoint))
        first = _meaning(self.predictors[0])
        for path, predictor in zip(paths, self.predictors, strict=True):
            if predictor.network.in_channels is not None:
                raise InputError(
                    f"The network of {path} takes graphs of {predictor.network.in_channels} features a node, "
                    "not SMILES; it was trained on another kind of data."
                )
            for name, found in _meaning(predictor).items():
                if found != first[name]:
                    raise InputError(
                        f"{path} has another {name} than {paths[0]}: {_shown(found)}, not "
                        f"{_shown(first[name])}; the checkpoints of an ensemble must agree."
                    )
        networks = [predictor.network for predictor in self.predictors]
        #: What the graphs carry for each network.
        self.preparations = [network.preparation(vars(network)) for network in networks]
        self.task = self.predictors[0].task
        #: What the networks read beside the graphs, and which of it are columns of a table.
        self.descriptor_names = self.predictors[0].descriptor_names or []
        self.columns = table_columns(self.descriptor_names)
        known = [reference for reference in references if reference is not None]
        #: That of the first checkpoint which has one, with what all predict if they know the same rows.
        self.reference = known[0] if known else None
        #: From the validation rows, if all checkpoints have the same.
        self.calibration: Calibration | None = None
        parts = [(each.val_targets, each.val_similarity) for each in known]
        rows = {b"".join(array.tobytes() for array in part if array is not None) for part in parts}
        if len(known) == len(paths) and len(rows) == 1:
            predictions = [each.val_predictions for each in known]
            self.calibration = Calibration(self.task, predictions, known[0].val_targets)
            mean = combine(predictions)[0].astype(np.float32)
            self.reference = replace(known[0], val_predictions=mean)

    @property
    def targets(self) -> list[str]:
        """Names of the targets, or their numbers."""
        first = self.predictors[0]
        return [str(name) for name in first.target_names or range(first.network.out_channels)]

    @property
    def class_names(self) -> list[list[str]]:
        """Names of the two classes of each target of a classification, the positive one last."""
        return self.predictors[0].class_names or [["0", "1"]] * len(self.targets)

    def predict(self, featurised: Featurised, batch_size: int) -> Prediction:
        """Predict by all networks together, see :meth:`evaluate`."""
        return self.combine(self.evaluate(featurised, batch_size, embed=False))

    def combine(self, outputs: Sequence[Numbers]) -> Prediction:
        """Put together what every network has predicted, [graphs, T] each.

        If probabilities can be calibrated, their mean is, and the deviation is that of calibrated ones.
        """
        mean, std = combine(outputs)
        if self.task == "regression" or self.calibration is None:
            return Prediction(mean, std)
        calibrate = self.calibration.probabilities
        return Prediction(calibrate(mean), combine([calibrate(output) for output in outputs])[1])

    @torch.inference_mode()
    def evaluate(self, featurised: Featurised, batch_size: int, embed: bool) -> list[NDArray[np.float32]]:
        """Predictions or embeddings [graphs, ...] of every network.

        Args:
            featurised: Graphs, prepared for each of ``preparations``.
            batch_size: Graphs that a network takes at once, at most.
            embed: Whether to embed.
        """
        if not len(featurised.counts["graphs"]):
            channels = "embedding_channels" if embed else "out_channels"
            widths = [getattr(predictor.network, channels) for predictor in self.predictors]
            return [np.empty((0, width), np.float32) for width in widths]
        cuts = list(_cut(featurised.counts["nodes"].tolist(), batch_size))
        results = []
        for predictor, wanted in zip(self.predictors, self.preparations, strict=True):
            call = predictor.network.embed if embed else predictor
            graphs = featurised.graphs(wanted)
            parts = [call(graphs.__getitems__(rows)) for rows in cuts]
            results.append(torch.cat(parts).float().numpy())
        return results


def _meaning(predictor: Predictor) -> dict[str, Any]:
    """What networks that are averaged have to agree on, by the names that a message has."""
    return {
        "kind of task": predictor.task,
        "list of targets": predictor.target_names or [*range(predictor.network.out_channels)],
        "pair of classes": predictor.class_names or [],
        "unit": predictor.unit,
        "list of descriptors": predictor.descriptor_names or [],
    }


def _shown(value: Any) -> str:
    return (listed(value) or "none") if isinstance(value, list) else repr(value)


def _cut(atoms: Sequence[int], batch_size: int) -> Iterator[range]:
    """Batches of consecutive graphs; a graph of very many atoms has few others beside it."""
    first = held = 0
    for row, number in enumerate(atoms):
        if row > first and (row - first == batch_size or held + number > _ATOMS * batch_size):
            yield range(first, row)
            first, held = row, 0
        held += number
    yield range(first, len(atoms))
