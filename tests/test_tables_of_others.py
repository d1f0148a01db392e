"""Tables as chemists publish them: each trains, predicts and explains, or is refused rightly."""

import csv
from pathlib import Path

import pandas as pd
import pytest
from cli_calls import SMALL, refused

from plstm_graph.predictor import Predictor

SMILES = [f"{'C' * (n % 12 + 1)}{ring}" for n in range(12) for ring in ("O", "c1ccccc1", "N")]
ROWS = range(len(SMILES))
NETWORK = ["--model.network", "PLSTM", *SMALL]


def gaps() -> str:
    """Three targets, each measured for some of the molecules."""
    rows = [f"{SMILES[n]},{n % 2 if n % 3 else ''},{(n + 1) % 2 if n % 4 else ''},{n % 2}" for n in ROWS]
    return "\n".join(["smiles,NR-AR,SR-p53,NR-ER", *rows])


def classes() -> str:
    """Classes by word, and a column of identifiers."""
    return "\n".join(
        ["smiles,mol_id,toxicity", *(f"{SMILES[n]},M{n},{('low', 'medium', 'high')[n % 3]}" for n in ROWS)]
    )


def parts() -> str:
    """A split into training and test alone, and a column of cliffs."""
    rows = [f"{SMILES[n]},{n / 7:.3f},{n % 2},{'test' if n % 5 == 0 else 'train'}" for n in ROWS]
    return "\n".join(["smiles,y [pEC50/pKi],cliff_mol,split", *rows])


def spectra() -> str:
    """Wavelengths for names."""
    names = [str(400 + 2 * n) for n in range(30)]
    rows = [",".join([SMILES[n], *(f"{n / 10 + k / 100:.2f}" for k in range(30))]) for n in ROWS]
    return "\n".join([",".join(["smiles", *names]), *rows])


def macintosh() -> str:
    """Lines end as they did on old Macintoshes; names hold commas."""
    return "\r".join(["name,smiles,logS", *(f'"{n},2-diol",{SMILES[n]},{-n / 5}' for n in ROWS)])


def semicolons() -> str:
    """As a spreadsheet writes it where commas are decimal."""
    return "\r\n".join(["Nr;smiles;Löslichkeit", *(f"{n};{SMILES[n]};{-n},{n % 10}5" for n in ROWS)])


def comments() -> str:
    """Free text with separators, quotation marks and line ends in it."""
    return "\n".join(
        ["smiles,comment,value", *(f'{SMILES[n]},"said ""{n}"",\nthen; nothing",{n}.5' for n in ROWS)]
    )


@pytest.mark.parametrize(
    ("table", "options", "task", "targets"),
    [
        (gaps, [], "classification", ["NR-AR", "SR-p53", "NR-ER"]),
        (classes, [], "multiclass", ["high", "low", "medium"]),
        (
            parts,
            ["--data.split", "split", "--data.target_columns", "y [pEC50/pKi]"],
            "regression",
            ["y [pEC50/pKi]"],
        ),
        (spectra, ["--data.target_columns", "[400,402]"], "regression", ["400", "402"]),
        (macintosh, ["--data.target_columns", "logS"], "regression", ["logS"]),
        (semicolons, [], "regression", ["Löslichkeit"]),
        (comments, [], "regression", ["value"]),
    ],
)
def test_a_table_is_trained_on_predicted_and_explained(run, tmp_path, table, options, task, targets):
    path = tmp_path / "table.csv"
    path.write_bytes(table().encode())
    code, out, err = run(
        "fit", "--data", "CSV", "--data.path", path, "--data.split", "random", *NETWORK,
        "--trainer.max_epochs", 1, "--trainer.enable_progress_bar", "false", *options,
    )  # fmt: skip
    assert code == 0, err
    assert f"Targets ({task})" in out
    [checkpoint] = (tmp_path / "runs").rglob("best*.ckpt")
    predictor = Predictor.from_checkpoint(checkpoint)
    assert (predictor.task, predictor.target_names) == (task, targets)
    output = tmp_path / "out.csv"
    code, _, err = run("predict", "-i", path, "--ckpt_path", checkpoint, "-o", output)
    assert code == 0, err
    written = pd.read_csv(output)
    assert written["smiles"].tolist() == SMILES
    assert written[[f"predicted_{target}" for target in targets]].notna().all(axis=None)
    if task == "multiclass":
        assert written[[f"predicted_{target}" for target in targets]].sum(axis=1).to_numpy() == pytest.approx(
            1
        )
    few = tmp_path / "few.csv"
    with path.open(newline="", encoding="utf-8") as file:
        separator = ";" if table is semicolons else ","
        header, *rows = csv.reader(file, delimiter=separator)
    with few.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file, delimiter=separator).writerows([header, *rows[:2]])
    explain(few, checkpoint, tmp_path / "explained", targets)


