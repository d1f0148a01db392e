"""Lightning data modules for molecules; run from the repository, not part of the wheel."""

from datasets.base import MoleculeDataModule
from datasets.builtin import FreeSolv, Solubility

__all__ = ["FreeSolv", "MoleculeDataModule", "Solubility"]
