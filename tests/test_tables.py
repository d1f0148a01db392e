"""Tables as people have them: what is read, inferred and refused, by training and prediction alike."""

import csv
import io
import re
import zipfile
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from data_modules import prepared
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from plstm_graph.datasets import CSV
from plstm_graph.datasets.stream import open_source
from plstm_graph.datasets.targets import Column
from plstm_graph.errors import InputError

SMILES = [f"{'C' * n}O" for n in range(1, 21)]


def write(
    path: Path, cells: dict[str, list], separator: str = ",", end: str = "\n", encoding: str = "utf-8"
) -> Path:
    """A table of twenty alcohols with further columns."""
    file = io.StringIO()
    writer = csv.writer(file, delimiter=separator, lineterminator=end)
    writer.writerows(
        zip(*([name, *column] for name, column in ({"smiles": SMILES} | cells).items()), strict=True)
    )
    path.write_bytes(file.getvalue().encode(encoding))
    return path


def read(path: Path | list[Path], **kwargs) -> CSV:
    folder = path[0].parent if isinstance(path, list) else path.parent
    return prepared(CSV(path, **({"split": "random", "cache": folder} | kwargs)))


def halves(number: int = 20) -> list[float]:
    return [n / 2 for n in range(number)]


# One reader


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        (
            "smiles,iso,pIC50,logP\nCCO,a,1.5,2.5,\n",
            "5 cells in line 2, but its header has 4: 'CCO,a,1.5,2.5,'",
        ),
        ("smiles,y,z\nCCO,1\n", "2 cells in line 2, but its header has 3"),
        ("smiles,y,z\n\nCCO,1,2\n\nCCC,1\n", "2 cells in line 5"),
        ("smiles,y,y\nCCO,1,2\n", "two columns 'y'; rename one"),
        ("smiles,y,y \nCCO,1,2\n", "two columns 'y'; rename one"),
        ('smiles,y\nCCO,1\n"CCC,2\nCCN,3\n', "unexpected end of data, in line 4"),
        ('smiles,y\n"CCO"O,1\n', "',' expected after '\"', in line 2"),
        ("smiles,y,,\nCCO,1,,\n", "columns without a name; name or delete them"),
        ("sep=;\nsmiles;y\nCCO;1\n", "its first line is a spreadsheet's note; delete it"),
        ("", "no header"),
        ("\n\n", "no header"),
        ("structure,y\nCCO,1\n", "no column 'smiles'; it has 'structure', 'y'"),
        ("CCO,1.5\nCCC,2\n", "'1.5': its first line looks like a row; write the columns' names above it"),
    ],
)
def test_fit_and_predict_refuse_a_table_with_one_sentence(text, sentence, tmp_path):
    path = tmp_path / "table.csv"
    path.write_text(text)
    sentences = []
    for reading in (lambda: CSV(path).table, lambda: list(open_source(str(path), "smiles").chunks(10))):
        with pytest.raises(InputError, match=sentence) as refusal:
            reading()
        sentences.append(str(refusal.value))
    assert sentences[0] == sentences[1]
    assert "\n" not in sentences[0]


cell = st.text(st.characters(blacklist_categories=["Cs"], blacklist_characters="\x00"), max_size=6)
names = st.lists(cell.map(str.strip).filter(bool), max_size=200, unique=True)