def explain(table: Path, checkpoint: Path, folder: Path, targets: list[str]) -> None:
    """Explain a table of two rows."""
    from plstm_graph.commands.main import main

    assert main(["explain", "-i", str(table), "--ckpt_path", str(checkpoint), "-o", str(folder)]) == 0
    assert len(list(folder.glob("*.svg"))) == 2 * len(targets)


def test_values_beyond_float32_are_refused_before_anything_is_trained(run, tmp_path):
    """Partition functions reach 1e125."""
    path = tmp_path / "table.csv"
    path.write_text("\n".join(["smiles,Q", *(f"{SMILES[n]},{n + 1}e{3 * n + 20}" for n in ROWS)]))
    err = refused(
        run("fit", "--data", "CSV", "--data.path", path, "--data.split", "random", "--model.network", "PLSTM")
    )
    assert "row 6, column 'Q': '7e38'" in err
    assert "train on logarithms" in err
    assert not (tmp_path / "runs").exists()


def test_bounded_values_are_listed(run, tmp_path):
    """Potencies that were only seen to be beyond a number."""
    path = tmp_path / "table.csv"
    values = [(">6.2", "<3", f"{n / 7:.2f}")[n % 9 if n % 9 < 2 else 2] for n in ROWS]
    path.write_text("\n".join(["smiles,pIC50", *(f"{SMILES[n]},{values[n]}" for n in ROWS)]))
    err = refused(run("fit", "--data", "CSV", "--data.path", path, "--data.split", "random", *NETWORK))
    assert "8 cells are not numeric" in err
    assert "row 0, column 'pIC50': '>6.2'; row 1, column 'pIC50': '<3'; row 9" in err


def test_a_cell_holds_one_smiles(run, tmp_path):
    """What stands behind it is no name: training leaves the row out, prediction gives a reason."""
    path = tmp_path / "table.csv"
    path.write_text(
        "\n".join(["smiles,y", *(f"{SMILES[n]},{n / 2}" for n in ROWS), '"CCO\nCCCC",1', "CC ethane,2"])
    )
    code, out, err = run(
        "fit", "--data", "CSV", "--data.path", path, "--data.split", "random", *NETWORK,
        "--trainer.max_epochs", 1, "--trainer.enable_progress_bar", "false",
    )  # fmt: skip
    assert code == 0, err
    assert "2 of 38 SMILES cannot be read and are left out" in out
    [checkpoint] = (tmp_path / "runs").rglob("best*.ckpt")
    assert run("predict", "-i", path, "--ckpt_path", checkpoint, "-o", tmp_path / "out.csv")[0] == 0
    written = pd.read_csv(tmp_path / "out.csv")
    assert written["predicted_y"].isna().tolist() == [False] * len(SMILES) + [True] * 2
    assert written["error"].iloc[-2:].str.contains("behind it").all()


def test_options_of_a_class_may_come_before_it(run, tmp_path):
    path = tmp_path / "table.csv"
    path.write_text(macintosh())
    code, out, err = run(
        "fit", "--data.split=random", "--data.target_columns", "logS", "--data.path", path, "--data", "CSV",
        *SMALL, "--model.network=GIN", "--trainer.max_epochs", 1, "--trainer.enable_progress_bar", "false",
    )  # fmt: skip
    assert code == 0, err
    assert "Split: 29 train" in out
