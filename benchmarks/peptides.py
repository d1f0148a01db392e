"""Peptide ends: do the residues at both ends of a peptide match? Trained short, tested up to 60 residues.

    python -m benchmarks.peptides                          # an hour or two on two cores
    python -m benchmarks.peptides --models plstm --seeds 1

Networks of as many parameters, in one skeleton, with the same encoders, readout and training, as
configs/peptide_ends.yaml has them: PLSTM, GINE of 4 and of 8 layers, GINE with a virtual node and GPS (GINE
beside multi-head attention). What is tested is the last epoch: nothing is selected. Each run's outcome is a
JSON file under benchmarks/results/peptides; runs that have theirs are not repeated.
"""

from __future__ import annotations

import argparse
import json
import os
from functools import partial
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # as train.py has it

import torch
import yaml
from lightning.pytorch import Trainer, seed_everything
from rich.console import Console
from rich.progress import track
from rich.table import Table
from torch import Tensor, nn
from torch_geometric.nn import GINEConv, GPSConv, global_add_pool

from benchmarks.measure import environment
from datasets import PeptideEnds
from datasets.whole_file import whole_file
from plstm_graph.dag import LineGraphDAG
from plstm_graph.models import GINE, PLSTM, GraphNetwork
from plstm_graph.models.block import feed_forward
from plstm_graph.task import GraphTask
from training.pool import side_by_side
from training.report import spread

ROOT = Path(__file__).parent.parent
PRESET = ROOT / "configs" / "peptide_ends.yaml"
RESULTS = ROOT / "benchmarks" / "results" / "peptides"
LENGTHS = (15, 30, 60)
SHORT = "5 to 15"


class VirtualNodeGINE(GINE):
    """GINE with a virtual node: a sum of all nodes that is handed to all of them before the next block."""

    def __init__(self, **arguments: Any) -> None:
        super().__init__(**arguments)
        width = self.hidden_channels
        self.updates = nn.ModuleList(
            nn.Sequential(nn.LayerNorm(width), feed_forward(width, width)) for _ in self.blocks[1:]
        )

    def embed_encoded(
        self, x: Tensor, edge_index: Tensor, edge_attr: Tensor | None, batch: Tensor, num_graphs: int,
        dag: LineGraphDAG | None, gatings: Any = None,
    ) -> Tensor:  # fmt: skip
        """Blocks with the virtual node between them, then the readout."""
        virtual = x.new_zeros(num_graphs, x.size(1))
        for block, update in zip(self.blocks, [None, *self.updates], strict=True):
            if update is not None:
                virtual = virtual + update(virtual + global_add_pool(x, batch, num_graphs))
            x = block(x + virtual[batch], edge_index, edge_attr, None)
        return self.pool(self.norms[0](x), batch, dim_size=num_graphs)


class GPS(GraphNetwork):
    """PyG's GPS layers of GINE and multi-head attention."""

    def __init__(self, **arguments: Any) -> None:
        width, dropout = arguments["hidden_channels"], arguments["dropout"]

        def layer(number: int, edge_width: int | None) -> Any:
            return GPSConv(width, GINEConv(feed_forward(width, width)), heads=4, dropout=dropout)

        super().__init__(
            layer, norm="layer", jk="last", in_channels=None, edge_dim=None, walk_length=0, **arguments
        )

    def embed_encoded(
        self, x: Tensor, edge_index: Tensor, edge_attr: Tensor | None, batch: Tensor, num_graphs: int,
        dag: LineGraphDAG | None, gatings: Any = None,
    ) -> Tensor:  # fmt: skip
        """Layers, which attend within each graph, then the readout."""
        for layer in self.blocks:
            x = layer(x, edge_index, batch, edge_attr=edge_attr)
        return self.pool(self.norms[0](x), batch, dim_size=num_graphs)


#: Rows of the table: label, network and layers.
MODELS: dict[str, tuple[str, type[GraphNetwork], int]] = {
    "plstm": ("PLSTM", PLSTM, 4),
    "gine4": ("GINE, 4 layers", GINE, 4),
    "gine8": ("GINE, 8 layers", GINE, 8),
    "virtual": ("GINE, 4 layers and a virtual node", VirtualNodeGINE, 4),
    "gps": ("GPS, 4 layers", GPS, 4),
}


