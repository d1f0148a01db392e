r"""Kernels of the state form in Triton: the states of edges, one launch a level or one program a block.

Forward, on the DAG and on its reverse, and adjoint are one recurrence,

.. math:: C_e = a_e \, l_{start(e)} r_{start(e)}^T + \sum_{(e',e)} T_{e'e} \, C_{e'},

whose states are read at the other end of every edge. The adjoint of one direction goes along the other, so
:func:`_visit` serves all four. Row r of the links is a direction and the adjoint of the other; see
:class:`~plstm_graph.kernels.triton.plan.Links`. A program takes one head and a tile of a state's value
channels; sums over these are written tile by tile. All sums run in the order of the structure: no atomics.

``memory`` holds states: that of an edge is in its slot or, while a backward pass looks back at it, among
recorded ones (:func:`_position`).
"""

import triton
import triton.language as tl

#: Sizes that differ from batch to batch or launch to launch: no kernel is compiled for their values.
_SIZES = ["first_0", "count_0", "first_1", "lo_0", "hi_0", "lo_1", "hi_1", "slots", "num_walks", "tiles",
          "directions", "num_nodes", "num_edges", "num_lines", "num_places"]  # fmt: skip


@triton.jit
def _position(e, row, place, slot, num_edges, lo, hi, base, shift):
    """Where an edge's state is: from ``base`` on if its place is in [lo, hi), else its slot + ``shift``."""
    at = tl.load(place + e)
    return tl.where((lo <= at) & (at < hi), base + at - lo, tl.load(slot + row * num_edges + e) + shift)


@triton.jit
def _cells(tile, key_dim, value_dim, KEY: tl.constexpr, VALUE: tl.constexpr):
    """The numbers of a tile inside a state, and which of them there are."""
    k, v = tl.arange(0, KEY)[:, None], tile * VALUE + tl.arange(0, VALUE)[None, :]
    return k * value_dim + v, (k < key_dim) & (v < value_dim)


@triton.jit
def _visit(
    e, row, direction, h, tile, previous, carried,
    left, right, peer_left, peer_right, fill, read, transition, memory, to_left, to_right, to_read,
    ends, gather_ptr, gather_edge, gather_line, place, slot, lo, hi, base, shift,
    heads, key_dim, value_dim, directions, num_edges, num_lines, num_places,
    READ_LEFT: tl.constexpr, READ_RIGHT: tl.constexpr, CARRY: tl.constexpr,
    KEY: tl.constexpr, VALUE: tl.constexpr,
):  # fmt: skip
    """The state [KEY, VALUE] of edge e, kept in memory and read at the edge's end.

    It is filled with fill·left·right^T at its start, read with ``peer_left`` and ``peer_right``. The state
    ``carried`` of the edge ``previous`` is still in registers (if ``CARRY``).
    """
    start, end = tl.load(ends + row * num_edges + e), tl.load(ends + (1 - row) * num_edges + e)
    gate = (direction * num_edges + e) * heads + h
    k, v = tl.arange(0, KEY), tile * VALUE + tl.arange(0, VALUE)
    in_k, in_v = k < key_dim, v < value_dim
    cells, inside = _cells(tile, key_dim, value_dim, KEY, VALUE)
    size = key_dim * value_dim

    from_left = tl.load((left + (start * heads + h) * key_dim) + k, mask=in_k, other=0.0)
    from_right = tl.load((right + (start * heads + h) * value_dim) + v, mask=in_v, other=0.0)
    filled = tl.load(fill + gate).to(memory.dtype.element_ty) * from_left.to(memory.dtype.element_ty)
    state = filled[:, None] * from_right.to(memory.dtype.element_ty)[None, :]
    at = gather_ptr + row * (num_edges + 1) + e
    for i_line in range(tl.load(at), tl.load(at + 1)):
        before = tl.load(gather_edge + row * num_lines + i_line)
        line = direction * num_lines + tl.load(gather_line + row * num_lines + i_line)
        position = _position(before, row, place, slot, num_edges, lo, hi, base, shift)
        here = (memory + (position * heads + h) * size) + cells
        if CARRY:
            arriving = tl.load(here, mask=inside & (before != previous), other=0.0)
            arriving = tl.where(before == previous, carried, arriving)
        else:
            arriving = tl.load(here, mask=inside, other=0.0)
        state += tl.load(transition + line * heads + h).to(memory.dtype.element_ty) * arriving
    position = _position(e, row, place, slot, num_edges, lo, hi, base, shift)
    tl.store((memory + (position * heads + h) * size) + cells, state, mask=inside & (position >= 0))

    if READ_LEFT or READ_RIGHT:
        r = tl.load(read + gate).to(memory.dtype.element_ty)
        at_left = tl.load((peer_left + (end * heads + h) * key_dim) + k, mask=in_k, other=0.0)
        at_left = at_left.to(memory.dtype.element_ty)
        brought = (direction * num_places + tl.load(place + e)) * heads + h
        if READ_RIGHT:
            reached = r * tl.sum(at_left[:, None] * state, axis=0)
            tl.store((to_right + brought * value_dim) + v, reached, mask=in_v)
        if READ_LEFT:
            at_right = tl.load((peer_right + (end * heads + h) * value_dim) + v, mask=in_v, other=0.0)
            reached = tl.sum(state * at_right.to(memory.dtype.element_ty)[None, :], axis=1)
            brought += tile.to(tl.int64) * directions * num_places * heads
            tl.store((to_left + brought * key_dim) + k, r * reached, mask=in_k)
            partial = tile.to(tl.int64) * directions * num_edges * heads + gate
            tl.store(to_read + partial, tl.sum(at_left * reached, axis=0))
    return state


