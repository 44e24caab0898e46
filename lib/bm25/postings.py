"""Blocks of postings: made from the rows of a document-term matrix, weighted, and kept in files."""

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
from scipy.sparse import csc_array, csr_array, vstack

from lib.bm25.pooling import check_weights
from lib.bm25.weighting import impact, impact_elsewhere

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
    matrix: csr_array | Iterable[csr_array], n_ids: int, room: int | None = None, width: int | None = None
) -> tuple[list[Block], np.ndarray]:
    """Return the postings of a matrix or of a stream of its rows, with weights for impacts, and |d|, float64 [n_docs].

    Parameters
    ----------
    matrix : csr_array [n_docs, width], or iterable of csr_array [any number of documents, width]
        Term weights, finite and at least 0.
    n_ids : int
        Rows that are expected; more are refused where they come.
    room : int, optional
        Documents of the first block; None is BLOCK_ROWS.
    width : int, optional
        None is that of the first rows.

    Raises
    ------
    TypeError, ValueError
        For rows of another width, weights out of range, no row at all, and more rows than `n_ids`.
    """
    blocks, lengths = [], []
    for rows in _regroup([matrix] if hasattr(matrix, "tocsr") else matrix, n_ids, room or BLOCK_ROWS, width):
        lengths.append(rows.sum(axis=1, dtype=np.float64))
        blocks.append(block_of(rows))
    if not blocks:
        raise ValueError("The collection has no documents; give at least one row.")
    return blocks, np.concatenate(lengths)


def _regroup(blocks: Iterable[csr_array], n_ids: int, room: int, width: int | None) -> Iterator[csr_array]:
    """Check rows and yield the same in blocks of `room` and then of BLOCK_ROWS rows, the last shorter."""
    pending: list[csr_array] = []
    n_pending, n_seen = 0, 0
    for block in blocks:
        what = f"the block of documents from row {n_seen}"
        block = check_weights(block, what)
        if block.shape[1] != (width := width or block.shape[1]):
            raise ValueError(
                f"{what} has {block.shape[1]} latents, those before have {width}; encode all with one model."
            )
        n_seen += block.shape[0]
        if n_seen > n_ids:
            raise ValueError(f"doc_ids holds {n_ids} ids for {n_seen} rows or more; give exactly one id for each row.")
        start = 0
        while start < block.shape[0]:
            pending.append(block[start : start + room - n_pending])
            start += pending[-1].shape[0]
            n_pending += pending[-1].shape[0]
            if n_pending == room:
                yield vstack(pending, format="csr")
                pending, n_pending, room = [], 0, BLOCK_ROWS
    if pending:
        yield vstack(pending, format="csr")


def weigh(blocks: list[Block], saturations: list[np.ndarray], k1: float) -> None:
    """Make impacts of the weights that `post` left in their place; `saturations` are of each block's documents."""
    for block, own in zip(blocks, saturations, strict=True):
        block.impacts[:] = impact(block.impacts, own[block.docs], k1)


def reweigh(blocks: list[Block], before: list[np.ndarray], after: list[np.ndarray], k1: float) -> list[Block]:
    """Return blocks with the impacts of the same weights under other saturations, those `after`."""
    for block, own in zip(blocks, before, strict=True):
        block.check(len(own))
    return [
        block._replace(impacts=impact_elsewhere(block.impacts, was[block.docs], now[block.docs], k1))
        for block, was, now in zip(blocks, before, after, strict=True)
    ]


def cut(of_documents: np.ndarray, room: int | None = None) -> list[np.ndarray]:
    """Return what there is for each document [n_docs], block by block, `room` as in `post`."""
    return np.split(of_documents, range(room or BLOCK_ROWS, len(of_documents), BLOCK_ROWS))


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

    The header must say what the file's size and `dtype` make of it, so there is nothing in it to be interpreted.

    Raises
    ------
    ValueError
        If it says anything else.
    """
    kind: np.dtype = np.dtype(dtype)
    with open(path, "rb") as file:
        start = file.read(10)
        header = file.read(int.from_bytes(start[8:], "little"))
    offset = len(start) + len(header)
    n, rest = divmod(path.stat().st_size - offset, kind.itemsize)
    wanted = f"{{'descr': '{kind.str}', 'fortran_order': False, 'shape': ({n},), }}"
    if start[:8] != b"\x93NUMPY\x01\x00" or header.rstrip() != wanted.encode() or rest:
        raise ValueError(f"{path.name} is no npy file of {n} {kind}: it begins with {(start + header)[:90]!r}")
    return np.memmap(path, kind, "r", offset, (n,)) if mapped else np.fromfile(path, kind, offset=offset)


def check_pointers(pointers: Iterable[np.ndarray], n: int, what: str) -> None:
    """Raise a ValueError unless each of some `indptr` begins at 0 and never falls, and they end at `n` together."""
    total = 0
    for own in pointers:
        if own[0] != 0 or (own[1:] < own[:-1]).any():
            raise ValueError(f"The pointers to the {what} must begin at 0 and ascend")
        total += int(own[-1])
    if total != n:
        raise ValueError(f"There are pointers to {total} {what}, of which there are {n}")


def blocks_in(indptr: np.ndarray, docs: np.ndarray, impacts: np.ndarray, width: int) -> list[Block]:
    """Return the blocks of which these are the parts, [n] each, end to end.

    Raises
    ------
    ValueError
        If the arrays do not belong together.
    """
    if width < 1 or len(docs) != len(impacts):
        raise ValueError(f"There are {len(docs)} documents and {len(impacts)} impacts of {width} latents")
    indptrs = indptr.reshape(-1, width + 1)
    check_pointers(indptrs, len(docs), "postings")
    starts = np.concatenate([[0], np.cumsum(indptrs[:, -1])])
    return [
        Block(own, docs[start:end], impacts[start:end])
        for own, start, end in zip(indptrs, starts[:-1], starts[1:], strict=True)
    ]