@given(
    names,
    st.integers(0, 3),
    st.sampled_from([",", ";", "\t", "|"]),
    st.sampled_from(["\n", "\r\n", "\r"]),
    st.data(),
)
@settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
def test_cells_come_back_as_they_were_written(tmp_path, names, rows, separator, end, data):
    """Whatever separates cells and lines, quotes included, nothing is lost, moved or read as another cell."""
    header = ["smiles", *(name for name in names if name != "smiles")]
    table = [
        ["C" * (row + 1), *(data.draw(cell) for _ in header[1:20]), *("" for _ in header[20:])]
        for row in range(rows)
    ]
    file = io.StringIO()
    writer = csv.writer(file, delimiter=separator, lineterminator=end)
    writer.writerow(header)
    # A bare carriage return is quoted by no writer of Python's.
    csv.writer(file, delimiter=separator, lineterminator=end, quoting=csv.QUOTE_ALL).writerows(table)
    path = tmp_path / "table.csv"
    path.write_bytes(file.getvalue().encode())
    if any(mark in name for name in header for mark in "\r\n"):
        return  # a name over two lines is read between commas alone
    chunks = list(open_source(str(path), "smiles").chunks(2))
    found = [
        [column[row].as_py() for column in chunk.columns] for chunk in chunks for row in range(len(chunk))
    ]
    assert found == table
    assert all(chunk.schema.names == header for chunk in chunks)


pieces = st.sampled_from(
    ["CCO", "CC", "1", "2.5", "y", ",", ";", "\t", '"', '""', "\n", "\r\n", "\r", " ", "", "\x00", "ä"]
)