@triton.jit
def _transition_gradients(
    e, direction, h, tile, state, kept, to_transition, gather_ptr, gather_edge, gather_line, place, slot,
    lo, hi, base, shift, heads, key_dim, value_dim, directions, num_edges, num_lines,
    KEY: tl.constexpr, VALUE: tl.constexpr,
):  # fmt: skip
    """The gradients of the transitions to edge e: what left by each line times what came back."""
    cells, inside = _cells(tile, key_dim, value_dim, KEY, VALUE)
    at = gather_ptr + direction * (num_edges + 1) + e
    for i_line in range(tl.load(at), tl.load(at + 1)):
        before = tl.load(gather_edge + direction * num_lines + i_line)
        line = direction * num_lines + tl.load(gather_line + direction * num_lines + i_line)
        position = _position(before, direction, place, slot, num_edges, lo, hi, base, shift)
        here = (kept + (position * heads + h) * (key_dim * value_dim)) + cells
        left_by = tl.load(here, mask=inside, other=0.0)
        partial = (tile.to(tl.int64) * directions * num_lines + line) * heads + h
        tl.store(to_transition + partial, tl.sum(tl.sum(state * left_by, axis=1), axis=0))


@triton.jit(do_not_specialize=_SIZES)
def level_kernel(
    left, right, peer_left, peer_right, fill, read, transition, memory, kept,
    to_left, to_right, to_read, to_transition,
    ends, gather_ptr, gather_edge, gather_line, order, place, slot,
    first_0, count_0, first_1, lo_0, hi_0, lo_1, hi_1, slots,
    heads, key_dim, value_dim, directions, num_edges, num_lines, num_places,
    ADJOINT: tl.constexpr, READ_LEFT: tl.constexpr, READ_RIGHT: tl.constexpr,
    KEY: tl.constexpr, VALUE: tl.constexpr,
):  # fmt: skip
    """States of ``count_0`` edges of row 0 from place ``first_0`` on, then of row 1 from ``first_1`` on.

    Those of the places from lo to hi of either direction are recorded behind all slots.
    """
    tiles = tl.cdiv(value_dim, VALUE)
    tile, h = tl.program_id(0) % tiles, tl.program_id(0) // tiles % heads
    i = tl.program_id(0) // tiles // heads
    row = tl.where(i < count_0, 0, 1)
    direction = row
    if ADJOINT:
        direction = 1 - row
    e = tl.load(order + tl.where(row == 0, first_0 + i, first_1 + i - count_0))
    lo, hi = tl.where(direction == 0, lo_0, lo_1), tl.where(direction == 0, hi_0, hi_1)
    base = tl.where(direction == 0, slots, slots + hi_0 - lo_0)
    own_lo, own_hi = lo, hi
    if ADJOINT:
        own_lo, own_hi = 0, 0
    nothing = tl.zeros([KEY, VALUE], memory.dtype.element_ty)
    state = _visit(e, row, direction, h, tile, e, nothing, left, right, peer_left, peer_right, fill, read,
                   transition, memory, to_left, to_right, to_read, ends, gather_ptr, gather_edge, gather_line,
                   place, slot, own_lo, own_hi, base, 0, heads, key_dim, value_dim, directions, num_edges,
                   num_lines, num_places, READ_LEFT, READ_RIGHT, False, KEY, VALUE)  # fmt: skip
    if ADJOINT:
        _transition_gradients(e, direction, h, tile, state, kept, to_transition, gather_ptr, gather_edge,
                              gather_line, place, slot, lo, hi, base, 0, heads, key_dim, value_dim,
                              directions, num_edges, num_lines, KEY, VALUE)  # fmt: skip


