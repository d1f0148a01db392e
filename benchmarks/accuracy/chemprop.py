"""chemprop's default network on a table's own splits, by the program of an environment of its own."""

from __future__ import annotations

import os
import subprocess
import time
from pathlib import Path

import pandas as pd
import torch

from benchmarks.accuracy.forest import known_columns
from benchmarks.accuracy.outcome import Predictions, outcome, rows_of
from plstm_graph.commands.report import Result
from plstm_graph.datasets import GraphDataModule
from plstm_graph.errors import InputError

#: chemprop's default, written down with the result.
EPOCHS = 50


def fit_chemprop(
    module: GraphDataModule, seed: int, program: Path, folder: Path
) -> tuple[Result, Predictions]:
    """Train chemprop with its defaults, and score the epoch it selects as networks are scored.

    Args:
        module: Molecules that are set up; chemprop is given their SMILES, targets and parts.
        seed: Of its weights and batches.
        program: The executable ``chemprop``, version 2.
        folder: For its tables, checkpoint and log.

    Raises:
        InputError: The program is missing, or ends with an error.
    """
    # Columns are numbered: a target's own name might be that of another column.
    names = [f"target{number}" for number in range(module.num_tasks)]
    molecules = pd.DataFrame(module.dataset.tensors["y"].double().numpy(), columns=names)
    molecules["smiles"] = module.dataset.smiles
    for part in ("train", "val", "test"):
        molecules.loc[getattr(module.rows, part).numpy(), "part"] = part
    folder.mkdir(parents=True, exist_ok=True)
    table, predicted, model = folder / "molecules.csv", folder / "predictions.csv", folder / "model"
    molecules.to_csv(table, index=False)
    train = ["train", "--data-path", table, "--splits-column", "part", "--task-type", module.task]
    train += ["--smiles-columns", "smiles", "--target-columns", *names, "--output-dir", model]
    train += ["--pytorch-seed", seed, "--epochs", EPOCHS]
    started = time.monotonic()
    _run(program, folder, *train)
    seconds = time.monotonic() - started
    predict = ["predict", "--test-path", table, "--smiles-columns", "smiles"]
    _run(program, folder, *predict, "--model-paths", model, "--preds-path", predicted)
    every = torch.tensor(pd.read_csv(predicted)[names].to_numpy("float64"))
    predictions = {part: every[rows] for part, rows in rows_of(module).items()}
    network = f"chemprop {_run(program, folder, '--version').split()[-1]}"
    if known_columns(module).shape[1]:
        network += ", structures alone"  # its program is not given what else is known
    return outcome(module, network, predictions, epochs=EPOCHS, seconds=seconds), predictions


def _run(program: Path, folder: Path, *arguments: object) -> str:
    """Run the program with one thread and without a graphics card, and return what it prints."""
    alone = os.environ | {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    try:
        done = subprocess.run([program, *map(str, arguments)], capture_output=True, text=True, env=alone)
    except OSError as error:
        raise InputError(
            f"{program} cannot be run ({error}); pass chemprop's executable with --chemprop."
        ) from error
    (folder / "log.txt").write_text(done.stdout + done.stderr)
    if done.returncode:
        raise InputError(f"{program} {arguments[0]} failed; its output is in {folder / 'log.txt'}.")
    return done.stdout
