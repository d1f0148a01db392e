"""PLSTMConv where others have their layer: in OGB's own network for molecules, in place of GINConv.

    python -m benchmarks.accuracy.drop_in --root path/to/data        # an hour or two on two cores
    python -m benchmarks.accuracy.drop_in --root path/to/data --datasets molesol --seeds 1 --epochs 1

The network is that of OGB's example: five layers of width 300 with a batch norm after each, ReLU after all
but the last, dropout of 0.5, no residual connections, the mean of the last layer's nodes, a linear head; with
or without a virtual node. It is trained as there, by Adam at 1e-3 on batches of 32 and the mean squared error
of raw targets. Rows differ in the five convolutions alone: GINConv with bonds, or PLSTMConv in P-, D- or
PD-mode with its defaults, in a plain call that makes its own DAG. What is tested is the epoch that is best on
validation graphs.

``--root`` holds ``ogb/``. Each run's outcome is a JSON file in the folder of its data set under ``--out``;
runs that have theirs are not repeated, so after a change of the layer delete them or choose another folder.
The command fails unless all scores are finite and every row of PLSTMConv is at most at GINConv's RMSE on
validation graphs, in the mean over seeds.

Source: Hu et al., Open Graph Benchmark, arXiv 2005.00687.
"""

from __future__ import annotations

import json
import math
import os
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from itertools import product
from pathlib import Path
from statistics import mean
from typing import Any

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # as the command line has it

import torch
from lightning.pytorch import seed_everything
from torch import Tensor, nn
from torch.nn import functional as F
from torch_geometric.data import Batch
from torch_geometric.nn import GINEConv, global_add_pool, global_mean_pool

from benchmarks.accuracy.running import keep_all, known
from benchmarks.accuracy.suites import FOLDERS
from benchmarks.command import add_data, launch, parser_of
from benchmarks.measure import RESULTS
from plstm_graph import PLSTMConv
from plstm_graph.chem import ATOM_FEATURE_DIMS, BOND_FEATURE_DIMS
from plstm_graph.commands.report import spread
from plstm_graph.datasets import OGB
from plstm_graph.models.encoder import CategoryEncoder

OUTCOMES = RESULTS / "drop_in"
DATASETS = ("molesol", "molfreesolv")
_LAYERS, _WIDTH, _DROPOUT, _RATE, _BATCH = 5, 300, 0.5, 1e-3, 32

GIN = "gin"
CONVS = {
    GIN: "GINConv",
    "plstm-p": "PLSTMConv, P-mode",
    "plstm-d": "PLSTMConv, D-mode",
    "plstm-pd": "PLSTMConv, PD-mode",
}


def _perceptron() -> list[nn.Module]:
    inner = 2 * _WIDTH
    return [nn.Linear(_WIDTH, inner), nn.BatchNorm1d(inner), nn.ReLU(), nn.Linear(inner, _WIDTH)]


def make_conv(name: str) -> nn.Module:
    """A layer that is called with nodes, edges and encoded bonds."""
    if name == GIN:
        return GINEConv(nn.Sequential(*_perceptron()), train_eps=True)
    return PLSTMConv(_WIDTH, _WIDTH, edge_dim=_WIDTH, mode=name.removeprefix("plstm-").upper())


class Network(nn.Module):
    """OGB's network for molecules, with any convolution.

    Args:
        conv: One of :data:`CONVS`.
        virtual: Whether a virtual node hands to all nodes of a graph, before each layer, what it gathered.
    """

    def __init__(self, conv: str, virtual: bool) -> None:
        super().__init__()
        self.atoms = CategoryEncoder(ATOM_FEATURE_DIMS, _WIDTH)
        self.bonds = nn.ModuleList(CategoryEncoder(BOND_FEATURE_DIMS, _WIDTH) for _ in range(_LAYERS))
        self.convs = nn.ModuleList(make_conv(conv) for _ in range(_LAYERS))
        self.norms = nn.ModuleList(nn.BatchNorm1d(_WIDTH) for _ in range(_LAYERS))
        self.updates = None
        if virtual:
            self.virtual = nn.Parameter(torch.zeros(1, _WIDTH))
            self.updates = nn.ModuleList(
                nn.Sequential(*_perceptron(), nn.BatchNorm1d(_WIDTH), nn.ReLU()) for _ in range(_LAYERS - 1)
            )
        self.head = nn.Linear(_WIDTH, 1)

    def forward(self, batch: Batch) -> Tensor:
        """Predictions [num_graphs, 1]."""
        x, graph, graphs = self.atoms(batch.x), batch.batch, batch.num_graphs
        if self.updates is not None:
            virtual = self.virtual.expand(graphs, -1)
        for layer, (bonds, conv, norm) in enumerate(zip(self.bonds, self.convs, self.norms, strict=True)):
            last = layer == _LAYERS - 1
            if self.updates is not None:
                x = x + virtual[graph]
                if not last:
                    gathered = self.updates[layer](global_add_pool(x, graph, graphs) + virtual)
                    virtual = F.dropout(gathered, _DROPOUT, self.training)
            x = norm(conv(x, batch.edge_index, bonds(batch.edge_attr)))
            x = F.dropout(x if last else x.relu(), _DROPOUT, self.training)
        return self.head(global_mean_pool(x, graph, graphs))


@dataclass(frozen=True)
class Run:
    """One convolution on one data set with one seed."""

    dataset: str
    conv: str
    virtual: bool
    seed: int

    @property
    def name(self) -> str:
        return f"{self.dataset}/{self.conv}{'-virtual' * self.virtual}-seed{self.seed}"


