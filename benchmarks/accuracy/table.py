"""Train several networks on a suite of data sets and write one table.

    python -m benchmarks.accuracy.table --suite tu --models plstm,gin,gcn,gat,mpnn --root path/to/data
    python -m benchmarks.accuracy.table --suite ogb --datasets molesol,mollipo --seeds 3 --root path/to/data
    python -m benchmarks.accuracy.table --suite tu --datasets nci1 --models plstm,plstm-p,plstm-d ...

``--root`` holds ``ogb/``, ``moleculenet/`` and ``tu/``. Every data set has its preset, whose
network is PLSTM; other networks take width, depth, dropout, norms and readout from it, but have no walk
encodings and read the last block out alone. ``gin-sum`` and so on read the sums of every block out, as GIN
was published, ``gin-encoded`` and so on have all that the preset says, which leaves the scan as the only
difference, and ``plstm-...`` are PLSTM without one of its parts. ``...-fingerprint`` read circular
fingerprints out beside the nodes, for OGB's features. ``chemprop`` is that package's default network,
trained by its own program from an environment of its own (``--chemprop``). Further options are those of
``fit`` and hold for all runs of this package's networks.

Each run is tested once, at the epoch that validation selects, of equally good ones the last, or at its last
where the preset says so (``test_epoch``). TU sets are run on ten folds, which all networks share, and OGB's,
with ``--cross-validate``, on five of their training molecules, parted by scaffold. Every table has a random
forest on fingerprints as its floor. A run's outcome is a JSON file in the folder of its data set under
``--out``, next to a table of all models that were run there. Runs that have theirs are not repeated, and a
run that was killed goes on from its last epoch.
"""

from __future__ import annotations

import argparse
import dataclasses
import hashlib
import json
import os
import subprocess
import sys
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from pkgutil import resolve_name
from statistics import mean
from typing import Any

from rich.progress import MofNCompleteColumn, Progress, TimeElapsedColumn, track

from benchmarks.accuracy.chemprop import fit_chemprop
from benchmarks.accuracy.forest import fit_forest
from benchmarks.measure import RESULTS, ROOT, environment
from plstm_graph import datasets
from plstm_graph.checkpoint import NETWORKS, argument_names
from plstm_graph.commands.fit import Result
from plstm_graph.commands.pool import fit, side_by_side
from plstm_graph.commands.presets import read_preset, with_configuration_files
from plstm_graph.commands.report import spread
from plstm_graph.dag import Preparation
from plstm_graph.datasets import GraphDataModule
from plstm_graph.datasets.files import whole_file
from plstm_graph.datasets.splits import SCAFFOLD_FOLDS
from plstm_graph.datasets.tu import FOLDS as TU_FOLDS
from plstm_graph.errors import InputError
from plstm_graph.models import LocalNetwork

SUITES = {
    "tu": ("mutag", "nci1", "proteins"),
    "ogb": (
        *("molesol", "molfreesolv", "mollipo", "molbace", "molbbbp", "molclintox", "molsider", "moltox21"),
        *("moltoxcast", "molhiv", "molmuv", "molpcba"),
    ),
    "moleculenet": ("esol", "freesolv", "lipophilicity", "sider", "tox21", "hiv"),
}


@dataclass(frozen=True)
class Model:
    """A row of the table: a network, and what it has other than the preset says."""

    label: str
    network: str
    changes: dict[str, str] = field(default_factory=dict)

    @property
    def options(self) -> list[str]:
        """The changes as options of ``plstm-graph fit``."""
        return [f"--model.network.init_args.{name}={value}" for name, value in self.changes.items()]


