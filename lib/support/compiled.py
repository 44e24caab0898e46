"""Functions compiled by numba, kept on disk where there is a place for them."""

import warnings
from collections.abc import Callable
from functools import cache
from pathlib import Path

from numba import njit
from numba.core.caching import FunctionCache


def compiled(**options) -> Callable[[Callable], Callable]:
    """Return `numba.njit(nogil=True, **options)` whose machine code is kept between processes, if it can be.

    Where no folder can be written (an installation that is read-only, and no home), the disk is full or a kept file is
    damaged, functions are compiled in each process, and a warning says so once.
    """

    def decorate(function: Callable) -> Callable:
        dispatcher = njit(nogil=True, **options)(function)
        try:
            dispatcher._cache = _Cache(function, options)  # with numba's own, njit(cache=True), import may fail
        except RuntimeError:
            _warn("there is no folder that can be written")
        return dispatcher

    return decorate


class _Cache(FunctionCache):
    """The kept code of one function; after an error it is neither read nor written.

    It is found by what numba asks for, the function's own file and code, and by what else decides it: the options, and
    the modules beside the function's, whose functions may be compiled into it.
    """

    def __init__(self, function: Callable, options: dict):
        super().__init__(function)
        stats = [(path.name, path.stat()) for path in sorted(Path(function.__code__.co_filename).parent.glob("*.py"))]
        self._stamps = tuple((name, stat.st_mtime_ns, stat.st_size) for name, stat in stats)
        self._options = tuple(sorted(options.items()))

    def _index_key(self, *arguments) -> tuple:
        return (*super()._index_key(*arguments), self._options, self._stamps)

    def load_overload(self, *arguments):
        """Return the kept code, None if there is none."""
        return self._attempt(super().load_overload, arguments)

    def save_overload(self, *arguments):
        """Keep code."""
        self._attempt(super().save_overload, arguments)

    def _attempt(self, call: Callable, arguments: tuple):
        try:
            return call(*arguments)
        except (OSError, EOFError) as error:
            self.disable()
            _warn(f"{self.cache_path} cannot be used: {error}")


@cache
def _warn(reason: str) -> None:
    warnings.warn(
        f"Compiled code is not kept, so each process takes seconds to compile it again ({reason}). Set "
        "NUMBA_CACHE_DIR to an empty folder that can be written.",
        stacklevel=3,
    )
