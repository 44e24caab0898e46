"""On a real cluster of two workers, one of which is killed; collected where Ray is installed, see conftest.py.

It takes a minute or two, most of it the start of Ray (the extra `distributed`).
"""

import os
import signal

import pytest
from test_ray_data import SETTINGS, assert_shards_are, expected, model, model_folder, paths

from lib.interop.ray_data import Worker, encode_corpus
from lib.support import folders

__all__ = ["expected", "model", "model_folder", "paths"]  # fixtures
pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture
def cluster(monkeypatch):
    import ray

    monkeypatch.setenv("RAY_USAGE_STATS_ENABLED", "0")
    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")  # else Ray leaves a token in the home folder
    ray.init(num_cpus=2, include_dashboard=False, logging_level="error", log_to_driver=False)
    yield ray
    ray.shutdown()


def dying(log) -> type:
    """A worker that is killed the first time that it has written unit 3's files, before a manifest names them."""

    class DyingWorker(Worker):
        def __call__(self, unit):
            number, pid = unit["number"], os.getpid()
            (log / f"{number}-{pid}").touch()
            if number == 3 and len(list(log.glob("3-*"))) == 1:
                folders._write_manifest = lambda path, manifest: os.kill(pid, signal.SIGKILL)
            return super().__call__(unit)

    return DyingWorker


def test_a_cluster_of_two_workers_one_of_which_is_killed(
    cluster, model, model_folder, paths, expected, tmp_path, monkeypatch
):
    log, folder = tmp_path / "log", tmp_path / "out"
    log.mkdir()
    usual, worker = cluster.data.Dataset.map, dying(log)
    monkeypatch.setattr(cluster.data.Dataset, "map", lambda self, _, **settings: usual(self, worker, **settings))
    shards = encode_corpus(folder, paths, model_folder, workers=2, **SETTINGS)
    attempts = sorted(path.name.split("-") for path in log.iterdir())
    pids = [pid for number, pid in attempts if number == "3"]
    assert len(pids) == len(set(pids)) == 2  # one was killed, and another process did the unit again
    assert {int(number) for number, _ in attempts} == set(range(8))
    assert str(os.getpid()) not in {pid for _, pid in attempts}
    assert_shards_are(shards, expected, model)
    assert not [path.name for path in folder.rglob("*") if path.suffix == ".tmp" or path.name == "attempts"]
