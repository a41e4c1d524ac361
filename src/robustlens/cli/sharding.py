"""Work of one command shared among processes: those of `--devices`, or those that torchrun started."""

import contextlib
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from robustlens import machine, processes
from robustlens.cli import arguments
from robustlens.cli.arguments import ResolvedModel
from robustlens.cli.display import NamedListener
from robustlens.cli.options import NetworkOptions, SubjectOptions
from robustlens.config import EvaluationPlan, ExplanationPlan
from robustlens.errors import ConfigError, ResourceError, error_of
from robustlens.executors import Job, LocalProcesses
from robustlens.progress import Listener
from robustlens.results import EvaluationResult, Measurement, Run
from robustlens.results.locks import locked

if TYPE_CHECKING:
    from robustlens.evaluation import Shard
    from robustlens.explain import Part


@dataclass(frozen=True)
class Request:
    """Model and images as the command line names them, from which every process makes the same ones.

    Attributes:
        model, subject, network, out: arguments of the command.
    """

    model: str
    subject: SubjectOptions
    network: NetworkOptions
    out: Path | None

    def resolved(self) -> ResolvedModel:
        """The model with its images."""
        return arguments.resolve_model(self.model, self.subject, self.network, self.out)


@dataclass(frozen=True)
class EvaluationRequest(Request):
    """An evaluation of them: `plan` is what the options ask for."""

    plan: EvaluationPlan


@dataclass(frozen=True)
class ExplanationRequest(Request):
    """An explanation of them: `plan` is what the options ask for."""

    plan: ExplanationPlan


@dataclass(frozen=True)
class Devices:
    """Places for processes of one command.

    Attributes:
        count: of processes. cuda: their CUDA devices as `CUDA_VISIBLE_DEVICES` calls them; empty on the CPU.
    """

    count: int
    cuda: tuple[str, ...] = ()

    @classmethod
    def parse(cls, text: str, device: str = "auto") -> "Devices":
        """Devices of `--devices`: a number of those that `--device` allows, or names with commas.

        Raises:
            ConfigError: neither. ResourceError: there are fewer CUDA devices.
        """
        if text.isdecimal() and int(text):
            on = machine.devices(device)
            if on and int(text) > len(on):
                raise ResourceError(
                    f"--devices: found {text}, but there are {len(on)} CUDA devices; add --device cpu"
                )
            return cls(int(text), on[: int(text)])
        names = [name.strip() for name in text.split(",")]
        if text.isdecimal() or not all(name == "cpu" or name.startswith("cuda:") for name in names):
            raise ConfigError(f"--devices: found {text!r}, expected a number, or names as cuda:0,cuda:1")
        cuda = tuple(one for name in names for one in machine.devices(name))
        if cuda and len(cuda) < len(names):
            raise ConfigError(f"--devices: found {text!r}, expected CUDA devices alone, or the CPU alone")
        return cls(len(names), cuda)


def on_own_device(network: NetworkOptions) -> NetworkOptions:
    """The options of this process: its own CUDA device under torchrun, the first one of a list."""
    if processes.count() > 1 and machine.device(network.device).type == "cuda":
        return replace(network, device=f"cuda:{processes.local_rank()}")
    if network.devices is not None:
        Devices.parse(network.devices, network.device)  # refused before anything is loaded
        if not network.devices.isdecimal():
            return replace(network, device=network.devices.split(",")[0].strip())
    return network


def evaluate(
    request: EvaluationRequest, chosen: ResolvedModel, listen: NamedListener
) -> EvaluationResult | None:
    """Evaluate in this process, or let several attack the images and put together what they recorded.

    Returns:
        The result; None in all processes but the first of those that torchrun started.
    """
    several = request.network.devices is not None or processes.count() > 1
    with contextlib.ExitStack() as stack:
        folder = request.out if chosen.run is None else chosen.run.folder
        if several:
            stack.enter_context(processes.connected())
            folder = folder or _shared_folder(stack)
            if not processes.told_by_first(lambda: _is_there(request, chosen, folder)):
                work = request if chosen.run is not None else replace(request, out=folder)
                _attack(work, chosen, folder, listen)
        if processes.is_first():
            return _result(request, chosen, folder, partial(listen, "evaluate"))
    return None


def _result(
    request: EvaluationRequest, chosen: ResolvedModel, folder: Path | None, progress: Listener
) -> EvaluationResult:
    """The evaluation in one process, of what is not in `folder` yet."""
    from robustlens.evaluation import evaluate_model, evaluate_run, evaluate_splits

    if chosen.run is not None:
        return evaluate_run(chosen.run, request.plan, **chosen.run_options, progress=progress)
    if folder is not None:
        return evaluate_model(chosen.network(), chosen.splits, request.plan, folder, progress=progress)
    return evaluate_splits(chosen.network(), chosen.splits, request.plan, progress=progress)[0]


def _is_there(request: EvaluationRequest, chosen: ResolvedModel, folder: Path) -> bool:
    """Whether nothing is left to attack."""
    if chosen.run is not None:
        return chosen.run.is_current("evaluation", request.plan)
    return Run(folder).evaluation() is not None


def _shared_folder(stack: contextlib.ExitStack) -> Path:
    """A folder for progress that all processes of this machine see, removed at the end."""

    def make() -> str:
        return stack.enter_context(tempfile.TemporaryDirectory(prefix="robustlens-"))

    return Path(processes.told_by_first(make))


