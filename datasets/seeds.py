"""Seeds of what a run draws."""

import os
from typing import Literal

import numpy as np

from plstm_graph.errors import InputError

#: torch's generator for the CPU looks at 32 bits of a seed and no more.
LARGEST_SEED = 2**32 - 1


def check_seed(seed: int, name: str) -> None:
    """Refuse a seed that torch would cut to another one, under the name of the argument it came by.

    Raises:
        InputError: It is none of 0 to 2^32 - 1.
    """
    if not 0 <= seed <= LARGEST_SEED:
        raise InputError(f"{name} must be from 0 to {LARGEST_SEED}, not {seed}.")


def seed_of(purpose: Literal["order", "training", "loaders"], epoch: int, rank: int = 0) -> int:
    """Mix the run's seed, an epoch, a process and a purpose into a seed of 32 bits.

    Runs, epochs, processes and purposes have seeds that are unrelated, while any of them comes out the same
    whenever it is asked for, in a resumed run too. Sums and shifted bits would do neither: epoch 1 of seed 0
    would be epoch 0 of seed 1, or torch would cut the seed off. The run's seed is that of Lightning's
    ``seed_everything``, 0 where that was not called.

    Args:
        purpose: Name of what is drawn.
        epoch: Number of the epoch.
        rank: Number of the process; 0 for what all processes draw alike.

    Returns:
        0 to 2^32 - 1.
    """
    run = int(os.environ.get("PL_GLOBAL_SEED", 0))
    mixed = np.random.SeedSequence([run, epoch, rank, *purpose.encode()])
    return int(mixed.generate_state(1)[0])
