"""An explanation in parts: the numbers of one process, whoever measures what, and wherever one stops."""

import json
import re
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

import robustlens as rl
from robustlens import cli
from robustlens.cli import sharding
from robustlens.config import BEST, LAST, Checkpoint, ExplanationPlan, Recipe
from robustlens.data import Splits, from_tensors
from robustlens.errors import ConfigError, LockedError, StateError
from robustlens.explain import (
    MEASURES,
    Measurement,
    Part,
    Subject,
    explain_model,
    explain_run,
    measure_part_of_model,
    measure_part_of_run,
    parts_of_model,
    parts_of_run,
)
from robustlens.progress import Event, silent
from robustlens.results import Run
from robustlens.results.locks import locked

OPTIONS: dict[str, Any] = {"width": 4, "hidden": 8}
DESCRIPTION = {"name": "small-cnn", "options": OPTIONS, "num_classes": 3, "in_channels": 1}
RECIPE = Recipe.model_validate(
    {
        "model": {"name": "small-cnn", "options": OPTIONS},
        "objective": "standard",
        "data": {"name": "arrays", "augment": "none"},
    }
)
QUICK = ("margins", "smoothness", "activations")


def network(seed: int) -> torch.nn.Module:
    torch.manual_seed(seed)
    return rl.models.get("small-cnn", num_classes=3, in_channels=1, **OPTIONS).eval()


@pytest.fixture(scope="module")
def splits() -> Splits:
    generator = torch.Generator().manual_seed(0)
    train, test = ((torch.rand(n, 1, 8, 8, generator=generator) * 255).byte() for n in (48, 24))
    return from_tensors(train, torch.arange(48) % 3, test, torch.arange(24) % 3, name="arrays")


def made_run(folder: Path, splits: Splits) -> Run:
    run = Run(folder)
    run.bind(RECIPE)
    for seed, checkpoint in enumerate((BEST, LAST)):
        run.write_weights(checkpoint, rl.models.to_bytes(network(seed), DESCRIPTION, RECIPE.hash()))
    run.update(status="trained", data=splits.fingerprint, model=DESCRIPTION, epochs_done=3, best_epoch=1)
    return run


def plan(*measures: str, **more: object) -> ExplanationPlan:
    values = {"measures": measures or QUICK, "examples": 20, "threat": {"norm": "Linf", "eps": 0.03}}
    return ExplanationPlan.model_validate({**values, **more})


def not_again(event: Event) -> None:
    raise AssertionError(f"measured again: {event}")


def assert_same_files(one: Path, other: Path) -> None:
    """Arrays byte for byte, and documents without their times and the seal over them."""
    names = sorted(path.name for path in one.glob("explanation*"))
    assert names
    assert names == sorted(path.name for path in other.glob("explanation*"))
    for name in names:
        contents = [(folder / name).read_bytes() for folder in (one, other)]
        if name.endswith(".json"):
            contents = [re.sub(rb'"seconds": ?[0-9.e-]+', b'"seconds": 0', content) for content in contents]
            documents = [json.loads(content) for content in contents]
            assert [document.pop("seal") != "" for document in documents] == [True, True]
            contents = [json.dumps(document).encode() for document in documents]
        assert contents[0] == contents[1], name


def test_parts_put_together_are_the_explanation_in_one_process(tmp_path: Path, splits: Splits) -> None:
    asked = plan(checkpoint="both")
    alone, together = (made_run(tmp_path / name, splits) for name in ("alone", "together"))
    explain_run(alone, asked, splits=splits)
    parts = parts_of_run(together, asked)
    assert len(parts) == 6
    for part in reversed(parts):
        measure_part_of_run(together, asked, part, splits=splits)
    assert together.explanation() is None
    assert parts_of_run(together, asked) == []
    result = explain_run(together, asked, splits=splits, progress=not_again)
    assert list(result.measures) == list(QUICK)
    assert all(measurement.seconds > 0 for measurement in result.measures.values())
    assert_same_files(alone.folder, together.folder)
    assert not list(together.folder.glob("explanation.state*"))


def test_parts_of_any_network_put_together(tmp_path: Path, splits: Splits) -> None:
    alone, together = tmp_path / "alone", tmp_path / "together"
    explain_model(network(0), splits, plan(), alone)
    for part in parts_of_model(network(0), splits, plan(), together):
        measure_part_of_model(network(0), splits, plan(), together, part)
    explain_model(network(0), splits, plan(), together, progress=not_again)
    assert_same_files(alone, together)


