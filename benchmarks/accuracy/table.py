"""Train models on a suite of data sets and write tables of them, beside the best that was published.

    python -m benchmarks.accuracy.table --suite tdc --models plstm,gine,plstm-and-forest --root path/to/data
    python -m benchmarks.accuracy.table --suite tu --datasets nci1,ENZYMES --models plstm,plstm-p,gin ...
    python -m benchmarks.accuracy.table --suite ogb --datasets molesol,mollipo --seeds 3 ...
    python -m benchmarks.accuracy.table --suite tdc --print        # what is kept, nothing is trained

``--root`` holds ``tdc_admet/``, ``moleculeace/``, ``lrgb/``, ``lnpdb/``, ``tu/``, ``ogb/`` and
``moleculenet/``. All sets of a suite but ``tu`` have one recipe: a preset, of which the suite replaces the
data. ``plstm`` is its own network, ``gine`` and so on have all of it but scans; ``plstm-nodes``,
``plstm-d-nodes``, ``gine-nodes`` and so on have no descriptors and no branches beside the nodes, and
``process`` is the Gaussian process among the latter alone. A run's seed draws the validation rows of ``tdc``
and ``moleculeace`` too.

Sets of ``tu`` have presets of their own, whose network is PLSTM, or else that of MUTAG. Other networks take
width, depth, dropout, norms and readout from it, but have no walk encodings and read the last block out
alone. ``gin-sum`` and so on read the sums of every block out, as GIN was published, ``gin-encoded`` and so on
have all that the preset says, which leaves the scan as the only difference. ``plstm-...`` are PLSTM without
one of its parts, in every suite.

``forest`` is a random forest on fingerprints, part of every table; ``boosting`` reads descriptors too;
``chemprop`` is that package's default network, trained by its own program from an environment of its own
(``--chemprop``). ``plstm-and-forest`` is the mean of what the two predict, and so on. Further options are
those of ``fit``: of the data (``--data.batch_size 64``) for all runs, others for this package's networks.

Each run is tested once, at the epoch that validation selects, of equally good ones the last, or at its last
where the preset says so (``test_epoch``). TU sets are run on ten folds, which all models share, and OGB's,
with ``--cross-validate``, on five of their training molecules, parted by scaffold. A run's outcome is a JSON
file in the folder of its data set under ``--out``, next to a table of all models that were run there, and its
predictions are under ``--runs``. Runs that have their outcome are not repeated, and a run that was killed
goes on from its last epoch.
"""

from __future__ import annotations

import argparse
import dataclasses
import hashlib
import json
import os
import shutil
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import yaml
from rich.progress import MofNCompleteColumn, Progress, TimeElapsedColumn

from benchmarks.accuracy.running import PREDICTIONS, Job, keep, known, setting_of
from benchmarks.accuracy.suites import (
    CHEMPROP,
    FOREST,
    JOINED,
    SUITES,
    Run,
    folds_of,
    label_of,
    models_of,
    others_of,
)
from benchmarks.accuracy.summary import REFERENCES, SUMMARY, TABLE, markdown, summary, tables_of
from benchmarks.command import add_data, launch, parser_of
from benchmarks.measure import RESULTS
from plstm_graph.commands.pool import check, side_by_side, unchanged
from plstm_graph.datasets.files import whole_file
from plstm_graph.errors import InputError

#: Options of ``fit`` that the table sets itself, and its own in their place.
_OURS = {
    "--config": "--suite",
    "--seed_everything": "--seeds",
    "--ckpt_path": "--runs",
    "--trainer.default_root_dir": "--runs",
    "--trainer.logger": "--runs",
    "--model": "--models",
    "--model.network": "--models",
    "--data": "--suite",
    "--data.root": "--root",
    "--data.cache": "--cache",
    "--data.dataset_name": "--datasets",
    "--data.orientation": "--model.network.orientation",
    "--data.walk_length": "--model.network.walk_length",
}


