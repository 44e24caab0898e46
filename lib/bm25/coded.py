"""Impacts of eight bits: about three bytes a posting, each latent's by a scale of its own in each block.

A latent that a quarter of the documents or more have is held as a row of one byte a document, the others as postings.
Search computes with these impacts, so it is exact among them. How far they are from those that they were rounded from
is measured when they are rounded (`BM25Index.error_bound`).
"""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np
from scipy.sparse import csc_array

from lib.bm25.frequent import LEVELS, frequent_latents
from lib.bm25.postings import Block, block_of, block_sizes, blocks_in, document_frequency, read_part
from lib.support.folders import save_parts

SHARE = 4  # a latent has a row if at least one in so many documents has it; part of the index's format


class Codes(NamedTuple):
    """The impacts of one block of documents: latent j has the impact `scales[j]`, float32, times a code, uint8.

    A latent without a row has the postings `indptr[j]:indptr[j + 1]`, as in `Block`, and their codes are `impacts`.
    `rows`, uint8 [n_frequent, n_docs of the block], are the codes of the others, 0 where a document lacks the latent.
    A document that has a latent has a code of at least 1.
    """

    indptr: np.ndarray
    docs: np.ndarray
    impacts: np.ndarray
    scales: np.ndarray
    rows: np.ndarray

    def matrix(self, n_docs: int, frequent: np.ndarray) -> csc_array:
        """Return the impacts, float32 [n_docs, width], if `frequent` are the latents of the rows.

        ValueError as `Block.check`.
        """
        latents = np.repeat(np.arange(len(self.scales)), np.diff(self.indptr))
        postings = Block(self.indptr, self.docs, self.scales[latents] * self.impacts).matrix(n_docs)
        numbers, docs = np.nonzero(self.rows)
        indptr = np.zeros_like(self.indptr)
        np.add.at(indptr, frequent + 1, np.count_nonzero(self.rows, axis=1))
        impacts = self.scales[frequent[numbers]] * self.rows[numbers, docs]
        return postings + csc_array((impacts, docs.astype(np.int32), indptr.cumsum()), shape=postings.shape)


def block_in(part: Codes, frequent: np.ndarray, n_docs: int) -> Block:
    """Return the postings of all latents, with impacts in float32; `frequent` are the latents of the rows."""
    return block_of(part.matrix(n_docs, frequent))


def impacts_of(part: Codes, latent: int, row: int, doc: int) -> np.ndarray:
    """Return the impact of a latent in a document, none or one; `row` is the number of the latent's row or -1."""
    postings = slice(part.indptr[latent], part.indptr[latent + 1])
    codes = part.rows[row, [doc]] if row >= 0 else part.impacts[postings][part.docs[postings] == doc]
    return part.scales[latent] * codes[codes > 0]


def hold(blocks: list[Block], frequent: np.ndarray, n_docs: int) -> tuple[list[Codes], np.ndarray]:
    """Return blocks in eight bits, and by how much each latent's impacts are off, float32 [width].

    `blocks` is empty afterwards, so that a corpus is in memory once.
    """
    parts, errors = [], np.zeros(len(blocks[0].indptr) - 1, np.float32)
    for size in block_sizes(n_docs):
        part, of_block = encode(blocks.pop(0), frequent, size)
        parts.append(part)
        np.maximum(errors, of_block, out=errors)
    return parts, errors


def encode(block: Block, frequent: np.ndarray, n_docs: int) -> tuple[Codes, np.ndarray]:
    """Return a block's impacts in eight bits, and by how much each latent's differ at most, float32 [width].

    `frequent`, int64, ascending, are the latents that have rows.
    """
    block.check(n_docs)
    counts = np.diff(block.indptr)
    occurs = counts > 0
    starts = block.indptr[:-1][occurs]
    largest, errors = np.zeros((2, len(counts)), np.float32)
    if len(starts):
        largest[occurs] = np.maximum.reduceat(block.impacts, starts)
    scales = np.maximum(largest / np.float32(LEVELS), np.finfo(np.float32).tiny)
    of_postings = np.repeat(scales, counts)
    codes = np.clip(np.rint(block.impacts / of_postings), 1, LEVELS).astype(np.uint8)
    if len(starts):
        errors[occurs] = np.maximum.reduceat(np.abs(of_postings * codes - block.impacts), starts)
    number_of = np.full(len(counts), -1)
    number_of[frequent] = np.arange(len(frequent))
    numbers = np.repeat(number_of, counts)
    in_rows = numbers >= 0
    rows = np.zeros((len(frequent), n_docs), np.uint8)
    rows[numbers[in_rows], block.docs[in_rows]] = codes[in_rows]
    indptr = np.concatenate([[0], np.cumsum(np.where(number_of < 0, counts, 0))])
    return Codes(indptr, block.docs[~in_rows], codes[~in_rows], scales, rows), errors


_DTYPES = {
    "indptr": np.int64,
    "docs": np.uint16,
    "impacts": np.uint8,
    "scales": np.float32,
    "rows": np.uint8,
    "df": np.int64,
    "errors": np.float32,
}
LARGE = ("docs.npy", "impacts.npy", "rows.npy")


def writers(parts: list[Codes], df: np.ndarray, errors: np.ndarray) -> dict[str, Callable[[Path], None]]:
    """Return what writes blocks, and what is not seen in them: `df`, int64, and `errors`, float32 [width] each."""

    def write(field: str) -> Callable[[Path], None]:
        return lambda path: save_parts(path, [getattr(part, field).ravel() for part in parts])

    of_latents = {"df.npy": df, "errors.npy": errors}
    return {f"{field}.npy": write(field) for field in Codes._fields} | {
        name: lambda path, values=values: save_parts(path, [values]) for name, values in of_latents.items()
    }


def read(files: Mapping[str, Path], n_docs: int, width: int) -> tuple[list[Codes], np.ndarray, np.ndarray]:
    """Return the blocks in files that `writers` wrote, df and errors; the large files are memory-mapped.

    Every pointer is checked, so that search reads nothing outside the files; ValueError if something does not fit.
    """
    if missing := {f"{field}.npy" for field in _DTYPES} - files.keys():
        raise ValueError(f"There is no {min(missing)}")
    arrays = {
        field: read_part(files[f"{field}.npy"], dtype, f"{field}.npy" in LARGE) for field, dtype in _DTYPES.items()
    }
    indptr, docs, impacts, scales, rows, df, errors = arrays.values()
    blocks, sizes = blocks_in(indptr, docs, impacts, width), block_sizes(n_docs)
    if not len(blocks) == len(sizes) > 0:
        raise ValueError(f"There are {len(blocks)} blocks of postings for {n_docs} documents")
    frequent = frequent_latents(df, n_docs, SHARE)
    lengths, expected = list(map(len, arrays.values()))[3:], [len(blocks) * width, len(frequent) * n_docs, width, width]
    if lengths != expected:
        raise ValueError(f"There are {lengths} scales, codes in rows, df and errors, not {expected}")
    if df.max() > n_docs or (np.delete(df, frequent) != np.delete(document_frequency(blocks), frequent)).any():
        raise ValueError("df is not the number of documents that have each latent")
    of_docs = np.split(rows, len(frequent) * np.cumsum(sizes)[:-1])
    parts = [
        Codes(*block, of_block, codes.reshape(len(frequent), size))
        for block, of_block, codes, size in zip(blocks, scales.reshape(-1, width), of_docs, sizes, strict=True)
    ]
    return parts, df, errors
