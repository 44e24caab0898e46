"""Blocks of postings: made from the rows of a document-term matrix, weighted, and kept in files."""

from collections.abc import Iterable, Iterator, Sequence
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

import numpy as np
from scipy.sparse import csc_array, csr_array, vstack

from lib.bm25.pooling import check_weights
from lib.bm25.weighting import document_lengths, impact, impact_elsewhere

BLOCK_ROWS = 16_384  # documents of one block: 64 KB of scores; part of the index's format


class Block(NamedTuple):
    """The postings of consecutive documents, latent by latent.

    Latent j has the postings `indptr[j]:indptr[j + 1]`: `docs`, uint16, positions within the block, ascending; and
    `impacts`, float32.
    """

    indptr: np.ndarray
    docs: np.ndarray
    impacts: np.ndarray

    def check(self, n_rows: int) -> None:
        """Raise a ValueError for a posting of a document behind the last: the file was altered since it was written."""
        if len(self.docs) and (last := int(self.docs.max())) >= n_rows:
            raise ValueError(f"A block of {n_rows} documents has a posting of number {last}; copy the index again.")

    def matrix(self, n_rows: int) -> csc_array:
        """Return the impacts as a matrix, float32 [n_rows, width]; ValueError as `check`."""
        self.check(n_rows)
        columns = (self.impacts, self.docs.astype(np.int32), self.indptr)
        return csc_array(columns, shape=(n_rows, len(self.indptr) - 1))


def block_of(matrix: csr_array | csc_array) -> Block:
    """Return the postings of at most BLOCK_ROWS rows [n, width]; their `impacts` are what the matrix holds."""
    columns = matrix.tocsc()
    return Block(columns.indptr.astype(np.int64), columns.indices.astype(np.uint16), columns.data)


def post(
    matrix: csr_array | Iterable[csr_array],
    n_ids: int,
    first_size: int | None = None,
    width: int | None = None,
    columns: Sequence[slice] = (slice(None),),
) -> tuple[list[Block], np.ndarray]:
    """Return the postings of a matrix or of a stream of its rows, with weights for impacts, and the documents' lengths.

    The lengths are |d| within each of some `columns`, those of a vocabulary, float64 [len(columns), n_docs].
    The first block has at most `first_size` documents (None is BLOCK_ROWS). TypeError or ValueError for rows of another
    width than `width` (None is that of the first rows), weights out of range, no row at all, and, as soon as one comes,
    more rows than `n_ids`.
    """
    blocks: list[Block] = []
    lengths: list[list[np.ndarray]] = []
    n_rows = 0
    is_matrix = hasattr(matrix, "tocsr")
    if not is_matrix and not isinstance(matrix, Iterable):
        raise TypeError(f"The matrix is a {type(matrix).__name__}; pass a csr_array, or blocks of its rows.")
    for rows in _regroup([matrix] if is_matrix else matrix, n_ids, first_size or BLOCK_ROWS, width):
        lengths.append([document_lengths(rows if of == slice(None) else rows[:, of], n_rows) for of in columns])
        n_rows += rows.shape[0]
        blocks.append(block_of(rows))
    if not blocks:
        raise ValueError("The collection has no documents; give at least one row.")
    return blocks, np.concatenate(lengths, axis=1)


def _regroup(blocks: Iterable[csr_array], n_ids: int, size: int, width: int | None) -> Iterator[csr_array]:
    """Check rows and yield the same in blocks of `size` and then of BLOCK_ROWS rows, the last shorter."""
    pending: list[csr_array] = []
    n_pending, n_rows = 0, 0
    for block in blocks:
        name = f"the block of documents from row {n_rows}"
        block = check_weights(block, name)
        width = width or block.shape[1]
        if block.shape[1] != width:
            raise ValueError(
                f"{name} has {block.shape[1]} latents, those before have {width}; encode all with one model."
            )
        n_rows += block.shape[0]
        if n_rows > n_ids:
            raise ValueError(f"doc_ids holds {n_ids} ids for {n_rows} rows or more; give exactly one id for each row.")
        start = 0
        while start < block.shape[0]:
            pending.append(block[start : start + size - n_pending])
            start += pending[-1].shape[0]
            n_pending += pending[-1].shape[0]
            if n_pending == size:
                yield vstack(pending, format="csr")
                pending, n_pending, size = [], 0, BLOCK_ROWS
    if pending:
        yield vstack(pending, format="csr")