def parse(argv: Sequence[str]) -> argparse.Namespace:
    """Read the command line.

    Raises:
        InputError: A name that the suite does not have, or an option that the table sets itself.
    """
    parser = parser_of("accuracy.table", __doc__, allow_abbrev=False)
    parser.add_argument("--suite", choices=SUITES, required=True)
    parser.add_argument("--models", default="plstm,gin", help="names, with commas; a wrong one lists them")
    parser.add_argument("--datasets", help="some of the suite's sets; any of TU's by TU Dortmund's name")
    parser.add_argument("--seeds", type=int, help="number of seeds, from 0; by default 5, 3, or 1 with folds")
    parser.add_argument(
        "--print", action="store_true", help="write tables of what is kept, and train nothing"
    )
    parser.add_argument(
        "--cross-validate",
        action="store_true",
        help="test on each fifth of OGB's training molecules in turn, parted by scaffold; the set's test "
        "molecules are left out",
    )
    add_data(parser)
    parser.add_argument("--references", type=Path, help="published scores; by default ROOT/references")
    parser.add_argument("--out", type=Path, help="by default benchmarks/results/SUITE")
    parser.add_argument(
        "--runs", type=Path, default=Path("runs/table"), help="checkpoints, logs, predictions"
    )
    parser.add_argument("--chemprop", type=Path, default=Path("chemprop"), help="its program, version 2")
    parser.add_argument("--jobs", type=int, default=os.cpu_count(), help="runs side by side")
    options, further = parser.parse_known_args(argv)
    suite = SUITES[options.suite]
    if options.cross_validate and options.suite != "ogb":
        raise InputError("--cross-validate is for --suite ogb.")
    names = options.datasets.split(",") if options.datasets else suite.sets
    options.datasets = [suite.called(name) for name in names]
    options.models = [*dict.fromkeys([*options.models.split(","), FOREST])]
    allowed = [*models_of(options.suite), *others_of(options.suite)]
    for model in options.models:
        for part in model.split(JOINED):
            if part not in allowed:
                raise InputError(f"{part!r} is no model of this table: {', '.join(allowed)}.")
    options.folds = folds_of(options.suite, options.cross_validate)
    options.seeds = options.seeds or (1 if options.cross_validate else suite.seeds)
    options.out = options.out or RESULTS / (options.suite + "_cross_validated" * options.cross_validate)
    options.references = options.references or options.root / "references"
    options.changes, options.further = split_options(further)
    for name in ("fold" if options.folds[0] is not None else "", "split_seed" if suite.seed_splits else ""):
        if name in options.changes:
            raise InputError(f"The table sets --data.{name} itself: every run has its own.")
    return options


def split_options(arguments: Sequence[str]) -> tuple[dict[str, Any], list[str]]:
    """Arguments of the data, and all other options of ``fit``.

    Raises:
        InputError: An option that the table sets itself, or one without a value.
    """
    groups: list[list[str]] = []
    for argument in arguments:
        if argument.startswith("--"):
            groups.append([])
        elif not groups:
            raise InputError(f"{argument!r} belongs to no option.")
        groups[-1].append(argument)
    changes, others = {}, []
    for first, *values in groups:
        name, equals, value = first.partition("=")
        plain = name.replace(".init_args", "").removesuffix(".class_path")
        if plain in _OURS:
            raise InputError(f"The table sets {name} itself; pass {_OURS[plain]}.")
        if plain.startswith("--data."):
            given = [value] if equals else values
            if len(given) != 1:
                raise InputError(f"{name} needs one value.")
            changes[plain.removeprefix("--data.")] = yaml.safe_load(given[0])
        else:
            others += [first, *values]
    return changes, others


def jobs_of(options: argparse.Namespace) -> list[Job]:
    """All runs, those whose predictions are joined before those that join them."""
    singles = [part for model in options.models for part in model.split(JOINED)]
    joined = [model for model in options.models if JOINED in model]
    jobs = []
    for models in (dict.fromkeys(singles), joined):
        for dataset in options.datasets:
            for seed in range(options.seeds):
                for fold in options.folds:
                    for model in models:
                        jobs.append(job_of(options, Run(dataset, model, seed, fold, options.suite)))
    return jobs


def job_of(options: argparse.Namespace, run: Run) -> Job:
    """A run, with all that the command line says."""
    settings = run.settings(options.changes, options.further)
    digest = hashlib.sha256(json.dumps(settings).encode()).hexdigest()[:8]
    folder = (options.runs / options.suite / f"{run.name}-{digest}").resolve()
    given = (options.root, options.cache, folder, options.changes, options.further, options.chemprop)
    return Job(run, *given)


