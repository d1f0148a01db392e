"""Which molecules are alike: Morgan fingerprints as packed bits, and the nearest of many (Numba)."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from rdkit.Chem import Mol, rdFingerprintGenerator

from plstm_graph.compiled import structure, structure_inner
from plstm_graph.kernels.cpu.threads import run_over_ranges

_RADIUS, _BITS = 2, 2048
_SLAB = 4096  # fingerprints that all queries are compared with first: a megabyte, which the cache holds

Similar = tuple[NDArray[np.float32], NDArray[np.int64]]


def morgan_bits(mols: Sequence[Mol]) -> NDArray[np.uint8]:
    """Morgan fingerprints of radius 2, as 2,048 bits each: uint8 [molecules, 256], as NumPy packs them."""
    generator = rdFingerprintGenerator.GetMorganGenerator(radius=_RADIUS, fpSize=_BITS)
    bits = [generator.GetFingerprintAsNumPy(mol) for mol in mols]
    return np.packbits(np.array(bits, np.uint8).reshape(-1, _BITS), axis=1)


def nearest(queries: NDArray[np.uint8], known: NDArray[np.uint8], number: int) -> Similar:
    r"""Find the fingerprints that are most similar by Tanimoto, :math:`|a \cap b| / |a \cup b|`.

    Args:
        queries, known: [n, bytes] and [m, bytes], packed bits; the bytes are a multiple of 8.
        number: How many are wanted; of fewer, all are found.

    Returns:
        Similarities [n, number], largest first, 0 for no bits at all, and rows of ``known`` [n, number].

    Complexity: O(n m bytes), on torch's threads.
    """
    words = [np.ascontiguousarray(part).view(np.uint64) for part in (queries, known)]
    sizes = [np.unpackbits(part, axis=1).sum(1, dtype=np.int64) for part in (queries, known)]
    shape = len(queries), min(number, len(known))
    similarity, index = np.full(shape, -1.0), np.zeros(shape, np.int64)

    def run(first: int, last: int) -> None:
        rows = slice(first, last)
        _search(words[0][rows], sizes[0][rows], words[1], sizes[1], similarity[rows], index[rows])

    if shape[1]:
        run_over_ranges(run, np.full(len(queries), float(words[1].size)))
    return similarity.astype(np.float32), index


@structure_inner
def _count_bits(word):
    """Bits of 64 that are set, summed in pairs, fours and bytes."""
    word -= (word >> np.uint64(1)) & np.uint64(0x5555555555555555)
    word = (word & np.uint64(0x3333333333333333)) + ((word >> np.uint64(2)) & np.uint64(0x3333333333333333))
    word = (word + (word >> np.uint64(4))) & np.uint64(0x0F0F0F0F0F0F0F0F)
    return (word * np.uint64(0x0101010101010101)) >> np.uint64(56)


@structure
def _search(queries, query_sizes, known, known_sizes, similarity, index):
    last = similarity.shape[1] - 1
    for start in range(0, len(known), _SLAB):
        for i in range(len(queries)):
            for j in range(start, min(start + _SLAB, len(known))):
                common = np.uint64(0)
                for k in range(known.shape[1]):
                    common += _count_bits(queries[i, k] & known[j, k])
                union = query_sizes[i] + known_sizes[j] - np.int64(common)
                found = np.int64(common) / union if union else 0.0
                if found > similarity[i, last]:
                    k = last
                    while k > 0 and found > similarity[i, k - 1]:
                        similarity[i, k], index[i, k] = similarity[i, k - 1], index[i, k - 1]
                        k -= 1
                    similarity[i, k], index[i, k] = found, j


class Counts(NamedTuple):
    """How often sets have tokens.

    Attributes:
        ptr: [sets + 1], where the tokens of every set begin, or [tokens + 1], the sets of every token.
        others: tokens, numbered from 0, each once in a set, or sets.
        counts: how often the one has the other, int32.
    """

    ptr: NDArray[np.int64]
    others: NDArray[np.integer]
    counts: NDArray[np.int32]


def count_common(queries: Counts, holders: Counts, number: int) -> NDArray[np.int32]:
    r"""How many tokens every query has in common with every known set, :math:`\sum_t \min(a_t, b_t)`.

    Args:
        queries: the tokens of every query, of those that known sets have.
        holders: the known sets that have each token.
        number: of known sets.

    Returns:
        [queries, number].

    Complexity: O(queries · number + holders of all tokens of all queries), on torch's threads.
    """
    common = np.zeros((len(queries.ptr) - 1, number), np.int32)

    def run(first: int, last: int) -> None:
        part = queries._replace(ptr=queries.ptr[first : last + 1])
        _count_common(*part, *holders, common[first:last])

    run_over_ranges(run, np.full(len(common), float(number)))
    return common


@structure
def _count_common(query_ptr, query_tokens, query_counts, holder_ptr, holders, holder_counts, common):
    for i in range(len(common)):
        for t in range(query_ptr[i], query_ptr[i + 1]):
            token, count = query_tokens[t], query_counts[t]
            for h in range(holder_ptr[token], holder_ptr[token + 1]):
                common[i, holders[h]] += min(count, holder_counts[h])
