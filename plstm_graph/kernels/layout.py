"""What stands where among the channels that a layer's heads are made of."""

from typing import Literal, NamedTuple

from torch import Tensor

#: Of a layer's heads: all in P-mode, all in D-mode, or half of them in each.
HeadMode = Literal["P", "D", "PD"]


class GatePlaces(NamedTuple):
    """Where a direction's logits stand among those of an edge, in blocks of H."""

    source: int
    mark: int
    keep: int  #: a
    share: int  #: c


#: By the number of directions. Each gate looks at the node at one end of its bond: the DAG's own direction at
#: its start for the source and at its end for the others, the reversed direction the other way about. First
#: stand the logits of the node at the start of an edge, then those of the node at its end.
_PLACES = {1: (GatePlaces(0, 1, 2, 3),), 2: (GatePlaces(0, 5, 6, 7), GatePlaces(4, 1, 2, 3))}

#: How many of these blocks are the start's.
_AT_START = {1: 1, 2: 4}


class HeadLayout(NamedTuple):
    """A layer's heads, and the channels they are made of: query, key, value, logits of gates, and direct."""

    heads: int  #: H
    head_dim: int  #: K
    mode: HeadMode
    directions: int  #: W, 2 with the reversed DAG
    largest_input: float = 1.0  #: no root mean square of a query or key exceeds it

    @property
    def places(self) -> tuple[GatePlaces, ...]:
        """Of every direction."""
        return _PLACES[self.directions]

    @property
    def edge_logits(self) -> int:
        """Logits of an edge, 4·W·H."""
        return len(GatePlaces._fields) * self.directions * self.heads

    @property
    def start_logits(self) -> int:
        """Those of them that look at the node at the edge's start."""
        return _AT_START[self.directions] * self.heads

    @property
    def shared_heads(self) -> int:
        """Heads in P-mode, which come first: their transitions share what an edge keeps."""
        return {"P": self.heads, "D": 0, "PD": self.heads // 2}[self.mode]

    @property
    def dims(self) -> tuple[int, int, int]:
        """H, and the channels of a head's keys and values."""
        return self.heads, self.head_dim, self.head_dim

    @property
    def widths(self) -> tuple[int, int, int, int, int]:
        """Channels of query, key and value, logits of the gates of edges, and direct gates."""
        inner = self.heads * self.head_dim
        return inner, inner, inner, self.edge_logits, self.heads

    def split(self, projected: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
        """Query, key and value [N, H, K], logits [N, 4·W·H] and direct [N, H]."""
        query, key, value, logits, direct = projected.split(self.widths, dim=1)
        unflat = (x.unflatten(1, (self.heads, self.head_dim)) for x in (query, key, value))
        return *unflat, logits, direct
