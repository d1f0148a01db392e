"""Checkpoints of tensors and primitives, from which a network is built again."""

import inspect
from pathlib import Path
from typing import Any

import torch
from torch import nn

from plstm_graph.errors import InputError
from plstm_graph.models import GAT, GCN, GIN, GINE, MPNN, PLSTM, GraphNetwork, GridPLSTM, ViT

#: Networks that a checkpoint may name.
NETWORKS: dict[str, type[GraphNetwork]] = {
    network.__name__: network for network in (PLSTM, GIN, GINE, GCN, GAT, MPNN, GridPLSTM, ViT)
}

#: Changes when an older release could not build what a newer one writes down, or the other way round.
FORMAT = 1


def read_checkpoint(path: str | Path) -> dict[str, Any]:
    """Read a checkpoint of :class:`~plstm_graph.task.GraphTask` without unpickling code.

    Args:
        path: The file.

    Raises:
        InputError: The file is missing, unreadable, no checkpoint of a :class:`GraphTask`, or one of another
            format.
    """
    if not Path(path).is_file():
        raise InputError(f"There is no checkpoint file {str(path)!r}.")
    try:
        checkpoint = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises whatever foreign bytes lead its unpickler to
        raise InputError(f"The file {str(path)!r} cannot be read as a checkpoint.") from error
    parts = checkpoint if isinstance(checkpoint, dict) else {}
    if "state_dict" not in parts or "network" not in parts.get("hyper_parameters", {}):
        raise InputError(f"The file {str(path)!r} is no checkpoint of a GraphTask.")
    found = parts.get("plstm_graph_format", 0)
    if found != FORMAT:
        age = "An older" if found < FORMAT else "A newer"
        raise InputError(
            f"{age} release of plstm_graph has written the checkpoint {str(path)!r}: its format is {found}, "
            f"and this release reads {FORMAT}. Use that release, or train again."
        )
    return parts


def describe_network(network: nn.Module) -> dict[str, Any] | None:
    """Write down how a known network was built: its attributes are named as its arguments."""
    name = type(network).__name__
    if NETWORKS.get(name) is not type(network):
        return None
    arguments = inspect.signature(type(network)).parameters
    return {
        "class_path": f"plstm_graph.models.{name}",
        "init_args": {argument: getattr(network, argument) for argument in arguments},
    }


def build_network(description: dict[str, Any] | None) -> GraphNetwork:
    """Build a network with fresh weights from what :func:`describe_network` has written down.

    Raises:
        InputError: The description is of none of this package's networks.
    """
    if description is None:
        raise InputError("The checkpoint is of a network of your own: pass it as network=....")
    name = description["class_path"].rpartition(".")[2]
    if name not in NETWORKS:
        raise InputError(f"The checkpoint names the network {name!r}; known are {', '.join(NETWORKS)}.")
    return NETWORKS[name](**description["init_args"])
