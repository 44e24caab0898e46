"""Eight-bit rows for the latents that many documents have, from which search estimates scores before it computes them.

Most postings that a query reads belong to few latents, those that an eighth of the documents or more have. A row holds
such a latent's impacts in a block, one byte a document, so that they are added up in order and many at a time. What
the rounding hides is bounded: only documents that could be among the best within the bound are scored exactly, from
their own impacts, which are kept document by document for that.
"""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np

from lib.bm25.postings import Block, block_sizes, blocks_in, check_pointers, document_frequency, read_part
from lib.support.compiled import compiled
from lib.support.folders import save_parts

SHARE = 8  # a latent has rows if at least one in so many documents has it; part of the index's format
MOST = 2**16  # latents with rows, so that their numbers are uint16
LEVELS = 255
_EPSILON = float(np.finfo(np.float32).eps)


class Rows(NamedTuple):
    """The impacts of the frequent latents in the documents of one block.

    `rows`, uint8 [n_frequent, n_docs of the block], are impact / scale, rounded, 0 where a document lacks the latent;
    `scales` are float32 [n_frequent]. Document i has the exact `impacts`, float32, of `indptr[i]:indptr[i + 1]`, int64,
    and `numbers`, uint16, are the rows that they are of, ascending within a document.
    """

    rows: np.ndarray
    scales: np.ndarray
    indptr: np.ndarray
    numbers: np.ndarray
    impacts: np.ndarray


_FILES = [("block", "", field) for field in Block._fields] + [("rows", "frequent_", field) for field in Rows._fields]
_DTYPES = {
    "indptr": np.int64,
    "docs": np.uint16,
    "impacts": np.float32,
    "rows": np.uint8,
    "scales": np.float32,
    "numbers": np.uint16,
}
LARGE = ("docs.npy", "impacts.npy", "frequent_rows.npy", "frequent_numbers.npy", "frequent_impacts.npy")


def frequent_latents(df: np.ndarray, n_docs: int, share: int = SHARE) -> np.ndarray:
    """Return the latents that have rows, int64, ascending, given in how many documents each occurs."""
    return np.flatnonzero(df * share >= n_docs)[:MOST]


class Part(NamedTuple):
    """The postings of one block of documents, and the rows of the frequent latents in it."""

    block: Block
    rows: Rows


def hold(blocks: list[Block], frequent: np.ndarray, n_docs: int) -> tuple[list[Part], np.ndarray]:
    """Return blocks with their rows, and by how much each latent's impacts are off, float32 [width]: 0."""
    sizes = block_sizes(n_docs)
    parts = [Part(block, rows_of(block, frequent, size)) for block, size in zip(blocks, sizes, strict=True)]
    return parts, np.zeros(len(blocks[0].indptr) - 1, np.float32)


def block_in(part: Part, frequent: np.ndarray, n_docs: int) -> Block:
    """Return the postings of a block of `n_docs` documents."""
    return part.block


def impacts_of(part: Part, latent: int, row: int, doc: int) -> np.ndarray:
    """Return the impact of a latent in a document, none or one; `row` is the number of the latent's row or -1."""
    block = part.block
    postings = slice(block.indptr[latent], block.indptr[latent + 1])
    return block.impacts[postings][block.docs[postings] == doc]


def rows_of(block: Block, latents: np.ndarray, n_docs: int) -> Rows:
    """Return the rows of a block of `n_docs` documents."""
    columns = block.matrix(n_docs)[:, latents]
    largest = columns.max(axis=0).toarray().ravel() if columns.nnz else np.zeros(len(latents), np.float32)
    scales = np.maximum(largest / np.float32(LEVELS), np.finfo(np.float32).tiny)
    rows = np.zeros((len(latents), n_docs), np.uint8)
    number = np.repeat(np.arange(len(latents)), np.diff(columns.indptr))
    rows[number, columns.indices] = np.minimum(np.rint(columns.data / scales[number]), LEVELS)
    forward = columns.tocsr()
    return Rows(
        rows,
        scales,
        forward.indptr.astype(np.int64),
        forward.indices.astype(np.uint16),
        forward.data.astype(np.float32),
    )


def writers(parts: list[Part], df: np.ndarray, errors: np.ndarray) -> dict[str, Callable[[Path], None]]:
    """Return what writes blocks and their rows, under the name of each file; `df` and `errors` follow from those."""

    def write(which: str, field: str) -> Callable[[Path], None]:
        return lambda path: save_parts(path, [getattr(getattr(part, which), field).ravel() for part in parts])

    return {f"{prefix}{field}.npy": write(which, field) for which, prefix, field in _FILES}