def data_of(dataset: str, root: Path, cache: Path) -> OGB:
    """The data, whose graphs carry no DAGs."""
    return OGB(f"ogbg-{dataset}", root / FOLDERS["OGB"], cache=cache, batch_size=_BATCH, orientation=None)


def train(run: Run, epochs: int, root: Path, cache: Path) -> dict[str, Any]:
    """Train a network, and look at all graphs after every epoch."""
    torch.set_num_threads(1)
    seed_everything(run.seed, verbose=False)
    module = data_of(run.dataset, root, cache)
    module.setup()
    network = Network(run.conv, run.virtual)
    optimizer = torch.optim.Adam(network.parameters(), lr=_RATE)
    loader, graphs = module.train_dataloader(), list(module.predict_dataloader())
    targets = module.dataset.tensors["y"]
    scores: dict[str, list[float]] = {part: [] for part in module.rows._fields}
    largest, seconds = [], 0.0
    for epoch in range(epochs):
        loader.sampler.set_epoch(epoch)
        start = time.perf_counter()
        network.train()
        for batch in loader:
            if batch.num_graphs > 1:  # batch norm at the virtual node needs two graphs; OGB's skips one too
                optimizer.zero_grad()
                F.mse_loss(network(batch), batch.y).backward()
                optimizer.step()
        seconds += time.perf_counter() - start
        network.eval()
        with torch.inference_mode():
            predictions = torch.cat([network(batch) for batch in graphs])
        largest.append(predictions.abs().max().item())
        for part, rows in module.rows._asdict().items():
            scores[part].append(F.mse_loss(predictions[rows], targets[rows]).sqrt().item())
    best = min(range(epochs), key=lambda epoch: (math.isnan(scores["val"][epoch]), scores["val"][epoch]))
    return {
        "epoch": best,
        "val": scores["val"][best],
        "test": scores["test"][best],
        "largest": torch.tensor(largest).max().item(),  # NaN if one is
        "finite": all(map(math.isfinite, [*largest, *(s for part in scores.values() for s in part)])),
        "parameters": sum(parameter.numel() for parameter in network.parameters()),
        "seconds": round(seconds, 1),
        "scores": {part: [round(score, 4) for score in values] for part, values in scores.items()},
    }


Results = dict[tuple[str, str, bool], list[dict[str, Any]]]


def markdown(results: Results) -> str:
    """A table of all rows: data set, convolution, virtual node."""
    lines = [
        "| | convolution | virtual node | seeds | best validation RMSE | test RMSE then | "
        "largest prediction | finite | parameters | seconds of training |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    for (dataset, conv, virtual), runs in results.items():
        finite = sum(run["finite"] for run in runs)
        cells = [
            dataset,
            CONVS[conv],
            "yes" if virtual else "no",
            str(len(runs)),
            *(spread([run[part] for run in runs]) if finite == len(runs) else "" for part in ("val", "test")),
            f"{torch.tensor([run['largest'] for run in runs]).max():.3g}",
            "all" if finite == len(runs) else f"{finite} of {len(runs)}",
            f"{runs[0]['parameters']:,}",
            f"{mean(run['seconds'] for run in runs):.0f}",
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def failures(results: Results) -> list[str]:
    """What speaks against dropping the layer in, a sentence each."""
    sentences = []
    for (dataset, conv, virtual), runs in results.items():
        row = f"{dataset}, {CONVS[conv]}, {'with' if virtual else 'without'} a virtual node"
        if not all(run["finite"] for run in runs):
            sentences.append(f"{row}: not all scores are finite.")
            continue
        reference = results[dataset, GIN, virtual]
        val, wanted = (mean(run["val"] for run in those) for those in (runs, reference))
        if val > wanted:
            sentences.append(f"{row}: the RMSE on validation graphs is {val:.3f}, GINConv's {wanted:.3f}.")
    return sentences


def main(argv: Sequence[str]) -> int:
    """Make what is missing, print the table, and return 1 if the layer cannot be dropped in."""
    parser = parser_of("accuracy.drop_in", __doc__)
    parser.add_argument("--datasets", nargs="+", choices=DATASETS, default=DATASETS)
    parser.add_argument("--epochs", type=int, default=20)
    parser.add_argument("--seeds", type=int, default=3, help="number of seeds, from 0")
    add_data(parser)
    parser.add_argument("--out", type=Path, default=OUTCOMES)
    parser.add_argument("--jobs", type=int, default=os.cpu_count(), help="runs side by side")
    options = parser.parse_args(argv)
    rows = list(product(options.datasets, CONVS, (False, True)))
    runs = [Run(*row, seed) for seed in range(options.seeds) for row in rows]
    files = {run: options.out / f"{run.name}.json" for run in runs}
    settings = {"epochs": options.epochs}
    waiting = [run for run, file in files.items() if not known(file, settings)]
    for dataset in sorted({run.dataset for run in waiting}):
        data_of(dataset, options.root, options.cache).prepare_data()
    calls = {run: partial(train, run, options.epochs, options.root, options.cache) for run in waiting}
    keep_all(calls, files, settings, options.jobs)
    # Further seeds that were run before count too.
    outcomes = {row: sorted(options.out.glob(f"{Run(*row, 0).name.removesuffix('0')}*.json")) for row in rows}
    results = {
        row: [json.loads(file.read_text())["result"] for file in found] for row, found in outcomes.items()
    }
    print(markdown(results))
    sentences = failures(results)
    print("\n".join(sentences) or "Every row of PLSTMConv is finite and at most at GINConv's RMSE.")
    return int(bool(sentences))


if __name__ == "__main__":
    launch(lambda: main(sys.argv[1:]))
