"""Rows of matrices in whole vector registers: the inner loops of the fused kernels (Numba).

The functions stand here twice: in Python, which says what they do and runs where Numba's compiler is turned
off, and as instructions on vectors, which compiled code takes in its place. LLVM would make vectors of the
Python too, but before every loop it has to ask whether rows overlap, and it keeps sums in memory: for
molecules, whose rows are two or three vectors long, that takes several times as long as the sums do.

Matrices are contiguous, of one floating-point type, and do not overlap. ``width`` and ``cols`` are multiples
of :data:`LANES`.
"""

from contextlib import contextmanager
from typing import Any

import numpy as np
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic, overload

from plstm_graph.compiled import ARITHMETIC_FLAGS

#: Numbers of a vector: for float32 a register of AVX, or two of NEON.
LANES = 8

#: Rows and vectors of the tile of a product whose sums stay in registers.
TILE_ROWS, _TILE_VECTORS = 4, 2


def padded(count):
    """The next multiple of a vector's length."""
    return (count + LANES - 1) // LANES * LANES


def clear(rows, count, width):
    """rows[:count, :width] = 0."""
    rows[:count, :width] = 0


def add_row(a, i, factor, b, k, width):
    """a[i, :width] += factor * b[k, :width]."""
    a[i, :width] += factor * b[k, :width]


def row_dot(a, i, b, k, width):
    """Inner product of a[i, :width] and b[k, :width]."""
    return np.dot(a[i, :width], b[k, :width])


def set_product(a, b, c, rows, inner, cols):
    """c[:rows, :cols] = a[:rows, :inner] @ b[:inner, :cols].

    Compiled code computes rows up to the next multiple of :data:`TILE_ROWS`, which a and c must have.
    """
    c[:rows, :cols] = a[:rows, :inner] @ b[:inner, :cols]


def set_transposed_product(a, b, c, rows, inner, cols):
    """c[:rows, :cols] = a[:inner, :rows]ᵀ @ b[:inner, :cols], as :func:`set_product`."""
    c[:rows, :cols] = a[:inner, :rows].T @ b[:inner, :cols]


#: Turns a function of types, which returns a signature and what builds instructions, into a call of these.
_instructions: Any = intrinsic