_LOCAL = [name for name, network in NETWORKS.items() if issubclass(network, LocalNetwork)]
_PLAIN = {"walk_length": "0", "jk": "last"}
_SUMS = _PLAIN | {"jk": "cat", "readout": "sum"}
_BRANCHES = read_preset("molhiv_fingerprint")["model"]["network"]["init_args"]["branches"]
_FINGERPRINT = {"branches": json.dumps(_BRANCHES)}
#: PLSTM without its parts, one by one; other networks plain, with sums of every block, and with all that
#: presets give PLSTM beside its scans.
MODELS = (
    {"plstm": Model("PLSTM", "PLSTM")}
    | {
        f"plstm-{name}": Model(f"PLSTM, {label}", "PLSTM", changes)
        for name, label, changes in (
            ("p", "P-mode alone", {"mode": "P"}),
            ("d", "D-mode alone", {"mode": "D"}),
            ("alternate", "P- and D-mode in turn", {"mode": "alternate"}),
            ("one-way", "one direction", {"bidirectional": "false"}),
            ("center", "from the centre", {"orientation": "center", "roots": "0"}),
            ("bfs", "from an end", {"orientation": "bfs", "roots": "0"}),
            ("canonical", "canonical order", {"orientation": "canonical", "roots": "0"}),
            ("index", "index order", {"orientation": "index", "roots": "0"}),
            ("no-local", "no message passing", {"local": "false", "scan_every": "1"}),
            ("no-walks", "no walk encodings", {"walk_length": "0"}),
            ("plain", "no walk encodings, last block read out", _PLAIN),
        )
    }
    | {"plstm-fingerprint": Model("PLSTM + fingerprint", "PLSTM", _FINGERPRINT)}
    | {name.lower(): Model(name, name, _PLAIN) for name in _LOCAL}
    | {f"{name.lower()}-sum": Model(f"{name}, sums of every block", name, _SUMS) for name in _LOCAL}
    | {
        f"{name.lower()}-fingerprint": Model(f"{name} + fingerprint", name, _PLAIN | _FINGERPRINT)
        for name in _LOCAL
    }
    | {f"{name.lower()}-encoded": Model(f"{name}, as PLSTM", name) for name in _LOCAL}
)
FOREST, CHEMPROP = "forest", "chemprop"
#: Where each kind of data module has its files below ``--root``.
FOLDERS = {"OGB": "ogb", "MoleculeNet": "moleculenet", "TU": "tu"}


@dataclass(frozen=True)
class Run:
    """One model on one data set with one seed, and on one fold if there are folds."""

    dataset: str
    model: str
    seed: int
    fold: int | None

    @property
    def name(self) -> str:
        fold = "" if self.fold is None else f"-fold{self.fold}"
        return f"{self.dataset}/{self.model}-seed{self.seed}{fold}"

    @property
    def preset(self) -> dict[str, Any]:
        return read_preset(self.dataset)


def train(run: Run, root: Path, cache: Path, folder: Path, overrides: list[str], chemprop: Path) -> Result:
    """Train a run in its folder, from its last checkpoint if there is one."""
    if run.model not in MODELS:
        module = data_of(run, root, cache)
        if run.model == FOREST:
            return fit_forest(module, run.seed)
        return fit_chemprop(module, run.seed, chemprop, folder)
    checkpoints = list(folder.glob("*/version_*/checkpoints/last.ckpt"))
    resume = ["--ckpt_path", str(checkpoints[0])] if checkpoints else []
    arguments = command(run, root, cache, overrides)
    return fit([*arguments, "--trainer.default_root_dir", str(folder), *resume])


def place(data_class: str, root: Path) -> dict[str, Path]:
    """The argument of a data module that says where its files are; the built-in ones need none."""
    return {"root": root / FOLDERS[data_class]} if data_class in FOLDERS else {}


def data_module(preset: dict[str, Any], root: Path, **changes: object) -> GraphDataModule:
    """The data of a preset, prepared for its network, with other arguments in place of some of these."""
    data, network = preset["data"], preset["model"]["network"]
    known = NETWORKS.get(network["class_path"])
    prepared = known.preparation(network["init_args"]) if known else Preparation()
    settings = data["init_args"] | place(data["class_path"], root) | prepared._asdict() | changes
    name = data["class_path"]
    return (resolve_name(name) if "." in name else getattr(datasets, name))(**settings)


def data_of(run: Run, root: Path, cache: Path) -> GraphDataModule:
    """A run's data, split as the run has it."""
    fold = {} if run.fold is None else {"fold": run.fold}
    return data_module(run.preset, root, cache=cache, **fold)


def command(run: Run, root: Path, cache: Path, overrides: list[str]) -> list[str]:
    """Arguments of ``plstm-graph fit``."""
    data_class = run.preset["data"]["class_path"]
    arguments = [*with_configuration_files(["--config", run.dataset]), "--seed_everything", str(run.seed)]
    arguments += ["--model.network", MODELS[run.model].network]
    if run.fold is not None:
        arguments += ["--data.fold", str(run.fold)]
    for key, folder in (place(data_class, root) | {"cache": cache}).items():
        arguments += [f"--data.{key}", str(folder)]
    return [*arguments, *overrides]


