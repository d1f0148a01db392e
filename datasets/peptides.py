"""Peptides of random sequence, and a question about both of their ends."""

from typing import Any

import numpy as np
from rdkit import Chem

from plstm_graph.datasets.base import MoleculeDataModule
from plstm_graph.datasets.splits import Split, consecutive_split
from plstm_graph.datasets.table import Table
from plstm_graph.errors import InputError
from plstm_graph.task import Task

#: Kinds of residues, in one-letter codes.
RESIDUES = "ACDEFGHIKLMNPQRSTVWY"


class PeptideEnds(MoleculeDataModule):
    """Peptides of random sequence: are the first and the last residue of one kind? In half of them they are.

    Trained and validated on short peptides, tested on peptides of one other length.

    Args:
        shortest, longest: Residues of the peptides for training and validation, uniformly drawn.
        test_residues: Residues of the peptides for the test.
        residues: Kinds that are drawn from, in one-letter codes.
        train_size, val_size, test_size: Numbers of peptides.
        seed: Seed of the sequences; training and validation do not depend on what is tested.
        **kwargs: Arguments of :class:`~plstm_graph.datasets.GraphDataModule`.

    Raises:
        InputError: Peptides of fewer than two residues, or residues that are none.
    """

    task: Task = "multiclass"

    def __init__(
        self,
        shortest: int = 5,
        longest: int = 15,
        test_residues: int = 60,
        residues: str = RESIDUES,
        train_size: int = 5000,
        val_size: int = 500,
        test_size: int = 500,
        seed: int = 0,
        **kwargs: Any,
    ) -> None:
        super().__init__(split="consecutive", **kwargs)
        if not 2 <= shortest <= longest or test_residues < 2:
            raise InputError(
                "Peptides have two ends from 2 residues on, and shortest must not exceed longest; "
                f"not {shortest}, {longest} and {test_residues}."
            )
        if len(set(residues)) < 2 or Chem.MolFromSequence(residues) is None:
            raise InputError(
                f"residues must be two or more one-letter codes of amino acids, not {residues!r}."
            )
        self.residues = residues
        self.shortest, self.longest, self.test_residues = shortest, longest, test_residues
        self.train_size, self.val_size, self.test_size = train_size, val_size, test_size
        self.seed = seed

    @property
    def target_names(self) -> list[str]:
        """The classes."""
        return ["differ", "match"]

    def read_table(self) -> Table:
        """Draw the peptides: those of training, of validation and of the test, in this order."""
        rng = np.random.default_rng(self.seed)
        lengths = rng.integers(self.shortest, self.longest, self.train_size + self.val_size, endpoint=True)
        drawn = [self._peptide(int(length), row % 2 == 1, rng) for row, length in enumerate(lengths)]
        drawn += [self._peptide(self.test_residues, row % 2 == 1, rng) for row in range(self.test_size)]
        smiles = [Chem.MolToSmiles(Chem.MolFromSequence(sequence)) for sequence in drawn]
        targets = [[sequence[0] == sequence[-1]] for sequence in drawn]
        return Table(smiles, np.array(targets, dtype=np.float32))

    def split_rows(self) -> Split:
        """Cut by size, in the order of drawing."""
        return consecutive_split(self.train_size, self.val_size, self.test_size)

    def _peptide(self, length: int, match: bool, rng: np.random.Generator) -> str:
        """A random sequence whose ends match or differ."""
        inner = rng.choice(list(self.residues), length - 1)
        others = self.residues.replace(inner[0], "")
        return "".join([*inner, inner[0] if match else rng.choice(list(others))])
