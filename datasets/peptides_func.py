"""Peptides and their functions, of the Long Range Graph Benchmark."""

import json
import pickle
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from plstm_graph.datasets.published import Published
from plstm_graph.datasets.table import check_there
from plstm_graph.datasets.targets import Targets
from plstm_graph.errors import InputError

#: Classes in the order of LRGB's labels, which the table does not name.
CLASSES = [
    *("antifungal", "cell_cell_communication", "anticancer", "drug_delivery_vehicle", "antimicrobial"),
    *("antiviral", "antihypertensive", "antibacterial", "antiparasitic", "toxic"),
]
_FOLDER = "peptides-functional"

#: All that a pickle of NumPy's arrays needs; the first makes an empty one.
_PARTS_OF_ARRAYS = {"_reconstruct": np.empty(0).__reduce__()[0], "ndarray": np.ndarray, "dtype": np.dtype}

# What unpickling raises for a damaged file.
_DAMAGES = (pickle.UnpicklingError, EOFError, ValueError, TypeError, LookupError, AttributeError)


class PeptidesFunc(Published):
    """Peptides-func: 15,535 peptides of up to 444 heavy atoms, ten functions, average precision.

    Split as LRGB splits it, stratified by function. The data have the licence CC BY-NC 4.0.

    Args:
        root: Folder that holds LRGB's ``peptides-functional/peptide_multi_class_dataset.csv.gz`` and, beside
            it, ``splits_random_stratified_peptide.pickle``, of which no code is run.
        **kwargs: Arguments of :class:`CSV`.

    Source: Dwivedi et al., arXiv 2206.08164.
    """

    def __init__(self, root: Path = Path("data/lrgb"), **kwargs: Any) -> None:
        folder = Path(root) / _FOLDER
        super().__init__(
            dataset_name="peptides-func",
            origin="https://github.com/vijaydwivedi75/lrgb",
            path=folder / "peptide_multi_class_dataset.csv.gz",
            target_columns=["labels"],
            task="classification",
            metric="average_precision",
            split="files",
            **kwargs,
        )
        self.split_file = folder / "splits_random_stratified_peptide.pickle"

    @cached_property
    def targets(self) -> Targets:
        """The ten labels of every row, which are a list in one cell."""
        check_there(["labels"], list(self.cells), self._file)
        return Targets(
            np.array([self._labels(row, cell) for row, cell in enumerate(self.cells["labels"])], np.float32),
            "classification",
            CLASSES,
            ["labels"],
        )

    def _labels(self, row: int, cell: str) -> list[int]:
        try:
            labels = json.loads(cell)
            if len(labels) == len(CLASSES) and set(labels) <= {0, 1}:
                return labels
        except (ValueError, TypeError):
            pass
        raise InputError(
            f"{self._file}: row {row} of column 'labels' is {cell!r}, not a list of ten 0s and 1s."
        )

    @cached_property
    def _parts(self) -> list[int]:
        self._check_there(self.split_file)
        split, rows = read_index_arrays(self.split_file), len(self.cells["labels"])
        parts = np.full(rows, -1)
        for part, name in enumerate(("train", "val", "test")):
            indices = split.get(name, np.empty(0, np.int64))
            if len(indices) and not 0 <= indices.min() <= indices.max() < rows:
                raise InputError(f"{self.split_file} names rows that {self._file} does not have.")
            parts[indices] = part
        if sum(map(len, split.values())) != rows or (parts < 0).any():
            raise InputError(f"{self.split_file} does not give each row of {self._file} one part.")
        return parts.tolist()


class _ArraysOnly(pickle.Unpickler):
    """Knows NumPy's arrays and nothing else that could be called."""

    def find_class(self, module: str, name: str) -> Any:
        """Refuse all but what makes an array."""
        if module.partition(".")[0] == "numpy" and name in _PARTS_OF_ARRAYS:
            return _PARTS_OF_ARRAYS[name]
        raise pickle.UnpicklingError(f"it asks for {module}.{name}")


def read_index_arrays(path: Path) -> dict[str, NDArray[np.int64]]:
    """Read a pickled dictionary of arrays of integers, and run none of the code that it may hold.

    Raises:
        InputError: The file is damaged, or holds something else.
    """
    try:
        with open(path, "rb") as file:
            found = _ArraysOnly(file).load()
        arrays = {str(name): np.asarray(indices) for name, indices in found.items()}
    except _DAMAGES as error:
        raise InputError(f"{path} is no pickle of arrays alone, and is not read: {error}.") from error
    if any(array.ndim != 1 or array.dtype.kind not in "iu" for array in arrays.values()):
        raise InputError(f"{path} holds something other than arrays of row numbers.")
    return arrays