def settings_of(run: Run, options: list[str]) -> dict[str, Any]:
    """All that decides on a run's outcome, of which a preset may say more.

    Where the files lie is no setting: results may be copied to another machine.
    """
    preset = run.preset
    if run.model not in MODELS:
        return {"data": preset["data"]}  # all that forest and chemprop take of it
    network = MODELS[run.model].network
    taken = argument_names(NETWORKS[network])
    arguments = preset["model"]["network"]["init_args"]
    preset["model"]["network"] = {
        "class_path": network,
        "init_args": {name: value for name, value in arguments.items() if name in taken},
    }
    return {"preset": preset, "options": options}


def commit() -> str:
    """The commit that is checked out, with a plus sign if files were changed since."""

    def git(*arguments: str) -> str:
        return subprocess.run(["git", *arguments], cwd=ROOT, capture_output=True, text=True).stdout.strip()

    return git("rev-parse", "--short=12", "HEAD") + ("+" if git("status", "--porcelain") else "")


def known(path: Path, settings: dict[str, Any]) -> bool:
    """Whether a run's outcome was written down before.

    Raises:
        InputError: It was made with other settings.
    """
    if not path.is_file():
        return False
    if json.loads(path.read_text())["settings"] != settings:
        raise InputError(
            f"{path} was made with other settings; delete it, or choose another folder with --out."
        )
    return True


def keep(path: Path, setting: dict[str, Any], run: Any, settings: dict[str, Any], result: Any) -> None:
    """Write a run's outcome down, for :func:`known` to find.

    Args:
        setting: what the run was made with and on, which does not decide on its outcome as settings do.
        run: a dataclass.
    """
    made = datetime.now(UTC).isoformat(timespec="seconds")
    record = {"made": made, "environment": setting, "run": dataclasses.asdict(run)}
    record |= {"settings": settings, "result": result}
    with whole_file(path) as file:
        file.write(json.dumps(record, indent=1) + "\n")


def keep_all(
    calls: Mapping[Any, Callable[[], Any]], files: Mapping[Any, Path], settings: dict[str, Any], jobs: int
) -> None:
    """Make runs side by side in single-threaded processes, and write each outcome down as it comes.

    Args:
        calls: what makes a run, by the run.
        files: its file, likewise.
        settings: settings of all.
        jobs: number of runs at a time.
    """
    runs = list(calls)
    setting = {"commit": commit(), **environment(), "threads": 1, "runs side by side": jobs}
    for number, result in track(side_by_side(list(calls.values()), jobs), "Runs", total=len(calls)):
        keep(files[runs[number]], setting, runs[number], settings, result)


def markdown(dataset: str, records: Sequence[dict[str, Any]]) -> str:
    """A table of all models that were run on a data set, and what the figures were made with."""
    grouped: dict[str, list[Result]] = defaultdict(list)
    for record in records:
        grouped[record["run"]["model"]].append(Result(**record["result"]))
    order = [*MODELS, CHEMPROP, FOREST]
    first = Result(**records[0]["result"])
    lines = [
        f"# {dataset}: {', '.join(filter(None, (first.metric, first.unit)))}",
        "",
        "| model | test | validation | runs | parameters | epochs | seconds a run |",
        "|---|---|---|---|---|---|---|",
    ]
    for model, runs in sorted(grouped.items(), key=lambda item: order.index(item[0])):
        cells = [
            MODELS[model].label if model in MODELS else runs[0].network,
            spread([run.test for run in runs]),
            spread([run.val for run in runs]),
            str(len(runs)),
            f"{runs[0].parameters:,}" if runs[0].parameters else "",
            f"{mean(run.epochs for run in runs):.0f}" if runs[0].epochs else "",
            f"{mean(run.seconds for run in runs):.0f}",
        ]
        lines.append(f"| {' | '.join(cells)} |")
    baselines = spread([run.baseline for run in max(grouped.values(), key=len)])
    lines.append(f"| training mean | {baselines} | | | | | |")
    made = {
        f"commit {setting['commit']}, "
        + ", ".join(f"{package} {version}" for package, version in setting["versions"].items())
        for setting in (record["environment"] for record in records)
    }
    return "\n".join([*lines, "", *(f"Made with {text}." for text in sorted(made))]) + "\n"


