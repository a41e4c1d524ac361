"""Where the runs of a study are carried out, from the options of the command line."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated

import typer

from robustlens import machine
from robustlens.errors import ConfigError
from robustlens.executors import Executor, LocalProcesses

EXECUTORS = ("local", "ray")


@dataclass(frozen=True)
class ExecutorOptions:
    """Machines, and what each run gets of them."""

    executor: Annotated[
        str, typer.Option(help="local: processes on this machine. ray: tasks on a cluster (docs/scale.md).")
    ] = "local"
    workers: Annotated[
        int | None,
        typer.Option(min=1, max=4096, help="Runs at a time. Default: one per core, or what a cluster holds."),
    ] = None
    runs_per_device: Annotated[
        int, typer.Option(min=1, help="Runs that share a CUDA device. Without one, see --workers.")
    ] = 1
    address: Annotated[
        str | None, typer.Option(help="Of a Ray cluster; auto for the one that this machine is in.")
    ] = None
    memory_gib: Annotated[
        float, typer.Option(min=0, help="Memory that a cluster has to have free for a run.")
    ] = 0.0
    send_data: Annotated[
        bool, typer.Option("--send-data", help="Ray: send images to machines that cannot read them.")
    ] = False


def of(options: ExecutorOptions, device: str) -> Executor:
    """The executor that the options ask for, on devices of this name.

    Raises:
        ConfigError: no such executor, or an option that it does not have.
        ResourceError: torch sees no such device here.
    """
    if options.executor not in EXECUTORS:
        raise ConfigError(f"--executor: found {options.executor!r}, expected one of {', '.join(EXECUTORS)}")
    asked = {
        "--address": options.address is not None,
        "--memory-gib": options.memory_gib > 0,
        "--send-data": options.send_data,
    }
    has = {"local": (), "ray": ("--address", "--memory-gib", "--send-data")}[options.executor]
    _refuse_others(asked, has, options.executor)
    if options.executor == "ray":
        from robustlens.executors.ray import Ray

        kinds = {"auto": None, "cpu": False, "cuda": True}
        if device not in kinds:
            raise ConfigError(f"--device: found {device!r}, expected {', '.join(kinds)} on a cluster")
        return Ray(
            options.address,
            workers=options.workers,
            use_gpus=kinds[device],
            runs_per_device=options.runs_per_device,
            memory=int(options.memory_gib * (1 << 30)),
            send_data=options.send_data,
        )
    return LocalProcesses(options.workers, machine.devices(device), options.runs_per_device)


def _refuse_others(asked: dict[str, bool], has: Sequence[str], executor: str) -> None:
    for option, given in asked.items():
        if given and option not in has:
            raise ConfigError(f"{option}: found it beside --executor {executor}, which has no such option")
