"""Splits of a table of molecules into training, validation and test rows."""

from collections import defaultdict
from collections.abc import Sequence
from typing import NamedTuple

import torch
from rdkit.Chem import Mol
from rdkit.Chem.Scaffolds import MurckoScaffold
from torch import Tensor

from plstm_graph.datasets.seeds import check_seed
from plstm_graph.errors import InputError

FRACTIONS = (0.8, 0.1, 0.1)

#: Parts of a cross-validation by scaffold.
SCAFFOLD_FOLDS = 5


class Split(NamedTuple):
    """Row numbers of the three parts, each int64 and ascending."""

    train: Tensor
    val: Tensor
    test: Tensor


def consecutive_split(train: int, val: int, test: int) -> Split:
    """Rows of data that were drawn for training, for validation and for the test, one after the other."""
    return Split(*torch.arange(train + val + test).split([train, val, test]))


def check_fold(fold: int, folds: int) -> None:
    """Refuse a fold that is none of 0 to ``folds`` - 1."""
    if not 0 <= fold < folds:
        raise InputError(f"fold must be from 0 to {folds - 1}, not {fold}.")


def check_fraction(fraction: float, name: str) -> None:
    """Refuse a share that is not between 0 and 1."""
    if not 0 < fraction < 1:
        raise InputError(f"{name} must be between 0 and 1, not {fraction}.")


def murcko_scaffold(mol: Mol) -> str:
    """Return the SMILES of a molecule's Bemis-Murcko scaffold, chirality included.

    A molecule without a ring has the empty scaffold.
    """
    if not mol.GetRingInfo().NumRings():  # RDKit would take a minute for 3,000 atoms
        return ""
    return MurckoScaffold.MurckoScaffoldSmiles(mol=mol, includeChirality=True)


def scaffold_split(
    scaffolds: Sequence[str], fractions: tuple[float, float, float] = FRACTIONS, seed: int | None = None
) -> Split:
    """Split so that no scaffold is on both sides, in OGB's manner.

    Groups of equal scaffold are taken from the largest to the smallest (equal sizes: the one whose
    first row is later comes first), or with a seed in an order that is drawn. A group goes to training
    while it fits there, else to validation while it fits there, else to test. The result depends on
    nothing but the input.

    Args:
        scaffolds: One scaffold SMILES per row.
        fractions: Share of training, validation and test.
        seed: Seed of the order of groups.

    Raises:
        InputError: A seed that is none of 0 to 2^32 - 1.

    Source: Hu et al., arXiv 1905.12265, adopted by OGB.
    """
    groups: dict[str, list[int]] = defaultdict(list)
    for row, scaffold in enumerate(scaffolds):
        groups[scaffold].append(row)
    ordered = sorted(groups.values(), key=lambda rows: (len(rows), rows[0]), reverse=True)
    if seed is not None:
        ordered = [ordered[group] for group in _permutation(len(ordered), seed).tolist()]
    train_size = fractions[0] * len(scaffolds)
    train_val_size = (fractions[0] + fractions[1]) * len(scaffolds)
    train: list[int] = []
    val: list[int] = []
    test: list[int] = []
    for rows in ordered:
        if len(train) + len(rows) <= train_size:
            train += rows
        elif len(train) + len(val) + len(rows) <= train_val_size:
            val += rows
        else:
            test += rows
    return Split(*(torch.tensor(sorted(part), dtype=torch.long) for part in (train, val, test)))


def scaffold_fold(split: Split, scaffolds: Sequence[str], fold: int) -> Split:
    """Test on a fifth of a split's training rows; no scaffold is in two fifths, validation stays as it is.

    Fifths are of equal size, as far as groups of equal scaffold allow. The rows that the split has for the
    test are left out.

    Args:
        split: Rows of the three parts.
        scaffolds: One scaffold SMILES for every row of the training part.
        fold: Number of the fifth, 0 to 4.

    Raises:
        InputError: There are fewer than five scaffolds.
    """
    found = len(set(scaffolds))
    if found < SCAFFOLD_FOLDS:
        raise InputError(
            f"Training molecules of {found} scaffolds cannot be parted into {SCAFFOLD_FOLDS} folds."
        )
    from sklearn.model_selection import GroupKFold  # a second that workers which featurise do not need

    folds = GroupKFold(SCAFFOLD_FOLDS).split(split.train, groups=scaffolds)
    rest, held_out = (split.train[torch.from_numpy(positions)] for positions in list(folds)[fold])
    return Split(rest, split.val, held_out)


def random_split(num_rows: int, seed: int, fractions: tuple[float, float, float] = FRACTIONS) -> Split:
    """Split at random, the same way for the same seed.

    Args:
        num_rows: Number of rows in the table.
        seed: Seed of the permutation; the global random state is neither read nor changed.
        fractions: Share of training, validation and test.

    Raises:
        InputError: A seed that is none of 0 to 2^32 - 1.
    """
    order = _permutation(num_rows, seed)
    train_end = round(fractions[0] * num_rows)
    val_end = round((fractions[0] + fractions[1]) * num_rows)
    parts = order[:train_end], order[train_end:val_end], order[val_end:]
    return Split(*(part.sort().values for part in parts))


def _permutation(number: int, seed: int) -> Tensor:
    check_seed(seed, "split_seed")
    return torch.randperm(number, generator=torch.Generator().manual_seed(seed))