def parse(argv: Sequence[str]) -> tuple[argparse.Namespace, list[str]]:
    description, _, details = (__doc__ or "").partition("\n")
    parser = argparse.ArgumentParser(
        "python -m benchmarks.accuracy.table",
        description=description,
        epilog=details,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--suite", choices=SUITES, required=True)
    parser.add_argument("--models", default="plstm,gin", help=f"of {','.join((*MODELS, CHEMPROP))}")
    parser.add_argument("--datasets", help="some of the suite's presets")
    parser.add_argument("--seeds", type=int, default=None, help="from 0; by default 3, with folds 1")
    parser.add_argument(
        "--cross-validate",
        action="store_true",
        help="test on each fifth of OGB's training molecules in turn, parted by scaffold; the set's test "
        "molecules are left out",
    )
    parser.add_argument("--root", type=Path, default=Path("data"), help="folder of the public data sets")
    parser.add_argument("--cache", type=Path, default=Path("data/cache"), help="prepared graphs")
    parser.add_argument("--out", type=Path, help="by default benchmarks/results/SUITE")
    parser.add_argument("--runs", type=Path, default=Path("runs/table"), help="checkpoints and logs")
    parser.add_argument("--chemprop", type=Path, default=Path("chemprop"), help="its program, version 2")
    parser.add_argument("--jobs", type=int, default=os.cpu_count(), help="runs side by side")
    options, overrides = parser.parse_known_args(argv)
    options.models = options.models.split(",")
    options.datasets = options.datasets.split(",") if options.datasets else list(SUITES[options.suite])
    for what, chosen, allowed in (
        ("model", options.models, MODELS if options.suite == "tu" else (*MODELS, CHEMPROP)),
        ("data set", options.datasets, SUITES[options.suite]),
    ):
        for name in chosen:
            if name not in allowed:
                raise InputError(f"{name!r} is no {what} of this table: {', '.join(allowed)}.")
    if options.cross_validate and options.suite != "ogb":
        raise InputError("--cross-validate is for --suite ogb.")
    folds = SCAFFOLD_FOLDS if options.cross_validate else TU_FOLDS if options.suite == "tu" else 0
    options.folds = list(range(folds)) or [None]
    options.seeds = options.seeds or (1 if folds else 3)
    folder = options.suite + "_cross_validated" * options.cross_validate
    options.out = options.out or RESULTS / folder
    return options, overrides


def main(argv: Sequence[str]) -> None:
    options, overrides = parse(argv)
    runs = [
        Run(dataset, model, seed, fold)
        for dataset in options.datasets
        for seed in range(options.seeds)
        for fold in options.folds
        for model in (*options.models, FOREST)
    ]
    calls, waiting = [], []
    for run in runs:
        arguments = [*MODELS[run.model].options, *overrides] if run.model in MODELS else []
        settings = settings_of(run, arguments)
        path = options.out / f"{run.name}.json"
        if known(path, settings):
            continue
        digest = hashlib.sha256(json.dumps(settings).encode()).hexdigest()[:8]
        folder = options.runs / f"{run.name}-{digest}"
        calls.append(partial(train, run, options.root, options.cache, folder, arguments, options.chemprop))
        waiting.append((run, path, settings))
    setting = {"commit": commit(), **environment(), "threads": 1, "runs side by side": options.jobs}
    columns = (*Progress.get_default_columns(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns) as progress:
        bar = progress.add_task("Runs", total=len(runs), completed=len(runs) - len(calls))
        for number, result in side_by_side(calls, options.jobs):
            run, path, settings = waiting[number]
            keep(path, setting, run, settings, dataclasses.asdict(result))
            progress.console.print(
                f"{run.name}: validation {result.metric} {result.val:.4f}, test {result.test:.4f}, "
                f"{result.seconds:.0f} s",
                soft_wrap=True,
            )
            progress.advance(bar)
    for dataset in options.datasets:
        folder = options.out / dataset
        table = markdown(dataset, [json.loads(path.read_text()) for path in sorted(folder.glob("*.json"))])
        with whole_file(folder / "table.md") as file:
            file.write(table)
        print(table)


if __name__ == "__main__":
    try:
        main(sys.argv[1:])
    except InputError as error:
        sys.exit(f"error: {error}")