class _Emitter:
    """Builds the instructions of one call."""

    def __init__(self, context, builder, signature, values):
        self.context, self.builder = context, builder
        self.index = context.get_value_type(types.intp)
        self.types, self.values = signature.args, values
        self.dtype = signature.args[0].dtype
        self.scalar = context.get_value_type(self.dtype)
        self.vector = ir.VectorType(self.scalar, LANES)

    def integer(self, position):
        return self.context.cast(self.builder, self.values[position], self.types[position], types.intp)

    def number(self, position):
        return self.context.cast(self.builder, self.values[position], self.types[position], self.dtype)

    def constant(self, number):
        return ir.Constant(self.index, number)

    def row(self, position, row):
        """Pointer to the first number of a matrix's row."""
        array_type = self.types[position]
        array = self.context.make_array(array_type)(self.context, self.builder, self.values[position])
        columns = cgutils.unpack_tuple(self.builder, array.shape)[1]
        return self.builder.gep(array.data, [self.builder.mul(row, columns)])

    def at(self, pointer, offset):
        return self.builder.gep(pointer, [offset])

    def load(self, pointer, offset):
        return self.builder.load(self._as_vector(pointer, offset), align=self.dtype.bitwidth // 8)

    def store(self, vector, pointer, offset):
        self.builder.store(vector, self._as_vector(pointer, offset), align=self.dtype.bitwidth // 8)

    def _as_vector(self, pointer, offset):
        return self.builder.bitcast(self.at(pointer, offset), self.vector.as_pointer())

    def splat(self, number):
        """A vector of one number."""
        empty = ir.Constant(self.vector, ir.Undefined)
        first = self.builder.insert_element(empty, number, ir.Constant(ir.IntType(32), 0))
        return self.builder.shuffle_vector(
            first, empty, ir.Constant(ir.VectorType(ir.IntType(32), LANES), [0] * LANES)
        )

    def zeros(self):
        return ir.Constant(self.vector, [0.0] * LANES)

    def multiply_add(self, a, b, c):
        """a * b + c, in one instruction where the processor has one."""
        product = self.builder.fmul(a, b, flags=ARITHMETIC_FLAGS)
        return self.builder.fadd(product, c, flags=ARITHMETIC_FLAGS)

    @contextmanager
    def steps(self, start, stop, step):
        """A loop."""
        with cgutils.for_range_slice(self.builder, start, stop, self.constant(step), self.index) as (i, _):
            yield i


def _product_tiles(emit, first, columns, vectors, transposed):
    """Tiles of :data:`TILE_ROWS` rows from ``first`` on, over columns from one to another."""
    builder, inner = emit.builder, emit.integer(4)
    numbers = [builder.add(first, emit.constant(r)) for r in range(TILE_ROWS)]
    of_c = [emit.row(2, n) for n in numbers]
    of_a = [] if transposed else [emit.row(0, n) for n in numbers]
    with emit.steps(*columns, LANES * vectors) as j:
        offsets = [builder.add(j, emit.constant(LANES * v)) for v in range(vectors)]
        sums = [[cgutils.alloca_once(builder, emit.vector) for _ in range(vectors)] for _ in range(TILE_ROWS)]
        for one in [one for row in sums for one in row]:
            builder.store(emit.zeros(), one)
        with emit.steps(emit.constant(0), inner, 1) as k:
            of_b = emit.row(1, k)
            loaded = [emit.load(of_b, offset) for offset in offsets]
            if transposed:
                of_k = emit.row(0, k)
                pointers = [emit.at(of_k, n) for n in numbers]
            else:
                pointers = [emit.at(pointer, k) for pointer in of_a]
            for pointer, row in zip(pointers, sums, strict=True):
                factor = emit.splat(builder.load(pointer))
                for vector, one in zip(loaded, row, strict=True):
                    builder.store(emit.multiply_add(factor, vector, builder.load(one)), one)
        for pointer, row in zip(of_c, sums, strict=True):
            for offset, one in zip(offsets, row, strict=True):
                emit.store(builder.load(one), pointer, offset)


def _product_code(transposed):
    def code(context, builder, signature, values):
        emit = _Emitter(context, builder, signature, values)
        rows, cols = emit.integer(3), emit.integer(5)
        tile = emit.constant(LANES * _TILE_VECTORS)
        whole = builder.mul(builder.sdiv(cols, tile), tile)
        with emit.steps(emit.constant(0), rows, TILE_ROWS) as i:
            _product_tiles(emit, i, (emit.constant(0), whole), _TILE_VECTORS, transposed)
            _product_tiles(emit, i, (whole, cols), 1, transposed)
        return context.get_dummy_value()

    return code


@_instructions
def _emit_set_product(typing, a, b, c, rows, inner, cols):
    return types.void(a, b, c, rows, inner, cols), _product_code(transposed=False)


@_instructions
def _emit_set_transposed_product(typing, a, b, c, rows, inner, cols):
    return types.void(a, b, c, rows, inner, cols), _product_code(transposed=True)


@_instructions
def _emit_add_row(typing, a, i, factor, b, k, width):
    def code(context, builder, signature, values):
        emit = _Emitter(context, builder, signature, values)
        of_a, of_b, factor = (
            emit.row(0, emit.integer(1)),
            emit.row(3, emit.integer(4)),
            emit.splat(emit.number(2)),
        )
        with emit.steps(emit.constant(0), emit.integer(5), LANES) as j:
            emit.store(emit.multiply_add(factor, emit.load(of_b, j), emit.load(of_a, j)), of_a, j)
        return context.get_dummy_value()

    return types.void(a, i, factor, b, k, width), code


@_instructions
def _emit_clear(typing, rows, count, width):
    def code(context, builder, signature, values):
        emit = _Emitter(context, builder, signature, values)
        with emit.steps(emit.constant(0), emit.integer(1), 1) as i:
            row = emit.row(0, i)
            with emit.steps(emit.constant(0), emit.integer(2), LANES) as j:
                emit.store(emit.zeros(), row, j)
        return context.get_dummy_value()

    return types.void(rows, count, width), code


@_instructions
def _emit_row_dot(typing, a, i, b, k, width):
    def code(context, builder, signature, values):
        emit = _Emitter(context, builder, signature, values)
        of_a, of_b = emit.row(0, emit.integer(1)), emit.row(2, emit.integer(3))
        total = cgutils.alloca_once(builder, emit.vector)
        builder.store(emit.zeros(), total)
        with emit.steps(emit.constant(0), emit.integer(4), LANES) as j:
            builder.store(
                emit.multiply_add(emit.load(of_a, j), emit.load(of_b, j), builder.load(total)), total
            )
        vector = builder.load(total)
        numbers = [builder.extract_element(vector, ir.Constant(ir.IntType(32), n)) for n in range(LANES)]
        while len(numbers) > 1:
            half = len(numbers) // 2
            numbers = [
                builder.fadd(x, y, flags=ARITHMETIC_FLAGS)
                for x, y in zip(numbers[:half], numbers[half:], strict=True)
            ]
        return numbers[0]

    return a.dtype(a, i, b, k, width), code


def _in_compiled_code(function, implementation, inlined=True):
    """Let compiled code take the implementation in the place of a function."""
    overload(function, jit_options={"forceinline": inlined})(implementation)


_in_compiled_code(padded, lambda count: lambda count: (count + LANES - 1) // LANES * LANES)
_in_compiled_code(
    clear, lambda rows, count, width: lambda rows, count, width: _emit_clear(rows, count, width)
)
_in_compiled_code(
    add_row,
    lambda a, i, factor, b, k, width: (
        lambda a, i, factor, b, k, width: _emit_add_row(a, i, factor, b, k, width)
    ),
)
_in_compiled_code(
    row_dot, lambda a, i, b, k, width: lambda a, i, b, k, width: _emit_row_dot(a, i, b, k, width)
)
_in_compiled_code(
    set_product,
    lambda a, b, c, rows, inner, cols: (
        lambda a, b, c, rows, inner, cols: _emit_set_product(a, b, c, rows, inner, cols)
    ),
    inlined=False,
)
_in_compiled_code(
    set_transposed_product,
    lambda a, b, c, rows, inner, cols: (
        lambda a, b, c, rows, inner, cols: _emit_set_transposed_product(a, b, c, rows, inner, cols)
    ),
    inlined=False,
)
