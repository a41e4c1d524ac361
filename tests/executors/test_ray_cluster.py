"""A study on two machines of a Ray cluster that loses a worker, a machine and its driver."""

import importlib.util
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from robustlens.results import StudyFolder
from robustlens.results.locks import owner

pytestmark = pytest.mark.lasts(150)

ray_cluster = pytest.importorskip("ray.cluster_utils", reason="needs the extra cluster")
BENCH = Path(__file__).resolve().parents[2] / "bench"
RUNS = 24
OPTIMIZER = {"lr": 0.2, "epochs": 2, "batch_size": 16, "schedule": "one-cycle"}
METHODS = [
    {"label": "Standard", "objective": "standard"},
    {"label": "AT", "objective": "at", "ema": 0.9},
    {"label": "AT+AWP", "objective": "at", "awp": {"gamma": 0.01}},
    {"label": "Wild", "objective": "standard", "optimizer": {"lr": 1e17}},
]
ALONE = """
import sys
from robustlens import study
from robustlens.executors import InProcess

study.run(study.read(sys.argv[1]), sys.argv[2], executor=InProcess())
"""


def bench(name, monkeypatch):
    """A program of bench/ as a module."""
    monkeypatch.syspath_prepend(str(BENCH))
    location = importlib.util.spec_from_file_location(name, BENCH / f"{name}.py")
    module = importlib.util.module_from_spec(location)
    location.loader.exec_module(module)
    return module


@pytest.fixture
def two_machines(monkeypatch):
    """A cluster of two nodes with a CPU each."""
    monkeypatch.setenv("RAY_USAGE_STATS_ENABLED", "0")
    monkeypatch.setenv("RAY_worker_niceness", "0")  # 15 by default, which others on a busy machine starve
    node = {"num_cpus": 1, "object_store_memory": 80 << 20}
    cluster = ray_cluster.Cluster(initialize_head=True, head_node_args={**node, "include_dashboard": False})
    second = cluster.add_node(**node)
    yield cluster, second, node
    cluster.shutdown()


class Driver:
    """The command in a process of its own."""

    def __init__(self, source, out, *options):
        self.most = 0  # workers at a time
        self.out, self.errors = out, out.parent / f"errors-{time.monotonic_ns()}"
        command = [
            sys.executable,
            "-m",
            "robustlens",
            "study",
            str(source),
            "--out",
            str(out),
            "--figures",
            "none",
        ]
        with self.errors.open("w") as errors:
            self.process = subprocess.Popen(
                [*command, "--executor", "ray", *options],
                stdout=subprocess.DEVNULL,
                stderr=errors,
                env={**os.environ, "OMP_NUM_THREADS": "1"},
            )

    def wait_for(self, what):
        """Wait until `what()` gives something true, and return that."""
        while not (value := what()):
            assert self.process.poll() is None, self.errors.read_text()
            time.sleep(0.05)
        return value

    def ended(self):
        return sum(run.record.status in ("done", "failed") for run in StudyFolder(self.out).runs())

    def workers(self):
        """The processes that write in the folders of runs now."""
        leases = (owner(folder) for folder in self.out.glob("runs/*"))
        pids = [lease.pid for lease in leases if lease is not None]
        self.most = max(self.most, len(pids))
        return pids


@pytest.mark.slow
def test_a_study_ends_with_the_same_bytes_whatever_the_cluster_loses(tmp_path, monkeypatch, two_machines):
    kills, tiny_study = bench("kills", monkeypatch), bench("tiny_study", monkeypatch)
    source = tiny_study.write(
        tmp_path,
        methods=METHODS,
        seeds=list(range(RUNS // len(METHODS))),
        defaults=tiny_study.SPEC["defaults"] | {"optimizer": OPTIMIZER},
        evaluation={"attacks": ["fgsm"], "curve": [], "batch_size": 20},
        explanation={"examples": 20, "measures": ["spectrum", "margins"]},
    )
    cluster, second, node = two_machines
    where = ("--address", cluster.address)
    first = Driver(source, tmp_path / "out", *where)
    first.wait_for((tmp_path / "out" / "study.json").exists)
    first.wait_for(lambda: first.workers() and first.ended() >= 3)
    assert first.most <= 2, "there are two CPUs"
    os.kill(first.wait_for(first.workers)[0], signal.SIGKILL)
    first.wait_for(lambda: "lost its worker 1/3" in first.errors.read_text())
    cluster.remove_node(second, allow_graceful=False)
    cluster.add_node(**node)
    first.wait_for(lambda: first.ended() >= 6)
    first.process.kill()
    first.process.wait()
    again = Driver(source, tmp_path / "out", *where, "--send-data")
    assert again.process.wait() == 4, again.errors.read_text()
    said = first.errors.read_text() + again.errors.read_text()
    assert "Traceback" not in said
    assert "wild-0-s0: ended 1/1" in said, "the loss is not finite: an outcome"
    assert "wild-0-s0: lost" not in said

    (tmp_path / "out").rename(tmp_path / "clustered")  # errors in run.json name the folder
    alone = [sys.executable, "-c", ALONE, str(source), str(tmp_path / "out")]  # no signature is checked there
    subprocess.run(alone, check=True, env={**os.environ, "OMP_NUM_THREADS": "1"})
    assert len(list((tmp_path / "out").glob("runs/*/run.json"))) == RUNS
    assert kills.content(tmp_path / "clustered") == kills.content(tmp_path / "out")
