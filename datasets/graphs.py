"""Graphs of a whole data set in contiguous tensors, and batches cut straight from them."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor
from torch.utils.data import Dataset
from torch_geometric.data import Batch, Data

from plstm_graph.dag import DAG_LAYOUT, LineGraphData, Orientation, build_dag, dag_tensors
from plstm_graph.dag.refinement import hash_rows, mix
from plstm_graph.dag.walks import random_walk_pe
from plstm_graph.errors import InputError

#: The other tensors of a graph, as :data:`~plstm_graph.dag.DAG_LAYOUT` has it for a DAG's.
_LAYOUT: dict[str, tuple[str, str | None]] = {
    "x": ("nodes", None),
    "canonical_rank": ("nodes", None),
    "edge_index": ("columns", "nodes"),
    "edge_attr": ("columns", None),
    "y": ("graphs", None),
    "row": ("graphs", None),
    "descriptors": ("graphs", None),
    "fingerprint": ("graphs", None),
    "random_walk_pe": ("nodes", None),
    **DAG_LAYOUT,
}

#: Number of graphs that are prepared at once.
_SLAB = 4096


@dataclass
class PackedGraphs(Dataset):
    """Graphs one after the other in a tensor for each attribute, numbered within each graph.

    A batch is cut from these tensors with a few index operations, not collated graph by graph. It is what
    PyG's ``Batch.from_data_list`` makes of the same graphs.

    Args:
        tensors: Tensors by attribute; ``edge_index`` is [2, columns].
        counts: int64 [graphs] for ``"nodes"``, ``"columns"``, … : how many every graph has.
        smiles: One string for each graph, if they are molecules.
        scaffolds: Bemis-Murcko scaffold SMILES, likewise, if they split.
    """

    tensors: dict[str, Tensor]
    counts: dict[str, Tensor]
    smiles: list[str] | None = None
    scaffolds: list[str] | None = None
    starts: dict[str, Tensor] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        self.starts = {what: counts.cumsum(0) - counts for what, counts in self.counts.items()}

    def __len__(self) -> int:
        return self.counts["graphs"].numel()

    def __getitem__(self, row: int) -> Data:
        """Return one graph."""
        [graph] = self.__getitems__([range(len(self))[row]]).to_data_list()
        return graph

    def __getitems__(self, rows: Sequence[int]) -> Batch:
        """Return a batch of the graphs in ``rows``; torch's loader asks for it with all rows at once."""
        chosen = torch.as_tensor(rows)
        counts = {what: numbers[chosen] for what, numbers in self.counts.items()}
        offsets = {what: _with_zero(numbers) for what, numbers in counts.items()}
        positions = {
            what: torch.arange(int(offsets[what][-1]))
            + torch.repeat_interleave(self.starts[what][chosen] - offsets[what][:-1], counts[what])
            for what in counts
        }
        batch = Batch(_base_cls=LineGraphData if "dag_src" in self.tensors else Data)
        slices, increments = {}, {}
        for key, values in self.tensors.items():
            what, numbered = _LAYOUT[key]
            values = values.index_select(1 if key == "edge_index" else 0, positions[what])
            increments[key] = torch.zeros_like(chosen)
            if numbered is not None:
                increments[key] = offsets[numbered][:-1]
                values = values + torch.repeat_interleave(increments[key], counts[what])
            slices[key] = offsets[what]
            batch[key] = values
        if self.smiles is not None:
            batch.smiles = [self.smiles[row] for row in rows]
            slices["smiles"], increments["smiles"] = torch.arange(len(chosen) + 1), None
        batch.batch = torch.repeat_interleave(torch.arange(len(chosen)), counts["nodes"])
        batch.ptr = offsets["nodes"]
        batch._num_graphs, batch._slice_dict, batch._inc_dict = len(chosen), slices, increments
        return batch

    def attribute(self, key: str, row: int) -> Tensor:
        """One attribute of one graph, numbered within it; a view."""
        what, _ = _LAYOUT[key]
        start, count = int(self.starts[what][row]), int(self.counts[what][row])
        return self.tensors[key].narrow(1 if key == "edge_index" else 0, start, count)

    def molecules(self) -> Tensor:
        """A number for every graph [graphs], the same for one molecule, however its atoms are numbered."""
        total = torch.zeros_like(self.counts["graphs"])
        start = torch.repeat_interleave(self.starts["nodes"], self.counts["columns"])
        rank = self.tensors["canonical_rank"]
        ends = rank[self.tensors["edge_index"] + start].T
        for what, rows in (
            ("nodes", torch.column_stack([rank, self.tensors["x"]])),
            ("columns", torch.cat([ends, self.tensors["edge_attr"]], dim=1)),
        ):
            total.index_add_(0, torch.repeat_interleave(self.counts[what]), mix(hash_rows(rows)))
        return total

    def prepared(self, orientation: Orientation | None, walk_length: int) -> "PackedGraphs":
        """Add what a network reads of all graphs: their DAGs, if they are to be oriented, and encodings.

        Args:
            orientation: Orientation of the graphs; ``None`` for no DAGs.
            walk_length: Number of random-walk encodings; 0 for none.

        Raises:
            InputError: A graph cannot be oriented; the message names its row.
        """
        slabs = [range(first, min(first + _SLAB, len(self))) for first in range(0, len(self), _SLAB)]
        tensors, counts = self.tensors, self.counts
        if walk_length:
            walks = torch.cat([self._walks(rows, walk_length) for rows in slabs])
            tensors = tensors | {"random_walk_pe": walks}
        if orientation is not None:
            parts = [self._dags(rows, orientation) for rows in slabs]
            tensors = tensors | {key: torch.cat([part[0][key] for part in parts]) for key in DAG_LAYOUT}
            counts = counts | {
                what: torch.cat([part[1][what] for part in parts]) for what in ("edges", "lines", "blocks")
            }
        return PackedGraphs(tensors, counts, self.smiles, self.scaffolds)

    def _walks(self, rows: range, walk_length: int) -> Tensor:
        """Random-walk encodings of the nodes of some graphs, float32."""
        batch = self.__getitems__(rows)
        return random_walk_pe(batch.edge_index, batch.x.size(0), walk_length).float()

    def _dags(self, rows: range, orientation: Orientation) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """DAG tensors of some graphs, numbered within each, and counts."""
        batch = self.__getitems__(rows)
        try:
            dag = build_dag(batch, orientation)
        except InputError as error:
            if len(rows) > 1:  # one after the other, so that the message is about the graph at fault
                for row in rows:
                    self._dags(range(row, row + 1), orientation)
            label = f", {batch.smiles[0]!r}" if self.smiles is not None else ""
            raise InputError(f"Row {int(batch.row[0])}{label}: {error}") from error
        by_edge = batch.batch[dag.src]
        by_block = batch.batch[dag.node_ptr[:-1]]
        graph_of = {"edges": by_edge, "lines": by_edge[dag.succ], "blocks": by_block}
        counts = {what: torch.bincount(graphs, minlength=len(rows)) for what, graphs in graph_of.items()}
        counts |= {what: self.counts[what][rows.start : rows.stop] for what in ("nodes", "columns")}
        tensors = dag_tensors(dag)
        for key, (what, numbered) in DAG_LAYOUT.items():
            if numbered is not None:
                tensors[key] = tensors[key] - _with_zero(counts[numbered])[graph_of[what]]
        return tensors, counts


def keep_batch(batch: Batch) -> Batch:
    """Collate function of a loader over :class:`PackedGraphs`, whose batches come whole."""
    return batch


def concatenate(parts: Sequence[PackedGraphs]) -> PackedGraphs:
    """Put the graphs of several packs after each other."""
    first = parts[0]
    tensors = {
        key: torch.cat([part.tensors[key] for part in parts], dim=1 if key == "edge_index" else 0)
        for key in first.tensors
    }
    counts = {what: torch.cat([part.counts[what] for part in parts]) for what in first.counts}
    return PackedGraphs(tensors, counts)


def _with_zero(counts: Tensor) -> Tensor:
    return torch.cat([counts.new_zeros(1), counts.cumsum(0)])