def members_of(options: argparse.Namespace, job: Job) -> list[Job]:
    """The runs that a run joins."""
    return [
        job_of(options, dataclasses.replace(job.run, model=model)) for model in job.run.model.split(JOINED)
    ]


def refuse(options: argparse.Namespace, waiting: Sequence[Job]) -> None:
    """Refuse before anything is trained what could not be: each model is built, all data are looked for.

    Raises:
        InputError: An option that does not fit, or a file that is missing: of data, or of predictions that
            are to be joined.
    """
    for part in (one for job in waiting if JOINED in job.run.model for one in members_of(options, job)):
        file = part.folder / PREDICTIONS
        if (options.out / f"{part.run.name}.json").is_file() and not file.is_file():
            raise InputError(
                f"{file} is missing, though {part.run.name} is kept: delete its JSON file to have it run "
                "again, or pass the folder that it was run in as --runs."
            )
    with unchanged():
        for job in {job.run.model: job for job in reversed(waiting) if job.run.network}.values():
            check(job.command(suited=False))
    for job in waiting:
        if job.run.model == CHEMPROP and not shutil.which(job.chemprop):
            raise InputError(f"{job.chemprop} is no program; pass chemprop's executable with --chemprop.")
    for job in {job.run.dataset: job for job in waiting}.values():
        _ = job.data().prepared_file  # whose name is made of all that is read


def joined(options: argparse.Namespace, job: Job) -> tuple[Any, Any]:
    """Score the mean of what two runs or more predict."""
    parts = members_of(options, job)
    files = [part.folder / PREDICTIONS for part in parts]
    records = [json.loads((options.out / f"{part.run.name}.json").read_text()) for part in parts]
    return job.join(files, sum(record["result"]["seconds"] for record in records))


def outcomes(options: argparse.Namespace, waiting: Sequence[Job]) -> Iterator[tuple[Job, tuple[Any, Any]]]:
    """Runs as they end, and then those that join them."""
    singles = [job for job in waiting if JOINED not in job.run.model]
    for number, found in side_by_side([job.fit for job in singles], options.jobs) if singles else ():
        yield singles[number], found
    for job in waiting:
        if JOINED in job.run.model:
            yield job, joined(options, job)


def make(options: argparse.Namespace) -> None:
    """Make and keep the runs that are not there yet."""
    jobs = jobs_of(options)
    waiting = [job for job in jobs if not known(options.out / f"{job.run.name}.json", job.settings)]
    refuse(options, waiting)
    setting = setting_of(options.jobs)
    columns = (*Progress.get_default_columns(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns) as progress:
        bar = progress.add_task("Runs", total=len(jobs), completed=len(jobs) - len(waiting))
        for job, (result, scores) in outcomes(options, waiting):
            run, further = job.run, {"scores": scores}
            if run.network or JOINED in run.model:
                further["label"] = label_of(run.suite, run.model)
            path = options.out / f"{run.name}.json"
            keep(path, setting, run, job.settings, dataclasses.asdict(result), **further)
            progress.console.print(
                f"{run.name}: validation {result.metric} {result.val:.4f}, test {result.test:.4f}, "
                f"{result.seconds:.0f} s",
                soft_wrap=True,
            )
            progress.advance(bar)


def write_tables(options: argparse.Namespace) -> None:
    """Write and print tables of everything that is kept of a suite."""
    published = options.references / (SUITES[options.suite].references or "none")
    if published.is_file() and options.out.is_dir():
        shutil.copyfile(published, options.out / REFERENCES)
    for dataset, pair in tables_of(options.out).items():
        text = markdown(dataset, *pair)
        with whole_file(options.out / dataset / TABLE) as file:
            file.write(text)
        if dataset in options.datasets:
            print(text)
    text = summary(options.out)
    if options.out.is_dir():
        with whole_file(options.out / SUMMARY) as file:
            file.write(text)
    print(text)


def main(argv: Sequence[str]) -> None:
    options = parse(argv)
    if not options.print:
        try:
            make(options)
        except InputError as error:
            text = str(error)
            for theirs in ("--data.root", "--data.cache"):
                text = text.replace(theirs, _OURS[theirs])
            raise InputError(text) from error
    write_tables(options)


if __name__ == "__main__":
    launch(lambda: main(sys.argv[1:]))