def _attack(request: EvaluationRequest, chosen: ResolvedModel, folder: Path, listen: NamedListener) -> None:
    """Attack all images, in shards, while the first process holds the folder."""
    from robustlens.evaluation import Shard, shards_at_most

    with contextlib.ExitStack() as stack:
        processes.told_by_first(lambda: stack.enter_context(locked(folder)))
        if processes.count() > 1:
            shard = Shard(processes.rank(), processes.count())
            processes.all_finish(lambda: _attack_shard(partial(listen, "evaluate"), request, shard, chosen))
            return
        assert request.network.devices is not None
        devices = Devices.parse(request.network.devices, request.network.device)
        number = min(devices.count, shards_at_most(chosen.splits, request.plan))
        shards = [Shard(place, number) for place in range(number)] if number > 1 else []
        inside = replace(request, network=_inside(request.network, devices))
        run_jobs([Job(f"evaluate {one}", _attack_shard, (inside, one)) for one in shards], devices, listen)


def _attack_shard(
    listen: Listener, request: EvaluationRequest, shard: "Shard", chosen: ResolvedModel | None = None
) -> None:
    """The work of one process."""
    from robustlens.evaluation import attack_run, attack_splits

    chosen = chosen or request.resolved()
    if chosen.run is not None:
        attack_run(chosen.run, request.plan, shard, **chosen.run_options, progress=listen)
        return
    assert request.out is not None
    state = Run(request.out).state_folder()
    attack_splits(chosen.network(), chosen.splits, request.plan, state, shard, progress=listen)


def explain(
    request: ExplanationRequest, chosen: ResolvedModel, listen: NamedListener
) -> Mapping[str, Measurement]:
    """Explain in this process, or let several measure a part each and put together what they measured.

    Raises:
        ConfigError: torchrun started several processes.
    """
    if processes.count() > 1:
        raise ConfigError(
            f"explain: found {processes.count()} processes of torchrun, expected one; give --devices instead"
        )
    with contextlib.ExitStack() as stack:
        folder = request.out if chosen.run is None else chosen.run.folder
        if request.network.devices is not None:
            folder = folder or _shared_folder(stack)
            _measure(request if chosen.run is not None else replace(request, out=folder), chosen, listen)
        return _explanation(request, chosen, folder, partial(listen, "explain"))


def _explanation(
    request: ExplanationRequest, chosen: ResolvedModel, folder: Path | None, progress: Listener
) -> Mapping[str, Measurement]:
    """The explanation in one process, of what is not in `folder` yet."""
    from robustlens import explain as room

    if chosen.run is not None:
        return room.explain_run(chosen.run, request.plan, **chosen.run_options, progress=progress).measures
    if folder is not None:
        network = chosen.network()
        return room.explain_model(network, chosen.splits, request.plan, folder, progress=progress).measures
    return room.explain(chosen.network(), chosen.splits, request.plan, progress=progress)


def _measure(request: ExplanationRequest, chosen: ResolvedModel, listen: NamedListener) -> None:
    """Measure what is left, a job for each part, while this process holds the folder.

    Each process has the threads of this one: another number of them may round otherwise.
    """
    import torch

    from robustlens.explain import parts_of_model, parts_of_run

    assert request.network.devices is not None
    devices = Devices.parse(request.network.devices, request.network.device)
    folder = request.out if chosen.run is None else chosen.run.folder
    assert folder is not None
    with locked(folder):
        if chosen.run is not None:
            parts = parts_of_run(chosen.run, request.plan)
        else:
            parts = parts_of_model(chosen.network(), chosen.splits, request.plan, folder)
        if min(len(parts), devices.count) > 1:
            inside = replace(request, network=_inside(request.network, devices))
            jobs = [Job(f"explain {part}", _measure_part, (inside, part)) for part in parts]
            run_jobs(jobs, devices, listen, threads=torch.get_num_threads())


def _measure_part(listen: Listener, request: ExplanationRequest, part: "Part") -> None:
    """The work of one process."""
    from robustlens.explain import measure_part_of_model, measure_part_of_run

    chosen = request.resolved()
    if chosen.run is not None:
        measure_part_of_run(chosen.run, request.plan, part, **chosen.run_options, progress=listen)
        return
    assert request.out is not None
    network = chosen.network()
    measure_part_of_model(network, chosen.splits, request.plan, request.out, part, progress=listen)


def _inside(network: NetworkOptions, devices: Devices) -> NetworkOptions:
    """The options of a process that sees its own device alone."""
    return replace(network, devices=None, device="auto" if devices.cuda else "cpu")


def run_jobs(
    jobs: Sequence[Job], devices: Devices, listen: NamedListener, threads: int | None = None
) -> None:
    """Carry out the jobs; the first that fails ends the others, and its error is raised.

    Args:
        jobs: as many at once as there are devices.
        devices: of the processes.
        listen: hears (job, event).
        threads: of each process; None shares the cores.
    """
    executor = LocalProcesses(devices.count, devices.cuda, threads=threads)
    with contextlib.closing(executor.run(jobs, listen)) as outcomes:
        for outcome in outcomes:
            if outcome.error is not None:
                raise error_of(outcome.exit_code, outcome.error)
