"""Runs on the machines of a Ray cluster: a task for each job, so that a job without a device frees one.

What a run has done is in its folder, which all machines see, so a task that is lost with its worker or its
machine is begun again elsewhere and goes on there. Ray's own retries are off: they would not tell a job that
failed from one that was lost. An actor beside the study passes events on, and tells each worker every second
whether its job is still its own; one that hears no, or nobody, stops. Its lease on the run's folder
(`results.locks`) keeps it from writing even where it cannot hear.
"""

import contextlib
import importlib
import logging
import os
import pickle
import signal
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from robustlens import stopping
from robustlens.errors import ResourceError, StoppedError
from robustlens.executors.jobs import Job, Outcome, Shared, by_run, cluster_package
from robustlens.executors.places import Place
from robustlens.executors.ray_worker import Coordinator, carry_out_there
from robustlens.executors.setbacks import Setbacks
from robustlens.progress import Event

_AGAIN = 2.0  # seconds before a run is tried again whose folder a lost worker holds
_FORWARDED = ("ROBUSTLENS_DATA",)


class Ray:
    """Runs jobs on a Ray cluster.

    Args:
        address: of the cluster, "auto" for the one that this machine belongs to. None for RAY_ADDRESS or,
            without it, a cluster of this machine alone that ends with the call.
        workers: jobs at a time; None for as many as the cluster has room for.
        threads: of each job, so many CPUs of the cluster.
        use_gpus: whether jobs work on GPUs; None for where the cluster has some.
        runs_per_device: how many runs share a GPU.
        memory: bytes that each job asks of its machine; 0 for no such condition.
        send_data: send images to the machines through Ray's object store, once to each, instead of reading
            them there.
        retries: how often a run may be lost with its worker or machine, without getting further in between,
            before it has failed.
    """

    def __init__(
        self,
        address: str | None = None,
        *,
        workers: int | None = None,
        threads: int = 1,
        use_gpus: bool | None = None,
        runs_per_device: int = 1,
        memory: int = 0,
        send_data: bool = False,
        retries: int = 3,
    ) -> None:
        self.address, self.workers = address, workers
        self.threads, self.memory = threads, memory
        self.use_gpus, self.share, self.gpus = use_gpus, 1 / runs_per_device, 0.0
        self.largest = threads  # CPUs of a machine of the cluster
        self.send_data, self.retries = send_data, retries

    def run(self, jobs: Sequence[Job], listen: Callable[[str, Event], None]) -> Iterator[Outcome]:
        """Carry out the jobs; yields the outcome of each run as it comes, and passes events to `listen`.

        On any exception here, a signal for instance, the workers are asked to stop, and ended where they
        have not saved their work after `stopping.PATIENCE` seconds.

        Raises:
            ConfigError: Ray is not installed. ResourceError: there is no such cluster, or none of its
                machines has what a job needs.
        """
        ray = _ray()
        with _connected(ray, self.address):
            has_gpus = ray.cluster_resources().get("GPU", 0) > 0
            self.gpus = self.share if self.use_gpus or (self.use_gpus is None and has_gpus) else 0.0
            self._check_resources(ray, jobs)
            tasks = _Tasks(ray, self, listen)
            try:
                yield from tasks.carry_out(by_run(jobs))
            finally:
                tasks.end()

    def options(self, job: Job) -> dict[str, Any]:
        """What Ray is told of a job: its resources, and the environment of its worker."""
        threads, gpus = job.resources.threads or self.threads, self.gpus if job.resources.device else 0
        # A run that began with more threads than a machine has CPUs goes on with as many, more slowly.
        cpus = min(threads, self.largest) if job.resources.threads else threads
        # Read when libraries load, so a worker is started with them.
        variables = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS"), str(threads))
        variables |= {name: os.environ[name] for name in _FORWARDED if name in os.environ}
        variables |= {} if gpus else {"CUDA_VISIBLE_DEVICES": ""}
        asked = {"num_cpus": cpus, "num_gpus": gpus, "max_retries": 0, "name": job.name}
        asked |= {"memory": self.memory} if self.memory else {}
        return asked | {"runtime_env": {"env_vars": variables}}

    def _check_resources(self, ray: Any, jobs: Sequence[Job]) -> None:
        """Refuse what Ray would wait for without an end."""
        nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
        self.largest = max(int(node.get("CPU", 0)) for node in nodes)
        for job in jobs:
            asked = self.options(job)
            needs = {"CPU": asked["num_cpus"], "GPU": asked["num_gpus"], "memory": asked.get("memory", 0)}
            if not any(all(node.get(name, 0) >= need for name, need in needs.items()) for node in nodes):
                found = "; ".join(_describe({name: node.get(name, 0) for name in needs}) for node in nodes)
                raise ResourceError(
                    f"{job.name}: needs {_describe(needs)} on one machine, found {found}; "
                    "lower --threads or --memory-gib, or give --device cpu"
                )


def _describe(resources: dict[str, float]) -> str:
    gib = resources["memory"] / (1 << 30)
    return f"{resources['CPU']:g} CPUs, {resources['GPU']:g} GPUs and {gib:.3g} GiB"


def _ray() -> Any:
    # Set before Ray is imported: it sends statistics of its use, and would change CUDA_VISIBLE_DEVICES.
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    return cluster_package("ray")


@contextlib.contextmanager
def _connected(ray: Any, address: str | None) -> Iterator[None]:
    """Connect to a cluster, unless the caller has; Ray's own handling of signals is undone."""
    if ray.is_initialized():
        yield
        return
    address = address or os.environ.get("RAY_ADDRESS") or "local"
    own = {"include_dashboard": False} if address == "local" else {}
    before = signal.getsignal(signal.SIGTERM)
    try:
        ray.init(address=address, log_to_driver=False, logging_level=logging.ERROR, **own)
    except (ConnectionError, ValueError, RuntimeError, ray.exceptions.RayError) as error:
        line = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise ResourceError(
            f"address: found no Ray cluster at {address!r} ({line}); start one with ray start --head"
        ) from error
    finally:
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, before)
    try:
        yield
    finally:
        ray.shutdown()


