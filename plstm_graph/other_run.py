"""A checkpoint of another run: whether a task can go on with it, and what a network can take from it."""

from typing import Any

from torch import Tensor, nn

from plstm_graph.checkpoint import describe_network
from plstm_graph.errors import InputError, listed
from plstm_graph.predictor import Predictor

#: Parts of a network that belong to its own targets and descriptors.
_NEW = ("predictors.", "descriptor_encoder.")


def difference(task: Predictor, checkpoint: dict[str, Any], strict: bool) -> str | None:
    """In which way a checkpoint is none of a task, as a sentence without its full stop.

    Args:
        task: The task.
        checkpoint: Content of the file.
        strict: Whether a tensor that one of them lacks is a difference.
    """
    trained = "The checkpoint was trained"
    known = checkpoint.get("hyper_parameters", {})
    if known.get("task", task.task) != task.task:
        return f"{trained} for {known['task']}, this run is for {task.task}"
    names = known.get("target_names")
    if names and task.target_names and list(names) != list(task.target_names):
        kind = "class" if task.task == "multiclass" else "target"
        plural = "" if len(names) == 1 else "es" if kind == "class" else "s"
        return f"{trained} on {kind}{plural} {listed(names)}, this run has {listed(task.target_names)}"
    networks = known.get("network") or {}, describe_network(task.network) or {}
    if all(networks):  # of one's own, checkpoints know nothing
        was, now = (network["class_path"].rpartition(".")[2] for network in networks)
        if was != now:
            return f"{trained} with the network {was}, this run has {now}"
        for key in ("in_channels", "edge_dim", "descriptors"):
            was, now = (network["init_args"].get(key) for network in networks)
            if was != now:
                return f"{trained} on graphs with {key} {was}, this run's have {now}"
    read = known.get("descriptor_names") or [], task.descriptor_names or []
    if read[0] != read[1]:
        return f"{trained} with the descriptors {listed(read[0])}, this run has {listed(read[1])}"
    weights, others = task.state_dict(), checkpoint.get("state_dict", {})
    for name in weights.keys() | others.keys():
        was, now = (
            list(part[name].shape) if isinstance(part.get(name), Tensor) else None
            for part in (others, weights)
        )
        if was != now and (strict or None not in (was, now)):
            return f"{trained} with another network, whose {name} has shape {was} and not {now}"
    return None


def weights_to_take(network: nn.Module, checkpoint: dict[str, Any]) -> tuple[dict[str, Tensor], list[str]]:
    """Tensors of another run's network that fit into this one; heads and what reads descriptors stay new.

    Returns:
        The tensors by their names, and sentences on these, on what fits nowhere, and on what stays new.

    Raises:
        InputError: Of the tensors that both have, no more than half are of the same shapes.
    """
    state = {
        name: weight
        for name, weight in network.state_dict().items()
        if isinstance(weight, Tensor) and not name.startswith(_NEW)
    }
    others = {
        name.removeprefix("network."): weight
        for name, weight in checkpoint["state_dict"].items()
        if isinstance(weight, Tensor)
        and name.startswith("network.")
        and not name.startswith(_NEW, len("network."))
    }
    taken = {n: weight for n, weight in others.items() if n in state and state[n].shape == weight.shape}
    if 2 * len(taken) <= len(state.keys() & others.keys()):
        raise InputError(
            f"Of that network's {len(others)} tensors {len(taken)} fit into this one; give it the same "
            "widths and blocks, such as hidden_channels and heads."
        )
    sentences = [f"Taken from the other run: {len(taken)} of its {len(others)} tensors beside the heads."]
    for lack, names in (
        ("fits nowhere here", others.keys() - taken),
        ("starts from nothing", state.keys() - taken),
    ):
        if names:
            sentences.append(f"What {lack}: {listed(sorted(names))}.")
    return taken, sentences
