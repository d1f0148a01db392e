"""Lightning data modules for molecules and other graphs; run from the repository, not part of the wheel."""

from datasets.arrows import ArrowPointing
from datasets.base import GraphDataModule, MoleculeDataModule
from datasets.builtin import FreeSolv, Solubility
from datasets.ogb_mol import OGB
from datasets.peptides import PeptideEnds
from datasets.tables import CSV, MoleculeNet
from datasets.tu import TU

__all__ = [
    "CSV",
    "OGB",
    "TU",
    "ArrowPointing",
    "FreeSolv",
    "GraphDataModule",
    "MoleculeDataModule",
    "MoleculeNet",
    "PeptideEnds",
    "Solubility",
]
