"""Folders that one process at a time writes to, and files and folders that one process at a time makes."""

import json
import logging
import os
import socket
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import datetime
from pathlib import Path
from typing import IO

from lib.support.files import errors_name, make_folder

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

LOCK = ".lock"  # in the folder, with the holder's id
_PATIENCE = 5.0  # seconds after which a process says for whom it waits
_POLL = 0.01  # seconds
_logger = logging.getLogger(__name__)


@contextmanager
def locked(folder: Path, limit: float = float("inf")) -> Iterator[None]:
    """Keep other processes and threads out of blocks about the same folder, and wait for those that are in one.

    The lock is the kernel's, on a file that holds host, process and time, so that others can say for whom they wait.
    It ends with its process: the file that a killed one leaves behind locks nothing. After `limit` seconds of waiting a
    TimeoutError. Windows has no such locks, nor have some file systems, of which a warning tells.
    """
    with _holding(folder / LOCK, folder, limit):
        yield


@contextmanager
def making(path: Path) -> Iterator[None]:
    """As `locked`, about a file or folder that need not be there yet; whoever had to wait looks whether it is now.

    In the block, `locked` may lock the folder itself. The folder that it is made in is made, too.
    """
    make_folder(path.parent)
    with _holding(path.with_name(f".{path.name}{LOCK}"), path, float("inf")):
        yield


@contextmanager
def _holding(path: Path, target: Path, limit: float) -> Iterator[None]:
    """Hold the lock file `path` of `target`."""
    with errors_name(target, path):
        file = _lock(path, target, limit)
    try:
        holder = {"host": socket.gethostname(), "pid": os.getpid(), "since": f"{datetime.now():%Y-%m-%d %H:%M:%S}"}
        file.truncate(0)
        file.write(json.dumps(holder))
        file.flush()
        yield
    finally:
        with suppress(OSError):  # Windows removes no open file
            path.unlink(missing_ok=True)
        file.close()


def _lock(path: Path, target: Path, limit: float) -> IO[str]:
    start, silent = time.monotonic(), True
    while True:
        file = open(path, "a+", encoding="utf-8")  # noqa: SIM115 - it stays open
        try:
            if fcntl is not None:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if os.path.samestat(os.fstat(file.fileno()), os.stat(path)):  # not removed since it was opened
                return file
        except FileNotFoundError:
            pass
        except BlockingIOError:
            waited = time.monotonic() - start
            if waited > limit:
                file.close()
                remedy = "wait until it has ended, or name another folder"
                raise TimeoutError(f"{target} is being written by {_id(path)}; {remedy}.") from None
            if silent and waited > _PATIENCE:
                _logger.warning("%s is being written by %s; waiting for it to end.", target, _id(path))
                silent = False
            time.sleep(_POLL)
        except OSError as error:
            warnings.warn(f"{target} cannot be locked ({error}); let one process at a time write.", stacklevel=6)
            return file
        file.close()


def holder(folder: Path) -> str | None:
    """Return which process is in a block of `locked`, such as "process 12 on node3 (since ...)"; None if none is."""
    path = folder / LOCK
    try:
        with open(path, encoding="utf-8") as file:
            if fcntl is not None:
                fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return _id(path)
    except OSError:
        return None
    return None


def _id(path: Path) -> str:
    try:
        facts = json.loads(path.read_text("utf-8"))
        return f"process {facts['pid']} on {facts['host']} (since {facts['since']})"
    except (OSError, ValueError, KeyError, TypeError):  # released, or not written yet
        return "another process"