@given(st.lists(pieces, max_size=40).map("".join), st.sampled_from(["utf-8", "latin-1", "utf-16"]))
@settings(max_examples=300, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_fit_and_predict_agree_on_any_text(tmp_path, text, encoding):
    """Both take the same SMILES, or both refuse with the same sentence; training wants a row, too."""
    path = tmp_path / "table.csv"
    path.write_bytes(f"smiles,y\n{text}".encode(encoding))
    try:
        chunks, sentence = list(open_source(str(path), "smiles").chunks(7)), ""
    except InputError as refusal:
        chunks, sentence = [], str(refusal)
    smiles = [cell for chunk in chunks for cell in chunk["smiles"].to_pylist()]
    assert "\n" not in sentence
    if smiles:
        assert CSV(path).cells["smiles"] == smiles
    else:
        with pytest.raises(InputError, match=f"^{re.escape(sentence)}$" if sentence else "no rows"):
            CSV(path).cells  # noqa: B018


@pytest.mark.parametrize("separator", [";", "\t", "|"])
@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_separators_and_line_ends_are_found(separator, end, tmp_path):
    path = write(tmp_path / "table.csv", {"y": halves()}, separator, end)
    assert read(path).targets.values[:, 0].tolist() == halves()
    assert open_source(str(path), "smiles").total == 20


@pytest.mark.parametrize(
    ("encoding", "option"),
    [("utf-8-sig", None), ("utf-8-sig", "utf-8"), ("utf-8", "UTF8"), ("utf-16", None), ("cp1252", "cp1252")],
)
def test_encodings(encoding, option, tmp_path):
    path = write(tmp_path / "table.csv", {"Löslichkeit": halves()}, encoding=encoding)
    assert read(path, encoding=option).target_names == ["Löslichkeit"]
    assert [len(chunk) for chunk in open_source(str(path), "smiles", encoding=option).chunks(15)] == [15, 5]


def test_an_encoding_that_is_another_says_which_option_names_it(tmp_path):
    path = write(tmp_path / "table.csv", {"Löslichkeit": halves()}, encoding="cp1252")
    with pytest.raises(InputError, match=r"holds a byte \(0xf6\) .* --data.encoding, such as cp1252"):
        read(path)
    with pytest.raises(InputError, match="'klingon' is unknown"):
        read(path, encoding="klingon")


def test_archives_hold_one_table(tmp_path):
    """What macOS puts beside it is none."""
    table = write(tmp_path / "table.csv", {"y": halves()}).read_bytes()
    path = tmp_path / "table.zip"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("folder/table.csv", table)
        archive.writestr("__MACOSX/folder/._table.csv", b"\x00\x05")
        archive.writestr("folder/.DS_Store", b"\x00")
    assert read(path).targets.values[:, 0].tolist() == halves()
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr("other.csv", table)
    with pytest.raises(InputError, match=r"2 files \('folder/table.csv', 'other.csv'\)"):
        read(path)
    path.write_bytes(b"no archive")
    with pytest.raises(InputError, match="cannot be read as a ZIP archive"):
        read(path)


@pytest.mark.parametrize("separator", [",", ";"])
def test_a_line_end_within_a_name(separator, tmp_path):
    path = write(tmp_path / "table.csv", {"boiling\npoint": halves()}, separator)
    assert read(path).target_names == ["boiling\npoint"]


def test_an_archive_with_a_password_is_said_to_have_one(tmp_path):
    path = tmp_path / "table.zip"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("table.csv", write(tmp_path / "table.csv", {"y": halves()}).read_bytes())
    locked = bytearray(path.read_bytes())
    for mark, flags in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        locked[locked.index(mark) + flags] |= 1
    path.write_bytes(locked)
    with pytest.raises(InputError, match="encrypted"):
        read(path)


@pytest.mark.parametrize("ending", [".xlsx", ".parquet", ".tsv", ".csv.gz", ".csv.bz2", ".csv.xz"])
def test_other_files_hold_the_same_table(ending, tmp_path):
    frame = pd.DataFrame(
        {
            "smiles": SMILES,
            "y": [n / 2 if n % 3 else None for n in range(20)],
            "active": [n % 2 == 0 for n in range(20)],
        }
    )
    path = tmp_path / f"table{ending}"
    if ending == ".xlsx":
        frame.to_excel(path, index=False)
    elif ending == ".parquet":
        frame.to_parquet(path)
    else:
        frame.to_csv(path, index=False, sep="\t" if ending == ".tsv" else ",")
    module = read(path, target_columns=["y"])
    assert np.array_equal(module.targets.values[:, 0], frame["y"].to_numpy(np.float32), equal_nan=True)
    module = read(path, target_columns="active")
    assert module.task == "classification"
    assert module.targets.values[:, 0].tolist() == frame["active"].tolist()


def test_names_of_molecules_stand_behind_smiles_in_lines_alone(tmp_path):
    path = tmp_path / "molecules.smi"
    path.write_text("CCO ethanol\nC[C@H](O)F |o1:1| with a name\n\tCC\nCCC\tpropane\n")
    source = open_source(str(path), "smiles")
    [chunk] = source.chunks(10)
    assert source.smiles_of(chunk["smiles"]) == ["CCO", "C[C@H](O)F |o1:1|", "CC", "CCC"]
    assert chunk["smiles"].to_pylist()[0] == "CCO ethanol"


def test_a_table_is_not_read_as_lines(tmp_path):
    """A spreadsheet's tab-separated text ends with .txt."""
    path = write(tmp_path / "table.txt", {"y": halves()}, "\t")
    with pytest.raises(
        InputError, match=r"is a table, not one SMILES a line; give it the ending .csv or .tsv"
    ):
        read(path)


def test_a_column_of_another_name_is_proposed(tmp_path):
    path = write(tmp_path / "table.csv", {"y": halves()})
    path.write_text(path.read_text().replace("smiles", "Canonical SMILES"))
    with pytest.raises(
        InputError, match=r"'Canonical SMILES', 'y': pass --data.smiles_column 'Canonical SMILES'"
    ):
        read(path)


def test_settings_that_mean_nothing_for_a_file_are_refused(tmp_path):
    path = tmp_path / "table.parquet"
    pd.DataFrame({"smiles": SMILES, "y": halves()}).to_parquet(path)
    with pytest.raises(InputError, match=r"--data.separator is for CSV files"):
        read(path, separator=";")
    with pytest.raises(InputError, match=r"--data.encoding is for text files"):
        read(path, encoding="cp1252")
    with pytest.raises(InputError, match="must be one character, not ';;'"):
        read(write(tmp_path / "table.csv", {"y": halves()}), separator=";;")


# Values


@pytest.mark.parametrize("text", [">50", "1,1", "n.d.", "1.2±0.1", "0x10", "1_000", "1 000", "--", "1e"])
def test_cells_that_are_no_numbers_are_named_with_row_and_column(text, tmp_path):
    path = write(tmp_path / "table.csv", {"y": [text if row in (3, 17) else row / 2 for row in range(20)]})
    with pytest.raises(
        InputError, match=r"2 cells are not numeric; .* row 3, column 'y': .*; row 17, column 'y'"
    ) as refusal:
        read(path)
    assert str(refusal.value).count(repr(text)) == 2


@pytest.mark.parametrize("text", ["inf", "-inf", "Infinity", "1e39", "-1e125"])
def test_numbers_that_float32_cannot_hold_are_named(text, tmp_path):
    path = write(tmp_path / "table.csv", {"y": halves(), "z": [*halves(19), text]})
    with pytest.raises(InputError, match=r"1 cell is larger than 3.4e.38.* row 19, column 'z'"):
        read(path)


def test_long_lists_are_cut(tmp_path):
    path = write(tmp_path / "table.csv", {"y": ["n.d." if row % 2 else row for row in range(20)]})
    with pytest.raises(InputError, match=r"10 cells are not numeric.*row 9, column 'y': 'n.d.'; and 5 more"):
        read(path, target_columns=["y"], task="regression")


def test_blanks_are_missing_values(tmp_path):
    blanks = ["", " ", "NA", "nan", "N/A", "null", "None", "#N/A", "#DIV/0!", "#VALUE!"]
    path = write(tmp_path / "table.csv", {"y": [*blanks, *halves(10)]})
    assert np.isnan(read(path).targets.values[:, 0]).tolist() == [True] * 10 + [False] * 10


@pytest.mark.parametrize(
    ("texts", "numbers"),
    [
        (["0,5", "-1,25", "3", "1,5e-2"], [0.5, -1.25, 3, 0.015]),
        (["1,234", "5,678", "", "9"], None),  # thousands, perhaps
        (["1,5", "2.5", "", "9"], None),
        (["1.234,5", "2,5", "", "9"], None),
        (["0.5", "2.5", "1", "9"], [0.5, 2.5, 1, 9]),
    ],
)
def test_decimal_commas_are_read_where_they_are_plain(texts, numbers, tmp_path):
    column = Column("y", texts)
    column.read_decimal_commas()
    assert bool(column.remark) == (numbers is not None and any("," in text for text in texts))
    if numbers is not None:
        assert column.numbers.tolist() == numbers
    path = write(tmp_path / "table.csv", {"y": texts * 5}, ";")
    if numbers is None:
        with pytest.raises(InputError, match="not numeric"):
            read(path, task="regression")
    else:
        assert ("'y' has decimal commas." in read(path).describe()) == bool(column.remark)


def test_dots_that_may_part_thousands_are_said(tmp_path):
    """Where commas may be decimal, 1.740 may be 1740."""
    remark = "'Ki' has cells such as '1.740', whose dots are taken for decimal ones."
    cells = ["12", "640", "1.740", "15.300"] * 5
    assert remark in read(write(tmp_path / "german.csv", {"Ki": cells}, ";")).describe()
    assert remark not in read(write(tmp_path / "english.csv", {"Ki": cells})).describe()
    assert (
        remark
        not in read(write(tmp_path / "half.csv", {"Ki": [*cells[:16], "0.5"] + cells[:3]}, ";")).describe()
    )


def test_numbers_with_a_unit_are_no_classes(tmp_path):
    path = write(tmp_path / "units.csv", {"IC50": ["1 nM", "10 nM", "100 nM", "5.2 nM"] * 5})
    with pytest.raises(InputError, match=r"20 cells are not numeric.* row 0, column 'IC50': '1 nM'"):
        read(path)
    enzymes = write(tmp_path / "enzymes.csv", {"enzyme": ["3A4", "2D6", "2C9", "1A2"] * 5})
    assert read(enzymes).task == "multiclass"


# Columns and tasks


@pytest.mark.parametrize(
    ("cells", "task", "values"),
    [
        (["0", "1"], "classification", [0, 1]),
        (["0.0", "1.0"], "classification", [0, 1]),
        (["-1", "1"], "classification", [0, 1]),
        (["no", "Yes"], "classification", [0, 1]),
        (["FALSE", "TRUE"], "classification", [0, 1]),
        (["Active", "inactive"], "classification", [1, 0]),
        (["agonist", "antagonist"], "multiclass", [0, 1]),
        (["0", "2"], "regression", [0, 2]),
        (["0.5", "1"], "regression", [0.5, 1]),
    ],
)
def test_the_task_is_what_cells_look_like(cells, task, values, tmp_path):
    module = read(write(tmp_path / "table.csv", {"y": cells * 10}))
    assert module.task == task
    assert module.targets.values[:2, 0].tolist() == values
    assert any(f"The task is {task}" in sentence for sentence in module.describe())


@pytest.mark.parametrize(
    ("cells", "task", "names"),
    [
        (["no", "Yes"], None, ["no", "Yes"]),
        (["-1", "1"], None, ["-1", "1"]),
        (["Toxic", "benign"], "classification", ["benign", "Toxic"]),  # in the order of letters
        (["active", ""], None, ["inactive", "active"]),
    ],
)
def test_a_positive_class_is_named(cells, task, names, tmp_path):
    module = read(write(tmp_path / "table.csv", {"y": cells * 10}), task=task)
    remark = f"'y': {names[1]!r} is the positive class, {names[0]!r} the negative one."
    assert remark in module.describe()
    known = sum(map(bool, cells * 10))
    assert f"Targets (classification) and their values: y ({known}, 10 positive)." in module.describe()
    assert module.class_names == [names]
    positive = module.targets.values[:, 0] == 1
    assert [cells[row % 2] for row in positive.nonzero()[0]] == names[1:] * 10


def test_what_is_not_read_and_what_is_there_twice_is_said(tmp_path):
    path = write(tmp_path / "table.csv", {"y": halves(), "batch": ["a"] * 20, "part": ["train", "test"] * 10})
    lines = path.read_text().splitlines()
    once = read(path, target_columns=["y"], split="part").describe()
    assert "Columns that are not read: 'batch'." in once
    assert not any("molecules are in" in sentence for sentence in once)
    one, other = (["C[C@H](N)CO", *lines[1].split(",")[1:]], ["OC[C@@H](N)C", *lines[2].split(",")[1:]])
    path.write_text("\n".join([lines[0], ",".join(one), ",".join(other), *lines[3:]]))
    twice = read(path, target_columns=["y"], split="part", cache=tmp_path / "cache").describe()
    assert "1 molecule is in training rows and in validation or test rows." in twice


@pytest.mark.parametrize("cells", [["1", "2"], ["a", "b", "c"], ["low", "3"]])
def test_other_cells_are_no_two_classes(cells, tmp_path):
    with pytest.raises(InputError, match=r"none of the classes 0 and 1 .or -1 and 1, or two words.; for"):
        read(write(tmp_path / "table.csv", {"y": (cells * 10)[:20]}), task="classification").targets  # noqa: B018


def test_several_classes_keep_their_names(tmp_path):
    """Numbers are ordered by size, words by the alphabet."""
    words = write(tmp_path / "words.csv", {"kind": ["b", "c", "a", ""] * 5})
    module = read(words, task="multiclass")
    assert (module.target_names, module.num_tasks, module.metric) == (["a", "b", "c"], 3, "accuracy")
    assert np.array_equal(module.targets.values[:4, 0], [1, 2, 0, np.nan], equal_nan=True)
    assert "Targets (multiclass) and their values: a (5), b (5), c (5)." in module.describe()
    numbers = write(tmp_path / "numbers.csv", {"kind": ["10", "9", "100", "9.0"] * 5})
    assert read(numbers, task="multiclass").target_names == ["9", "10", "100"]
    many = write(tmp_path / "many.csv", {"y": [10_000_001 + n % 3 for n in range(20)]})  # alike in six digits
    assert read(many, task="multiclass").target_names == ["10000001", "10000002", "10000003"]
    with pytest.raises(InputError, match="one column, not 'a', 'b'"):
        read(
            write(tmp_path / "two.csv", {"a": ["x", "y"] * 10, "b": ["x", "z"] * 10}),
            target_columns=["a", "b"],
            task="multiclass",
        )
    with pytest.raises(InputError, match="has one class; a choice needs two"):
        read(write(tmp_path / "one.csv", {"a": ["x"] * 20}), task="multiclass")


def test_targets_of_two_kinds_are_refused(tmp_path):
    path = write(tmp_path / "table.csv", {"y": halves(), "kind": ["red", "blue"] * 10})
    with pytest.raises(InputError, match=r"Column 'kind' of .* holds words, and others hold numbers"):
        read(path, target_columns=["y", "kind"])


def test_all_numeric_columns_are_targets_by_default(tmp_path):
    """Identifiers, row numbers, words and the column that splits are none."""
    others = {
        "mol_id": list(range(100, 120)), "CAS": [7] * 20, "": list(range(20)), "counter": list(range(1, 21)),
        "MolID": halves(), "fold_1": [0, 1, 2, 0] * 5, "Split2": [0, 1] * 10,
        "predicted_y": halves(), "std_y": halves(), "name": [f"molecule {row}" for row in range(20)],
        "part": [0, 0, 0, 1, 2] * 4,
    }  # fmt: skip
    path = write(tmp_path / "table.csv", others | {"acid": halves(), "logP": [-row for row in halves()]})
    assert read(path, split="part").target_names == ["acid", "logP"]
    path = write(tmp_path / "words.csv", {"name": others["name"], "comment": others["name"]})
    with pytest.raises(InputError, match="names targets among its columns: 'name', 'comment'"):
        read(path)


@pytest.mark.parametrize(
    ("given", "found"), [([400, 402.5], ["400", "402.50"]), ("400", ["400"]), (["402.50"], ["402.50"])]
)
def test_columns_named_by_numbers(given, found, tmp_path):
    path = write(tmp_path / "spectrum.csv", {"400": halves(), "402.50": halves()})
    assert read(path, target_columns=given).target_names == found


@pytest.mark.parametrize(
    ("columns", "sentence"),
    [
        ([], "name at least one"),
        (["z"], "no column 'z'"),
        (["y", "y"], "'y' cannot be a target twice"),
        (["smiles"], "and the SMILES"),
    ],
)
def test_columns_that_cannot_be_targets(columns, sentence, tmp_path):
    with pytest.raises(InputError, match=sentence):
        read(write(tmp_path / "table.csv", {"y": halves()}), target_columns=columns)


def test_a_table_without_rows_is_refused(tmp_path):
    path = tmp_path / "table.csv"
    path.write_text("smiles,y\n")
    with pytest.raises(InputError, match="no rows below its header"):
        read(path)


# Splits


def test_words_of_a_split_column(tmp_path):
    """Rows without a part are left out, and counted."""
    words = ["TRAIN", "Training", "valid", "Test", ""] * 4
    module = read(write(tmp_path / "table.csv", {"y": halves(), "set": words}), split="set")
    rows = [module.dataset.tensors["row"][part] % 5 for part in module.rows]
    assert [sorted(set(part.tolist())) for part in rows] == [[0, 1], [2], [3]]
    assert "4 rows have no part in column 'set' and are left out." in module.describe()
    numbered = read(write(tmp_path / "numbers.csv", {"y": halves(), "set": [0, 0, 1, 2] * 5}), split="set")
    assert [len(part) for part in numbered.rows] == [10, 5, 5]


def test_validation_is_taken_out_of_the_training_rows(tmp_path):
    """By a seed; the test rows stay what the column says."""
    path = write(tmp_path / "table.csv", {"y": halves(), "set": ["train", "train", "train", "test"] * 5})
    first, same = (read(path, split="set", val_fraction=0.2) for _ in range(2))
    other = read(path, split="set", val_fraction=0.2, split_seed=1)
    assert [len(part) for part in first.rows] == [12, 3, 5]
    assert [part.tolist() for part in first.rows] == [part.tolist() for part in same.rows]
    assert first.rows.val.tolist() != other.rows.val.tolist()
    assert sorted([*first.rows.train.tolist(), *first.rows.val.tolist()]) == [
        n for n in range(20) if n % 4 != 3
    ]
    assert first.rows.test.tolist() == [3, 7, 11, 15, 19]
    path = write(tmp_path / "train.csv", {"y": halves(), "set": ["train"] * 20})
    module = read(path, split="set")  # for fit, which then tests nothing
    assert [len(part) for part in module.rows] == [18, 2, 0]
    for stage in (None, "test"):
        with pytest.raises(InputError, match=r"test part .* is empty, as column 'set' names no row for it"):
            module.setup(stage)


def test_whole_scaffolds_validate(tmp_path):
    path = tmp_path / "table.csv"
    rings = ["c1ccccc1", "C1CCCCC1", "c1ccncc1", "c1ccsc1", "C1CCOC1"]
    rows = [
        (f"{'C' * (row % 4 + 1)}{rings[row % 5]}", row / 2, "test" if row > 24 else "train")
        for row in range(30)
    ]
    pd.DataFrame(rows, columns=["smiles", "y", "set"]).to_csv(path, index=False)
    module = read(path, split="set", val_split="scaffold", val_fraction=0.2)
    train, val = ({module.dataset.scaffolds[row] for row in part.tolist()} for part in module.rows[:2])
    assert train.isdisjoint(val)
    assert (len(train), len(val)) == (4, 1)


def test_validation_rows_that_cannot_be_read_are_not_replaced(tmp_path):
    """Training rows that validate in their place would be scores of another split."""
    table = pd.DataFrame(
        {"smiles": SMILES, "y": halves(), "set": ["train"] * 16 + ["val"] * 2 + ["test"] * 2}
    )
    table.loc[16:17, "smiles"] = "C(C"
    table.to_csv(tmp_path / "table.csv", index=False)
    with pytest.raises(
        InputError, match=r"The val part .* column 'set' names no row for it that can be read"
    ):
        read(tmp_path / "table.csv", split="set")


@pytest.mark.parametrize("split", ["random", "scaffold"])
def test_a_column_may_be_called_like_a_split(split, tmp_path):
    path = write(tmp_path / "table.csv", {split: halves(), "y": halves()})
    module = CSV(path, split=split, target_columns=[split, "y"], cache=tmp_path)
    assert module.targets.values[:, 0].tolist() == halves()
    assert read(path, target_columns=["y"]).rows.train.numel() == 16  # by the split, not by the column


def test_files_for_each_part(tmp_path):
    """Two are for training and test, three for validation too; columns are those that all have."""
    train = write(tmp_path / "train.csv", {"y": halves(), "only here": halves()})
    val = write(tmp_path / "val.csv", {"y": halves()}, ";")
    test = write(tmp_path / "test.tsv", {"note": halves(), "y": halves()}, "\t")
    module = read([train, val, test])
    assert [module.dataset.tensors["row"][part].tolist() for part in module.rows] == [
        list(range(20)), list(range(20, 40)), list(range(40, 60)),
    ]  # fmt: skip
    assert module.target_names == ["y"]
    assert [len(part) for part in read([train, test]).rows] == [18, 2, 20]
    with pytest.raises(InputError, match="path names 4 files"):
        CSV([train] * 4)


def test_words_that_name_no_part(tmp_path):
    path = write(tmp_path / "table.csv", {"y": halves(), "set": ["train"] * 19 + ["holdout"]})
    with pytest.raises(InputError, match="row 19 of column 'set' is 'holdout', not train, val or test"):
        read(path, split="set")
