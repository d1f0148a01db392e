"""From how far a trained network takes what it predicts: influence by distance, on test molecules.

    python -m benchmarks.accuracy.reach --suite peptides --root path/to/data CHECKPOINT [CHECKPOINT ...]

A node's part in a prediction is the product of its states and of their gradient. How much of it comes from
which node is the norm of that part's gradient with respect to the latter's encoded features. The table has
these norms by the number of bonds between the two, as shares of all. (Gradients times features would be 0
behind a layer norm, which does not see how large features are.)

What stands beside the nodes (descriptors, further branches) is left out, and so is what a node's own features
say of others: its random-walk encodings. Results go to benchmarks/results/reach/DATASET.json.
"""

from __future__ import annotations

from collections import defaultdict
from pathlib import Path

import torch
from rich.progress import track
from scipy.sparse.csgraph import shortest_path
from torch import Tensor
from torch_geometric.data import Data
from torch_geometric.utils import to_scipy_sparse_matrix

from benchmarks.accuracy.suites import SUITES, Run, data_module
from benchmarks.command import add_data, launch, parser_of
from benchmarks.measure import RESULTS, environment, write_results
from plstm_graph.commands.report import print_table, spread
from plstm_graph.models import GraphNetwork
from plstm_graph.predictor import Predictor

OUTCOMES = RESULTS / "reach"
#: Ranges of distances, in bonds.
RANGES = {"0": (0, 0), "1 to 4": (1, 4), "5 to 8": (5, 8), "more than 8": (9, 10**9)}


def influences(network: GraphNetwork, data: Data) -> Tensor:
    r"""How every node's part in a graph's prediction changes with every node.

    With states :math:`h_{il}` of node i after block l, encoded features :math:`x_j`, and f the sum of what
    the nodes' head predicts, whose gradient is held fixed,

    .. math::
        F_{ij} = \frac{\partial}{\partial x_j}
        \sum_l \Big\langle \frac{\partial f}{\partial h_{il}}, h_{il} \Big\rangle

    so that the sum over i is the gradient of f.

    Returns:
        [N, N, hidden_channels], the receiving node first.

    Complexity: N passes backward.
    """
    graphs, dags = network.graphs(data), network.dags(data)
    with torch.no_grad():
        x, edge_attr = network.encode(data)
        embedding = network.embed(data)
    x.requires_grad_()
    encoded = graphs._replace(x=x, edge_attr=edge_attr)
    passes = [network.run_blocks(encoded._replace(dag=dag)) for dag in dags]
    leaves = [[state.detach().requires_grad_() for state in states] for states in passes]
    nodes = network.branches[0](graphs, leaves)
    value = network.outputs(torch.cat([nodes, embedding[:, nodes.size(1) :]], dim=1))[0].sum()
    flat = [leaf for states in leaves for leaf in states]
    gradients = torch.autograd.grad(value, flat, allow_unused=True)
    states = [state for states in passes for state in states]
    parts = [
        (gradient * state).sum(1)
        for gradient, state in zip(gradients, states, strict=True)
        if gradient is not None  # a layer that is not read out
    ]
    rows = [torch.autograd.grad(part, x, retain_graph=True)[0] for part in torch.stack(parts).sum(0)]
    return torch.stack(rows)


def distances(data: Data) -> Tensor:
    """Numbers of bonds between nodes [N, N]; infinite between parts of a graph."""
    adjacency = to_scipy_sparse_matrix(data.edge_index, num_nodes=data.num_nodes)
    return torch.from_numpy(shortest_path(adjacency, unweighted=True))


def shares(network: GraphNetwork, data: Data) -> dict[str, float]:
    """Shares of the norms of influences by :data:`RANGES` of distances."""
    size, far = influences(network, data).norm(dim=2), distances(data)
    total = size.sum()
    return {
        name: (size[(far >= first) & (far <= last)].sum() / total).item()
        for name, (first, last) in RANGES.items()
    }


def main() -> None:
    parser = parser_of("accuracy.reach", __doc__)
    parser.add_argument("checkpoints", nargs="+")
    parser.add_argument("--suite", choices=SUITES, required=True)
    parser.add_argument("--dataset", help="by default the suite's first")
    parser.add_argument("--molecules", type=int, default=100, help="number of test molecules")
    add_data(parser)
    options = parser.parse_args()
    run = Run(options.dataset or SUITES[options.suite].sets[0], "plstm", 0, None, options.suite)
    module = data_module(run.preset({}), options.root, cache=options.cache, **run.part)
    module.prepare_data()
    module.setup()
    drawn = torch.randperm(len(module.rows.test), generator=torch.Generator().manual_seed(0))
    chosen = module.rows.test[drawn[: options.molecules]]
    found = defaultdict(list)
    for path in options.checkpoints:
        network = Predictor.from_checkpoint(path).eval().network
        each = [
            shares(network, data)
            for row in track(chosen.tolist(), Path(path).name)
            for data in module.dataset.__getitems__([row]).to_data_list()
        ]
        kind = f"{type(network).__name__}, {len(network.blocks)} blocks"
        found[kind].append({name: sum(one[name] for one in each) / len(each) for name in RANGES})
    columns = {kind: {name: [one[name] for one in runs] for name in RANGES} for kind, runs in found.items()}
    cells = [
        {"network": kind, "runs": str(len(found[kind])), **{name: spread(some) for name, some in row.items()}}
        for kind, row in columns.items()
    ]
    print_table(f"{run.dataset}: influence by bonds between atoms, {len(chosen)} test molecules", cells)
    rows = [{"network": kind, "molecules": len(chosen), "shares": row} for kind, row in columns.items()]
    write_results(OUTCOMES / f"{run.dataset}.json", environment(), [], rows)


if __name__ == "__main__":
    launch(main)
