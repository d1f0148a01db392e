"""Tables of what is kept: one for a data set, and one over all sets of a suite."""

from __future__ import annotations

import csv
import json
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import mean
from typing import Any

import numpy as np
from scipy.stats import binomtest

from benchmarks.accuracy.suites import BOOSTING, CHEMPROP, FOREST, MODELS, PROCESS, SUITES
from plstm_graph.commands.report import Result, baseline_name, spread
from plstm_graph.metrics import ERRORS

REFERENCES, SUMMARY, TABLE = "references.csv", "summary.md", "table.md"
PUBLISHED = "published"
#: The row that is compared with all others, and parts of the test rows as published tables call them.
OURS, _PARTS = "plstm", {"rmse_cliff": "cliffs"}
_SOURCE = "Published: five seeds by CheMeleon's authors, arXiv 2506.15792, raw scores."
_ORDER = [
    OURS,
    PROCESS,
    *MODELS,
    *(f"{name}-nodes" for name in MODELS),
    CHEMPROP,
    BOOSTING,
    FOREST,
]


@dataclass(frozen=True)
class Scores:
    """What a model reaches on a set: the mean over its runs, and that as text, with its deviation."""

    mean: float
    text: str
    runs: int


def read_records(folder: Path) -> list[dict[str, Any]]:
    """All runs that are kept in the folder of a data set."""
    return [json.loads(path.read_text()) for path in sorted(folder.glob("*.json"))]


def read_references(folder: Path, dataset: str) -> list[dict[str, str]]:
    """Published scores of a data set that are kept in the folder of its suite."""
    file = folder / REFERENCES
    if not file.is_file():
        return []
    with file.open(newline="") as opened:
        return [row for row in csv.DictReader(opened) if row["set"] == dataset]


def by_model(records: Iterable[dict[str, Any]]) -> dict[str, list[dict[str, Any]]]:
    """Runs by their model, in the order of tables."""
    grouped: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for record in records:
        grouped[record["run"]["model"]].append(record)
    known = [model for model in dict.fromkeys(_ORDER) if model in grouped]
    return {model: grouped[model] for model in [*known, *(m for m in grouped if m not in known)]}


def label_of(record: dict[str, Any]) -> str:
    """What a table calls the model of a run."""
    model = record["run"]["model"]
    older = MODELS[model].label if model in MODELS else record["result"]["network"]
    return record.get("label", older)


def score(record: dict[str, Any], part: str) -> float:
    """The data's metric of a run's test rows or of a part of these, or another metric of the former."""
    result, scores = record["result"], record.get("scores", {"test": {}})
    if part in scores["test"]:
        return scores["test"][part]
    return result["test"] if part == "test" else scores[part][result["metric"]]


def parts_of(records: Sequence[dict[str, Any]]) -> list[str]:
    """The test rows, and parts of these that all runs were scored on."""
    parts = [list(record.get("scores", {})) for record in records]
    common = [part for part in parts[0] if all(part in others for others in parts)]
    return ["test", *(part for part in common if part not in ("validation", "test"))]


def scores_of(
    records: Sequence[dict[str, Any]], references: Sequence[dict[str, str]], part: str
) -> dict[str, Scores]:
    """Scores of all models on a set, by their labels."""
    found = {}
    for runs in by_model(records).values():
        values = [score(record, part) for record in runs]
        found[label_of(runs[0])] = Scores(mean(values), spread(values), len(values))
    for row in references:
        if _PARTS.get(row.get("metric", ""), "test") == part:
            value, deviation = float(row["mean"]), float(row["deviation"])
            text = f"{value:.3f} ± {deviation:.3f}"
            found[f"{row['model']} ({PUBLISHED})"] = Scores(value, text, int(row["seeds"]))
    return found


def markdown(
    dataset: str, records: Sequence[dict[str, Any]], references: Sequence[dict[str, str]] = ()
) -> str:
    """A table of all models that were run on a data set, and what the figures were made with."""
    first, suite = Result(**records[0]["result"]), SUITES.get(records[0]["run"].get("suite"))
    parts = [*parts_of(records), *([suite.also] if suite and suite.also else [])]
    columns = {part: scores_of(records, references, part) for part in parts}
    lines = [
        f"# {dataset}: {', '.join(filter(None, (first.metric, first.unit)))}",
        "",
        f"| model | {' | '.join(parts)} | validation | runs | parameters | epochs | seconds a run |",
        f"|{'---|' * (6 + len(parts))}",
    ]
    made = {
        label_of(runs[0]): [Result(**run["result"]) for run in runs] for runs in by_model(records).values()
    }
    for label, scores in columns["test"].items():
        cells = [label, *(column[label].text if label in column else "" for column in columns.values())]
        runs = made.get(label)
        if runs is None:
            cells += ["", str(scores.runs), "", "", ""]
        else:
            cells += [
                spread([run.val for run in runs]),
                str(len(runs)),
                f"{runs[0].parameters:,}" if runs[0].parameters else "",
                f"{mean(run.epochs for run in runs):.0f}" if runs[0].epochs else "",
                f"{mean(run.seconds for run in runs):.0f}",
            ]
        lines.append(f"| {' | '.join(cells)} |")
    baselines = spread([run.baseline for run in max(made.values(), key=len)])
    lines.append(f"| {baseline_name(first.metric)} | {baselines} |{' |' * (4 + len(parts))}")
    notes = {
        f"Made with commit {setting['commit']}, "
        + ", ".join(f"{package} {version}" for package, version in setting["versions"].items())
        + "."
        for setting in (record["environment"] for record in records)
    }
    return "\n".join([*lines, "", *([_SOURCE] if references else []), *sorted(notes)]) + "\n"


