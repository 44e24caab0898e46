"""A product of few rows with an encoder in int8: where processors lack bfloat16, reading the encoder takes the time."""

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import torch

from lib.support.compiled import compiled


def bounds(
    rows: np.ndarray,
    row_units: np.ndarray,
    lengths: np.ndarray,
    table: np.ndarray,
    units: np.ndarray,
    lost: np.ndarray,
    bias: np.ndarray,
    out: np.ndarray,
) -> None:
    """Write row_units_i units_j (rows_i . table_j) + lengths_i lost_j + bias_j to `out`, float32 [n, width].

    rows is int16 [n, d], table int8 [width, d]; all others are float32 [n] or [width]. Sums must stay within int32.
    """
    arguments = rows, row_units, lengths, table, units, lost, bias, out
    if (threads := torch.get_num_threads()) == 1:
        _fill(0, len(table), *arguments)
        return
    ends = np.linspace(0, len(table), threads + 1).astype(int).tolist()
    with ThreadPoolExecutor(threads) as pool:
        list(pool.map(lambda start, end: _fill(start, end, *arguments), ends[:-1], ends[1:]))


@compiled()
def _fill(first, last, rows, row_units, lengths, table, units, lost, bias, out):
    n, d = rows.shape
    wide, totals = np.empty(d, np.int16), np.empty(n, np.int32)
    for j in range(first, last):
        for t in range(d):
            wide[t] = table[j, t]
        for i in range(n):
            total = 0
            for t in range(d):
                total += np.int32(rows[i, t]) * np.int32(wide[t])
            totals[i] = total  # of int32, so that pairs of products are added by one instruction
        for i in range(n):
            out[i, j] = totals[i] * (row_units[i] * units[j]) + (lengths[i] * lost[j] + bias[j])