@triton.jit
def _walk(walks, num_walks, heads, value_dim, VALUE: tl.constexpr):
    """This program's tile, head and direction, and what the table says of its walk (see plan._walk_table)."""
    tiles = tl.cdiv(value_dim, VALUE)
    tile, h = tl.program_id(0) % tiles, tl.program_id(0) // tiles % heads
    walk = tl.program_id(0) // tiles // heads
    column, columns = walks + walk, 2 * num_walks
    first, last = tl.load(column), tl.load(column + columns)
    slots_from, slots = tl.load(column + 2 * columns), tl.load(column + 3 * columns)
    segment, alive = tl.load(column + 4 * columns), tl.load(column + 5 * columns)
    record = tl.load(column + 6 * columns)
    return tile, h, walk // num_walks, first, last, slots_from, slots, segment, alive, record


@triton.jit
def _edge_at(i, direction, order, first, last):
    """The i-th edge that a walk along this direction takes."""
    return tl.load(order + tl.where(direction == 0, first + i, last - 1 - i))


@triton.jit(do_not_specialize=_SIZES)
def walk_kernel(
    left, right, peer_left, peer_right, fill, read, transition, memory, kept, to_left, to_right, to_read,
    ends, gather_ptr, gather_edge, gather_line, order, place, slot, walks, num_walks,
    heads, key_dim, value_dim, directions, num_edges, num_lines, num_places,
    READ_LEFT: tl.constexpr, READ_RIGHT: tl.constexpr, SNAPSHOTS: tl.constexpr,
    KEY: tl.constexpr, VALUE: tl.constexpr,
):  # fmt: skip
    """States of all edges of a block and direction, one after the other.

    With ``SNAPSHOTS``, the states that are alive where a segment begins are copied to ``kept``.
    """
    tile, h, direction, first, last, slots_from, slots, segment, alive, _ = _walk(
        walks, num_walks, heads, value_dim, VALUE
    )
    if SNAPSHOTS:
        cells, inside = _cells(tile, key_dim, value_dim, KEY, VALUE)
        size = key_dim * value_dim
    carried = tl.zeros([KEY, VALUE], memory.dtype.element_ty)
    previous = first * 0 - 1
    for i in range(last - first):
        if SNAPSHOTS:  # known when compiled, unlike the next # noqa: SIM102
            if i % segment == 0:
                for s in range(slots):
                    position = alive + i // segment * slots + s
                    state = tl.load((memory + ((slots_from + s) * heads + h) * size) + cells, mask=inside)
                    tl.store((kept + (position * heads + h) * size) + cells, state, mask=inside)
        e = _edge_at(i, direction, order, first, last)
        carried = _visit(e, direction, direction, h, tile, previous, carried, left, right, peer_left,
                         peer_right, fill, read, transition, memory, to_left, to_right, to_read, ends,
                         gather_ptr, gather_edge, gather_line, place, slot, 0, 0, 0, 0, heads, key_dim,
                         value_dim, directions, num_edges, num_lines, num_places, READ_LEFT, READ_RIGHT,
                         True, KEY, VALUE)  # fmt: skip
        previous = e
        tl.debug_barrier()  # other threads of the program read the state


