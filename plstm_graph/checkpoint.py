"""Checkpoints of tensors and primitives, from which a network is built again."""

import inspect
from pathlib import Path
from typing import IO, Any

import torch
from torch import nn

from plstm_graph.errors import InputError
from plstm_graph.models import (
    GAT,
    GCN,
    GIN,
    GINE,
    MPNN,
    PLSTM,
    Branch,
    CircularFingerprint,
    GaussianProcess,
    GraphNetwork,
)

#: Networks that a checkpoint may name.
NETWORKS: dict[str, type[GraphNetwork]] = {
    network.__name__: network for network in (PLSTM, GIN, GINE, GCN, GAT, MPNN)
}

#: Branches that a checkpoint may name.
BRANCHES: dict[str, type[Branch]] = {
    branch.__name__: branch for branch in (CircularFingerprint, GaussianProcess)
}

#: Changes when an older release could not build what a newer one writes down, or the other way round, or
#: would give its network other features.
FORMAT = 8


def read_checkpoint(path: str | Path | IO[bytes]) -> dict[str, Any]:
    """Read a checkpoint of :class:`~plstm_graph.task.GraphTask` without unpickling code.

    Args:
        path: The file, or one that is open.

    Raises:
        InputError: The file is missing, unreadable, no checkpoint of a :class:`GraphTask`, or one of another
            format.
    """
    if isinstance(path, str | Path) and not Path(path).is_file():
        inside = min(Path(path).glob("*.ckpt"), default=None)
        found = f"; name one in that folder, such as {str(inside)!r}" if inside else ""
        raise InputError(f"There is no checkpoint {str(path)!r}{found}.")
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


def argument_names(module_class: type[nn.Module]) -> list[str]:
    """Names of a network's or branch's arguments, those that it hands on to its base classes too."""
    names = [
        name
        for part in module_class.__mro__
        if issubclass(part, GraphNetwork | Branch)
        for name, parameter in inspect.signature(part.__init__).parameters.items()
        if parameter.kind not in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD)
    ]
    return [name for name in dict.fromkeys(names) if name not in ("self", "mixers")]


def describe_network(network: nn.Module) -> dict[str, Any] | None:
    """Write down how a known network was built: its attributes are named as its arguments."""
    if not isinstance(network, GraphNetwork):
        return None
    branches = [_describe(branch, BRANCHES) for branch in network.branches[1:]]
    description = _describe(network, NETWORKS)
    if description is None or None in branches:
        return None
    description["init_args"]["branches"] = branches
    return description


def _describe(module: nn.Module, known: dict[str, Any]) -> dict[str, Any] | None:
    name = type(module).__name__
    if known.get(name) is not type(module):
        return None
    arguments = {argument: getattr(module, argument) for argument in argument_names(type(module))}
    if not isinstance(arguments.get("orientation", ""), str):
        return None  # no file that holds tensors and primitives alone can tell it
    return {"class_path": f"{type(module).__module__}.{name}", "init_args": arguments}


def build_network(description: dict[str, Any] | None) -> GraphNetwork:
    """Build a network with fresh weights from what :func:`describe_network` has written down.

    Raises:
        InputError: The description is of none of this package's networks or branches.
    """
    if description is None:
        raise InputError("The checkpoint is of a network of your own: pass it as network=....")
    arguments = dict(description["init_args"])
    arguments["branches"] = [_build(branch, BRANCHES, "branch") for branch in arguments.get("branches", ())]
    return _build({**description, "init_args": arguments}, NETWORKS, "network")


def _build(description: dict[str, Any], known: dict[str, Any], kind: str) -> Any:
    name = description["class_path"].rpartition(".")[2]
    if name not in known:
        raise InputError(f"The checkpoint names the {kind} {name!r}; known are {', '.join(known)}.")
    return known[name](**description["init_args"])
