"""Predictions on a cluster: Ray Data shares a folder of Parquet files out among its machines."""

import argparse
import os
import shutil
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pyarrow as pa
import pyarrow.dataset as pads
import pyarrow.parquet as pq
import torch

import plstm_graph
import plstm_graph.datasets as datasets
from plstm_graph.commands.results import Predictions
from plstm_graph.commands.sinks import check_folder
from plstm_graph.datasets.descriptors import columns_of
from plstm_graph.datasets.featurise import featurise_smiles
from plstm_graph.datasets.files import whole_file
from plstm_graph.datasets.stream import check_columns
from plstm_graph.datasets.table import check_there
from plstm_graph.ensemble import Ensemble
from plstm_graph.errors import InputError

_ROWS, _BATCH = 8192, 512  # rows of a file of the output at most, and rows that are featurised at once


class Predictor:
    """Predicts for one part of a table after another, each into a file of its own.

    Ray makes one for every worker and calls it with the parts that fall to it. A part that is predicted
    again, since its worker was lost, is the same file again.

    Args:
        model_paths: Checkpoints, whose predictions are averaged.
        schema: Schema of the table.
        smiles_column: One of its columns.
        batch_size: Graphs that a network takes at once.
        max_atoms: Larger molecules get an error.
        interval: Confidence of intervals, if these are wanted.
        folder: Folder of the files.
    """

    def __init__(
        self,
        model_paths: Sequence[str],
        schema: pa.Schema,
        smiles_column: str,
        batch_size: int,
        max_atoms: int,
        interval: float | None,
        folder: str,
    ) -> None:
        torch.set_num_threads(1)  # Ray starts a worker for every core
        self.smiles_column = smiles_column
        self.max_atoms = max_atoms
        self.folder = Path(folder)
        self.results = Predictions(schema, Ensemble(model_paths), smiles_column, batch_size, interval)

    def __call__(self, part: dict[str, Any]) -> dict[str, Any]:
        """Write the predictions for a part, see :func:`_parts`."""
        with pq.ParquetFile(part["file"]) as file:
            group = file.read_row_group(part["group"]).slice(part["start"], _ROWS)
        batches = group.replace_schema_metadata(None).to_batches(_BATCH)
        table = pa.Table.from_batches(map(self._predict, batches), self.results.schema)
        with whole_file(self.folder / f"part-{part['number']:06d}.parquet", "wb") as output:
            pq.write_table(table, output)
        return part

    def _predict(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        smiles = batch[self.smiles_column].to_pylist()
        ensemble = self.results.ensemble
        settings = set(ensemble.preparations), self.max_atoms, self.results.fingerprints
        cells = columns_of(batch, ensemble.columns)
        featurised = featurise_smiles(0, smiles, *settings, ensemble.descriptor_names, cells)
        return self.results.rows(0, batch, featurised)


def _copy_package(folder: Path) -> Path:
    """Copy the package, to be sent to other machines; in a checkout its data modules lie beside it."""
    copy = folder / plstm_graph.__name__
    ignored = shutil.ignore_patterns("__pycache__")
    for file, target in ((plstm_graph.__file__, copy), (datasets.__file__, copy / "datasets")):
        shutil.copytree(Path(file or "").parent, target, ignore=ignored, dirs_exist_ok=True)
    return copy


def predict_on_ray(options: argparse.Namespace) -> None:
    """Predict for Parquet files, of a folder or one, into a folder of Parquet files.

    The rows keep their order, of the output as of the input by the names of the files. Ray replaces a worker
    that is lost and predicts again what it had not written.

    Args:
        options: Options of the verb ``predict``.

    Raises:
        InputError: Ray is not installed, or something in the arguments or files is not as it should be.
    """
    try:
        import ray
    except ModuleNotFoundError as error:
        raise InputError('--ray needs Ray Data: pip install "ray[data]".') from error
    output = Path(options.output).absolute()
    unfinished = output.with_name(f"{output.name}.unfinished")
    _check_output(output, unfinished)
    files, schema = _parquet_files(Path(options.data_path))
    check_columns(options.data_path, schema.names, options.smiles_column)
    models = [str(Path(path).absolute()) for path in options.ckpt_path]
    settings = models, schema, options.smiles_column, options.batch_size, options.max_atoms, options.interval
    trial = Predictor(*settings, "")  # what is wrong with the models is said here, not by a worker
    check_there(trial.results.ensemble.columns, schema.names, options.data_path)
    parts, rows = _parts(files)
    try:
        if options.ray == "local":  # workers find the packages where this process has them
            ray.init("local", include_dashboard=False)
        else:
            with TemporaryDirectory() as folder:
                ray.init(options.ray, runtime_env={"py_modules": [str(_copy_package(Path(folder)))]})
    except ConnectionError as error:
        raise InputError(f"No Ray cluster answers at {options.ray!r}; is its address right?") from error
    unfinished.mkdir()
    try:
        workers = max(1, int(ray.cluster_resources().get("CPU", 1)))
        done = ray.data.from_items(parts, override_num_blocks=len(parts)).map(
            Predictor,  # type: ignore[arg-type]  # a class that is called, as its documents have it
            fn_constructor_args=(*settings, str(unfinished)),
            num_cpus=1,
            compute=ray.data.ActorPoolStrategy(min_size=1, max_size=workers),
        )
        done.materialize()
    except BaseException:
        shutil.rmtree(unfinished, ignore_errors=True)
        raise
    finally:
        ray.shutdown()
    for left in unfinished.glob("*.unfinished"):  # by workers that were lost
        left.unlink()
    written = pads.dataset(unfinished, format="parquet").count_rows()
    if written != rows:
        raise InputError(f"{unfinished} has {written:,} rows, but {options.data_path} {rows:,}; delete it.")
    os.replace(unfinished, output)
    print(f"{written:,} rows: {output}")


def _parts(files: Sequence[str]) -> tuple[list[dict[str, Any]], int]:
    """Split files into numbered parts of at most ``_ROWS`` rows; also return the total number of rows."""
    parts: list[dict[str, Any]] = []
    rows = 0
    for name in files:
        with pq.ParquetFile(name) as file:
            for group in range(file.num_row_groups):
                count = file.metadata.row_group(group).num_rows
                for start in range(0, count, _ROWS):
                    parts.append({"number": len(parts), "file": name, "group": group, "start": start})
                rows += count
    if not rows:
        raise InputError(f"{', '.join(files)} has no rows.")
    return parts, rows


def _check_output(output: Path, unfinished: Path) -> None:
    check_folder(output)
    for path in (output, unfinished):
        if path.exists():
            raise InputError(f"{path} is there already; delete it, or choose another folder.")


def _parquet_files(path: Path) -> tuple[list[str], pa.Schema]:
    """The files, by their names, and the columns that all of them have."""
    files = sorted(path.absolute().rglob("*.parquet")) if path.is_dir() else [path.absolute()]
    if not files or any(not file.is_file() for file in files) or files[0].suffix != ".parquet":
        raise InputError(f"--ray reads a .parquet file or a folder of them; {str(path)!r} is neither.")
    names = list(map(str, files))
    try:
        schemas = [pads.dataset(name, format="parquet").schema.remove_metadata() for name in names]
    except (OSError, pa.ArrowException) as error:
        raise InputError(f"{path} cannot be read: {' '.join(str(error).split())}.") from error
    for name, schema in zip(names, schemas, strict=True):
        if schema != schemas[0]:
            raise InputError(f"{name} and {names[0]} have different columns.")
    return names, schemas[0]
