"""What tests do with tasks."""

import torch
from torch_geometric.data import Batch

from plstm_graph.task import GraphTask


def training_loss(task: GraphTask, batch: Batch, seed: int) -> torch.Tensor:
    """Loss of a training step on a batch, without a trainer; the seed is of all that the step draws."""
    task.log = lambda *args, **kwargs: None
    torch.manual_seed(seed)
    return task.training_step(batch, 0)
