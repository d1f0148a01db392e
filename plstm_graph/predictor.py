"""A network and what its outputs mean, as a checkpoint has them, without what trains it."""

from pathlib import Path
from typing import IO, Any, Literal, Self, get_args

import torch
from torch import Tensor, nn
from torch_geometric.data import Data

from plstm_graph.checkpoint import build_network, read_checkpoint
from plstm_graph.errors import InputError
from plstm_graph.models import GraphNetwork
from plstm_graph.normal_scores import NormalScores

Task = Literal["regression", "classification", "multiclass"]

#: Metrics for which targets are learned by their :class:`~plstm_graph.normal_scores.NormalScores`.
BY_ORDER = ("mae", "spearman")


class Predictor(nn.Module):
    """Graphs to predictions; loads without Lightning.

    Args:
        network: Graphs in, [num_graphs, T] out.
        task: ``"regression"``, ``"classification"``, or ``"multiclass"``: one target, which is the number
            of one of T classes.
        target_names: Names of the T targets or classes.
        class_names: Names of the two classes of each target of a classification, the positive one last.
        unit: Unit of the targets, for reports.
        descriptor_names: Names of the descriptors that the network reads beside a graph.
        metric: Score that the network is to be good at, as :class:`~plstm_graph.task.GraphTask` has it.

    Raises:
        InputError: An unknown task, or names that are not as many as the targets or descriptors.
    """

    target_mean: Tensor
    target_std: Tensor

    def __init__(
        self,
        network: GraphNetwork,
        task: Task = "regression",
        target_names: list[str] | None = None,
        class_names: list[list[str]] | None = None,
        unit: str = "",
        descriptor_names: list[str] | None = None,
        metric: str | None = None,
    ) -> None:
        super().__init__()
        if task not in get_args(Task):
            raise InputError(f"task must be {', '.join(map(repr, get_args(Task)))}, not {task!r}.")
        read = getattr(network, "descriptors", 0)
        if descriptor_names is not None and len(descriptor_names) != read:
            raise InputError(f"descriptor_names has {len(descriptor_names)} names; the network reads {read}.")
        if target_names is not None and len(target_names) != network.out_channels:
            raise InputError(
                f"target_names has {len(target_names)} names; the network predicts {network.out_channels}."
            )
        self.network = network
        self.task: Task = task
        if class_names is not None and [len(pair) for pair in class_names] != [2] * network.out_channels:
            raise InputError(f"class_names must be a pair for each of {network.out_channels} targets.")
        self.target_names = target_names
        self.class_names = class_names
        self.unit = unit
        self.descriptor_names = descriptor_names
        self.register_buffer("target_mean", torch.zeros(network.out_channels))
        self.register_buffer("target_std", torch.ones(network.out_channels))
        self.normal_scores = NormalScores(network.out_channels) if metric in BY_ORDER else None

    def forward(self, batch: Data) -> Tensor:
        """Predict in the targets' unit (regression) or as probabilities.

        Args:
            batch: Batch of B graphs, as the network takes it.

        Returns:
            [B, T].

        Raises:
            InputError: Node or edge features are not finite.
        """
        return self._finish(self._output(batch))

    def _output(self, batch: Data) -> Tensor:
        check_finite(batch)
        return self.network(batch)

    def _finish(self, output: Tensor) -> Tensor:
        if self.task == "classification":
            return output.sigmoid()
        if self.task == "multiclass":
            return output.softmax(1)
        output = output * self.target_std + self.target_mean
        return output if self.normal_scores is None else self.normal_scores.inverse(output)

    @classmethod
    def from_checkpoint(cls, path: str | Path | IO[bytes]) -> Self:
        """Build that of a :class:`~plstm_graph.task.GraphTask` from its checkpoint, in evaluation mode.

        Args:
            path: File written by a Lightning trainer or by ``plstm-graph fit``, or one that is open.

        Raises:
            InputError: The file is missing, unreadable, or no checkpoint of a :class:`GraphTask`.
        """
        return cls.from_parts(read_checkpoint(path)).eval()

    @classmethod
    def from_parts(cls, checkpoint: dict[str, Any]) -> Self:
        """Build from what :func:`~plstm_graph.checkpoint.read_checkpoint` has read."""
        arguments = checkpoint["hyper_parameters"]
        network = build_network(arguments["network"])
        kept = ("task", "target_names", "class_names", "unit", "descriptor_names", "metric")
        predictor = cls(network, **{name: arguments[name] for name in kept})
        weights = checkpoint["state_dict"]
        predictor.load_state_dict({name: weights[name] for name in predictor.state_dict() if name in weights})
        return predictor


def check_finite(batch: Data) -> None:
    """Refuse a batch whose features are not finite; :class:`InputError` says of which graph."""
    for key in ("x", "edge_attr"):
        features = batch.get(key)
        if features is None or not features.is_floating_point() or features.isfinite().all():
            continue
        row = int((~features.isfinite()).flatten(1).any(1).nonzero()[0])
        node = row if key == "x" else int(batch.edge_index[0, row])
        graph = int(batch.batch[node]) if batch.batch is not None else 0
        if isinstance(getattr(batch, "row", None), Tensor):
            where = f"row {int(batch.row[graph])} of the table"
        else:
            where = f"graph {graph} of the batch"
        raise InputError(f"Features {key} of {where} hold NaN or infinite values.")
