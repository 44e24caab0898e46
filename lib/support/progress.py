"""Progress of long work: a bar in a terminal and in a notebook, a logged line every half minute elsewhere."""

import logging
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing
from datetime import timedelta
from typing import TextIO, TypeVar

from tqdm.auto import tqdm

INTERVAL = 30.0  # seconds between two logged lines
_logger = logging.getLogger(__name__)
_Item = TypeVar("_Item")


def progress(
    items: Iterable[_Item],
    *,
    what: str,
    unit: str,
    total: int | None = None,
    initial: int = 0,
    count: Callable[[_Item], int] | None = None,
    status: Callable[[], str] | None = None,
    show: bool = True,
    stream: TextIO | None = None,
    clock: Callable[[], float] = time.monotonic,
) -> Iterator[_Item]:
    """Yield `items` and show how much of the work is done, how fast it goes and how long the rest will take.

    An item counts as done when the next one is requested. Where `stream` is neither a terminal nor a notebook, a line
    is logged (level INFO) every 30 s; `log_to_stderr` makes these lines visible.

    Parameters
    ----------
    what, unit : str
        Name of the work, shown before the numbers, and what is counted, in the plural: "tokens".
    total : int, optional
        Units of the complete work; None if unknown, and no time left is shown.
    initial : int
        Units that were done earlier, such as before a restart.
    count : callable, optional
        Returns the number of units in an item; None counts each item as one unit.
    status : callable, optional
        Returns a few words about the state of the work, such as "fvu 0.23", to show behind the numbers.
    show : bool
        False yields the items and shows nothing.
    stream : text file, optional
        Where a bar is drawn; None is `sys.stderr`.
    clock : callable
        Returns the time in seconds.
    """
    if not show:
        yield from items
        return
    stream = stream or sys.stderr
    if stream.isatty() or _in_notebook():
        shape = {"unit": f" {unit}", "unit_scale": True, "leave": None}
        display = tqdm(desc=what, total=total, initial=initial, file=stream, **shape)
    else:
        display = _LoggedLines(what, unit, total, initial, clock)
    with closing(display):
        for item in items:
            size = 1 if count is None else count(item)
            yield item
            if status is not None:
                display.set_postfix_str(status(), refresh=False)
            display.update(size)


def log_to_stderr() -> None:
    """Write what the library logs, from level INFO on, to stderr, each record on a line with its time."""
    handler = logging.StreamHandler()
    handler.setFormatter(logging.Formatter("%(asctime)s %(message)s"))
    logger = logging.getLogger("lib")
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)


def _in_notebook() -> bool:
    shell = sys.modules["IPython"].get_ipython() if "IPython" in sys.modules else None
    return shell is not None and "IPKernelApp" in shell.config


class _LoggedLines:
    """A progress display with the methods of a tqdm bar that logs a line every `INTERVAL` seconds and a last one."""

    def __init__(self, what: str, unit: str, total: int | None, initial: int, clock: Callable[[], float]):
        self._what, self._unit, self._total, self._clock = what, unit, total, clock
        self._initial = self._done = initial
        self._status = ""
        self._start = self._last_line = clock()
        self._logged: int | None = None  # units done at the last line

    def set_postfix_str(self, status: str, refresh: bool) -> None:
        self._status = f", {status}" if status else ""

    def update(self, size: int) -> None:
        self._done += size
        if self._clock() - self._last_line >= INTERVAL:
            self._log()

    def close(self) -> None:
        if self._logged not in (None, self._done):
            self._log()

    def _log(self) -> None:
        self._logged = self._done
        self._last_line = self._clock()
        elapsed = self._last_line - self._start
        rate = (self._done - self._initial) / elapsed
        of_total = time_left = ""
        if self._total:
            of_total = f" of {self._total:,} ({self._done / self._total:.0%})"
            if rate:
                time_left = f", {timedelta(seconds=round(max(self._total - self._done, 0) / rate))} left"
        numbers = f"{self._done:,}{of_total} {self._unit}, {rate:,.4g} {self._unit}/s{time_left}"
        _logger.info("%s: %s%s", self._what, numbers, self._status)
