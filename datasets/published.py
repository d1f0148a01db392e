"""Published tables of molecules, each read where it lies and split as its field splits it."""

from functools import cached_property
from pathlib import Path
from typing import Any

import pyarrow as pa
import torch
from torch import Tensor

from plstm_graph.datasets.smiles_csv import CSV
from plstm_graph.datasets.stream import CSVTable, Source
from plstm_graph.datasets.table import check_there
from plstm_graph.datasets.targets import columns_of, read_numbers
from plstm_graph.errors import InputError

_METRICS = {
    "mae": ("caco2_wang", "ld50_zhu", "lipophilicity_astrazeneca", "ppbr_az", "solubility_aqsoldb"),
    "spearman": ("clearance_hepatocyte_az", "clearance_microsome_az", "half_life_obach", "vdss_lombardo"),
    "roc_auc": (
        *("ames", "bbb_martins", "bioavailability_ma", "cyp3a4_substrate_carbonmangels", "dili", "herg"),
        *("hia_hou", "pgp_broccatelli"),
    ),
    "average_precision": (
        *("cyp2c9_substrate_carbonmangels", "cyp2c9_veith", "cyp2d6_substrate_carbonmangels"),
        *("cyp2d6_veith", "cyp3a4_veith"),
    ),
}
#: The metric of every set of TDC's ADMET group.
_ADMET = {name: metric for metric, names in _METRICS.items() for name in names}


class Published(CSV):
    """A table whose columns and split are known.

    Args:
        dataset_name: Name of the set.
        origin: Where the files come from.
        **kwargs: Arguments of :class:`CSV`.
    """

    def __init__(self, dataset_name: str, origin: str, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.dataset_name = dataset_name
        self.origin = origin

    @property
    def name(self) -> str:
        """Name of the set."""
        return self.dataset_name

    @cached_property
    def _sources(self) -> list[Source]:
        for path in self.paths:
            self._check_there(path)
        return super()._sources

    def _check_there(self, path: Path) -> None:
        if not path.is_file():
            raise InputError(f"{path} is missing; put it there from {self.origin}, or pass --data.root.")


class TDC(Published):
    """One of the 22 sets of the ADMET group of the Therapeutics Data Commons.

    The test part is TDC's. An eighth of the other molecules, in whole scaffolds, is for validation; which
    scaffolds these are is drawn with ``split_seed``. The metric is TDC's for the set.

    Args:
        dataset_name: TDC's name, such as ``"bbb_martins"``.
        root: Folder that holds ``bbb_martins/train_val.csv``, ``bbb_martins/test.csv`` and so on, with the
            columns ``Drug`` and ``Y``.
        **kwargs: Arguments of :class:`CSV`.

    Raises:
        InputError: A name that is none of TDC's.

    Source: Huang et al., arXiv 2102.09548.
    """

    def __init__(
        self, dataset_name: str = "bbb_martins", root: Path = Path("data/tdc_admet"), **kwargs: Any
    ) -> None:
        if dataset_name not in _ADMET:
            raise InputError(f"{dataset_name!r} is none of TDC's ADMET sets: {', '.join(sorted(_ADMET))}.")
        metric = _ADMET[dataset_name]
        super().__init__(
            dataset_name=dataset_name,
            origin="TDC's ADMET group (https://tdcommons.ai/benchmark/admet_group/overview)",
            path=[Path(root) / dataset_name / f"{part}.csv" for part in ("train_val", "test")],
            smiles_column="Drug",
            target_columns=["Y"],
            task="regression" if metric in ("mae", "spearman") else "classification",
            metric=metric,
            split="files",
            val_fraction=1 / 8,
            val_split="scaffold",
            **kwargs,
        )

    @property
    def target_names(self) -> list[str]:
        """The set's name; all have the column ``Y``."""
        return [self.dataset_name]


class MoleculeACE(Published):
    """One of the sets of MoleculeACE: affinities of the ligands of a protein, with activity cliffs.

    The test rows are MoleculeACE's. A tenth of the others, drawn with ``split_seed``, is for validation. The
    subset ``"cliffs"`` has the molecules with a partner that is alike in structure and unlike in affinity.

    Args:
        dataset_name: Such as ``"CHEMBL204_Ki"``; the targets are pKi, of ``"..._EC50"`` pEC50.
        root: Folder that holds ``CHEMBL204_Ki.csv`` and so on.
        **kwargs: Arguments of :class:`CSV`.

    Source: van Tilborg et al., J. Chem. Inf. Model. 62 (2022) 5938.
    """

    def __init__(
        self, dataset_name: str = "CHEMBL204_Ki", root: Path = Path("data/moleculeace"), **kwargs: Any
    ) -> None:
        super().__init__(
            dataset_name=dataset_name,
            origin="https://github.com/molML/MoleculeACE",
            path=Path(root) / f"{dataset_name}.csv",
            target_columns=["y [pEC50/pKi]"],
            task="regression",
            split="split",
            unit=f"p{dataset_name.rpartition('_')[2]}",
            **kwargs,
        )

    @property
    def target_names(self) -> list[str]:
        """The target's unit."""
        return [self.unit]

    @property
    def subsets(self) -> dict[str, Tensor]:
        """Molecules with a cliff."""
        check_there(["cliff_mol"], list(self.cells), self._file)
        [cliffs] = columns_of({"cliff_mol": self.cells["cliff_mol"]}, decimal_commas=False)
        mask = torch.from_numpy(read_numbers([cliffs], self._file))[:, 0] == 1
        return {"cliffs": mask[self.dataset.tensors["row"]]}


class Lipids(Published):
    """Delivery by ionisable lipids (LNPDB), z-scored for each experiment, in the split of the set.

    Args:
        root: Folder that holds ``train.csv``, ``val.csv``, ``test.csv`` and, row by row beside each,
            ``train_extra_x.csv`` and so on.
        formulation: Read the columns of the latter too, as descriptors: composition, dose, buffer, cell or
            organ, and cargo of every measurement.
        **kwargs: Arguments of :class:`CSV`.
    """

    def __init__(self, root: Path = Path("data/lnpdb"), formulation: bool = True, **kwargs: Any) -> None:
        super().__init__(
            dataset_name="lnpdb",
            origin="LNPDB",
            path=[Path(root) / f"{part}.csv" for part in ("train", "val", "test")],
            smiles_column="IL_SMILES",
            target_columns=["Experiment_value"],
            descriptor_columns=None,  # see the property
            task="regression",
            split="files",
            **kwargs,
        )
        self.formulation = formulation

    @property
    def descriptor_columns(self) -> list[str]:
        """Columns of the formulations, if these are wanted."""
        return list(self._formulations[0]) if self.formulation else []

    @cached_property
    def _formulations(self) -> list[dict[str, list[Any]]]:
        """Cells by column of the files beside the tables."""
        beside = [path.with_name(f"{path.stem}_extra_x.csv") for path in self.paths]
        for path in beside:
            self._check_there(path)
        sources = [CSVTable(path) for path in beside]
        return [pa.Table.from_batches(source.chunks(2**16), source.schema).to_pydict() for source in sources]

    @cached_property
    def _tables(self) -> list[dict[str, list[Any]]]:
        """Cells by column of every file, and of the one beside it if that is wanted."""
        tables = super()._tables
        if not self.formulation:
            return tables
        for path, table, further in zip(self.paths, tables, self._formulations, strict=True):
            rows = [len(next(iter(cells.values()))) for cells in (table, further)]
            if rows[0] != rows[1]:
                raise InputError(f"{path} has {rows[0]} rows, and the formulations beside it have {rows[1]}.")
            table |= further
        return tables