def preset() -> dict[str, Any]:
    return yaml.safe_load(PRESET.read_text())


def build(model: str, readout: str) -> GraphNetwork:
    """A network with about as many parameters as the preset's PLSTM."""
    settings = preset()["model"]["network"]["init_args"] | {"out_channels": 2, "readout": readout}
    plstm = PLSTM(**settings)
    if model == "plstm":
        return plstm
    _, network, layers = MODELS[model]
    shared = {key: settings[key] for key in ("out_channels", "dropout", "readout")}

    def of_width(width: int) -> GraphNetwork:
        return network(hidden_channels=width, num_layers=layers, **shared)

    wanted = _size(plstm)
    width = min(range(32, 129, 4), key=lambda width: abs(_size(of_width(width)) - wanted))
    return of_width(width)


def _size(network: nn.Module) -> int:
    return sum(parameter.numel() for parameter in network.parameters())


def run(model: str, readout: str, seed: int, cache: Path) -> dict[str, Any]:
    """Train a network and test it at all lengths."""
    torch.set_num_threads(1)
    config = preset()
    seed_everything(seed, verbose=False)
    network = build(model, readout)
    task = GraphTask(network, "multiclass", learning_rate=config["model"]["learning_rate"])
    quiet = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False}
    trainer = Trainer(
        max_epochs=config["trainer"]["max_epochs"], gradient_clip_val=1.0, enable_checkpointing=False,
        deterministic=True, **quiet,
    )  # fmt: skip
    accuracy = {}
    for length in LENGTHS:
        data = PeptideEnds(**config["data"]["init_args"] | {"test_residues": length}, cache=cache)
        if length == LENGTHS[0]:
            trainer.fit(task, datamodule=data)
            [held_out] = trainer.validate(task, datamodule=data, verbose=False)
            accuracy[SHORT] = held_out["val/accuracy"]
        [tested] = trainer.test(task, datamodule=data, verbose=False)
        accuracy[str(length)] = tested["test/accuracy"]
    return {
        "accuracy": accuracy,
        "parameters": _size(network),
        "loss": float(trainer.callback_metrics["val/loss"]),
    }


def main() -> None:
    description = (__doc__ or "").partition("\n")[0]
    parser = argparse.ArgumentParser("python -m benchmarks.peptides", description=description)
    parser.add_argument("--models", nargs="+", choices=MODELS, default=list(MODELS))
    parser.add_argument("--readouts", nargs="+", default=["mean", "max"])
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--jobs", type=int, default=os.cpu_count(), help="runs side by side")
    parser.add_argument("--cache", type=Path, default=Path("data/cache"), help="prepared graphs")
    options = parser.parse_args()
    settings = preset()
    rows = [
        (readout, model, seed)
        for seed in range(options.seeds)
        for readout in options.readouts
        for model in options.models
    ]
    files = {(r, m, s): RESULTS / f"{r}-{m}-seed{s}.json" for r, m, s in rows}
    waiting = [row for row, file in files.items() if not file.is_file()]
    calls = [partial(run, model, readout, seed, options.cache) for readout, model, seed in waiting]
    setting = environment() | {"threads": 1, "runs side by side": options.jobs}
    for number, result in track(side_by_side(calls, options.jobs), "Runs", total=len(calls)):
        readout, model, seed = waiting[number]
        record = {
            "environment": setting,
            "settings": settings,
            "readout": readout,
            "model": model,
            "seed": seed,
        }
        with whole_file(files[waiting[number]]) as file:
            file.write(json.dumps(record | result, indent=1) + "\n")
    table = Table("network", "readout", "parameters", *(f"{n} residues" for n in (SHORT, *LENGTHS)))
    for readout in options.readouts:
        for model in options.models:
            found = [json.loads(files[readout, model, seed].read_text()) for seed in range(options.seeds)]
            cells = [spread([one["accuracy"][str(n)] for one in found]) for n in (SHORT, *LENGTHS)]
            table.add_row(MODELS[model][0], readout, f"{found[0]['parameters']:,}", *cells)
    Console().print(table)


if __name__ == "__main__":
    main()