@triton.jit(do_not_specialize=_SIZES)
def walk_back_kernel(
    query, key, value, grad, source, mark, transition, memory, kept,
    to_left, to_right, to_source, to_transition,
    ends, gather_ptr, gather_edge, gather_line, order, place, slot, walks, num_walks,
    heads, key_dim, value_dim, directions, num_edges, num_lines, num_places,
    KEY: tl.constexpr, VALUE: tl.constexpr,
):  # fmt: skip
    """Adjoint states of all edges of a block and direction, segment by segment from the last.

    A segment's states are computed anew from those that were alive where it begins.
    """
    tile, h, direction, first, last, slots_from, slots, segment, alive, record = _walk(
        walks, num_walks, heads, value_dim, VALUE
    )
    count = last - first
    nothing = tl.zeros([KEY, VALUE], memory.dtype.element_ty)
    adjoint = nothing
    following = first * 0 - 1
    segments = tl.cdiv(count, segment)
    for j in range(segments):
        start = (segments - 1 - j) * segment
        stop = tl.minimum(start + segment, count)
        lo = tl.where(direction == 0, first + start, last - stop)
        hi = tl.where(direction == 0, first + stop, last - start)
        shift = alive + (segments - 1 - j) * slots - slots_from
        carried = nothing
        previous = first * 0 - 1
        for i in range(start, stop):
            e = _edge_at(i, direction, order, first, last)
            carried = _visit(e, direction, direction, h, tile, previous, carried, key, value, query, value,
                             source, mark, transition, kept, to_left, to_right, to_source, ends, gather_ptr,
                             gather_edge, gather_line, place, slot, lo, hi, record, shift, heads, key_dim,
                             value_dim, directions, num_edges, num_lines, num_places, False, False, True,
                             KEY, VALUE)  # fmt: skip
            previous = e
            tl.debug_barrier()  # other threads of the program read the state
        for i in range(stop - start):
            e = _edge_at(stop - 1 - i, direction, order, first, last)
            adjoint = _visit(e, 1 - direction, direction, h, tile, following, adjoint, query, grad, key,
                             value, mark, source, transition, memory, to_left, to_right, to_source, ends,
                             gather_ptr, gather_edge, gather_line, place, slot, 0, 0, 0, 0, heads, key_dim,
                             value_dim, directions, num_edges, num_lines, num_places, True, True, True,
                             KEY, VALUE)  # fmt: skip
            _transition_gradients(e, direction, h, tile, adjoint, kept, to_transition, gather_ptr,
                                  gather_edge, gather_line, place, slot, lo, hi, record, shift, heads,
                                  key_dim, value_dim, directions, num_edges, num_lines, KEY,
                                  VALUE)  # fmt: skip
            following = e
            tl.debug_barrier()  # other threads of the program read the state


@triton.jit(do_not_specialize=_SIZES)
def arrive_kernel(
    out, to_direct, direct, left, right, vector, peer, rows, nodes, place, arrive_ptr, arrive_edge,
    heads, width, inner, tiles, directions, num_nodes, num_edges, num_places,
    ADJOINT: tl.constexpr, TO_DIRECT: tl.constexpr, WIDTH: tl.constexpr, INNER: tl.constexpr,
):  # fmt: skip
    """out [N, H, width] = direct·(left·right)·vector, plus what edges bring: rows [tiles, W, e, H, width].

    With ``TO_DIRECT``, also the gradient of ``direct``, (left·right)·(peer·vector).
    """
    h, node = tl.program_id(0) % heads, tl.load(nodes + tl.program_id(0) // heads)
    c, column = tl.arange(0, INNER), tl.arange(0, WIDTH)
    inside = column < width
    mine = node * heads + h
    a = tl.load(left + mine * inner + c, mask=c < inner, other=0.0).to(rows.dtype.element_ty)
    b = tl.load(right + mine * inner + c, mask=c < inner, other=0.0).to(rows.dtype.element_ty)
    product = tl.sum(a * b, axis=0)
    v = tl.load(vector + mine * width + column, mask=inside, other=0.0).to(rows.dtype.element_ty)
    total = (tl.load(direct + mine).to(rows.dtype.element_ty) * product) * v
    for direction in range(directions):
        row = direction
        if ADJOINT:
            row = 1 - direction
        at = arrive_ptr + row * (num_nodes + 1) + node
        for i in range(tl.load(at), tl.load(at + 1)):
            at_edge = direction * num_places + tl.load(place + tl.load(arrive_edge + row * num_edges + i))
            for _ in range(tiles):
                total += tl.load(rows + (at_edge * heads + h) * width + column, mask=inside, other=0.0)
                at_edge += directions * num_places
    tl.store(out + mine * width + column, total, mask=inside)
    if TO_DIRECT:
        p = tl.load(peer + mine * width + column, mask=inside, other=0.0).to(rows.dtype.element_ty)
        tl.store(to_direct + mine, product * tl.sum(p * v, axis=0))
