"""Functions compiled by numba, kept on disk where there is a place for them."""

import warnings
from collections.abc import Callable
from functools import cache

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
            dispatcher._cache = _Cache(function)  # njit(cache=True) sets numba's own, with which import may fail
        except RuntimeError:
            _warn("there is no folder that can be written")
        return dispatcher

    return decorate


class _Cache(FunctionCache):
    """The kept code of one function; after an error it is neither read nor written."""

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
