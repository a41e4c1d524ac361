"""Work of one command shared among processes: those of `--devices`, or those that torchrun started."""

import contextlib
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from robustlens import machine, processes
from robustlens.cli import arguments
from robustlens.cli.arguments import ResolvedModel
from robustlens.cli.display import NamedListener
from robustlens.cli.options import NetworkOptions, SubjectOptions
from robustlens.config import EvaluationPlan
from robustlens.errors import ConfigError, ResourceError, error_of
from robustlens.executors import Job, LocalProcesses
from robustlens.progress import Listener
from robustlens.results import EvaluationResult, Run
from robustlens.results.locks import locked

if TYPE_CHECKING:
    from robustlens.evaluation import Shard


@dataclass(frozen=True)
class EvaluationRequest:
    """An evaluation as the command line names it, from which every process makes the same one.

    Attributes:
        model, subject, network, out: arguments of the command. plan: what its options ask for.
    """

    model: str
    subject: SubjectOptions
    network: NetworkOptions
    plan: EvaluationPlan
    out: Path | None

    def resolved(self) -> ResolvedModel:
        """The model with its images."""
        return arguments.resolve_model(self.model, self.subject, self.network, self.out)


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
        network = replace(request.network, devices=None, device="auto" if devices.cuda else "cpu")
        inside = replace(request, network=network)
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


def run_jobs(jobs: Sequence[Job], devices: Devices, listen: NamedListener) -> None:
    """Carry out the jobs at once; the first that fails ends the others, and its error is raised."""
    executor = LocalProcesses(devices.count, devices.cuda)
    with contextlib.closing(executor.run(jobs, listen)) as outcomes:
        for outcome in outcomes:
            if outcome.error is not None:
                raise error_of(outcome.exit_code, outcome.error)
