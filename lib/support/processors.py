"""How many processors this process may use, which can be fewer than the machine has; without torch."""

import math
import os
from collections.abc import Iterator
from functools import cache
from pathlib import Path


def usable_processors() -> int:
    """Return how many threads of this process can run at once, at least 1.

    That is the number of processors that it may run on (set by taskset or Slurm), or, if it is less, the number of
    whole processors for which the quota of its control groups lasts (Docker's --cpus, a limit of Kubernetes). The quota
    is read once in a process.
    """
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, int(min(allowed, quota())))


@cache
def quota(root: str | Path = "/") -> float:
    """Return the least quota of the control groups that the process is in, in processors; infinity without one.

    `root` is the folder that holds `proc` and `sys`.
    """
    return min(_quotas(Path(root)), default=math.inf)


def _quotas(root: Path) -> Iterator[float]:
    """Yield the quota of each control group that the process is in, of version 1 or 2, and of those above it."""
    for line in _read(root / "proc/self/cgroup").splitlines():
        _, controllers, path = line.split(":", 2)
        if controllers and "cpu" not in controllers.split(","):
            continue
        top = root / "sys/fs/cgroup"
        group = Path(path.lstrip("/"))
        for folder in [group, *group.parents]:  # a container may see its own group as the topmost
            if controllers:  # version 1
                time, period = (_read(top / "cpu" / folder / f"cpu.cfs_{part}_us") for part in ("quota", "period"))
            else:
                time, _, period = _read(top / folder / "cpu.max").partition(" ")
            if time.strip().isdecimal() and period.strip().isdecimal():  # not "max" or -1, and the file is there
                yield int(time) / int(period)


def _read(path: Path) -> str:
    """Return the text of one of the kernel's files, "" if it is not there or may not be read."""
    try:
        return path.read_text("utf-8", "replace")
    except OSError:
        return ""
