"""Data sets from files: OGB's, MoleculeNet's and tables of your own."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from data_modules import prepared
from ogb.graphproppred import Evaluator
from ogb.utils import smiles2graph
from torch_geometric.data import Data

from datasets import CSV, OGB, MoleculeNet
from plstm_graph.chem import smiles_to_data
from plstm_graph.dag import ToLineGraphDAG
from plstm_graph.errors import InputError
from plstm_graph.metrics import classification_metrics, regression_metrics


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
    fresh = ToLineGraphDAG("center")(Data(x=graph.x, edge_index=graph.edge_index, edge_attr=graph.edge_attr))
    assert torch.equal(graph.dag_src, fresh.dag_src)
    assert torch.equal(graph.dag_pred, fresh.dag_pred)


def test_a_missing_ogb_file_says_where_to_put_it(tox):
    module = OGB("ogbg-molhiv", root=tox / "ogb", cache=tox)  # says nothing yet
    with pytest.raises(
        InputError, match=r"ogbg_molhiv/raw/num-node-list.csv.gz is missing; unpack .*hiv.zip"
    ):
        module.prepare_data()
    with pytest.raises(InputError, match="none of OGB's molecule sets: ogbg-molbace, "):
        OGB("molhiv")


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


PEPTIDE = "NCC(=O)" * 75 + "O"  # 301 atoms


def own_table(folder: Path, text: str = "") -> Path:
    """A table with all that tables have, Windows line ends too."""
    smiles = [f"{'C' * n}O" for n in range(1, 9)] + ["C", "C", "[Na+].[Cl-]", PEPTIDE, "C(C", "", "nonsense"]
    rows = ["id,smiles,active,part"]
    parts = ["train", "train", "val", "test"]
    rows += [f"{i},{text_},{'' if i % 5 == 1 else i % 2},{parts[i % 4]}" for i, text_ in enumerate(smiles)]
    path = folder / "mine.csv"
    path.write_bytes(("\r\n".join(rows) + text).encode())
    return path


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
    with pytest.raises(InputError, match="row 12: 'C\\(C'; row 13: nan; row 14: 'nonsense'"):
        module.prepare_data()


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"path": "nowhere.csv"}, "nowhere.csv is missing; pass the path of your table with --data.path"),
        (
            {"target_columns": ["id"], "task": "classification"},
            "Row 2 of column 'id' is 2; classes are 0 and 1",
        ),
        ({"target_columns": ["toxic"]}, "no column 'toxic'; it has 'id', 'smiles', 'active', 'part'"),
        ({"split": "scaffolds"}, "or a column of .*mine.csv, not 'scaffolds'"),
        ({"split": "id"}, "Row 0 of column 'id' is '0', not train, val or test"),
        ({"target_columns": []}, "name at least one column"),
    ],
)
def test_what_is_wrong_with_a_table_is_said(tmp_path, changes, sentence):
    arguments = {"path": own_table(tmp_path), "target_columns": ["active"], "cache": tmp_path} | changes
    with pytest.raises(InputError, match=sentence):
        prepared(CSV(**arguments))
