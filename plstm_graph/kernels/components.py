"""States of several components: a scan with matrix transitions is one with scalars on a larger line graph."""

from collections.abc import Sequence

from torch import Tensor

from plstm_graph.dag import LineGraphDAG


def expand_gates(
    ways: Sequence[Sequence[Tensor]], dag: LineGraphDAG
) -> tuple[list[tuple[Tensor, ...]], LineGraphDAG]:
    """The gates of states with J components as those of the expanded line graph, which comes with them.

    Args:
        ways: source [E, H, J], transition [L, H, J, J] from the last index to the one before, and mark
            [E, H, J] of the DAG's way and, if there is one, of the reversed DAG's.
        dag: their DAG.

    Returns:
        Source [E·J, H], transition [L·J², H] and mark [E·J, H] of the ways, and
        :meth:`~plstm_graph.dag.LineGraphDAG.expand` of the DAG.
    """
    expanded = dag.expand(ways[0][0].size(2))
    gates: list[tuple[Tensor, ...]] = []
    for way, (source, transition, mark) in enumerate(ways):
        # The reversed line leads to the component that the line comes from.
        transition = transition.permute(0, 3, 2, 1) if way == 1 else transition.permute(0, 2, 3, 1)
        source, transition, mark = (x.reshape(-1, x.size(-1)) for x in (source.mT, transition, mark.mT))
        gates.append((source, transition[expanded.line_id], mark))
    return gates, expanded
