"""Do matrix transitions count parity along a path, far beyond the lengths that they were trained on?

    python -m benchmarks.accuracy.parity

One layer walks paths of bits from end to end; the last node is asked whether the number of ones is odd.
The first node is a start sign, as texts have. Networks differ in the components of a state alone
(``state_dim``) and are trained on paths of 2 to 20 nodes, from several seeds, without looking at longer ones.
Positive scalars (one component) cannot do it: what they carry has no sign. Results go to
benchmarks/results/parity.json.
"""

from __future__ import annotations

import time
from typing import Any

import torch
from rich.console import Console
from rich.progress import track
from rich.table import Table
from torch import Tensor, nn
from torch.nn import functional as F

from benchmarks.command import parser_of
from benchmarks.measure import RESULTS, environment, write_results
from plstm_graph import LineGraphDAG, PLSTMConv
from plstm_graph.commands.report import spread
from plstm_graph.dag import sequence_dag

SHORTEST, LONGEST, TESTED = 2, 20, (20, 50, 100, 200)
_START_SIGN, _WIDTH, _RATE, _BATCH, _TEST_PATHS = 2, 32, 3e-3, 64, 1000


class Parity(nn.Module):
    """Signs on the nodes of paths to one logit a path, by one scan."""

    def __init__(self, state_dim: int) -> None:
        super().__init__()
        self.encoder = nn.Embedding(3, _WIDTH)
        self.conv = PLSTMConv(
            _WIDTH, _WIDTH, bidirectional=False, head_dim=8, state_dim=state_dim, root_weight=False
        )
        self.head = nn.Sequential(nn.LayerNorm(_WIDTH), nn.Linear(_WIDTH, 1))

    def forward(self, signs: Tensor, dag: LineGraphDAG) -> Tensor:
        x = self.encoder(signs)
        x = x + self.conv(x, torch.stack([dag.src, dag.dst]), dag=dag)
        return self.head(x[dag.node_ptr[1:] - 1]).squeeze(1)


def paths(lengths: list[int], generator: torch.Generator) -> tuple[Tensor, LineGraphDAG, Tensor]:
    """Random signs on paths of this length, their DAG, and whether the ones of each are odd."""
    dag = LineGraphDAG.batch([sequence_dag(length) for length in lengths])
    signs = torch.randint(2, (dag.num_nodes,), generator=generator)
    first = dag.node_ptr[:-1]
    signs[first] = 0
    path = torch.repeat_interleave(torch.arange(len(lengths)), dag.node_ptr.diff())
    odd = torch.zeros(len(lengths), dtype=torch.int64).index_add(0, path, signs) % 2
    signs[first] = _START_SIGN
    return signs, dag, odd


def train(state_dim: int, seed: int, steps: int) -> Parity:
    """A network after a number of steps on short paths."""
    torch.manual_seed(seed)
    generator = torch.Generator().manual_seed(seed)
    model = Parity(state_dim)
    optimizer = torch.optim.Adam(model.parameters(), lr=_RATE)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, _RATE, total_steps=steps)
    for _ in track(range(steps), f"{state_dim} components, seed {seed}", transient=True):
        lengths = torch.randint(SHORTEST, LONGEST + 1, (_BATCH,), generator=generator).tolist()
        signs, dag, odd = paths(lengths, generator)
        loss = F.binary_cross_entropy_with_logits(model(signs, dag), odd.float())
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
    return model.eval()


@torch.inference_mode()
def accuracy(model: Parity, length: int) -> float:
    """Share of new paths of one length that the network is right about."""
    signs, dag, odd = paths([length] * _TEST_PATHS, torch.Generator().manual_seed(10**6 + length))
    return ((model(signs, dag) > 0) == odd.bool()).double().mean().item()


def main() -> None:
    parser = parser_of("accuracy.parity", __doc__)
    parser.add_argument("--state_dims", type=int, nargs="+", default=[1, 2, 4])
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=900)
    options = parser.parse_args()
    records: list[dict[str, Any]] = []
    for state_dim in options.state_dims:
        for seed in range(options.seeds):
            start = time.perf_counter()
            model = train(state_dim, seed, options.steps)
            seconds = round(time.perf_counter() - start, 1)
            scores = {str(length): accuracy(model, length) for length in TESTED}
            records.append({"state_dim": state_dim, "seed": seed, "seconds": seconds, "accuracy": scores})
    table = Table("components", *(f"{length} nodes" for length in TESTED), title="Accuracy of parity")
    for state_dim in options.state_dims:
        rows = [record["accuracy"] for record in records if record["state_dim"] == state_dim]
        table.add_row(str(state_dim), *(spread([row[str(length)] for row in rows]) for length in TESTED))
    Console().print(table)
    setting = environment() | {"steps": options.steps, "trained on nodes": [SHORTEST, LONGEST]}
    write_results(RESULTS / "parity.json", setting, [], records)


if __name__ == "__main__":
    main()
