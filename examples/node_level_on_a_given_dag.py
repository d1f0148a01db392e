"""How much water passes each point of a river? Node regression on DAGs whose directions are given.

Two layers of message passing see two channels up, one scan in P-mode the whole basin.
"""

import torch
from torch.nn import Linear, Module, ModuleList
from torch.nn import functional as F
from torch_geometric.data import Data
from torch_geometric.loader import DataLoader
from torch_geometric.nn import MLP, GINEConv

from plstm_graph import PLSTMConv


def river(num_nodes: int) -> Data:
    """Nodes pass rain and inflow on to nodes of lower numbers, split by the widths of the channels."""
    pairs = [(n, n - 1 - int(torch.randint(min(n, 3), ()))) for n in range(1, num_nodes)]
    pairs += [(n, n - 4) for n in range(4, num_nodes, 4)]  # some fork
    channels, width, rain = torch.tensor(pairs).T, torch.rand(len(pairs)) + 0.1, torch.rand(num_nodes)
    discharge = rain.clone()
    for node in reversed(range(1, num_nodes)):  # sources first
        out = channels[0] == node
        discharge[channels[1, out]] += discharge[node] * width[out] / width[out].sum()
    # Shares are ratios of σ(map of the channel's features), and σ is nearly exp: hence the logarithm.
    return Data(rain[:, None], channels, width.log()[:, None], discharge.log()[:, None])


class Net(Module):
    def __init__(self, convs: list) -> None:
        super().__init__()
        self.rain, self.convs, self.head = Linear(1, 32), ModuleList(convs), Linear(32, 1)

    def forward(self, data: Data) -> torch.Tensor:
        x = self.rain(data.x)
        for conv in self.convs:
            # Every channel is listed in one direction, so the graph is directed and stays as it is.
            x = x + conv(x, data.edge_index, data.edge_attr).arcsinh()  # discharges span decades
        return self.head(x)


torch.manual_seed(0)
torch.set_num_threads(1)  # graphs this small gain nothing from more
rivers = [river(100) for _ in range(250)]
train, test = DataLoader(rivers[:200], 20, shuffle=True), next(iter(DataLoader(rivers[200:], 50)))
models = {
    "GINEConv": Net([GINEConv(MLP([32] * 3, norm=None), edge_dim=1) for _ in range(2)]),
    # Nothing flows upstream, so the scan there and back is not needed.
    "PLSTMConv": Net([PLSTMConv(32, 32, mode="P", bidirectional=False, edge_dim=1) for _ in range(2)]),
}
mean = torch.cat([graph.y for graph in rivers[:200]]).mean()
print(f"test RMSE of log discharge, training mean: {F.mse_loss(mean.expand_as(test.y), test.y).sqrt():.3f}")
for name, model in models.items():
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    for _ in range(30):
        for batch in train:
            optimizer.zero_grad()
            F.mse_loss(model(batch), batch.y).backward()
            optimizer.step()
    print(f"test RMSE of log discharge, two {name}: {F.mse_loss(model(test), test.y).sqrt():.3f}")
