"""Speed of a training epoch: PLSTM, a GPS network and a GIN, in molecules per second.

    python -m benchmarks.speed.epoch --root path/to/ogb              # a whole epoch of ogbg-molhiv: minutes
    python -m benchmarks.speed.epoch --root path/to/ogb --rounds 4   # its first 32 batches

All networks have one depth, width and dropout. PLSTM and GIN are fed by this project's loader, GPS (GINE and
multi-head attention) by PyG's DataLoader from a list of graphs.
Correctness first: batches of both loaders give PLSTM the same predictions. Then the networks take turns,
eight batches a round. Time in data is what a step waits for its batch; a ratio is taken within each round,
shown as the median over the rounds and (the quartiles).
"""

from __future__ import annotations

import itertools
import os
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # as the command line has it

import torch
from ogb.graphproppred.mol_encoder import AtomEncoder, BondEncoder
from rich.console import Console
from rich.progress import track
from rich.table import Table
from torch import Tensor, nn
from torch_geometric.data import Batch, Data
from torch_geometric.loader import DataLoader
from torch_geometric.nn import GIN, GINEConv, GPSConv, global_mean_pool

from benchmarks.command import parser_of
from benchmarks.measure import RESULTS, environment, quartiles, write_results
from benchmarks.speed.workload import NETWORK
from plstm_graph.datasets import OGB
from plstm_graph.models import PLSTM

BATCHES = 8  # of every network in a round
HEADS = 4
TOLERANCE = 1e-5


class PlainGIN(nn.Module):
    """PyG's GIN on OGB's atom features, with batch norm and dropout as in OGB's examples, or bare."""

    def __init__(self, width: int, layers: int, dropout: float, norm: str | None) -> None:
        super().__init__()
        self.atoms = AtomEncoder(width)
        self.layers = GIN(width, width, layers, dropout=dropout, norm=norm)
        self.head = nn.Linear(width, 1)

    def forward(self, batch: Batch) -> Tensor:
        x = self.layers(self.atoms(batch.x), batch.edge_index)
        return self.head(global_mean_pool(x, batch.batch, batch.num_graphs))


class GPS(nn.Module):
    """PyG's GPS layers of GINE and multi-head attention on OGB's features."""

    def __init__(self, width: int, layers: int, dropout: float) -> None:
        super().__init__()
        self.atoms, self.bonds = AtomEncoder(width), BondEncoder(width)
        self.layers = nn.ModuleList()
        for _ in range(layers):
            update = nn.Sequential(nn.Linear(width, width), nn.ReLU(), nn.Linear(width, width))
            self.layers.append(GPSConv(width, GINEConv(update), HEADS, dropout))
        self.head = nn.Linear(width, 1)

    def forward(self, batch: Batch) -> Tensor:
        x, edge_attr = self.atoms(batch.x), self.bonds(batch.edge_attr)
        for layer in self.layers:
            x = layer(x, batch.edge_index, batch.batch, edge_attr=edge_attr)
        return self.head(global_mean_pool(x, batch.batch, batch.num_graphs))


@dataclass
class Training:
    """A network, where its batches come from, and the seconds of each round."""

    name: str
    network: nn.Module
    loader: Callable[[], DataLoader]
    waited: list[float] = field(default_factory=list)
    stepped: list[float] = field(default_factory=list)
    molecules: list[int] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.optimizer = torch.optim.AdamW(self.network.parameters(), lr=1e-3)

    def step(self, batch: Batch) -> None:
        loss = nn.functional.binary_cross_entropy_with_logits(self.network(batch), batch.y)
        self.optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(self.network.parameters(), 1.0)
        self.optimizer.step()

    def round(self, batches: Iterator[Batch]) -> None:
        """Train on the next batches."""
        waited = stepped = 0.0
        molecules = 0
        for _ in range(BATCHES):
            start = time.perf_counter()
            batch = next(batches, None)
            if batch is None:
                break
            got = time.perf_counter()
            self.step(batch)
            waited += got - start
            stepped += time.perf_counter() - got
            molecules += batch.num_graphs
        self.waited.append(waited)
        self.stepped.append(stepped)
        self.molecules.append(molecules)

    @property
    def seconds(self) -> list[float]:
        return [a + b for a, b in zip(self.waited, self.stepped, strict=True)]

    def times(self, other: Training) -> tuple[float, float, float]:
        """Quartiles over the rounds of this one's time by the other's."""
        ratios = [mine / theirs for mine, theirs in zip(self.seconds, other.seconds, strict=True)]
        low, median, high = quartiles(ratios)
        return median, low, high