class _Tasks:
    """The jobs of one call: which run, which wait, and how often each run was lost."""

    def __init__(self, ray: Any, executor: Ray, listen: Callable[[str, Event], None]) -> None:
        self.ray, self.executor, self.listen = ray, executor, listen
        node = ray.get_runtime_context().get_node_id()
        strategies = importlib.import_module("ray.util.scheduling_strategies")
        here = strategies.NodeAffinitySchedulingStrategy(node, soft=False)
        options = {"num_cpus": 0, "max_restarts": -1, "scheduling_strategy": here}
        self.coordinator = ray.remote(Coordinator).options(**options).remote()
        self.remote = ray.remote(carry_out_there)
        self.place = Place.here()
        self.busy: dict[Any, str] = {}  # the run of each task
        self.left: dict[str, list[Job]] = {}
        self.due: dict[str, float] = {}  # when a run may go on, in the order in which they do
        self.attempts: dict[str, int] = {}
        self.setbacks = Setbacks(executor.retries, listen)
        self.sent: dict[str, Any] = {}

    def carry_out(self, runs: dict[str, list[Job]]) -> Iterator[Outcome]:
        """The outcome of each run as it comes."""
        self.left = {name: list(jobs) for name, jobs in runs.items()}
        self.due = dict.fromkeys(runs, 0.0)
        while self.left:
            stopping.check()  # Ray loses an error that a signal raises while it waits
            self._submit()
            ready = self.ray.wait(list(self.busy), timeout=0.5)[0] if self.busy else []
            if not self.busy:
                time.sleep(0.1)
            self._pass_events()
            for ref in ready:
                outcome = self._ended(ref, self.busy.pop(ref))
                if outcome is not None:
                    del self.left[outcome.name]
                    self.listen(outcome.name, outcome.event)
                    yield outcome

    def end(self) -> None:
        """Ask workers to stop, wait for what they save, and end those that do not."""
        with contextlib.suppress(self.ray.exceptions.RayError):
            self.ray.get(self.coordinator.close.remote(), timeout=5)
            if self.busy:
                self.ray.wait(list(self.busy), num_returns=len(self.busy), timeout=0.8 * stopping.PATIENCE)
        for ref in self.busy:
            with contextlib.suppress(self.ray.exceptions.RayError):
                self.ray.cancel(ref, force=True)
        self.ray.kill(self.coordinator)

    def _submit(self) -> None:
        """Give Ray the next job of each run that may go on."""
        now = time.monotonic()
        ready = [name for name, when in self.due.items() if when <= now]
        room = (self.executor.workers or self._places() if ready else 0) - len(self.busy)
        for name in ready[: max(0, room)]:
            del self.due[name]
            number = self.attempts[name] = self.attempts.get(name, 0) + 1
            job = self.left[name][0]
            self.ray.get(self.coordinator.assign.remote(name, number))
            with stopping.deferred():  # a task that nobody knows of could not be ended
                task = self.remote.options(**self.executor.options(job))
                ref = task.remote(
                    pickle.dumps([job]), self._data_of(job), self.coordinator, name, number, self.place
                )
                self.busy[ref] = name

    def _places(self) -> int:
        """Jobs that the cluster has CPUs for, and two that wait, so that no worker does.

        More would keep the next stage of a run behind those that have not begun.
        """
        nodes = [node["Resources"].get("CPU", 0) for node in self.ray.nodes() if node["Alive"]]
        return 2 + sum(int(cpus // self.executor.threads) for cpus in nodes)

    def _data_of(self, job: Job) -> list[Any]:
        """References to the shared arguments of a job, where they are sent."""
        shared = [argument for argument in job.arguments if isinstance(argument, Shared)]
        for one in shared if self.executor.send_data else ():
            if one.token not in self.sent:
                self.sent[one.token] = self.ray.put(one.value())
        return [self.sent.get(one.token) for one in shared]

    def _pass_events(self) -> None:
        with contextlib.suppress(self.ray.exceptions.RayError):
            for name, event in self.ray.get(self.coordinator.take.remote(), timeout=10):
                self.setbacks.hear(name, event)

    def _ended(self, ref: Any, name: str) -> Outcome | None:
        """The outcome of a run whose task ended; None where it goes on."""
        errors = self.ray.exceptions
        try:
            outcome: Outcome = self.ray.get(ref)
        except errors.OutOfMemoryError:
            return Outcome(name, f"{name}: its machine ran out of memory; lower the batch size", 5)
        except errors.RayTaskError as error:
            traceback.print_exception(error)
            return Outcome(name, f"{name}: the worker ended with an unexpected error (see above)", 1)
        except errors.RayError as error:
            return self._lost(name, str(error).strip().splitlines()[0])
        if outcome.exit_code == StoppedError.exit_code:  # somebody stopped the worker, not the study
            return self._lost(name, str(outcome.error))
        if self.setbacks.may_ask_again(outcome):
            self.due[name] = time.monotonic() + _AGAIN
            return None
        if outcome.error is None:
            self.left[name].pop(0)
            if self.left[name]:  # before those that have not begun
                self.due = {name: 0.0, **self.due}
                return None
        return outcome

    def _lost(self, name: str, why: str) -> Outcome | None:
        outcome = self.setbacks.lost(name, why)
        if outcome is None:
            self.due = {name: 0.0, **self.due}
        return outcome
