"""Lightning data modules for molecules; run from the repository, not part of the wheel."""

from datasets.base import GraphDataModule, MoleculeDataModule
from datasets.builtin import FreeSolv, Solubility
from datasets.ogb_mol import OGB
from datasets.tables import CSV, MoleculeNet

__all__ = ["CSV", "OGB", "FreeSolv", "GraphDataModule", "MoleculeDataModule", "MoleculeNet", "Solubility"]
