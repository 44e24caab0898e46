"""Measurements that a user can repeat, each against peers where they are installed (`pip install -e .[bench]`)."""

import time
from collections.abc import Callable, Mapping

import pandas as pd

from lib.support.progress import progress


def measure(steps: Mapping[str, Callable[[], object]], repeats: int) -> dict[str, float]:
    """Return the median seconds of each step, over `repeats` turns after one that is not counted.

    They take turns, so that whatever else the machine does slows all of them.
    """
    seconds: dict[str, list[float]] = {name: [] for name in steps}
    for turn in progress(range(repeats + 1), what="measure", unit="turns", total=repeats + 1):
        for name, step in steps.items():
            start = time.perf_counter()
            step()
            if turn:
                seconds[name].append(time.perf_counter() - start)
    return {name: pd.Series(times).median() for name, times in seconds.items()}
