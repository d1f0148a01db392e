"""What it is worth to start from another run's weights: FreeSolv with few molecules, from solubility.

    python -m benchmarks.accuracy.init_from --seeds 5        # some ten minutes on two cores

A network of the preset ``table`` is trained on the solubility set (1,282 molecules). FreeSolv is split by
scaffold; each seed draws a share of its training rows, and on these a network is trained for 100 epochs from
nothing, from the solubility network with its parts at a tenth of the rate, and with its parts frozen. The
epoch is chosen on validation rows. Outcomes are JSON files under ``--out``; what is there is kept.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # as the command line has it

import numpy as np
import pandas as pd

from benchmarks.accuracy.running import keep_all, known
from benchmarks.command import launch, parser_of
from benchmarks.measure import RESULTS
from plstm_graph.commands.pool import fit, side_by_side
from plstm_graph.commands.presets import with_configuration_files
from plstm_graph.commands.report import spread
from plstm_graph.datasets import FreeSolv

OUTCOMES = RESULTS / "init_from"
STARTS = {"nothing": [], "solubility": [], "solubility, frozen": ["--freeze", "true"]}


@dataclass(frozen=True)
class Run:
    """One start with one seed."""

    start: str
    seed: int

    @property
    def name(self) -> str:
        return f"{self.start.replace(', ', '-')}-seed{self.seed}"


def options(folder: Path, epochs: int, seed: int) -> list[str]:
    """What all runs have in common."""
    preset = with_configuration_files(["--config", "table"])
    made = ["--seed_everything", seed, "--trainer.max_epochs", epochs]
    return [*preset, *map(str, made), "--trainer.default_root_dir", str(folder)]


def train_source(folder: Path, epochs: int, cache: Path) -> Path:
    """The checkpoint of a network that was trained on the solubility set."""
    fit([*options(folder, epochs, 0), "--data", "Solubility", "--data.cache", str(cache)])
    [best] = folder.rglob("best-*.ckpt")
    return best


def write_table(path: Path, share: float, seed: int, cache: Path) -> None:
    """FreeSolv with its scaffold split, in which a share of the training rows has a part."""
    module = FreeSolv(cache=cache)
    module.prepare_data()
    module.setup()
    part = np.full(len(module.dataset), "", object)
    drawn = np.random.default_rng(seed).permutation(module.rows.train.numpy())
    part[drawn[: round(share * len(drawn))]] = "train"
    part[module.rows.val.numpy()], part[module.rows.test.numpy()] = "val", "test"
    columns = {
        "smiles": module.dataset.smiles,
        "expt": module.dataset.tensors["y"][:, 0].tolist(),
        "part": part,
    }
    pd.DataFrame(columns).to_csv(path, index=False)


def train(run: Run, epochs: int, source: Path, tables: Path, cache: Path) -> dict[str, float]:
    """RMSE on validation and test rows, in kcal/mol."""
    more = [] if run.start == "nothing" else ["--init_from", str(source), *STARTS[run.start]]
    data = [
        "--data.path",
        str(tables / f"{run.seed}.csv"),
        "--data.split",
        "part",
        "--data.cache",
        str(cache),
    ]
    result = fit(
        [*options(tables / run.name, epochs, run.seed), *data, "--data.target_columns", "expt", *more]
    )
    return {"val": result.val, "test": result.test}


def main(argv: Sequence[str]) -> None:
    """Make what is missing and print the table."""
    parser = parser_of("accuracy.init_from", __doc__)
    parser.add_argument("--seeds", type=int, default=5, help="number of seeds, from 0")
    parser.add_argument("--share", type=float, default=0.25, help="of FreeSolv's training rows")
    parser.add_argument("--epochs", type=int, default=100)
    parser.add_argument("--source-epochs", type=int, default=40)
    parser.add_argument("--cache", type=Path, default=Path("data/cache"), help="prepared graphs")
    parser.add_argument("--out", type=Path, default=OUTCOMES)
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1, help="runs side by side")
    given = parser.parse_args(argv)
    settings = {"share": given.share, "epochs": given.epochs, "epochs of the source": given.source_epochs}
    runs = [Run(start, seed) for seed in range(given.seeds) for start in STARTS]
    files = {run: given.out / f"{run.name}.json" for run in runs}
    waiting = [run for run in runs if not known(files[run], settings)]
    with TemporaryDirectory() as place:
        folder, cache = Path(place), given.cache.absolute()
        if waiting:
            [(_, source)] = side_by_side(
                [partial(train_source, folder / "source", given.source_epochs, cache)], 1
            )
            for seed in {run.seed for run in waiting}:
                write_table(folder / f"{seed}.csv", given.share, seed, cache)
            calls = {run: partial(train, run, given.epochs, source, folder, cache) for run in waiting}
            keep_all(calls, files, settings, given.jobs)
    scores = {run: json.loads(file.read_text())["result"] for run, file in files.items()}
    print("| start | validation RMSE | test RMSE | test, less that from nothing |\n|---|---|---|---|")
    for start in STARTS:
        mine = [scores[Run(start, seed)] for seed in range(given.seeds)]
        others = [scores[Run("nothing", seed)] for seed in range(given.seeds)]
        less = [one["test"] - other["test"] for one, other in zip(mine, others, strict=True)]
        cells = [start, *(spread([one[part] for one in mine]) for part in ("val", "test")), spread(less)]
        print(f"| {' | '.join(cells)} |")


if __name__ == "__main__":
    launch(lambda: main(sys.argv[1:]))
