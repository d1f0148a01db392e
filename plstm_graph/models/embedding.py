"""Categories, such as OGB's features of atoms and bonds, as channels."""

from collections.abc import Sequence

from torch import Tensor, nn

from plstm_graph.errors import InputError


class CategoryEncoder(nn.Module):
    """It sums a vector for the category in each column.

    From the same seed, OGB's columns get the numbers that its ``AtomEncoder`` and ``BondEncoder`` give them.

    Args:
        dims: categories of every column.
        channels: width of the vectors.

    Source: Hu et al., Open Graph Benchmark, arXiv 2005.00687.
    """

    def __init__(self, dims: Sequence[int], channels: int) -> None:
        super().__init__()
        self.columns = nn.ModuleList()
        for dim in dims:
            column = nn.Embedding(dim, channels)
            nn.init.xavier_uniform_(column.weight)
            self.columns.append(column)

    def forward(self, categories: Tensor) -> Tensor:
        """Categories int64 [rows, columns] to [rows, channels].

        Raises:
            InputError: a column has no such category. On a GPU it is torch that complains, without a number.
        """
        try:
            vectors = [column(x) for column, x in zip(self.columns, categories.t(), strict=True)]
        except IndexError:
            raise InputError(self._out_of_range(categories)) from None
        return sum(vectors[1:], start=vectors[0])

    def _out_of_range(self, categories: Tensor) -> str:
        dims = [column.num_embeddings for column in self.columns]
        outside = (categories < 0) | (categories >= categories.new_tensor(dims))
        row, column = outside.nonzero()[0].tolist()
        return (
            f"Column {column} of the features takes 0 to {dims[column] - 1}, but row {row} has "
            f"{categories[row, column]}; plstm_graph.chem.smiles_to_data makes such features."
        )
