"""Tasks that need distance, trained on the short and tested on the long.

    python -m benchmarks.accuracy.distance peptide_ends            # an hour or two on two cores
    python -m benchmarks.accuracy.distance arrows
    python -m benchmarks.accuracy.distance peptide_ends --models plstm gine8 --seeds 1

peptide_ends (the preset of that name): do the residues at both ends of a peptide match? PLSTM, GINE of 4
and of 8 layers, GINE with a virtual node and GPS (GINE beside multi-head attention), with two readouts.
arrows (arrow_pointing.yaml): does an arrow point at a disc? Scans in four directions and a vision
transformer.

Networks of a task have as many parameters as its preset's, the same skeleton and training. What is tested is
the last epoch: nothing is selected. Each run's outcome is a JSON file under benchmarks/results/TASK; runs
that have theirs are not repeated.
"""

from __future__ import annotations

import json
import os
import time
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from statistics import mean
from typing import Any

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # as the command line has it

import torch
import yaml
from lightning.pytorch import Trainer, seed_everything
from rich.console import Console
from rich.progress import track
from rich.table import Table
from torch import Tensor, nn
from torch_geometric.nn import GINEConv, GPSConv, global_add_pool

from benchmarks.accuracy.image_networks import GridPLSTM, ViT
from benchmarks.accuracy.suites import data_module
from benchmarks.command import parser_of
from benchmarks.measure import RESULTS, environment
from plstm_graph.commands.pool import side_by_side
from plstm_graph.commands.presets import read_preset
from plstm_graph.commands.report import spread
from plstm_graph.datasets import GraphDataModule
from plstm_graph.datasets.files import whole_file
from plstm_graph.models import GINE, PLSTM, GraphNetwork, Graphs
from plstm_graph.models.block import feed_forward
from plstm_graph.task import GraphTask

HELD_OUT = "validation"
#: Seed of all data here. The presets draw with seed 0, on which their settings were chosen.
DRAWN = 1


class VirtualNodeGINE(GINE):
    """GINE with a virtual node: a sum of all nodes that is handed to all of them before the next block."""

    def __init__(self, **arguments: Any) -> None:
        super().__init__(**arguments)
        width = self.hidden_channels
        self.updates = nn.ModuleList(
            nn.Sequential(nn.LayerNorm(width), feed_forward(width, width)) for _ in self.blocks[1:]
        )

    def run_blocks(self, graphs: Graphs) -> list[Tensor]:
        """Blocks with the virtual node between them."""
        outputs = [graphs.x]
        virtual = graphs.x.new_zeros(graphs.num_graphs, graphs.x.size(1))
        for block, update in zip(self.blocks, [None, *self.updates], strict=True):
            if update is not None:
                gathered = global_add_pool(outputs[-1], graphs.batch, graphs.num_graphs)
                virtual = virtual + update(virtual + gathered)
            outputs.append(block(graphs._replace(x=outputs[-1] + virtual[graphs.batch])))
        return outputs


class GPS(GraphNetwork):
    """PyG's GPS layers of GINE and multi-head attention."""

    def __init__(self, out_channels: int, hidden_channels: int, num_layers: int, **network: Any) -> None:
        super().__init__(lambda edge_width: (), out_channels, hidden_channels, **network)
        self.blocks = nn.ModuleList(_GPSBlock(hidden_channels, self.dropout) for _ in range(num_layers))


class _GPSBlock(nn.Module):
    def __init__(self, width: int, dropout: float) -> None:
        super().__init__()
        self.layer = GPSConv(width, GINEConv(feed_forward(width, width)), heads=4, dropout=dropout)

    def forward(self, graphs: Graphs) -> Tensor:
        return self.layer(graphs.x, graphs.edge_index, graphs.batch, edge_attr=graphs.edge_attr)


@dataclass(frozen=True)
class Distance:
    """A task: its preset, its networks with their layers, the readouts that are tried, and what is tested."""

    preset: dict[str, Any]
    networks: dict[str, tuple[str, type[nn.Module], int]]
    readouts: tuple[str, ...]
    tests: dict[str, dict[str, int]]

    def data(self, cache: Path, **changes: int) -> GraphDataModule:
        """The preset's data, drawn anew and tested on something else."""
        # There are no files to read, so the root does not matter.
        return data_module(self.preset, root=Path(), cache=cache, seed=DRAWN, **changes)


