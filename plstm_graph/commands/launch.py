"""Who has started this process: its user, or torchrun or SLURM with others beside it."""

import os
from collections.abc import Sequence
from typing import Any

_STEP = "SLURM_STEP_ID"  # which only srun gives processes


def launched_from_outside() -> bool:
    """Return if torchrun or SLURM's srun has started this process, with others."""
    if {"TORCHELASTIC_RUN_ID", _STEP}.isdisjoint(os.environ):
        return False
    from lightning.fabric.plugins.environments.slurm import SLURMEnvironment
    from lightning.fabric.plugins.environments.torchelastic import TorchElasticEnvironment

    return TorchElasticEnvironment.detect() or (_STEP in os.environ and SLURMEnvironment.detect())


def own_environment(plugins: Sequence[Any] = ()) -> list[Any]:
    """This process's own environment, where Lightning would take an allocation of SLURM for a launch.

    Args:
        plugins: Those that were chosen; with an environment among them there is none to add.
    """
    from lightning.fabric.plugins.environments.cluster_environment import ClusterEnvironment
    from lightning.fabric.plugins.environments.lightning import LightningEnvironment

    chosen = any(isinstance(plugin, ClusterEnvironment) for plugin in plugins)
    allocated = "SLURM_NTASKS" in os.environ and _STEP not in os.environ
    return [LightningEnvironment()] if allocated and not chosen else []
