"""What formulations are worth to a network: delivery by ionisable lipids (LNPDB), with and without them.

    python -m benchmarks.accuracy.lipids --root path/to/data        # some forty minutes on two cores

A small network of the preset ``table`` with two circular fingerprints beside its nodes is trained on lipids'
structures alone, and on these with what is known of each measurement: composition, dose, buffer, cell or
organ, cargo, 92 columns in all. The epoch is chosen on the validation rows of the set's own split.

``--root`` holds ``lnpdb/``, with ``train.csv``, ``val.csv`` and ``test.csv`` and, row by row beside each,
``*_extra_x.csv``. Outcomes are JSON files under ``--out``; what is there is kept.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from itertools import product
from pathlib import Path
from tempfile import TemporaryDirectory

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # as the command line has it

import torch
import yaml
from torchmetrics.functional import mean_squared_error, pearson_corrcoef

from benchmarks.accuracy.running import keep_all, known
from benchmarks.measure import RESULTS
from plstm_graph.commands.pool import fit
from plstm_graph.commands.presets import read_preset
from plstm_graph.commands.report import spread
from plstm_graph.datasets import Lipids
from plstm_graph.errors import InputError
from plstm_graph.predictor import Predictor

OUTCOMES = RESULTS / "lipids"
_NETWORK = {"hidden_channels": 32, "num_layers": 1, "heads": 4, "scan_every": 1}
_FINGERPRINTS = [{"hidden": 0.2}, {"hidden": 0.2, "columns": 1, "radius": 4}]


@dataclass(frozen=True)
class Run:
    """A network that reads the columns or does not, with one seed."""

    columns: bool
    seed: int

    @property
    def name(self) -> str:
        return f"{'with' if self.columns else 'without'}-seed{self.seed}"


def settings_of(run: Run, epochs: int, rate: float, root: Path, cache: Path) -> dict:
    """The configuration of ``fit``."""
    config = read_preset("table") | {"seed_everything": run.seed}
    config["trainer"]["max_epochs"] = epochs
    config["model"]["learning_rate"] = rate
    kind = "plstm_graph.models.CircularFingerprint"
    branches = [{"class_path": kind, "init_args": arguments} for arguments in _FINGERPRINTS]
    config["model"]["network"]["init_args"] |= _NETWORK | {"branches": branches}
    data = {"root": str(root / "lnpdb"), "formulation": run.columns, "batch_size": 64, "cache": str(cache)}
    config["data"] = {"class_path": "Lipids", "init_args": data}
    return config


def train(run: Run, config: dict, folder: Path) -> dict[str, float]:
    """Scores on validation and test rows."""
    file = folder / "config.yaml"
    folder.mkdir()
    file.write_text(yaml.safe_dump(config))
    fit(["--config", str(file), "--trainer.default_root_dir", str(folder)])
    [best] = folder.rglob("best-*.ckpt")
    walk_length = config["model"]["network"]["init_args"]["walk_length"]
    module = Lipids(**config["data"]["init_args"], walk_length=walk_length)
    module.prepare_data()
    module.setup()
    predictor, scores = Predictor.from_checkpoint(best).eval(), {}
    for part, rows in (("val", module.rows.val), ("test", module.rows.test)):
        with torch.inference_mode():
            predicted = torch.cat([predictor(module.dataset.__getitems__(some)) for some in rows.split(256)])
        truth = module.dataset.tensors["y"][rows]
        scores[f"{part} RMSE"] = mean_squared_error(predicted, truth, squared=False).item()
        scores[f"{part} Pearson"] = pearson_corrcoef(predicted[:, 0], truth[:, 0]).item()
    return scores


def main(argv: Sequence[str]) -> int:
    """Make what is missing and print the table."""
    description, _, details = (__doc__ or "").partition("\n")
    parser = argparse.ArgumentParser(
        "python -m benchmarks.accuracy.lipids",
        description=description,
        epilog=details,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--seeds", type=int, default=3, help="number of seeds, from 0")
    parser.add_argument("--epochs", type=int, default=25)
    parser.add_argument("--rate", type=float, default=4e-3, help="learning rate")
    parser.add_argument("--root", type=Path, default=Path("data"), help="folder of the public data sets")
    parser.add_argument("--cache", type=Path, default=Path("data/cache"), help="prepared graphs")
    parser.add_argument("--out", type=Path, default=OUTCOMES)
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1, help="runs side by side")
    given = parser.parse_args(argv)
    settings: dict[str, object] = {"epochs": given.epochs, "learning rate": given.rate}
    settings |= {"network": _NETWORK, "branches": _FINGERPRINTS}
    runs = [Run(columns, seed) for seed, columns in product(range(given.seeds), (True, False))]
    files = {run: given.out / f"{run.name}.json" for run in runs}
    waiting = [run for run in runs if not known(files[run], settings)]
    with TemporaryDirectory() as place:
        folder, calls = Path(place), {}
        for run in waiting:
            config = settings_of(run, given.epochs, given.rate, given.root, given.cache)
            calls[run] = partial(train, run, config, folder / run.name)
        keep_all(calls, files, settings, given.jobs)
    print("| columns | validation RMSE | Pearson | test RMSE | Pearson |\n|---|---|---|---|---|")
    for columns in (False, True):
        mine = [json.loads(files[run].read_text())["result"] for run in runs if run.columns is columns]
        print(
            "|",
            " | ".join(
                ["yes" if columns else "no", *(spread([one[key] for one in mine]) for key in mine[0])]
            ),
            "|",
        )
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main(sys.argv[1:]))
    except InputError as error:
        sys.exit(f"error: {error}")
