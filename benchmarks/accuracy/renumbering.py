"""How far trained networks' predictions move when the atoms of the test molecules are numbered anew.

    python -m benchmarks.accuracy.renumbering --dataset molesol --root path/to/data CHECKPOINT ...

Each test graph of one of OGB's sets is renumbered at random --times times, its bonds listed in another order.
The spread is the deviation of a graph's predictions (in the targets' unit, or of probabilities), as the mean
over graphs and as the largest; beside it stand the deviation of predictions among graphs, which says
what is little, and the range of the test metric over the numberings. Results go to
benchmarks/results/renumbering/DATASET.json.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.progress import track
from rich.table import Table
from torch import Tensor
from torch_geometric.data import Batch, Data

from benchmarks.accuracy.outcome import score
from benchmarks.accuracy.suites import SUITES, Run, data_module
from benchmarks.command import add_data, launch, parser_of
from benchmarks.measure import RESULTS, environment, write_results
from plstm_graph.datasets import GraphDataModule
from plstm_graph.task import GraphTask
from plstm_graph.testing import renumber_nodes

_BATCH = 256


def test_graphs(dataset: str, root: Path, cache: Path) -> tuple[GraphDataModule, list[Data]]:
    """One of OGB's sets and its test graphs, without DAGs."""
    preset = Run(dataset, "plstm", 0, None, "ogb").preset({})
    module = data_module(preset, root, cache=cache, orientation=None, walk_length=0)
    module.prepare_data()
    module.setup()
    return module, module.dataset.__getitems__(module.rows.test.tolist()).to_data_list()


@torch.inference_mode()
def predict(task: GraphTask, graphs: list[Data]) -> Tensor:
    """Predictions [graphs, T], in double precision: no difference is one of rounding."""
    parts = [graphs[first : first + _BATCH] for first in range(0, len(graphs), _BATCH)]
    return torch.cat([task(Batch.from_data_list(part)) for part in parts])


def measure(path: str, module: GraphDataModule, graphs: list[Data], times: int) -> dict[str, Any]:
    """Spread of one checkpoint's predictions."""
    task = GraphTask.load_from_checkpoint(path).double().eval()
    targets = torch.cat([graph.y for graph in graphs])
    torch.manual_seed(0)
    rounds, scores = [], []
    for _ in track(range(times), path, transient=True):
        renumbered = [renumber_nodes(graph, torch.randperm(int(graph.num_nodes or 0))) for graph in graphs]
        rounds.append(predict(task, renumbered))
        scores.append(score(module, rounds[-1], targets))
    predictions = torch.stack(rounds)  # [times, graphs, T]
    spread = predictions.std(0)
    return {
        "network": type(task.network).__name__,
        "orientation": getattr(task.network, "orientation", None),
        "mean spread": spread.mean().item(),
        "largest spread": spread.max().item(),
        "deviation among graphs": predictions[0].std(0).mean().item(),
        f"lowest {module.metric}": min(scores),
        f"highest {module.metric}": max(scores),
    }


def main() -> None:
    parser = parser_of("accuracy.renumbering", __doc__)
    parser.add_argument("checkpoints", nargs="+")
    parser.add_argument("--dataset", required=True, choices=SUITES["ogb"].sets)
    parser.add_argument("--times", type=int, default=10)
    add_data(parser)
    options = parser.parse_args()
    module, graphs = test_graphs(options.dataset, options.root, options.cache)
    rows = [measure(path, module, graphs, options.times) for path in options.checkpoints]
    title = f"{options.dataset}: {len(graphs)} test graphs, {options.times} numberings"
    table = Table(*map(str, rows[0]), title=title)
    for row in rows:
        table.add_row(*(f"{value:.3g}" if isinstance(value, float) else str(value) for value in row.values()))
    Console().print(table)
    setting = environment() | {"graphs": len(graphs), "numberings": options.times}
    write_results(RESULTS / "renumbering" / f"{options.dataset}.json", setting, [], rows)


if __name__ == "__main__":
    launch(main)