def read(files: Mapping[str, Path], n_docs: int, width: int) -> tuple[list[Part], np.ndarray, np.ndarray]:
    """Return the blocks and rows in files that `writers` wrote, df and errors; the large files are memory-mapped.

    Every pointer is checked, so that search reads nothing outside the files; ValueError if something does not fit.
    """
    names = {f"{prefix}{field}.npy": _DTYPES[field] for _, prefix, field in _FILES}
    if missing := names.keys() - files.keys():
        raise ValueError(f"There is no {min(missing)}")
    arrays = {name: read_part(files[name], dtype, mapped=name in LARGE) for name, dtype in names.items()}
    sizes = block_sizes(n_docs)
    indptr, docs, impacts = (arrays[f"{field}.npy"] for field in Block._fields)
    blocks = blocks_in(indptr, docs, impacts, width)
    if not len(blocks) == len(sizes) > 0:
        raise ValueError(f"There are {len(blocks)} blocks of postings for {n_docs} documents")
    df = document_frequency(blocks)
    n_frequent = len(frequent_latents(df, n_docs))
    rows = _rows_in(Rows(*(arrays[f"frequent_{field}.npy"] for field in Rows._fields)), sizes, n_frequent)
    return list(map(Part, blocks, rows)), df, np.zeros(width, np.float32)


def _rows_in(whole: Rows, sizes: list[int], n_frequent: int) -> list[Rows]:
    """Return the rows of blocks of `sizes` documents, of which these are the parts end to end."""
    ends, n_impacts = np.cumsum(sizes), len(whole.impacts)
    lengths = [len(part) for part in whole]
    expected = [n_frequent * ends[-1], n_frequent * len(sizes), ends[-1] + len(sizes), n_impacts, n_impacts]
    if lengths != expected:
        raise ValueError(f"The parts of the rows hold {lengths} numbers, not {list(map(int, expected))}")
    pointers = np.split(whole.indptr, ends[:-1] + np.arange(1, len(sizes)))
    check_pointers(pointers, n_impacts, "exact impacts")
    rows = np.split(whole.rows, n_frequent * ends[:-1])
    scales = whole.scales.reshape(len(sizes), n_frequent)
    cuts = np.cumsum([indptr[-1] for indptr in pointers])[:-1]
    numbers, impacts = np.split(whole.numbers, cuts), np.split(whole.impacts, cuts)
    return [
        Rows(part.reshape(n_frequent, size), *others)
        for size, part, *others in zip(sizes, rows, scales, pointers, numbers, impacts, strict=True)
    ]


def _add_rows(rows, factors, numbers, estimates):
    """Add the rows `numbers`, uint8 [n_docs] each, times their factors to `estimates`, float32 [n_docs]."""
    whole = len(numbers) - len(numbers) % 4
    for i in range(0, whole, 4):  # four at a time: estimates are read and written once for the four
        a, b, c, d = factors[i], factors[i + 1], factors[i + 2], factors[i + 3]
        first, second = rows[numbers[i]], rows[numbers[i + 1]]
        third, fourth = rows[numbers[i + 2]], rows[numbers[i + 3]]
        for doc in range(len(estimates)):
            estimates[doc] += (a * first[doc] + b * second[doc]) + (c * third[doc] + d * fourth[doc])
    for i in range(whole, len(numbers)):
        factor, row = factors[i], rows[numbers[i]]
        for doc in range(len(estimates)):
            estimates[doc] += factor * row[doc]


add_rows = compiled(fastmath=True)(_add_rows)
add_rows_in_order = compiled()(_add_rows)  # every sum as it is written: the same to the bit wherever a document stands


@compiled()
def error_bound(factors, most_of_rare):
    """Return by how much an estimate may differ from the score that float32 gives.

    That is half a level of each row, and what float32 sums of n terms differ by in another order, n epsilon of their
    size. `factors` are each row's weight times its scale, `most_of_rare` the most that the rare latents add.
    """
    level = 0.0
    for factor in factors:
        level += abs(factor)
    return np.float32(0.501 * level + 4 * _EPSILON * (len(factors) + 8) * (most_of_rare + LEVELS * level))


@compiled()
def complete(doc, score, indptr, numbers, impacts, weight_of):
    """Return a document's `score` and what the frequent latents add to it, exactly and in the order of the latents.

    `indptr`, `numbers` and `impacts` are those of `Rows`; `weight_of`, float32 [MOST], is what each row counts, 0 for
    those that the query lacks.
    """
    for i in range(indptr[doc], indptr[doc + 1]):
        score += weight_of[numbers[i]] * impacts[i]
    return score
