"""Tables over a suite's sets and their pictures, of runs that were made up."""

import csv
import json
import re
from pathlib import Path

import pytest

from benchmarks.accuracy import table
from benchmarks.accuracy.pictures import dots_of, draw
from benchmarks.accuracy.suites import Run, label_of
from benchmarks.accuracy.summary import REFERENCES, markdown, read_records

#: RMSE by model and set, the mean of two seeds; of "cliffs" it is 1 more.
MADE_UP = {
    "plstm": {"A": 0.5, "B": 0.6, "C": 0.7, "D": 0.9},
    "forest": {"A": 0.6, "B": 0.7, "C": 0.6, "D": 0.9},
    "plstm-and-forest": {"A": 0.4, "B": 0.4, "C": 0.4, "D": 0.4},
    "gine": {"A": 0.9},
}
#: What was published, of three of the sets.
OTHERS = {"Best": {"A": 0.45, "B": 0.65, "C": 0.8}}
ENVIRONMENT = {"commit": "0123456789ab", "versions": {"python": "3.11"}}


def write(folder: Path, model: str, dataset: str, seed: int, test: float) -> None:
    run = Run(dataset, model, seed, None, "moleculeace")
    result = {"dataset": dataset, "network": "Count fingerprint", "metric": "rmse", "unit": "pKi"}
    result |= {"val": 0.5, "test": test, "baseline": 1.2, "parameters": 7, "epochs": 3, "seconds": 2.0}
    scores = {"validation": {"rmse": 0.5}, "test": {"rmse": test}, "cliffs": {"rmse": test + 1}}
    record = {"run": vars(run), "result": result, "scores": scores, "environment": ENVIRONMENT}
    if model != "forest":
        record["label"] = label_of(run.suite, model)
    path = folder / f"{run.name}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(record))


@pytest.fixture
def kept(tmp_path) -> Path:
    folder = tmp_path / "results" / "moleculeace"
    for model, sets in MADE_UP.items():
        for dataset, value in sets.items():
            for seed in (0, 1):
                write(folder, model, dataset, seed, value - 0.1 + 0.2 * seed)
    write(folder, "forest", "A", 0, MADE_UP["forest"]["A"])  # and not the other seed
    (folder / "A" / "forest-seed1.json").unlink()
    published = tmp_path / "references" / "moleculeace.csv"
    published.parent.mkdir()
    with published.open("w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(["set", "metric", "model", "seeds", "mean", "deviation"])
        for model, sets in OTHERS.items():
            for dataset, value in sets.items():
                rows.writerow([dataset, "rmse", model, 5, value, 0.01])
                rows.writerow([dataset, "rmse_cliff", model, 5, value + 1, 0.02])
    return folder


def test_what_is_kept_is_printed_beside_what_was_published(kept, capsys, monkeypatch):
    monkeypatch.setattr(table, "side_by_side", None)  # nothing is trained
    references = kept.parent.parent / "references"
    arguments = ["--suite", "moleculeace", "--datasets", "A", "--print", "--out", str(kept)]
    table.main([*arguments, "--references", str(references)])
    printed = capsys.readouterr().out
    label = label_of("moleculeace", "plstm")
    of_a = (kept / "A" / "table.md").read_text()
    assert of_a in printed
    assert (kept / "B" / "table.md").read_text() not in printed
    assert "| model | test | cliffs | validation | runs |" in of_a
    assert f"| {label} | 0.500 ± 0.141 | 1.500 ± 0.141 | 0.500 ± 0.000 | 2 | 7 | 3 | 2 |" in of_a
    assert "| Best (published) | 0.450 ± 0.010 | 1.450 ± 0.020 |  | 5 |  |  |  |" in of_a
    assert "arXiv 2506.15792" in of_a
    assert "published" not in (kept / "D" / "table.md").read_text().lower()
    test, cliffs = (kept / "summary.md").read_text().split("### cliffs")
    # Ranks over A, B and C: GINE has fewer than half of the sets. Each of ours is ranked beside what was
    # published, and this beside PLSTM. The sign test leaves the tie on D out.
    assert f"| {label} | 4 | 2 | 0.600 | 1.3 | 2 |  |  |" in test
    assert "| Count fingerprint | 4 | 1 to 2 | 0.633 | 1.7 | 1 | 2 of 4 | 1.000 |" in test
    assert "| Best (published) | 3 | 5 | 0.633 | 1.7 | 1 | 2 of 3 | 1.000 |" in test
    assert f"| {label} and forest | 4 | 2 | 0.400 | 1.0 | 3 | 0 of 4 | 0.125 |" in test
    assert re.search(r"\| GINE, same recipe \| 1 \| 2 \|  \|  \| 0 \| 1 of 1 \| 1.000 \|", test)
    assert "over what all of these have: A, B, C" in test
    assert f"| {label} | 4 | 2 | 1.600 | 1.3 | 2 |  |  |" in cliffs
    # What was published is kept with the results: another machine prints the same.
    assert (kept / REFERENCES).read_text() == (references / "moleculeace.csv").read_text()
    table.main([*arguments, "--references", "nowhere"])
    assert capsys.readouterr().out == printed


def test_a_suite_shows_the_further_score_that_its_field_uses(tmp_path):
    folder = tmp_path / "lnpdb"
    for seed, pearson in enumerate((0.5, 0.7)):
        write(tmp_path, "plstm", "lnpdb", seed, 0.9)
        file = folder / f"plstm-seed{seed}.json"
        record = json.loads(file.read_text())
        record["run"]["suite"] = "lipids"
        record["scores"]["test"]["pearson"] = pearson
        del record["scores"]["cliffs"]
        file.write_text(json.dumps(record))
    text = markdown("lnpdb", read_records(folder))
    assert "| model | test | pearson | validation |" in text
    assert "| 0.900 ± 0.000 | 0.600 ± 0.141 | 0.500 ± 0.000 |" in text


def test_a_suite_without_results_says_so(tmp_path, capsys):
    table.main(["--suite", "lipids", "--print", "--out", str(tmp_path / "lipids")])
    assert "Nothing is kept" in capsys.readouterr().out


def test_pictures_have_a_dot_for_every_set(kept, tmp_path):
    write(kept, "process", "A", 0, 0.3)
    dots = dots_of(kept)
    assert [dot.part for dot in dots["A"]] == ["test", "cliffs"]
    # The best of all rows in which neither PLSTM nor its process has a part.
    wanted = {"A": (0.5, 0.6), "B": (0.6, 0.7), "C": (0.7, 0.6), "D": (0.9, 0.9)}
    assert {name: (test.ours, test.other) for name, (test, _) in dots.items()} == {
        name: pytest.approx(pair) for name, pair in wanted.items()
    }
    assert dots["A"][0].percent == pytest.approx(100 / 6)  # of errors, less is better
    draw(kept.parent, tmp_path / "pictures")
    for theme in ("light", "dark"):
        picture = (tmp_path / "pictures" / f"suites-{theme}.svg").read_text()
        assert "moleculeace: PLSTM ahead on 2 of 4, 2 of 4 (hollow: cliffs)" in picture