TASKS = {
    "peptide_ends": Distance(
        read_preset("peptide_ends"),
        {
            "plstm": ("PLSTM", PLSTM, 4),
            "gine4": ("GINE, 4 layers", GINE, 4),
            "gine8": ("GINE, 8 layers", GINE, 8),
            "virtual": ("GINE, 4 layers and a virtual node", VirtualNodeGINE, 4),
            "gps": ("GPS, 4 layers", GPS, 4),
        },
        ("max", "mean"),
        {f"{length} residues": {"test_residues": length} for length in (15, 30, 60)},
    ),
    "arrows": Distance(
        yaml.safe_load(Path(__file__).with_name("arrow_pointing.yaml").read_text()),
        {"plstm": ("pLSTM", GridPLSTM, 4), "vit": ("ViT", ViT, 4)},
        ("max",),
        {f"{pixels} pixels": {"test_resolution": pixels} for pixels in (40, 80)},
    ),
}


def build(task: Distance, model: str, readout: str, data: GraphDataModule) -> nn.Module:
    """A network with about as many parameters as the preset's."""
    widths = {"out_channels": data.num_tasks}
    if data.in_channels is not None:
        widths["in_channels"] = data.in_channels
    settings = task.preset["model"]["network"]["init_args"] | {"readout": readout}
    _, first, _ = task.networks["plstm"]
    reference = first(**settings, **widths)
    if model == "plstm":
        return reference
    _, network, layers = task.networks[model]

    def of_width(width: int) -> nn.Module:
        shared = {key: settings[key] for key in ("dropout", "readout")}
        return network(hidden_channels=width, num_layers=layers, **shared, **widths)

    width = min(range(32, 129, 4), key=lambda width: abs(_size(of_width(width)) - _size(reference)))
    return of_width(width)


def _size(network: nn.Module) -> int:
    return sum(parameter.numel() for parameter in network.parameters())


def run(task: Distance, model: str, readout: str, seed: int, cache: Path) -> dict[str, Any]:
    """Train a network, and test it on everything."""
    torch.set_num_threads(1)
    seed_everything(seed, verbose=False)
    data = [task.data(cache, **changes) for changes in task.tests.values()]
    network = build(task, model, readout, data[0])
    training = {key: value for key, value in task.preset["model"].items() if key != "network"}
    learner = GraphTask(network, data[0].task, **training)
    trainer = Trainer(
        max_epochs=task.preset["trainer"]["max_epochs"], gradient_clip_val=1.0, deterministic=True,
        logger=False, enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False,
    )  # fmt: skip
    start = time.perf_counter()
    trainer.fit(learner, datamodule=data[0])
    seconds = time.perf_counter() - start
    [held_out] = trainer.validate(learner, datamodule=data[0], verbose=False)
    accuracy = {HELD_OUT: held_out["val/accuracy"]}
    for name, module in zip(task.tests, data, strict=True):
        [tested] = trainer.test(learner, datamodule=module, verbose=False)
        accuracy[name] = tested["test/accuracy"]
    return {"accuracy": accuracy, "parameters": _size(network), "seconds": round(seconds)}


def main() -> None:
    parser = parser_of("accuracy.distance", __doc__)
    parser.add_argument("task", choices=TASKS)
    parser.add_argument("--models", nargs="+", help="by default all of the task's")
    parser.add_argument("--readouts", nargs="+", help="by default all of the task's")
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--jobs", type=int, default=os.cpu_count(), help="runs side by side")
    parser.add_argument("--cache", type=Path, default=Path("data/cache"), help="prepared graphs")
    options = parser.parse_args()
    task = TASKS[options.task]
    models, readouts = options.models or list(task.networks), options.readouts or task.readouts
    results = RESULTS / options.task
    rows = [
        (readout, model, seed) for seed in range(options.seeds) for readout in readouts for model in models
    ]
    files = {(r, m, s): results / f"{m}-{r}-seed{s}.json" for r, m, s in rows}
    waiting = [row for row, file in files.items() if not file.is_file()]
    calls = [partial(run, task, model, readout, seed, options.cache) for readout, model, seed in waiting]
    setting = environment() | {"threads": 1, "runs side by side": options.jobs}
    for number, result in track(side_by_side(calls, options.jobs), "Runs", total=len(calls)):
        readout, model, seed = waiting[number]
        record = {"environment": setting, "settings": task.preset}
        record |= {"model": model, "readout": readout, "seed": seed, **result}
        with whole_file(files[waiting[number]]) as file:
            file.write(json.dumps(record, indent=1) + "\n")
    table = Table("network", "readout", "parameters", HELD_OUT, *task.tests, "seconds")
    for readout in readouts:
        for model in models:
            found = [json.loads(files[readout, model, seed].read_text()) for seed in range(options.seeds)]
            cells = [spread([one["accuracy"][name] for one in found]) for name in (HELD_OUT, *task.tests)]
            seconds = f"{mean(one['seconds'] for one in found):.0f}"
            table.add_row(task.networks[model][0], readout, f"{found[0]['parameters']:,}", *cells, seconds)
    Console().print(table)


if __name__ == "__main__":
    main()
