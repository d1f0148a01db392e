"""Networks of several checkpoints that predict the same."""

from collections.abc import Iterator, Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from plstm_graph.datasets.featurise import Featurised
from plstm_graph.errors import InputError
from plstm_graph.predictor import Predictor

_ATOMS = 64  # cap on the atoms of a batch, as a multiple of batch_size


class Ensemble:
    """The checkpoints of an ensemble, ready to predict.

    Args:
        paths: Checkpoints of :class:`~plstm_graph.task.GraphTask`.

    Raises:
        InputError: One is no such file, not for SMILES, or does not predict what the first one does.
    """

    def __init__(self, paths: Sequence[str]) -> None:
        self.predictors = [Predictor.from_checkpoint(path).eval() for path in paths]
        for path, predictor in zip(paths, self.predictors, strict=True):
            if predictor.network.in_channels is not None:
                raise InputError(
                    f"The network of {path} takes graphs of {predictor.network.in_channels} features a node, "
                    "not SMILES; it was trained on another kind of data."
                )
            if self._predicts(predictor) != self._predicts(self.predictors[0]):
                raise InputError(
                    f"{path} predicts {self._predicts(predictor)}, but {paths[0]} "
                    f"{self._predicts(self.predictors[0])}; the checkpoints of an ensemble must agree."
                )
        networks = [predictor.network for predictor in self.predictors]
        #: What the graphs carry for each network.
        self.preparations = [network.preparation(vars(network)) for network in networks]

    @staticmethod
    def _predicts(predictor: Predictor) -> str:
        names = predictor.target_names or range(predictor.network.out_channels)
        return f"{', '.join(map(str, names))} ({' in '.join(filter(None, (predictor.task, predictor.unit)))})"

    @property
    def targets(self) -> list[str]:
        """Names of the targets, or their numbers."""
        first = self.predictors[0]
        return [str(name) for name in first.target_names or range(first.network.out_channels)]

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


def _cut(atoms: Sequence[int], batch_size: int) -> Iterator[range]:
    """Batches of consecutive graphs; a graph of very many atoms has few others beside it."""
    first = held = 0
    for row, number in enumerate(atoms):
        if row > first and (row - first == batch_size or held + number > _ATOMS * batch_size):
            yield range(first, row)
            first, held = row, 0
        held += number
    yield range(first, len(atoms))
