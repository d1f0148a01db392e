"""States of several components: a scan with matrix transitions is one with scalars on a larger line graph."""

from collections.abc import Sequence

from torch import Tensor

from plstm_graph.dag import LineGraph


def expand_gates(
    directions: Sequence[Sequence[Tensor]], graph: LineGraph
) -> tuple[list[tuple[Tensor, ...]], LineGraph]:
    """The gates of states with J components as those of the expanded line graph, which comes with them.

    Args:
        directions: source [E, H, J], transition [L, H, J, J] from the last index to the one before, and mark
            [E, H, J] of the DAG and, if it is scanned too, of the reversed DAG.
        graph: their line graph.

    Returns:
        Source [E·J, H], transition [L·J², H] and mark [E·J, H] of the directions, and the line graph of
        :meth:`~plstm_graph.dag.LineGraph.expand`.
    """
    expanded, number = graph.expand(directions[0][0].size(2))
    gates: list[tuple[Tensor, ...]] = []
    for direction, (source, transition, mark) in enumerate(directions):
        # The reversed line leads to the component that the line comes from.
        transition = transition.permute(0, 3, 2, 1) if direction == 1 else transition.permute(0, 2, 3, 1)
        source, transition, mark = (x.reshape(-1, x.size(-1)) for x in (source.mT, transition, mark.mT))
        gates.append((source, transition[number], mark))
    return gates, expanded