def tables_of(folder: Path) -> dict[str, tuple[list[dict[str, Any]], list[dict[str, str]]]]:
    """Runs and published scores of every set of a suite that something is kept of."""
    sets = sorted(path.name for path in folder.iterdir() if path.is_dir()) if folder.is_dir() else []
    found = {name: (read_records(folder / name), read_references(folder, name)) for name in sets}
    return {name: pair for name, pair in found.items() if pair[0]}


def summary(folder: Path) -> str:
    """Every model over all sets of a suite's folder, and our recipe against each of them.

    Means and ranks are of models that have half of the sets at least, over the sets that all of these have;
    wins are over the sets that two models have. Where models are published, each of ours is ranked as if it
    stood beside these alone, however many rows it has for sisters, and the published ones beside PLSTM. The
    p-value is of a two-sided sign test over sets, ties left out.
    """
    tables = tables_of(folder)
    if not tables:
        return f"## {folder.name}\n\nNothing is kept in this folder.\n"
    metrics = {name: records[0]["result"]["metric"] for name, (records, _) in tables.items()}
    parts = dict.fromkeys(part for records, _ in tables.values() for part in parts_of(records))
    text = [f"## {folder.name}: {', '.join(dict.fromkeys(metrics.values()))}"]
    for part in parts:
        shown = {name: pair for name, pair in tables.items() if part in parts_of(pair[0])}
        text += ["", *([] if part == "test" else [f"### {part}", ""]), *_over_sets(shown, metrics, part)]
    if any(references for _, references in tables.values()):
        text += ["", _SOURCE]
    return "\n".join(text) + "\n"


def _over_sets(
    tables: dict[str, tuple[list[dict[str, Any]], list[dict[str, str]]]], metrics: dict[str, str], part: str
) -> list[str]:
    scores = {name: scores_of(*pair, part) for name, pair in tables.items()}
    labels = list(dict.fromkeys(label for found in scores.values() for label in found))
    # Less is better of what is compared.
    signs = {name: 1 if metrics[name] in ERRORS else -1 for name in scores}
    values = {
        label: {name: signs[name] * found[label].mean for name, found in scores.items() if label in found}
        for label in labels
    }
    ranked = [label for label in labels if 2 * len(values[label]) >= len(scores)]
    common = [name for name in scores if all(name in values[label] for label in ranked)]
    ours = {label_of(run) for records, _ in tables.values() for run in records if run["run"]["model"] == OURS}
    us = min(ours, default="")
    published = [label for label in labels if label.endswith(f"({PUBLISHED})")]
    beside = {
        label: [
            values[other]
            for other in labels
            if other != label
            and (not published or other in published or (other == us and label in published))
        ]
        for label in labels
    }
    ranks = {
        label: mean(_rank(name, values[label], beside[label]) for name in common)
        for label in ranked
        if common
    }
    one_metric = len({metrics[name] for name in scores}) == 1
    lines = [
        f"| model | sets | runs a set | mean | mean rank | first | {us or 'ours'} ahead | p |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for label in labels:
        means = [scores[name][label].mean for name in common] if label in ranks and one_metric else []
        runs = sorted({found[label].runs for found in scores.values() if label in found})
        cells = [label, str(len(values[label])), " to ".join(map(str, dict.fromkeys((runs[0], runs[-1]))))]
        cells += [f"{mean(means):.3f}" if means else ""]
        cells += [f"{ranks[label]:.1f}" if label in ranks else ""]
        shared = [name for name in values[label] if any(name in other for other in beside[label])]
        cells += [str(sum(_rank(name, values[label], beside[label]) < 2 for name in shared))]
        cells += ["", ""] if not us or label == us else _pair(values[us], values[label])
        lines.append(f"| {' | '.join(cells)} |")
    over = "all sets" if len(common) == len(scores) else ", ".join(common) or "no set"
    which = "Means and ranks are of models that have half of the sets at least"
    note = f"{which}, over what all of these have: {over}"
    among = "; ranks and firsts are among published models and the row" if published else ""
    return [*lines, "", f"{note}{among}; p of a two-sided sign test over sets."]


def _rank(name: str, values: dict[str, float], others: Sequence[dict[str, float]]) -> float:
    """The place of a model's value of a set among others, from 1; half a place for each that is as good."""
    found = np.sign([values[name] - other[name] for other in others if name in other])
    return float(1 + (found > 0).sum() + (found == 0).sum() / 2)


def _pair(ours: dict[str, float], theirs: dict[str, float]) -> list[str]:
    """On how many sets that both have ours are less, and p of a sign test."""
    pairs = [(ours[name], theirs[name]) for name in ours if name in theirs]
    won, lost = sum(a < b for a, b in pairs), sum(a > b for a, b in pairs)
    p = f"{binomtest(won, won + lost).pvalue:.3f}" if won + lost else ""
    return [f"{won} of {len(pairs)}", p]
