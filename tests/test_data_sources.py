"""Data sets from files: OGB's, MoleculeNet's and tables of your own."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from cli_calls import SMALL, carry_out
from data_modules import own_table, prepared
from ogb.graphproppred import Evaluator
from ogb.utils import smiles2graph
from rdkit.Chem import Descriptors
from sklearn.model_selection import StratifiedKFold
from torch_geometric.data import Data
from torch_geometric.datasets import TUDataset

from benchmarks.speed import epoch
from plstm_graph.checkpoint import read_checkpoint
from plstm_graph.chem import read_smiles, smiles_to_data
from plstm_graph.dag import ToLineGraphDAG, rank_nodes
from plstm_graph.datasets import CSV, OGB, TU, MoleculeNet
from plstm_graph.errors import InputError
from plstm_graph.metrics import classification_metrics, regression_metrics
from plstm_graph.models import PLSTM
from plstm_graph.reference import Reference
from plstm_graph.similarity import morgan_bits, nearest


@pytest.fixture
def tox(tmp_path) -> Path:
    """Twelve molecules in the layout of ogbg-moltox21, with OGB's own features."""
    folder = tmp_path / "ogb" / "ogbg_moltox21"
    smiles = [f"{'C' * n}c1ccccc1" for n in range(6)] + [f"{'C' * n}[Al]" for n in range(6)]
    graphs = [smiles2graph(text) for text in smiles]
    labels = np.arange(12 * 12).reshape(12, 12) % 3 / 2.0
    labels[labels == 0.5] = np.nan
    for part in ("raw", "mapping", "split/scaffold"):
        (folder / part).mkdir(parents=True)

    def write(name, rows):
        pd.DataFrame(rows).to_csv(folder / f"{name}.csv.gz", header=False, index=False)

    write("raw/num-node-list", [graph["num_nodes"] for graph in graphs])
    write("raw/num-edge-list", [graph["edge_index"].shape[1] // 2 for graph in graphs])
    write("raw/edge", np.concatenate([graph["edge_index"].T[::2] for graph in graphs]))
    write("raw/edge-feat", np.concatenate([graph["edge_feat"][::2] for graph in graphs]))
    write("raw/node-feat", np.concatenate([graph["node_feat"] for graph in graphs]))
    write("raw/graph-label", labels)
    pd.DataFrame({"smiles": smiles}).to_csv(folder / "mapping" / "mol.csv.gz", index=False)
    for part, rows in (("train", [0, 2, 4, 6, 8, 10]), ("valid", [11, 1]), ("test", [3, 5, 7, 9])):
        write(f"split/scaffold/{part}", rows)
    return tmp_path


def test_ogb_files_are_read_as_ogb_does(tox):
    module = prepared(OGB("ogbg-moltox21", root=tox / "ogb", cache=tox, batch_size=4))
    assert (module.task, module.metric, module.num_tasks) == ("classification", "roc_auc", 12)
    assert [rows.tolist() for rows in module.rows] == [[0, 2, 4, 6, 8, 10], [11, 1], [3, 5, 7, 9]]
    wanted = smiles2graph("CCCc1ccccc1")
    graph = module.dataset[3]
    assert torch.equal(graph.x, torch.from_numpy(wanted["node_feat"]))
    assert torch.equal(graph.edge_index, torch.from_numpy(wanted["edge_index"]))
    assert torch.equal(graph.edge_attr, torch.from_numpy(wanted["edge_feat"]))
    assert graph.y[0].isnan().sum() == 4
    fresh = ToLineGraphDAG("center")(smiles_to_data("CCCc1ccccc1"))  # a model of the set may be given this
    assert torch.equal(graph.dag_src, fresh.dag_src)
    assert torch.equal(graph.dag_pred, fresh.dag_pred)


def test_ogb_training_molecules_are_cross_validated_by_scaffold(tox):
    folder = tox / "ogb" / "ogbg_moltox21"
    table = pd.read_csv(folder / "mapping" / "mol.csv.gz")
    table["smiles"] = [
        *("C(C", "CCC1CC1", "CC1CC1", "Cc1ccccc1", "CCc1ccccc1", "CCCc1ccccc1", "C1CCC1", "CC1CCC1"),
        *("CC", "CCC", "C1CCCC1", "C1CCCCC1"),
    ]
    table.to_csv(folder / "mapping" / "mol.csv.gz", index=False)
    parts = {"train": range(10), "valid": [10], "test": [11]}
    for part, rows in parts.items():
        pd.DataFrame(rows).to_csv(folder / f"split/scaffold/{part}.csv.gz", header=False, index=False)
    held_out = []
    for fold in range(5):
        rows = prepared(OGB("ogbg-moltox21", fold=fold, root=tox / "ogb", cache=tox)).rows
        assert sorted([*rows.train.tolist(), *rows.test.tolist()]) == [*range(10)]
        assert rows.val.tolist() == [10]
        held_out.append(rows.test.tolist())
    assert sorted(held_out) == [[0], [1, 2], [3, 4, 5], [6, 7], [8, 9]]  # what cannot be read stands alone
    for fold in (-1, 5):
        with pytest.raises(InputError, match=f"fold must be from 0 to 4, not {fold}"):
            OGB("ogbg-moltox21", fold=fold)


def test_ogb_graphs_are_ranked_as_rdkit_ranks_them_or_else_by_structure(tox):
    mapping = tox / "ogb" / "ogbg_moltox21" / "mapping" / "mol.csv.gz"
    table = pd.read_csv(mapping)
    table.loc[1, "smiles"] = "C(C"
    table.loc[2, "smiles"] = "OCc1ccccc1"  # of as many atoms as the file's graph
    table.to_csv(mapping, index=False)
    module = prepared(OGB("ogbg-moltox21", root=tox / "ogb", cache=tox))
    for row, smiles in enumerate(table["smiles"]):
        ranks = module.dataset[row].canonical_rank
        if row in (1, 2):
            graph = module.dataset[row]
            plain = Data(x=graph.x, edge_index=graph.edge_index, edge_attr=graph.edge_attr)
            assert torch.equal(ranks, rank_nodes(plain, "canonical"))
        else:
            assert torch.equal(ranks, smiles_to_data(smiles).canonical_rank)


def test_ogb_molecules_have_rdkits_descriptors_where_their_smiles_can_be_read(tox):
    mapping = tox / "ogb" / "ogbg_moltox21" / "mapping" / "mol.csv.gz"
    table = pd.read_csv(mapping)
    table.loc[1, "smiles"] = "C(C"
    table.to_csv(mapping, index=False)
    plain = prepared(OGB("ogbg-moltox21", root=tox / "ogb", cache=tox))
    module = prepared(OGB("ogbg-moltox21", root=tox / "ogb", cache=tox, descriptors="rdkit"))
    assert plain.descriptor_names == []
    weight = module.descriptor_names.index("rdkit.MolWt")
    found = module.dataset.tensors["descriptors"]
    assert found.shape == (12, len(module.descriptor_names))
    assert found[1].isnan().all()
    wanted = [Descriptors.MolWt(read_smiles(text)) for row, text in enumerate(table["smiles"]) if row != 1]
    torch.testing.assert_close(found[[0, *range(2, 12)], weight], torch.tensor(wanted))


def test_molecules_that_rdkit_cannot_read_are_trained_on_and_similar_to_none(tox):
    folder = tox / "ogb" / "ogbg_moltox21"
    table = pd.read_csv(folder / "mapping" / "mol.csv.gz")
    table.loc[[2, 11], "smiles"] = "C(C"  # the second training molecule, the first that validates
    table.to_csv(folder / "mapping" / "mol.csv.gz", index=False)
    labels = pd.DataFrame(np.arange(12 * 12).reshape(12, 12) // 5 % 2)
    labels.to_csv(folder / "raw" / "graph-label.csv.gz", header=False, index=False)
    places = ["--data.root", tox / "ogb", "--data.cache", tox, "--trainer.default_root_dir", tox / "run"]
    network = ["--model.network", "PLSTM", *SMALL, "--trainer.max_epochs", 1]
    carry_out("fit", *network, "--data", "OGB", "--data.dataset_name", "ogbg-moltox21", *places)
    [path] = (tox / "run").rglob("last.ckpt")
    reference = Reference.of(read_checkpoint(path.with_name("best-0.ckpt")))
    assert reference.train_smiles == table["smiles"][[0, 4, 6, 8, 10]].tolist()
    np.testing.assert_array_equal(reference.train_targets, labels.loc[[0, 4, 6, 8, 10]])
    bits = [
        morgan_bits([read_smiles(text)]) for text in table["smiles"][[1, *range(0, 12, 2)]] if text != "C(C"
    ]
    wanted = nearest(bits[0], np.concatenate(bits[1:]), 1)[0][0, 0]
    assert reference.val_similarity.tolist() == [0.0, wanted]
    assert 0 < wanted < 1


def test_epochs_are_timed_on_the_same_graphs_from_both_loaders(tox):
    module = prepared(OGB("ogbg-moltox21", root=tox / "ogb", cache=tox))
    network = PLSTM(hidden_channels=16, out_channels=12)
    assert "agree" in epoch.check(network, module, epoch.training_graphs(module))


def test_a_missing_ogb_file_says_where_to_put_it(tox):
    module = OGB("ogbg-molhiv", root=tox / "ogb", cache=tox)  # says nothing yet
    with pytest.raises(
        InputError, match=r"ogbg_molhiv/raw/num-node-list.csv.gz is missing; unpack .*hiv.zip"
    ):
        module.prepare_data()
    with pytest.raises(InputError, match="none of OGB's molecule sets: ogbg-molbace, "):
        OGB("molhiv")


def test_data_roots_are_only_read(tox, tiny, tmp_path_factory):
    def state():
        paths = [path for root in ("ogb", "tu") for path in (tmp / root).rglob("*")]
        return {path: (path.stat().st_mtime_ns, path.is_dir() or path.read_bytes()) for path in paths}

    tmp, cache = tox, tmp_path_factory.mktemp("cache")
    assert tiny == tmp
    before = state()
    assert len(before) > 20
    prepared(OGB("ogbg-moltox21", root=tmp / "ogb", cache=cache))
    prepared(TU("TINY", root=tmp / "tu", cache=cache))
    assert state() == before


@pytest.mark.parametrize("name", ["ogbg-molmuv", "ogbg-molhiv", "ogbg-molesol"])
def test_our_metric_is_the_official_one(name):
    module, evaluator = OGB(name), Evaluator(name)
    generator = torch.Generator().manual_seed(0)
    preds = torch.rand(200, module.num_tasks, dtype=torch.float64, generator=generator)
    targets = torch.rand(200, module.num_tasks, dtype=torch.float64, generator=generator)
    if module.task == "classification":
        targets = (targets > 0.8).double()
        if module.num_tasks > 1:
            targets[:, 3] = 0  # one class only: left out
            targets[torch.rand(targets.shape, generator=generator) < 0.3] = torch.nan
    collection = regression_metrics() if module.task == "regression" else classification_metrics()
    official = evaluator.eval({"y_true": targets.numpy(), "y_pred": preds.numpy()})[evaluator.eval_metric]
    assert float(collection(preds, targets)[module.metric]) == pytest.approx(
        float(official), abs=1e-12, rel=0
    )


SHARED = Path(__file__).parents[2] / "shared" / "data"


@pytest.mark.skipif(not SHARED.is_dir(), reason="the public data sets are not here")
@pytest.mark.parametrize(
    ("name", "sizes"),
    [
        ("ogbg-molhiv", [32901, 4113, 4113]),
        ("ogbg-moltox21", [6264, 783, 784]),
        ("ogbg-molsider", [1141, 143, 143]),
        ("ogbg-molesol", [902, 113, 113]),
        ("ogbg-molfreesolv", [513, 64, 65]),
        ("ogbg-mollipo", [3360, 420, 420]),
    ],
)
def test_published_counts(name, sizes, tmp_path):
    module = prepared(OGB(name, root=SHARED / "ogb", cache=tmp_path, orientation=None))
    assert [len(rows) for rows in module.rows] == sizes
    assert len(module.dataset) == sum(sizes)


def test_moleculenet_is_featurised_as_ogb_does_and_keeps_its_last_row(tmp_path):
    folder = tmp_path / "esol" / "raw"
    folder.mkdir(parents=True)
    rows = ["Compound ID,measured log solubility in mols per litre,smiles"]
    rows += [f"{i},{-i},{'C' * (i + 1)}O" for i in range(11)] + ["broken,1,C(C"]
    (folder / "delaney-processed.csv").write_text("\n".join(rows) + "\nlast,-9,c1ccccc1")
    module = prepared(MoleculeNet("ESOL", root=tmp_path, cache=tmp_path, split="random"))
    assert (module.task, module.target_names) == ("regression", ["measured log solubility in mols per litre"])
    assert len(module.dataset) == 12
    assert module.dataset[-1].row.item() == 12
    assert torch.equal(module.dataset[-1].x, smiles_to_data("c1ccccc1").x)
    [listed] = tmp_path.glob("esol-*.unreadable.csv")
    assert pd.read_csv(listed)["row"].tolist() == [11]
    with pytest.raises(InputError, match=r"SAMPL.csv is missing; put https://"):
        MoleculeNet("freesolv", root=tmp_path).prepare_data()


@pytest.fixture
def tiny(tmp_path) -> Path:
    """Forty rings of 3 to 7 nodes in TU Dortmund's layout, with all that it provides for."""
    raw = tmp_path / "tu" / "TINY" / "raw"
    raw.mkdir(parents=True)
    sizes = [3 + graph % 5 for graph in range(40)]
    first = np.cumsum([1, *sizes])
    edges, graph_of = [], []
    for graph, size in enumerate(sizes):
        graph_of += [graph + 1] * size
        for node in range(size):
            ends = first[graph] + node, first[graph] + (node + 1) % size
            edges += [ends, ends[::-1]]
    random = np.random.default_rng(0)
    labels = random.integers(2, 5, len(graph_of))
    lines = {
        "A": [f"{a}, {b}" for a, b in edges],
        "graph_indicator": graph_of,
        "node_labels": labels,
        "node_attributes": [f"{value:.3f}" for value in random.random(len(graph_of))],
        "edge_labels": [(a + b) % 2 for a, b in edges],
        "graph_labels": [(-1, 1, 7)[graph % 3] for graph in range(40)],
    }
    for name, values in lines.items():
        (raw / f"TINY_{name}.txt").write_text("".join(f"{value}\n" for value in values))
    return tmp_path


@pytest.mark.parametrize("attributes", [False, True])
def test_tu_files_are_read_as_pyg_does(tiny, attributes):
    theirs = TUDataset(str(tiny / "tu"), "TINY", use_node_attr=attributes)
    ours = prepared(TU("TINY", root=tiny / "tu", cache=tiny, use_node_attr=attributes))
    assert (ours.task, ours.metric, ours.num_tasks) == ("multiclass", "accuracy", 3)
    assert (ours.in_channels, ours.edge_dim) == (theirs.num_features, theirs.num_edge_features)
    assert len(ours.dataset) == len(theirs) == 40
    for row in (0, 17, 39):
        graph, wanted = ours.dataset[row], theirs[row]
        for key in ("x", "edge_index", "edge_attr"):
            assert torch.equal(graph[key], wanted[key]), key
        assert graph.y.item() == wanted.y.item()
        assert graph.row.item() == row
        assert graph.dag_src.numel() == wanted.num_edges // 2


def test_graphs_without_features_have_ones(tiny):
    for name in ("node_labels", "node_attributes", "edge_labels"):
        (tiny / "tu" / "TINY" / "raw" / f"TINY_{name}.txt").unlink()
    module = prepared(TU("TINY", root=tiny / "tu", cache=tiny))
    assert (module.in_channels, module.edge_dim) == (1, None)
    assert module.dataset.tensors["x"].eq(1).all()
    assert module.dataset[4].num_nodes == 7
    assert "edge_attr" not in module.dataset[4]


def test_ten_folds_are_those_of_the_paper(tiny):
    modules = [prepared(TU("TINY", fold=fold, root=tiny / "tu", cache=tiny)) for fold in range(10)]
    classes = modules[0].dataset.tensors["y"].flatten().numpy()
    folds = StratifiedKFold(10, shuffle=True, random_state=42).split(classes, classes)
    for module, (rest, test) in zip(modules, folds, strict=True):
        assert module.rows.test.tolist() == sorted(test)
        assert sorted(torch.cat([module.rows.train, module.rows.val]).tolist()) == sorted(rest)
        assert len(module.rows.val) == 4  # a ninth of 36
        assert len(set(classes[module.rows.val])) == 3  # stratified
    assert len({module.prepared_file for module in modules}) == 1  # featurised once for all folds


@pytest.mark.skipif(not SHARED.is_dir(), reason="the public data sets are not here")
@pytest.mark.parametrize(
    ("name", "sizes", "columns"),
    [
        ("MUTAG", [150, 19, 19], (7, 4)),
        ("NCI1", [3288, 411, 411], (37, None)),
        ("PROTEINS", [889, 112, 112], (3, None)),
    ],
)
def test_published_counts_of_tu_sets(name, sizes, columns, tmp_path):
    module = prepared(TU(name, root=SHARED / "tu", cache=tmp_path))
    assert [len(rows) for rows in module.rows] == sizes
    assert (module.in_channels, module.edge_dim) == columns


@pytest.mark.parametrize("name", ["PTC_FM", "PTC_MR", "AIDS"])
def test_a_tu_set_is_read_by_its_name(tmp_path, name):
    """Labels of atoms and bonds, classes -1 and 1, and molecules of one atom."""
    raw = tmp_path / name / "raw"
    raw.mkdir(parents=True)
    sizes = [1 + graph % 4 for graph in range(200)]
    first = np.cumsum([1, *sizes])
    bonds = [
        (first[graph] + node, first[graph] + node + 1)
        for graph, size in enumerate(sizes)
        for node in range(size - 1)
    ]
    lines = {
        "A": [f"{a}, {b}" for bond in bonds for a, b in (bond, bond[::-1])],
        "graph_indicator": np.repeat(np.arange(200) + 1, sizes),
        "node_labels": np.arange(sum(sizes)) % 3,
        "edge_labels": np.repeat(np.arange(len(bonds)) % 4, 2),
        "graph_labels": [(-1, 1)[graph // 4 % 2] for graph in range(200)],
    }
    for key, values in lines.items():
        (raw / f"{name}_{key}.txt").write_text("".join(f"{value}\n" for value in values))
    paper, module = (
        prepared(TU(name, fold=7, folds=folds, root=tmp_path, cache=tmp_path)) for folds in ("paper", "fair")
    )
    assert [len(part) for part in paper.rows] == [160, 20, 20]
    assert [len(part) for part in module.rows] == [162, 18, 20]
    assert paper.rows.test.tolist() == module.rows.test.tolist()
    classes = module.dataset.tensors["y"].flatten()
    assert [int(classes[part].sum()) for part in module.rows] == [81, 9, 10]
    assert (module.name, module.num_tasks, module.in_channels, module.edge_dim) == (name, 2, 3, 4)
    assert [module.dataset[row].num_nodes for row in range(4)] == [1, 2, 3, 4]
    assert [module.dataset[row].num_edges for row in range(4)] == [0, 2, 4, 6]
    assert classes.tolist() == [graph // 4 % 2 for graph in range(200)]


def test_what_is_wrong_with_a_tu_set_is_said(tiny):
    with pytest.raises(InputError, match=r"raw/MUTAG_A.txt is missing; unpack https://.*/MUTAG.zip"):
        TU("MUTAG", root=tiny / "tu", cache=tiny).prepare_data()
    with pytest.raises(InputError, match="from 0 to 9, not 10"):
        TU("TINY", fold=10)
    (tiny / "tu" / "TINY" / "raw" / "TINY_graph_labels.txt").unlink()
    with pytest.raises(InputError, match="no TINY_graph_labels"):
        TU("TINY", root=tiny / "tu", cache=tiny).prepare_data()


def test_a_table_of_your_own(tmp_path, capsys):
    table = {"path": own_table(tmp_path), "target_columns": ["active"], "task": "classification"}
    module = prepared(CSV(**table, split="part", cache=tmp_path))
    assert len(module.dataset) == 12
    assert "3 of 15 SMILES cannot be read and are left out" in capsys.readouterr().out
    [listed] = tmp_path.glob("mine-*.unreadable.csv")
    assert pd.read_csv(listed)["row"].tolist() == [12, 13, 14]
    assert pd.read_csv(listed)["reason"].str.len().min() > 10
    wanted = [[0, 1, 4, 5, 8, 9], [2, 6, 10], [3, 7, 11]]
    assert [module.dataset.tensors["row"][rows].tolist() for rows in module.rows] == wanted
    assert module.dataset.tensors["y"].isnan().flatten().nonzero().flatten().tolist() == [1, 6, 11]
    assert module.dataset[11].num_nodes == 301
    module = CSV(**table, unreadable="refuse", cache=tmp_path)  # where the graphs without them lie
    with pytest.raises(InputError, match=r"Row 12: .*'C\(C'.* Row 13: .*''. Row 14: .*'nonsense'"):
        module.prepare_data()


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"path": "nowhere.csv"}, "There is no file 'nowhere.csv'"),
        (
            {"target_columns": ["id"], "task": "classification"},
            "mine.csv: 13 cells are none of the classes 0 and 1 .* row 2, column 'id': '2'; row 3",
        ),
        ({"target_columns": ["toxic"]}, "no column 'toxic'; it has 'id', 'smiles', 'active', 'part'"),
        ({"split": "scaffolds"}, "or a column of .*mine.csv, not 'scaffolds'"),
        ({"split": "id"}, "mine.csv: row 3 of column 'id' is '3', not train, val or test"),
        ({"target_columns": []}, "name at least one column"),
    ],
)
def test_what_is_wrong_with_a_table_is_said(tmp_path, changes, sentence):
    arguments = {"path": own_table(tmp_path), "target_columns": ["active"], "cache": tmp_path} | changes
    with pytest.raises(InputError, match=sentence):
        prepared(CSV(**arguments))
