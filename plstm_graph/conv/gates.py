"""What gates start from, and the map of bond features to their logits."""

import torch
from torch import Tensor
from torch_geometric.nn import Linear

from plstm_graph.errors import InputError
from plstm_graph.kernels import HeadLayout

#: Logits of the transitions at the start, from the first head to the last: 1/e is left after about 3000
#: bonds and after 8. The first keeps signals over any molecule, the last looks at the neighbourhood.
_LONGEST, _SHORTEST = 8.0, 2.0


@torch.no_grad()
def reset_offsets(offsets: Tensor, layout: HeadLayout) -> None:
    """Start with open transitions, so that gradients cross a thousand bonds (in the first head).

    Args:
        offsets: of the logits of edges and of direct gates, [4·W·H + H].
        layout: the heads.
    """
    kinds = len(layout.mode)  # P and D heads each get the full range of decay rates
    reach = torch.linspace(_LONGEST, _SHORTEST, layout.heads // kinds).repeat(kinds)
    blocks = offsets.zero_().unflatten(0, (-1, layout.heads))
    for places in layout.places:
        blocks[places.keep] = reach
    blocks[-1] = 1  # direct


def edge_logits(lin_edge: Linear | None, edge_attr: Tensor) -> Tensor:
    """Map bond features to logits, by column of edge_index: [C, out_channels] of the map.

    Raises:
        InputError: There is no map, or it is for features of another width.
    """
    if lin_edge is None:
        raise InputError(
            "edge_attr was given, but the layer was built without edge_dim; pass edge_dim to it."
        )
    edge_attr = edge_attr.unsqueeze(-1) if edge_attr.dim() == 1 else edge_attr
    wanted = lin_edge.in_channels
    if edge_attr.dim() != 2 or (wanted != -1 and edge_attr.size(1) != wanted):
        raise InputError(f"edge_attr needs the shape [num_edges, {wanted}], not {list(edge_attr.shape)}.")
    return lin_edge(edge_attr)
