"""Published sets of molecules: TDC, MoleculeACE, Peptides-func and LNPDB, in small files of their layouts."""

import os
import pickle
from collections import Counter
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from cli_calls import SMALL
from data_modules import prepared

from plstm_graph.checkpoint import read_checkpoint
from plstm_graph.datasets import TDC, Lipids, MoleculeACE, PeptidesFunc
from plstm_graph.errors import InputError
from plstm_graph.metrics import metrics_of

SHARED = Path(__file__).parents[2] / "shared" / "data"

RINGS = ["c1ccccc1", "C1CCCCC1", "c1ccncc1", "c1ccsc1", "C1CCOC1", "c1ccoc1", "C1CCNC1", "C1CCC1"]


def molecules(number: int) -> list[str]:
    return [f"{'ONSF'[row // 8 % 4]}{'C' * (row // 8 + 1)}{RINGS[row % 8]}" for row in range(number)]


def write(path: Path, **columns) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    pd.DataFrame(columns).to_csv(path, index=False)
    return path


@pytest.fixture
def tdc(tmp_path) -> Path:
    """A set to rank, and one of two classes."""
    for name, values in (("vdss_lombardo", 11), ("cyp2d6_veith", 2)):
        for part, rows in (("train_val", 96), ("test", 10)):
            smiles, y = molecules(rows), [7 * row % values for row in range(rows)]
            write(tmp_path / name / f"{part}.csv", Drug_ID=smiles, Drug=smiles, Y=y)
    return tmp_path


@pytest.mark.parametrize(
    ("name", "task", "metric"),
    [
        ("vdss_lombardo", "regression", "spearman"),
        ("cyp2d6_veith", "classification", "average_precision"),
    ],
)
def test_tdc_keeps_its_test_part_and_validates_on_whole_scaffolds(tdc, name, task, metric):
    module, same, other = (prepared(TDC(name, tdc, cache=tdc, split_seed=seed)) for seed in (0, 0, 1))
    assert (module.name, module.task, module.metric, module.target_names) == (name, task, metric, [name])
    assert sorted(torch.cat(list(module.rows)).tolist()) == list(range(106))
    assert module.rows.test.tolist() == other.rows.test.tolist() == list(range(96, 106))
    assert module.rows.val.tolist() == same.rows.val.tolist() != other.rows.val.tolist()
    train, val = ({module.dataset.scaffolds[row] for row in part.tolist()} for part in module.rows[:2])
    assert train.isdisjoint(val)
    assert len(module.rows.val) == 12  # an eighth of 96, and of the eight scaffolds one
    assert metric in metrics_of(task, 1)


def test_a_set_that_is_none_or_not_there_is_refused(tmp_path):
    with pytest.raises(
        InputError, match=r"'herg_central' is none of TDC's ADMET sets: ames, .*vdss_lombardo"
    ):
        TDC("herg_central")
    with pytest.raises(InputError, match=r"herg/train_val.csv is missing; .*tdcommons.* or pass --data.root"):
        TDC("herg", tmp_path).prepare_data()
    with pytest.raises(InputError, match=r"CHEMBL1_Ki.csv is missing; .*MoleculeACE"):
        MoleculeACE("CHEMBL1_Ki", tmp_path).prepare_data()


def test_tdc_is_ranked_from_the_command_line(run, tdc, tmp_path):
    """The epoch with the highest rank correlation is tested, and the set's name is the target's."""
    arguments = ["--data", "TDC", "--data.dataset_name", "vdss_lombardo", "--data.root", tdc]
    arguments += ["--trainer.max_epochs", "4", "--model.learning_rate", "0.02", *SMALL]
    code, out, err = run("fit", "--model.network", "PLSTM", *arguments)
    assert code == 0, err
    [log] = (tmp_path / "runs").rglob("metrics.csv")
    scores = pd.read_csv(log)["val/spearman"].dropna()
    assert scores.nunique() > 1
    assert f"best validation spearman {scores.max():.3f}" in out
    [best] = (tmp_path / "runs").rglob("best-*.ckpt")
    assert int(best.stem.partition("-")[2]) in np.flatnonzero(scores == scores.max())
    assert read_checkpoint(best)["hyper_parameters"]["target_names"] == ["vdss_lombardo"]


@pytest.mark.parametrize("end", ["Ki", "EC50"])
def test_cliffs_are_the_rows_that_the_table_marks(tmp_path, end):
    smiles = molecules(40)
    smiles[3] = "C(C"  # skipped, which moves the rows behind it
    cliffs = [int(row % 3 == 0) for row in range(40)]
    split = ["test" if row % 4 == 3 else "train" for row in range(40)]
    target = {"y [pEC50/pKi]": np.arange(40) / 8}
    path = tmp_path / f"CHEMBL1_{end}.csv"
    write(path, smiles=smiles, y=-np.arange(40), cliff_mol=cliffs, split=split, **target)
    module, other = (prepared(MoleculeACE(path.stem, tmp_path, cache=tmp_path, split_seed=n)) for n in (0, 1))
    assert (module.target_names, module.unit, module.metric) == ([f"p{end}"], f"p{end}", "rmse")
    in_table = module.dataset.tensors["row"]
    test = [row for row in range(40) if row % 4 == 3 and row != 3]
    assert in_table[module.rows.test].tolist() == in_table[other.rows.test].tolist() == test
    assert (len(module.rows.train), len(module.rows.val)) == (27, 3)
    assert module.rows.val.tolist() != other.rows.val.tolist()
    scored = module.rows.test[module.subsets["cliffs"][module.rows.test]]
    assert in_table[scored].tolist() == [row for row in test if cliffs[row]]
    assert module.dataset.tensors["y"][scored].flatten().tolist() == [row / 8 for row in test if cliffs[row]]