def test_a_stopped_explanation_goes_on_in_parts_and_parts_in_one_process(
    tmp_path: Path, splits: Splits
) -> None:
    alone, run = (made_run(tmp_path / name, splits) for name in ("alone", "run"))
    explain_run(alone, plan(), splits=splits)
    explain_run(run, plan(), splits=splits, without=("smoothness", "activations"))
    assert parts_of_run(run, plan()) == [Part("smoothness"), Part("activations")]
    measure_part_of_run(run, plan(), Part("activations"), splits=splits)
    assert parts_of_run(run, plan()) == [Part("smoothness")]
    heard = list[str]()
    explain_run(run, plan(), splits=splits, progress=lambda event: heard.append(event.note))
    assert {"smoothness"} <= set(heard)
    assert not {"margins", "activations"} & set(heard)
    assert_same_files(alone.folder, run.folder)


@pytest.mark.parametrize("change", ["threat", "options", "weights"])
def test_parts_of_something_else_are_not_taken_in(change: str, tmp_path: Path, splits: Splits) -> None:
    run, asked = made_run(tmp_path, splits), plan()
    measure_part_of_run(run, asked, Part("smoothness"), splits=splits)
    before = parts_of_run(run, asked)
    if change == "threat":
        asked = plan(threat={"norm": "Linf", "eps": 0.04})
    elif change == "options":
        asked = plan(options={"smoothness": {"steps": 1}})
    else:
        run.write_weights(BEST, rl.models.to_bytes(network(9), DESCRIPTION, RECIPE.hash()))
    assert Part("smoothness") not in before
    assert Part("smoothness") in parts_of_run(run, asked)


def test_a_damaged_part_is_refused_and_one_cut_short_is_measured_again(
    tmp_path: Path, splits: Splits
) -> None:
    run = made_run(tmp_path, splits)
    measure_part_of_run(run, plan(), Part("margins"), splits=splits)
    folder = run.state_folder(None, "explanation") / "margins"
    document, arrays = (folder / f"explanation.{kind}" for kind in ("json", "safetensors"))
    content = arrays.read_bytes()
    arrays.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    with pytest.raises(StateError, match=r"margins/explanation\.safetensors: damaged"):
        parts_of_run(run, plan())
    document.unlink()  # it is written last
    assert Part("margins") in parts_of_run(run, plan())


