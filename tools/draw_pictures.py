"""Draw the pictures of README from the package and from committed results.

python tools/draw_pictures.py        # into docs/pictures/, light and dark
"""

from __future__ import annotations

import json
from pathlib import Path
from statistics import mean, stdev

import torch
from matplotlib import pyplot as plt

from plstm_graph import PLSTMConv
from plstm_graph.chem import smiles_to_data
from plstm_graph.drawing import draw_influence, draw_orientation

plt.switch_backend("Agg")
plt.rcParams["svg.hashsalt"] = "plstm_graph"  # the same file every time

ROOT = Path(__file__).resolve().parent.parent
RESULTS, PICTURES = ROOT / "benchmarks" / "results", ROOT / "docs" / "pictures"
MOLECULE, ATOM = "CC(=O)Nc1ccc(O)cc1", 7  # paracetamol, the carbon that carries the hydroxyl group

#: Panels of accuracy: folder of results, label of the axis, and rows.
ACCURACIES = {
    "tu/nci1": ("NCI1, accuracy", ["plstm", "mpnn", "gin", "gat", "gcn", "forest"]),
    **{
        f"ogb/{name}": (
            f"{name}, RMSE (lower is better)",
            ["plstm", "gine", "plstm-nodes", "gine-nodes", "gin-nodes", "chemprop", "forest"],
        )
        for name in ("molesol", "mollipo")
    },
}
NAMES = {
    "plstm": "PLSTM",
    "plstm-nodes": "PLSTM, nodes",
    "gine-nodes": "GINE, nodes",
    "gin-nodes": "GIN, nodes",
    "gine": "GINE",
    "gin": "GIN",
    "gat": "GAT",
    "gcn": "GCN",
    "mpnn": "MPNN",
    "chemprop": "chemprop",
    "forest": "forest",
}
COLOURS = {"light": "#00796b", "dark": "#4db6ac"}


def draw_molecule() -> None:
    """Draw how a molecule is oriented, and how much every atom receives from one of them."""
    draw_orientation(MOLECULE).save(PICTURES / "orientation.svg")
    torch.manual_seed(0)
    data = smiles_to_data(MOLECULE)
    conv = PLSTMConv(data.num_node_features, 16, mode="P", edge_dim=data.num_edge_features)
    with torch.no_grad():
        _, gating = conv(data.x.float(), data.edge_index, data.edge_attr.float(), return_gating=True)
    received = gating.dense(data.num_nodes).sum((2, 3))[:, ATOM]
    received[ATOM] = 0  # what an atom keeps of itself is not influence
    draw_influence(MOLECULE, received, ATOM, label="influence of the ringed atom").save(
        PICTURES / "influence.svg"
    )


def scores(folder: str, model: str) -> list[float]:
    """Test scores of all seeds or folds."""
    files = sorted((RESULTS / folder).glob(f"{model}-seed*.json"))
    return [json.loads(file.read_text())["result"]["test"] for file in files]


def times() -> dict[str, float]:
    """Medians of the layers' times divided by GATv2Conv's, 256 molecules."""
    rows = json.loads((RESULTS / "conv_width96.json").read_text())["results"]
    return {
        row["candidate"]: row["forward_backward_ratio_quartiles"][1]
        for row in rows
        if row["molecules"] == 256 and "Conv" in row["candidate"] and row["forward_backward_ratio_quartiles"]
    }


def draw_measurements(theme: str) -> None:
    """Draw test scores beside rivals', and times of layers."""
    style = "default" if theme == "light" else "dark_background"
    with plt.style.context([style, {"font.size": 9, "axes.spines.top": False, "axes.spines.right": False}]):
        figure, axes = plt.subplots(1, 4, figsize=(11, 2.6), layout="constrained")
        for axis, (folder, (label, models)) in zip(axes, ACCURACIES.items(), strict=False):
            values = [scores(folder, model) for model in models]
            for row, (model, runs) in enumerate(zip(models, values, strict=True)):
                colour = COLOURS[theme] if model.startswith("plstm") else "grey"
                axis.errorbar(mean(runs), row, xerr=stdev(runs), fmt="o", color=colour, capsize=2)
            axis.set_yticks(range(len(models)), [NAMES[model] for model in models])
            axis.margins(y=0.12)
            axis.invert_yaxis()
            axis.set_xlabel(label)
        layers = times()
        colours = [COLOURS[theme] if name.startswith("PLSTM") else "grey" for name in layers]
        axes[3].barh(list(layers), list(layers.values()), color=colours)
        axes[3].invert_yaxis()
        axes[3].set_xlabel("time / GATv2Conv")
        figure.savefig(PICTURES / f"measured-{theme}.svg", transparent=True, metadata={"Date": None})
        plt.close(figure)


if __name__ == "__main__":
    PICTURES.mkdir(exist_ok=True)
    draw_molecule()
    for name in COLOURS:
        draw_measurements(name)
