import math
import os
import subprocess
import sys

import numpy as np
import pytest
from scipy.sparse import csr_array

from lib.bm25 import index as index_module
from lib.bm25.index import BM25Index
from lib.support import processors
from lib.support.processors import quota, usable_processors


def write(root, files: dict[str, str]) -> None:
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)


CPU, GROUPS = "sys/fs/cgroup/cpu", "proc/self/cgroup"


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        ({}, math.inf),  # no Linux
        ({GROUPS: "0::/\n", "sys/fs/cgroup/cpu.max": "150000 100000\n"}, 1.5),  # version 2, in a container
        ({GROUPS: "0::/\n", "sys/fs/cgroup/cpu.max": "max 100000\n"}, math.inf),
        ({GROUPS: "0::/a/b\n", "sys/fs/cgroup/a/b/cpu.max": "max 100000\n"}, math.inf),
        ({GROUPS: "0::/a/b\n", "sys/fs/cgroup/a/cpu.max": "400000 100000\n"}, 4.0),  # the group above limits
        (
            {
                GROUPS: "0::/a/b\n",
                "sys/fs/cgroup/a/cpu.max": "400000 100000",
                "sys/fs/cgroup/a/b/cpu.max": "50000 100000",
            },
            0.5,
        ),
        (
            {
                GROUPS: "5:memory:/x\n4:cpu,cpuacct:/docker/1\n0::/\n",
                f"{CPU}/cpu.cfs_quota_us": "300000\n",  # the host's path is not seen in the container
                f"{CPU}/cpu.cfs_period_us": "100000\n",
            },
            3.0,
        ),
        ({GROUPS: "1:cpu:/\n", f"{CPU}/cpu.cfs_quota_us": "-1\n", f"{CPU}/cpu.cfs_period_us": "100000\n"}, math.inf),
        ({GROUPS: "1:cpuset:/\n", f"{CPU}/cpu.cfs_quota_us": "1\n", f"{CPU}/cpu.cfs_period_us": "1\n"}, math.inf),
    ],
)
def test_the_quota_of_control_groups(tmp_path, files, expected):
    write(tmp_path, files)
    assert quota(tmp_path) == expected


@pytest.mark.parametrize(
    ("affinity", "limit", "expected"), [(8, math.inf, 8), (8, 2.9, 2), (8, 0.5, 1), (1, 4.0, 1), (64, 64.0, 64)]
)
def test_the_fewest_processors_count(monkeypatch, affinity, limit, expected):
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: set(range(affinity)), raising=False)
    monkeypatch.setattr(processors, "quota", lambda: limit)
    assert usable_processors() == expected


def test_all_processors_where_there_is_no_such_call(monkeypatch):
    monkeypatch.delattr(os, "sched_getaffinity", raising=False)
    monkeypatch.setattr(os, "cpu_count", lambda: None)
    assert usable_processors() == 1


def test_affinity_of_a_process():
    script = "import os; os.sched_setaffinity(0, [min(os.sched_getaffinity(0))]); "
    script += "from lib.support.processors import usable_processors; print(usable_processors())"
    assert subprocess.check_output([sys.executable, "-c", script], text=True).strip() == "1"


def test_a_search_takes_as_many_threads_as_it_may_use(monkeypatch):
    threads = []
    search = index_module.search
    monkeypatch.setattr(index_module, "search", lambda *args: threads.append(args[-1]) or search(*args))
    monkeypatch.setattr(index_module, "usable_processors", lambda: 3)
    monkeypatch.setattr(os, "cpu_count", lambda: 96)
    index = BM25Index.build(csr_array(np.ones((2, 2), np.float32)), ["a", "b"])
    index.search(csr_array(np.ones((1, 2), np.float32)), ["q"])
    assert threads == [3]