def test_the_longest_part_begins_first(
    tmp_path: Path, splits: Splits, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("package.own:measure", "package.own:another"):
        monkeypatch.setitem(MEASURES, name, MEASURES["margins"])
    asked = plan(*MEASURES, checkpoint="both")
    parts = [str(part) for part in parts_of_run(made_run(tmp_path, splits), asked)]
    assert len(parts) == 2 * len(MEASURES)
    assert parts[4:8] == ["last landscape", "landscape", "last curvature", "curvature"]
    assert {name.split(":")[-1] for name in parts[:4]} == {"measure", "another"}
    assert parts[-2:] == ["last activations", "activations"]


def test_a_measure_of_ones_own_has_a_part_too(
    tmp_path: Path, splits: Splits, monkeypatch: pytest.MonkeyPatch
) -> None:
    def own(subject: Subject) -> Measurement:
        return Measurement({"n": len(subject.test)}, "1", "what", "source")

    monkeypatch.setitem(MEASURES, "package.own:measure", own)
    asked = plan("package.own:measure", "margins")
    measure_part_of_model(network(0), splits, asked, tmp_path, Part("package.own:measure"))
    assert parts_of_model(network(0), splits, asked, tmp_path) == [Part("margins")]
    assert all(":" not in path.name for path in tmp_path.rglob("*"))


def test_what_cannot_be_measured_is_refused_before_anything_is(tmp_path: Path, splits: Splits) -> None:
    run = made_run(tmp_path / "run", splits)
    with pytest.raises(ConfigError, match="'margin'"):
        parts_of_run(run, plan("activations", "margin"))
    with pytest.raises(ConfigError, match=r"options\.smoothness\.steps: found -1"):
        parts_of_model(network(0), splits, plan(options={"smoothness": {"steps": -1}}), tmp_path)
    other = replace(splits, test=replace(splits.test, labels=splits.test.labels.flip(0)))
    with pytest.raises(StateError, match="belongs to other images"):
        measure_part_of_run(run, plan(), Part("margins"), splits=other)
    explain_model(network(0), splits, plan("margins"), tmp_path)
    with pytest.raises(StateError, match="belongs to another model"):
        parts_of_model(network(1), splits, plan("margins"), tmp_path)


def test_other_checkpoints_have_folders_of_their_own(tmp_path: Path) -> None:
    run, epoch = Run(tmp_path), Checkpoint("epoch", 4)
    folders = [run.state_folder(other, "explanation").name for other in (None, LAST, epoch)]
    assert folders == ["explanation.state", "explanation.state-last", "explanation.state-epoch-0004"]
    assert run.state_folder().name == "evaluation.state"


# -- the command -------------------------------------------------------------------------------------------

FACTORY = """
import torch
from torch import nn

def make():
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(2704, 10))
"""
COMMAND = [
    "explain",
    "made_for_parts:make",
    "--data",
    "fashion-mnist-10k",
    "--eps",
    "0.02",
    "--examples",
    "32",
]
COMMAND += ["--measures", ",".join(QUICK), "--device", "cpu", "--quiet"]


@pytest.fixture
def named_network(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The network that the command names, for this test alone."""
    (tmp_path / "made_for_parts.py").write_text(FACTORY)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setitem(sys.modules, "made_for_parts", None)
    monkeypatch.delitem(sys.modules, "made_for_parts")


@pytest.fixture
def jobs(named_network: None, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Jobs of the command, which are carried out here, one after the other, from the last one on."""
    names = list[str]()

    def run_jobs(jobs, devices, listen, threads=None):
        assert (devices.cuda, threads) == ((), torch.get_num_threads())
        names.extend(job.name for job in jobs)
        out = jobs[0].arguments[0].out
        with pytest.raises(LockedError), locked(out):
            pass
        for job in reversed(jobs):
            job.work(silent, *job.arguments)

    monkeypatch.setattr(sharding, "run_jobs", run_jobs)
    return names


def test_devices_share_the_measures_and_go_on_with_what_is_left(
    tmp_path: Path, jobs: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    alone, together = (str(tmp_path / name) for name in ("alone", "together"))
    assert cli.run([*COMMAND, "--out", alone]) == 0
    assert jobs == []
    said = capsys.readouterr().out
    assert cli.run([*COMMAND, "--out", together, "--devices", "cpu,cpu"]) == 0
    assert jobs == ["explain smoothness", "explain margins", "explain activations"]
    assert capsys.readouterr().out.replace(together, alone) == said
    assert_same_files(tmp_path / "alone", tmp_path / "together")
    assert cli.run([*COMMAND, "--out", together, "--devices", "3"]) == 0
    assert len(jobs) == 3  # nothing is left
    assert capsys.readouterr().out.replace(together, alone) == said
    assert cli.run([*COMMAND, "--devices", "2"]) == 0  # no folder is kept
    assert len(jobs) == 6
    assert capsys.readouterr().out == said.partition("report: ")[0]


def test_one_device_and_wrong_devices(
    tmp_path: Path, jobs: list[str], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert cli.run([*COMMAND, "--out", str(tmp_path / "out"), "--devices", "1"]) == 0
    assert jobs == []
    assert cli.run([*COMMAND, "--devices", "some"]) == 2
    assert "--devices: found 'some'" in capsys.readouterr().err
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert cli.run([*COMMAND, "--devices", "2"]) == 2
    assert "explain: found 2 processes of torchrun" in capsys.readouterr().err


@pytest.mark.slow
def test_two_processes_killed_and_gone_on_with_by_three_give_the_files_of_one(
    named_network: None, tmp_path: Path
) -> None:
    command = [sys.executable, "-m", "robustlens", *COMMAND, "--out"]
    where = {"cwd": tmp_path, "stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    folder = tmp_path / "together"
    process = subprocess.Popen([*command, str(folder), "--devices", "2"], **where)  # type: ignore[call-overload]
    while process.poll() is None and not list(folder.glob("explanation.state/*/explanation.json")):
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    assert not (folder / "explanation.json").exists()
    # What is killed needs a process of its own, what goes on does not.
    for more in ([str(folder), "--devices", "3"], [str(tmp_path / "alone")]):
        assert cli.run([*COMMAND, "--out", *more]) == 0
    assert not (folder / "explanation.state").exists()
    assert_same_files(tmp_path / "alone", folder)