def training_graphs(module: OGB) -> list[Data]:
    """The training molecules as a list, without the DAGs that only this project's loader prepares."""
    kept = ("x", "edge_index", "edge_attr", "y", "canonical_rank")
    graphs = []
    for part in module.rows.train.split(4096):
        for graph in module.dataset.__getitems__(part.tolist()).to_data_list():
            graphs.append(Data(**{key: graph[key] for key in kept}))
    return graphs


def check(network: nn.Module, module: OGB, graphs: list[Data]) -> str:
    """PLSTM's predictions from both loaders."""
    rows = module.rows.train[:256].tolist()
    packed = module.dataset.__getitems__(rows)
    collated = Batch.from_data_list(graphs[:256])
    network.eval()
    with torch.no_grad():
        error = (network(packed) - network(collated)).abs().max().item()
    network.train()
    if not error <= TOLERANCE:
        sys.exit(f"Both loaders' batches differ in their predictions by {error:.1e}; no times are taken.")
    return f"both loaders' batches agree in PLSTM's predictions of {len(rows)} molecules to {error:.1e}"


def main() -> None:
    parser = parser_of("speed.epoch", __doc__)
    parser.add_argument("--root", type=Path, default=Path("data/ogb"))
    parser.add_argument("--dataset", default="ogbg-molhiv")
    parser.add_argument("--batch-size", type=int, default=256)
    parser.add_argument("--rounds", type=int, help="by default a whole epoch")
    parser.add_argument("--json", type=Path, default=RESULTS / "epoch.json")
    options = parser.parse_args()

    torch.manual_seed(0)
    module = OGB(options.dataset, root=options.root, batch_size=options.batch_size)
    module.prepare_data()
    module.setup("fit")
    width, layers, dropout = (NETWORK[name] for name in ("hidden_channels", "num_layers", "dropout"))
    plstm = PLSTM(**NETWORK)
    graphs = training_graphs(module)
    checked = check(plstm, module, graphs)
    print(checked)

    ours = module.train_dataloader
    candidates = [
        Training("PLSTM", plstm, ours),
        Training(
            "GPS",
            GPS(width, layers, dropout),
            lambda: DataLoader(graphs, options.batch_size, shuffle=True),
        ),
        Training("GIN", PlainGIN(width, layers, dropout, "batch_norm"), ours),
        Training("GIN, bare", PlainGIN(width, layers, 0.0, None), ours),
    ]
    for candidate in candidates:  # warm up
        for batch in itertools.islice(candidate.loader(), 2):
            candidate.step(batch)
    streams = [iter(candidate.loader()) for candidate in candidates]
    whole = len(ours()) // BATCHES
    for _ in track(range(min(options.rounds or whole, whole)), "Training"):
        for candidate, stream in zip(candidates, streams, strict=True):
            candidate.round(stream)

    table = Table(title=f"{options.dataset}, batches of {options.batch_size}, width {width}, {layers} layers")
    for column in ("network", "parameters", "mol./s", "in data", "time / GIN", "time / GPS"):
        table.add_column(column, justify="left" if column == "network" else "right")
    _, gps, gin, _ = candidates
    records = []
    for candidate in candidates:
        speed = sum(candidate.molecules) / sum(candidate.seconds)
        share = sum(candidate.waited) / sum(candidate.seconds)
        size = sum(parameter.numel() for parameter in candidate.network.parameters())
        ratios = {name: candidate.times(other) for name, other in (("GIN", gin), ("GPS", gps))}
        shown = [f"{median:.2f} ({low:.2f}–{high:.2f})" for median, low, high in ratios.values()]
        table.add_row(candidate.name, f"{size:,}", f"{speed:,.0f}", f"{share:.1%}", *shown)
        records.append(
            {"network": candidate.name, "parameters": size, "molecules per second": speed}
            | {"share of time in data": share}
            | {f"time / {name}: median, quartiles": values for name, values in ratios.items()}
        )
    Console().print(table)
    arguments = {key: value for key, value in vars(options).items() if key not in ("root", "json")}
    setting = {**environment(), "arguments": arguments, "molecules": sum(gin.molecules)}
    write_results(options.json, setting, [checked], records)


if __name__ == "__main__":
    main()