def peptides(root: Path, split: object, labels: list[str] | None = None) -> PeptidesFunc:
    folder = root / "peptides-functional"
    labels = labels or [str([int(row % 10 == place) for place in range(10)]) for row in range(12)]
    write(folder / "peptide_multi_class_dataset.csv.gz", smiles=molecules(12), peptide_seq="A", labels=labels)
    (folder / "splits_random_stratified_peptide.pickle").write_bytes(pickle.dumps(split))
    return PeptidesFunc(root, cache=root)


SPLIT = {"train": np.array([11, 0, 2, 4, 6, 8, 10]), "val": np.array([1, 3]), "test": np.array([5, 7, 9])}


def test_peptides_have_ten_labels_and_the_split_of_their_pickle(tmp_path):
    module = prepared(peptides(tmp_path, SPLIT))
    assert [part.tolist() for part in module.rows] == [sorted(part) for part in SPLIT.values()]
    assert (module.task, module.metric, module.num_tasks) == ("classification", "average_precision", 10)
    assert module.target_names[9] == "toxic"
    assert torch.equal(module.dataset.tensors["y"][:10], torch.eye(10))


class Harmful:
    """What unpickling calls the function of."""

    def __init__(self, function, *arguments):
        self.call = function, arguments

    def __reduce__(self):
        return self.call


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"val": Harmful(os.mkdir, "harm")}, r"no pickle of arrays alone, .* asks for (posix|nt).mkdir"),
        ({"val": Harmful(eval, "__import__('os').mkdir('harm')")}, r"asks for builtins\.eval"),
        ({"val": Harmful(np.save, "harm", np.zeros(2))}, r"asks for numpy\.save"),
        ({"val": np.array([1.5, 3.0])}, "other than arrays of row numbers"),
        ({"val": np.array([None, "3"])}, "other than arrays of row numbers"),
        ({"val": np.array([1, 12])}, "names rows that .* does not have"),
        ({"val": np.array([1])}, "does not give each row of .* one part"),
        ({"val": np.array([1, 3, 5])}, "does not give each row of .* one part"),
    ],
)
def test_a_pickle_of_anything_but_a_split_is_refused(tmp_path, monkeypatch, change, sentence):
    monkeypatch.chdir(tmp_path)
    module = peptides(tmp_path, SPLIT | change)
    with pytest.raises(InputError, match=sentence):
        prepared(module)
    assert not list(tmp_path.glob("harm*"))


def test_a_damaged_pickle_and_other_labels_are_refused(tmp_path):
    module = peptides(tmp_path, SPLIT)
    module.split_file.write_bytes(module.split_file.read_bytes()[:200])
    with pytest.raises(InputError, match="no pickle of arrays alone"):
        prepared(module)
    for cell in ("[0, 1]", "0", str([2] * 10), "x"):
        module = peptides(tmp_path, SPLIT, [str([0] * 10)] * 11 + [cell])
        with pytest.raises(InputError, match=r"row 11 of column 'labels' is .*, not a list of ten 0s and 1s"):
            prepared(module)


@pytest.fixture
def lnpdb(tmp_path) -> Path:
    for start, part in enumerate(("train", "val", "test")):
        y = 100.0 * start + np.arange(8)
        write(tmp_path / f"{part}.csv", IL_SMILES=molecules(8), Experiment_value=y)
        write(tmp_path / f"{part}_extra_x.csv", dose=y / 2, cargo_mRNA=(y % 2).astype(int))
    return tmp_path


def test_formulations_stand_beside_their_lipids(lnpdb):
    module = prepared(Lipids(lnpdb, cache=lnpdb))
    assert [part.tolist() for part in module.rows] == [[*range(n, n + 8)] for n in (0, 8, 16)]
    assert (module.target_names, module.descriptor_names) == (["Experiment_value"], ["dose", "cargo_mRNA"])
    y = module.dataset.tensors["y"]
    assert torch.equal(module.dataset.tensors["descriptors"], torch.cat([y / 2, y % 2], 1))
    plain = prepared(Lipids(lnpdb, formulation=False, cache=lnpdb))
    assert plain.descriptor_names == []
    assert "descriptors" not in plain.dataset.tensors
    write(lnpdb / "val_extra_x.csv", dose=[1], cargo_mRNA=[1])
    with pytest.raises(InputError, match=r"val.csv has 8 rows, and the formulations beside it have 1"):
        Lipids(lnpdb, cache=lnpdb).prepare_data()
    (lnpdb / "test_extra_x.csv").unlink()
    with pytest.raises(InputError, match=r"test_extra_x.csv is missing"):
        Lipids(lnpdb, cache=lnpdb).prepare_data()


@pytest.mark.skipif(not SHARED.is_dir(), reason="the public data sets are not here")
def test_published_tables(tmp_path):
    dili = prepared(TDC("dili", SHARED / "tdc_admet", cache=tmp_path))
    assert [len(part) for part in dili.rows] == [331, 48, 96]
    ace = prepared(MoleculeACE("CHEMBL2047_EC50", SHARED / "moleculeace", cache=tmp_path))
    assert [len(part) for part in ace.rows] == [453, 50, 128]
    parts = Counter(PeptidesFunc(SHARED / "lrgb")._parts)
    assert [parts[part] for part in range(3)] == [10873, 2331, 2331]
    assert len(Lipids(SHARED / "lnpdb").descriptor_names) == 92
