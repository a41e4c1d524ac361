"""Where the runs of a study are carried out, from the options of the command line."""

import math
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from robustlens.errors import ConfigError

if TYPE_CHECKING:
    from robustlens.executors import Executor

EXECUTORS = {
    "local": ("--runs-per-device",),
    "ray": ("--runs-per-device", "--address", "--memory-gib", "--send-data"),
    "slurm": ("--memory-gib", "--slurm"),
}
"""Executors, and the options that not every one of them has."""


@dataclass(frozen=True)
class ExecutorOptions:
    """Machines, and what each run gets of them."""

    executor: Annotated[
        str, typer.Option(help="local: processes on this machine. ray, slurm: a cluster (docs/scale.md).")
    ] = "local"
    workers: Annotated[
        int | None,
        typer.Option(min=1, max=4096, help="Runs at a time. Default: one per core, or what a cluster holds."),
    ] = None
    threads: Annotated[
        int | None,
        typer.Option(min=1, help="Of each run on CPUs. Default: cores shared among runs; 1 on a cluster."),
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
    slurm: Annotated[
        list[str] | None,
        typer.Option(help="A parameter of submitit: partition=gpu, timeout_min=600 ... Repeatable."),
    ] = None
    send_data: Annotated[
        bool, typer.Option("--send-data", help="Ray: send images to machines that cannot read them.")
    ] = False


def of(options: ExecutorOptions, device: str, folder: Path) -> "Executor":
    """The executor that the options ask for.

    Args:
        options: of the command line.
        device: its --device.
        folder: of the study.

    Raises:
        ConfigError: no such executor, or an option that it does not have.
        ResourceError: torch sees no such device here.
    """
    from robustlens import machine
    from robustlens.executors import LocalProcesses

    if options.executor not in EXECUTORS:
        raise ConfigError(f"--executor: found {options.executor!r}, expected one of {', '.join(EXECUTORS)}")
    _refuse_others(options)
    if options.executor == "local":
        devices = machine.devices(device)
        return LocalProcesses(options.workers, devices, options.runs_per_device, options.threads)
    kinds = {"auto": None, "cpu": False, "cuda": True}
    if device not in kinds:
        raise ConfigError(f"--device: found {device!r}, expected {', '.join(kinds)} on a cluster")
    return (_ray if options.executor == "ray" else _slurm)(options, kinds[device], folder)


def _ray(options: ExecutorOptions, use_gpus: bool | None, folder: Path) -> "Executor":
    from robustlens.executors.ray import Ray

    return Ray(
        options.address,
        workers=options.workers,
        threads=options.threads or 1,
        use_gpus=use_gpus,
        runs_per_device=options.runs_per_device,
        memory=_bytes(options),
        send_data=options.send_data,
    )


def _slurm(options: ExecutorOptions, use_gpus: bool | None, folder: Path) -> "Executor":
    from robustlens.executors.slurm import Slurm

    named = folder.resolve()  # "." has no name
    return Slurm(
        named.parent / f"{named.name}.slurm",
        workers=options.workers,
        threads=options.threads or 1,
        gpus=1 if use_gpus else 0,
        memory=_bytes(options),
        parameters=dict(_slurm_parameter(item) for item in options.slurm or []),
    )


def _slurm_parameter(item: str) -> tuple[str, Any]:
    """Name and value of a NAME=VALUE: whole numbers, truth values, lists and mappings; all else is its text.

    Slurm has names and times that are written as numbers: 0123, 1.10.
    """
    from robustlens.cli.arguments import pair

    name, value = pair("--slurm", item, "NAME=VALUE, e.g. partition=gpu")
    text = item.partition("=")[2]
    is_meant = isinstance(value, bool | str | list | dict) or (isinstance(value, int) and str(value) == text)
    return name, value if is_meant else text


def _bytes(options: ExecutorOptions) -> int:
    if not math.isfinite(options.memory_gib):
        raise ConfigError(f"--memory-gib: found {options.memory_gib}, expected a number of GiB, e.g. 16")
    return int(options.memory_gib * (1 << 30))


def _refuse_others(options: ExecutorOptions) -> None:
    """Refuse an option that the executor does not have."""
    for field in fields(ExecutorOptions):
        option = "--" + field.name.replace("_", "-")
        asked, known = getattr(options, field.name) != field.default, EXECUTORS[options.executor]
        if asked and option not in known and any(option in others for others in EXECUTORS.values()):
            has = ", ".join(name for name, others in EXECUTORS.items() if option in others)
            raise ConfigError(f"{option}: found it with --executor {options.executor}, expected {has}")