def weigh(blocks: list[Block], columns: slice, saturations: list[np.ndarray], k1: float) -> None:
    """Replace the weights that `post` gave to some columns by impacts; `saturations` are of each block's documents."""
    for block, of_docs in zip(blocks, saturations, strict=True):
        part = slice(block.indptr[columns.start], block.indptr[columns.stop])
        block.impacts[part] = impact(block.impacts[part], of_docs[block.docs[part]], k1)


def reweigh(
    blocks: list[Block], columns: slice, before: list[np.ndarray], after: list[np.ndarray], k1: float
) -> list[Block]:
    """Return blocks with the impacts of the same weights of some columns under other saturations, those `after`."""
    reweighed = []
    for block, old, new in zip(blocks, before, after, strict=True):
        block.check(len(old))
        part = slice(block.indptr[columns.start], block.indptr[columns.stop])
        impacts, docs = np.array(block.impacts), block.docs[part]
        impacts[part] = impact_elsewhere(impacts[part], old[docs], new[docs], k1)
        reweighed.append(block._replace(impacts=impacts))
    return reweighed


def cut(values: np.ndarray, first_size: int | None = None) -> list[np.ndarray]:
    """Return the values of documents [n_docs] block by block, `first_size` as in `post`."""
    return np.split(values, range(first_size or BLOCK_ROWS, len(values), BLOCK_ROWS))


def block_sizes(n_docs: int) -> list[int]:
    """Return how many documents each block has."""
    return [min(BLOCK_ROWS, n_docs - first) for first in range(0, n_docs, BLOCK_ROWS)]


def document_frequency(blocks: list[Block]) -> np.ndarray:
    """Return in how many documents each latent occurs, int64 [width]."""
    return np.sum([np.diff(block.indptr) for block in blocks], axis=0)


def joined(first: Block, n_first: int, second: Block, n_second: int) -> Block:
    """Return the block of one block's documents and then another's."""
    return block_of(vstack([first.matrix(n_first), second.matrix(n_second)], format="csc"))


def read_part(path: Path, dtype: type, mapped: bool = False) -> np.ndarray:
    """Return what `folders.save_parts` wrote of arrays [n], memory-mapped or read.

    The header is not interpreted: a ValueError if it is not that of the file's size and `dtype`.
    """
    kind: np.dtype = np.dtype(dtype)
    with open(path, "rb") as file:
        start = file.read(10)
        header = file.read(int.from_bytes(start[8:], "little"))
    offset = len(start) + len(header)
    n, rest = divmod(path.stat().st_size - offset, kind.itemsize)
    expected = f"{{'descr': '{kind.str}', 'fortran_order': False, 'shape': ({n},), }}"
    if start[:8] != b"\x93NUMPY\x01\x00" or header.rstrip() != expected.encode() or rest:
        raise ValueError(f"{path.name} is no npy file of {n} {kind}: it begins with {(start + header)[:90]!r}")
    return np.memmap(path, kind, "r", offset, (n,)) if mapped else np.fromfile(path, kind, offset=offset)


def check_pointers(pointers: Iterable[np.ndarray], n: int, what: str) -> None:
    """Raise a ValueError unless each of some `indptr` begins at 0 and never falls, and they end at `n` together."""
    total = 0
    for indptr in pointers:
        if indptr[0] != 0 or (indptr[1:] < indptr[:-1]).any():
            raise ValueError(f"The pointers to the {what} must begin at 0 and ascend")
        total += int(indptr[-1])
    if total != n:
        raise ValueError(f"There are pointers to {total} {what}, of which there are {n}")


def blocks_in(indptr: np.ndarray, docs: np.ndarray, impacts: np.ndarray, width: int) -> list[Block]:
    """Return the blocks of which these are the parts, [n] each, end to end; ValueError if they do not fit together."""
    if width < 1 or len(docs) != len(impacts):
        raise ValueError(f"There are {len(docs)} documents and {len(impacts)} impacts of {width} latents")
    indptrs = indptr.reshape(-1, width + 1)
    check_pointers(indptrs, len(docs), "postings")
    starts = np.concatenate([[0], np.cumsum(indptrs[:, -1])])
    return [
        Block(pointers, docs[start:end], impacts[start:end])
        for pointers, (start, end) in zip(indptrs, pairwise(starts), strict=True)
    ]
