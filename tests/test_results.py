"""Results that are kept: tables say what the runs' files say, README and docs what the tables say."""

import json
import re
from collections import defaultdict

import pytest
from cli_runs import ROOT

from benchmarks.accuracy import calibration, init_from
from benchmarks.accuracy.summary import SUMMARY, markdown, read_records, read_references, summary
from plstm_graph.commands.report import spread

RESULTS = ROOT / "benchmarks" / "results"
TABLES, SUMMARIES = sorted(RESULTS.rglob("table.md")), sorted(RESULTS.rglob(SUMMARY))


@pytest.mark.parametrize("table", TABLES, ids=lambda table: str(table.parent.relative_to(RESULTS)))
def test_a_table_follows_from_its_runs(table):
    references = read_references(table.parent.parent, table.parent.name)
    assert table.read_text() == markdown(table.parent.name, read_records(table.parent), references)


@pytest.mark.parametrize("file", SUMMARIES, ids=lambda file: str(file.parent.relative_to(RESULTS)))
def test_a_summary_follows_from_the_runs(file):
    assert file.read_text() == summary(file.parent)


def kept_figures() -> set[str]:
    """Means and deviations of the suites' tables."""
    suites = [table for table in TABLES if table.parent.parent.name in ("tu", "ogb", "ogb_cross_validated")]
    return {figure for table in suites for figure in figures(table.read_text())}


def figures(text: str) -> list[str]:
    """Means with their deviations in the rows of tables."""
    rows = "\n".join(re.findall(r"^\|.*\|$", text, flags=re.M))
    return re.findall(r"\d+\.\d+ ± \d+\.\d+", rows)


def test_accuracies_in_the_readme_are_those_of_the_results():
    measured = re.search(
        r"^\*\*Accuracy\.\*\*(.*?)^\*\*Time\.\*\*", (ROOT / "README.md").read_text(), re.M | re.S
    )
    stated = figures(measured[1])
    assert len(stated) > 25
    assert set(stated) <= kept_figures()
    details = (ROOT / "docs" / "measured.md").read_text()  # which has the README's tables too
    assert set(stated) <= set(figures(details))


def test_suites_in_the_readme_are_those_of_their_summaries():
    [stated] = re.findall(
        r"^\*\*Drug discovery\.\*\*(.*?)\n\n", (ROOT / "README.md").read_text(), re.M | re.S
    )
    mean, cliffs, other, other_cliffs, rank, models, other_rank = re.findall(
        r"\b\d[\d.]*\d\b", stated.replace("20 sets", "").replace("11 ADMET", "")
    )

    def rows(suite, part=0):
        text = (RESULTS / suite / "summary.md").read_text().split("### ")[part]
        cells = [line.strip("| ").split(" | ") for line in text.splitlines() if line.startswith("| ")][1:]
        return {row[0]: row for row in cells}

    for part, (ours, theirs) in enumerate(((mean, other), (cliffs, other_cliffs))):
        found = rows("moleculeace", part)
        assert found["PLSTM"][2:4] == ["5", ours]
        assert theirs == min(row[3] for label, row in found.items() if "published" in label)
    found = rows("tdc")
    others = [row[4] for label, row in found.items() if "published" in label]
    assert (found["PLSTM"][4], str(1 + len(others))) == (rank, models)
    assert other_rank == min(others, key=float)


CALLS = [
    (init_from.main, []),
    (calibration.main, ["--datasets", "freesolv", "esol", "--splits", "random"]),
    (calibration.main, ["--datasets", "lipo", "--splits", "random", "--epochs", "4"]),
    (calibration.main, ["--datasets", "freesolv", "esol", "--splits", "scaffold", "--seeds", "2"]),
    (calibration.main, ["--datasets", "lipo", "--splits", "scaffold", "--seeds", "1", "--epochs", "4"]),
    (calibration.main, ["--datasets", "hiv", "--seeds", "1", "--ensemble-size", "1", "--epochs", "3"]),
]


@pytest.mark.parametrize(("main", "arguments"), CALLS)
def test_the_tables_of_what_is_there_stand_in_the_docs(main, arguments, capsys):
    main(arguments)  # which trains nothing
    rows = [line for line in capsys.readouterr().out.splitlines() if line.startswith("| ")]
    assert len(rows) > 1
    assert set(rows) <= set((ROOT / "docs" / "measured.md").read_text().splitlines())


def test_the_table_of_a_network_of_others_follows_from_its_runs():
    runs = defaultdict(list)
    for file in (RESULTS / "drop_in").rglob("*.json"):
        record = json.loads(file.read_text())
        assert record["result"]["finite"]
        row = record["run"]
        runs[row["dataset"], row["conv"], row["virtual"]].append((row["seed"], record["result"]))
    expected = set()
    for (dataset, _, virtual), seeds in runs.items():
        results = [result for _, result in sorted(seeds, key=lambda run: run[0])]
        assert len(results) == (8 if virtual or dataset == "molfreesolv" else 3)
        expected |= {spread([result[part] for result in results]) for part in ("val", "test")}
    details = (ROOT / "docs" / "measured.md").read_text()
    section = re.search(r"^### The layer in a network of others(.*?)^###", details, re.M | re.S)
    assert len(figures(section[1])) == 32
    assert set(figures(section[1])) == expected
