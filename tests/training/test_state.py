"""Training states: a stopped or killed run goes on bit for bit, and a state of others is refused."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

import robustlens as rl
from helpers.golden import unpack
from helpers.small_models import blobs
from helpers.training_runs import (
    RST,
    assert_same_bits,
    distance,
    recipe,
    stop_in_epoch_two,
    weights_of,
)
from robustlens import stopping
from robustlens.config import BEST, ModelSpec
from robustlens.config.optimizer import TORCH_SCHEDULES
from robustlens.data import from_tensors
from robustlens.errors import ResourceError, StateError, StoppedError
from robustlens.results import Run, array_files
from robustlens.training.monitor import Monitor

pytestmark = pytest.mark.lasts(60)


class Stop(Exception):  # noqa: N818 - stands for a signal
    pass


def stop_half_way(event):
    if event.done > event.total / 2:
        raise Stop


def but_time(run):
    return [replace(epoch, seconds=0.0, cpu_seconds=0.0) for epoch in run.metrics()]


VARIANTS = {
    "at": {"data": {"augment": "crop-flip"}},
    "awp after warm-up": {"awp": {"gamma": 0.01, "warmup_epochs": 1}},
    "ema": {"ema": 0.9},
    "trades in train mode": {"objective": "trades", "attack": {"steps": 2, "model_mode": "train"}},
    "standard": {"objective": "standard"},
    "awp of two rounds": {"awp": {"gamma": 0.01, "steps": 2, "alternations": 2}},
    "awp from the attack": {"awp": {"gamma": 0.01, "from_attack": True}},
    "rwp in micro-batches": {"rwp": {"gamma": 0.01}, "optimizer": {"accumulate": 3}},
    "sam and l1": {"sam": {"rho": 0.05}, "optimizer": {"l1": 1e-4}},
    "free": {"attack": {"replays": 3}},
    "mixup": {"mixup": 1.0},
    "awp and adamw": {
        "awp": {"gamma": 0.01},
        "optimizer": {"name": "adamw", "lr": 1e-3, "weight_decay": 0.01},
    },
    "amsgrad, cosine": {
        "optimizer": {"name": "adam", "lr": 1e-3, "options": {"amsgrad": True}, "schedule": "cosine"}
    },
    "an optimizer of torch": {
        "objective": "standard",
        "optimizer": {"name": "torch.optim:NAdam", "lr": 1e-3, "schedule": "constant"},
    },
    "held to a capacity": {"objective": "standard", "capacity": {"low": 0.5, "high": 2, "every": 3}},
}


SCHEDULES = {
    "ConstantLR": {"factor": 0.5, "total_iters": 1},
    "CosineAnnealingLR": {},
    "CosineAnnealingWarmRestarts": {"T_0": 2},
    "CyclicLR": {"base_lr": 0.001, "step_size_up": 3},
    "ExponentialLR": {"gamma": 0.5},
    "LinearLR": {"total_iters": 2},
    "MultiStepLR": {"milestones": [1, 2]},
    "OneCycleLR": {},
    "PolynomialLR": {"power": 2.0},
    "ReduceLROnPlateau": {"patience": 0, "threshold": 0.9},
    "StepLR": {"step_size": 1},
    f"{__name__}:warmed_up": {"epochs": 1},
}


def warmed_up(optimizer, epochs=2):
    """A schedule of the user's own, of two of torch's."""
    parts = [
        torch.optim.lr_scheduler.LinearLR(optimizer, 0.1, total_iters=epochs),
        torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=2),
    ]
    return torch.optim.lr_scheduler.SequentialLR(optimizer, parts, milestones=[epochs])


def test_every_scheduler_of_torch_has_a_row():
    assert set(TORCH_SCHEDULES) < set(SCHEDULES)


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_every_scheduler_resumes_bit_for_bit_inside_an_epoch_and_after_one(
    schedule, tmp_path, splits, monkeypatch
):
    monkeypatch.setattr("robustlens.training.loop._CHECK_EVERY", 1)
    optimizer = {"schedule": schedule, "schedule_options": SCHEDULES[schedule], "momentum": 0.9}
    asked = recipe(objective="standard", optimizer=optimizer)
    whole = rl.train(asked, tmp_path / "whole", splits=splits)
    parts = Run(tmp_path / "parts")
    for step in (steps_of(splits), 2 * steps_of(splits) - 1):  # at the end of an epoch, and before one
        with stopping.handled(), pytest.raises(StoppedError, match="SIGTERM"):
            rl.train(asked, parts.folder, splits=splits, progress=stop_at(step))
    rl.train(asked, parts.folder, splits=splits)
    assert_same_training(whole, parts)
    rates = [epoch.lr for epoch in whole.metrics()]
    assert len(set(rates)) > 1, "the schedule changes the rate"


def assert_same_training(whole, other, files=("best", "last", "state", "state.previous")):
    """The same weights, states and metrics, but for times."""
    for name in files:
        assert_same_bits(weights_of(whole, name), weights_of(other, name))
    assert but_time(whole) == but_time(other)


@pytest.mark.parametrize("variant", VARIANTS)
def test_a_stopped_run_resumes_bit_for_bit(variant, tmp_path, splits):
    asked = recipe(**VARIANTS[variant])
    whole = rl.train(asked, tmp_path / "whole", splits=splits)
    with pytest.raises(Stop):
        rl.train(asked, tmp_path / "parts", splits=splits, progress=stop_half_way)
    assert Run(tmp_path / "parts").record.epochs_done == 1
    parts = rl.train(asked, tmp_path / "parts", splits=splits)
    assert_same_training(whole, parts, ("best", "last", "state"))


def test_a_stopped_run_with_pseudo_labels_resumes_bit_for_bit(tmp_path, partly_labelled):
    whole = rl.train(recipe(**RST), tmp_path / "whole", splits=partly_labelled)
    with pytest.raises(StoppedError):
        rl.train(recipe(**RST), tmp_path / "parts", splits=partly_labelled, progress=stop_in_epoch_two)
    parts = rl.train(recipe(**RST), tmp_path / "parts", splits=partly_labelled)
    assert_same_bits(weights_of(whole), weights_of(parts))


def test_metrics_after_the_saved_state_are_dropped_on_resume(tmp_path, splits):
    run = rl.train(recipe(optimizer={"epochs": 2}), tmp_path / "a", splits=splits)
    with (run.folder / "metrics.jsonl").open("a") as file:
        file.write(json.dumps({"epoch": 3, "loss": 0.0}) + "\n" + '{"epoch": 4, "lo')  # cut by a kill
    run.update(status="training")
    rl.train(recipe(optimizer={"epochs": 2}), tmp_path / "a", splits=splits)
    assert [epoch.epoch for epoch in run.metrics()] == [1, 2]


class Dropping(torch.nn.Sequential):
    """A network whose layers draw random numbers."""

    def __init__(self, num_classes=3):
        linear = torch.nn.Linear(64, num_classes)
        super().__init__(torch.nn.Flatten(), torch.nn.Dropout(0.5), linear)


def test_layers_that_draw_are_seeded_too_also_after_a_stop(tmp_path, splits):
    dropping = recipe(model={"name": f"{__name__}:Dropping", "options": {}})
    torch.manual_seed(5)
    whole = rl.train(dropping, tmp_path / "a", splits=splits)
    torch.manual_seed(6)
    with pytest.raises(Stop):
        rl.train(dropping, tmp_path / "b", splits=splits, progress=stop_half_way)
    parts = rl.train(dropping, tmp_path / "b", splits=splits)
    assert_same_bits(weights_of(whole), weights_of(parts))


def test_a_resumed_run_refuses_other_images(tmp_path, splits):
    run = rl.train(recipe(optimizer={"epochs": 2}), tmp_path / "a", splits=splits)
    run.update(status="training")
    with pytest.raises(StateError, match="other images"):
        rl.train(
            recipe(optimizer={"epochs": 2}), tmp_path / "a", splits=from_tensors(*blobs(seed=7), *blobs(60))
        )


def damaged(path, how):
    """Damage a file in one of several ways."""
    content = bytearray(path.read_bytes())
    content[-10] ^= 4
    path.write_bytes({"cut": content[:-100], "flipped": content, "emptied": b"", "text": b"\xff" * 99}[how])


@pytest.mark.parametrize("how", ["cut", "flipped", "emptied", "text"])
def test_a_damaged_state_falls_back_to_the_one_before_and_ends_with_the_same_bits(
    how, tmp_path, splits, caplog
):
    asked = recipe(awp={"gamma": 0.01}, ema=0.9)
    whole = rl.train(asked, tmp_path / "whole", splits=splits)
    run = rl.train(asked, tmp_path / "a", splits=splits)
    run.update(status="training")
    damaged(run.folder / "state.safetensors", how)
    again = rl.train(asked, tmp_path / "a", splits=splits)
    assert "state.safetensors: damaged" in caplog.text
    assert "training goes on from state.previous.safetensors" in caplog.text
    assert_same_training(whole, again)
    assert replace(again.record, train_seconds=0) == replace(whole.record, train_seconds=0)


def test_a_kill_between_the_two_renames_of_a_state_loses_nothing_but_its_epoch(tmp_path, splits):
    whole = rl.train(recipe(), tmp_path / "whole", splits=splits)
    run = rl.train(recipe(), tmp_path / "a", splits=splits)
    run.update(status="training")
    (run.folder / "state.safetensors").unlink()
    again = rl.train(recipe(), tmp_path / "a", splits=splits)
    assert_same_bits(weights_of(whole, "state"), weights_of(again, "state"))
    assert but_time(whole) == but_time(again)


@pytest.mark.parametrize("how", ["cut", "flipped"])
def test_two_damaged_states_are_one_line_and_change_nothing(how, tmp_path, splits):
    run = rl.train(recipe(optimizer={"epochs": 2}), tmp_path / "a", splits=splits)
    run.update(status="training")
    for name in ("state", "state.previous"):
        damaged(run.folder / f"{name}.safetensors", how)
    before = {path.name: path.read_bytes() for path in run.folder.iterdir()}
    with pytest.raises(StateError, match=r"state\.safetensors: damaged") as caught:
        rl.train(recipe(optimizer={"epochs": 2}), tmp_path / "a", splits=splits)
    assert "\n" not in str(caught.value)
    assert before == {path.name: path.read_bytes() for path in run.folder.iterdir()}


def at_step(step, act):
    """A listener that does something between two steps of training."""

    def listen(event):
        if event.phase == "train" and event.done == step:
            act()

    return listen


def stop_at(step):
    """A listener that asks the process to stop, as a signal between two steps would."""
    return at_step(step, lambda: os.kill(os.getpid(), signal.SIGTERM))


class Killed(BaseException):
    """What nothing catches: the process is gone."""


def die():
    raise Killed


@pytest.fixture(params=[*VARIANTS, "dropout"])
def asked(request, monkeypatch):
    """A recipe that may be cut off inside an epoch; events come after every step."""
    monkeypatch.setattr("robustlens.training.loop._CHECK_EVERY", 1)
    if request.param == "dropout":
        return recipe().model_copy(update={"model": ModelSpec(name=f"{__name__}:Dropping")})
    return recipe(**VARIANTS[request.param])


def test_a_signal_inside_an_epoch_keeps_its_steps_bit_for_bit(asked, tmp_path, splits):
    whole = rl.train(asked, tmp_path / "whole", splits=splits)
    parts = Run(tmp_path / "parts")
    for step in (2, 8, 9):  # of 5 an epoch: inside the first, inside the second, and again
        with stopping.handled(), pytest.raises(StoppedError, match="SIGTERM"):
            rl.train(asked, parts.folder, splits=splits, progress=stop_at(step))
    header = array_files.read_header(parts.folder / "state.step.safetensors").values
    assert (header["epochs_done"], header["step"]) == (9 // steps_of(splits), 9 % steps_of(splits))
    rl.train(asked, parts.folder, splits=splits)
    assert_same_training(whole, parts)
    names = [{path.name for path in run.folder.iterdir()} for run in (whole, parts)]
    assert names[0] == names[1]


def test_a_damaged_state_inside_an_epoch_falls_back_to_the_one_after_the_last(tmp_path, splits, caplog):
    whole = rl.train(recipe(), tmp_path / "whole", splits=splits)
    parts = Run(tmp_path / "parts")
    with stopping.handled(), pytest.raises(StoppedError):
        rl.train(recipe(), parts.folder, splits=splits, progress=stop_at(steps_of(splits) + 1))
    damaged(parts.folder / "state.step.safetensors", "flipped")
    rl.train(recipe(), parts.folder, splits=splits)
    assert "state.step.safetensors: damaged" in caplog.text
    assert_same_training(whole, parts)


def steps_of(splits):
    return len(splits.train) // 32


def test_a_state_inside_an_epoch_outlives_a_kill_bit_for_bit(asked, tmp_path, splits):
    """It was written some steps before; those are taken again."""
    whole = rl.train(asked, tmp_path / "whole", splits=splits)
    parts = Run(tmp_path / "parts")
    death = at_step(2 * steps_of(splits), die)
    with pytest.raises(Killed):
        rl.train(asked, parts.folder, splits=splits, progress=death, checkpoint_minutes=0)
    header = array_files.read_header(parts.folder / "state.step.safetensors").values
    assert header["epochs_done"] == 1
    assert 1 <= header["step"] < steps_of(splits)
    seen = []
    rl.train(asked, parts.folder, splits=splits, progress=lambda event: seen.append(event))
    first = next(event.done for event in seen if event.phase == "train")
    assert first == steps_of(splits) + header["step"] + 1, "it goes on inside the epoch"
    assert_same_training(whole, parts)
    assert not (parts.folder / "state.step.safetensors").exists()


def test_a_state_that_cannot_be_written_ends_training_in_one_line(tmp_path, splits, monkeypatch):
    write = Run.write_bytes

    def full(run, name, content, **options):
        if name == "state.step.safetensors":
            raise ResourceError("state.step.safetensors: the disk is full")
        write(run, name, content, **options)

    monkeypatch.setattr(Run, "write_bytes", full)
    with pytest.raises(ResourceError, match="the disk is full"):
        rl.train(recipe(), tmp_path / "a", splits=splits, checkpoint_minutes=0)
    assert Run(tmp_path / "a").record.status == "failed"


def test_no_state_is_written_inside_a_short_epoch(tmp_path, splits, monkeypatch):
    names = []
    write = Run.write_bytes
    monkeypatch.setattr(
        Run,
        "write_bytes",
        lambda run, name, *rest, **options: (names.append(name), write(run, name, *rest, **options)),
    )
    rl.train(recipe(), tmp_path / "a", splits=splits)
    assert "state.step.safetensors" not in names


def test_a_signal_after_the_last_step_keeps_the_epoch(tmp_path, splits):
    """While the network is measured: that takes minutes where an epoch takes hours."""
    whole = rl.train(recipe(), tmp_path / "whole", splits=splits)
    parts = Run(tmp_path / "parts")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Monitor, "__call__", lambda monitor, network: os.kill(os.getpid(), signal.SIGTERM))
        with stopping.handled(), pytest.raises(StoppedError):
            rl.train(recipe(), parts.folder, splits=splits)
    header = array_files.read_header(parts.folder / "state.step.safetensors").values
    assert (header["epochs_done"], header["step"]) == (0, steps_of(splits))
    rl.train(recipe(), parts.folder, splits=splits)
    assert_same_training(whole, parts, ("best", "last", "state"))


def test_a_finished_run_is_one_of_the_images_that_are_there_now(tmp_path, splits):
    run = rl.train(recipe(), tmp_path / "a", splits=splits)
    before = {path.name: path.read_bytes() for path in run.folder.iterdir()}
    other = replace(splits, test=replace(splits.test, labels=splits.test.labels.flip(0)))
    with pytest.raises(StateError, match=r"run\.json: belongs to other images") as caught:
        rl.train(recipe(), tmp_path / "a", splits=other)
    assert caught.value.exit_code == 7
    assert before == {path.name: path.read_bytes() for path in run.folder.iterdir()}


def test_a_folder_that_refuses_its_images_stays_as_it_is(tmp_path, splits):
    with pytest.raises(StoppedError):
        rl.train(recipe(), tmp_path / "a", splits=splits, progress=stop_in_epoch_two)
    run = Run(tmp_path / "a")
    run.update(data="")  # as if it had been stopped before it knew
    before = {path.name: path.read_bytes() for path in run.folder.iterdir()}
    other = replace(splits, train=replace(splits.train, labels=splits.train.labels.flip(0)))
    with pytest.raises(StateError, match="other images"):
        rl.train(recipe(), tmp_path / "a", splits=other)
    assert before == {path.name: path.read_bytes() for path in run.folder.iterdir()}


def test_a_state_of_another_recipe_is_refused(tmp_path, splits):
    run = rl.train(recipe(optimizer={"epochs": 2}), tmp_path / "a", splits=splits)
    run.update(status="training")
    (run.folder / "state.previous.safetensors").unlink()
    save_file({"x": torch.zeros(1)}, run.folder / "state.safetensors", {"robustlens": '{"recipe": "other"}'})
    with pytest.raises(StateError, match="belongs to recipe other"):
        rl.train(recipe(optimizer={"epochs": 2}), tmp_path / "a", splits=splits)


def test_a_run_that_began_from_other_weights_is_refused(tmp_path, splits):
    first, second = (
        rl.train(recipe(objective="standard", seed=seed), tmp_path / f"from{seed}", splits=splits)
        for seed in (0, 1)
    )
    beginning = tmp_path / "beginning.safetensors"
    shutil.copy(first.weights_path(BEST), beginning)
    start = recipe(init={"model": str(beginning)}, optimizer={"epochs": 2})
    with pytest.raises(StoppedError):
        rl.train(start, tmp_path / "run", splits=splits, progress=stop_in_epoch_two)
    shutil.copy(second.weights_path(BEST), beginning)
    with pytest.raises(StateError, match="began from other weights"):
        rl.train(start, tmp_path / "run", splits=splits)


@pytest.mark.slow
def test_a_killed_process_loses_at_most_its_epoch(tmp_path, splits):
    """A real SIGKILL in the middle, then another process: the bits are those of an undisturbed run."""
    program = (
        "import sys; sys.path.insert(0, sys.argv[1]); import torch; torch.set_num_threads(1)\n"
        "import robustlens as rl\n"
        "from helpers import small_models, training_runs\n"
        "arrays = small_models.blobs(), small_models.blobs(60, seed=1)\n"
        "splits = rl.data.from_tensors(*arrays[0], *arrays[1])\n"
        "rl.train(training_runs.recipe(optimizer={'epochs': 6}), sys.argv[2], splits=splits)\n"
    )
    tests = str(Path(__file__).resolve().parents[1])
    process = subprocess.Popen([sys.executable, "-c", program, tests, str(tmp_path / "killed")])
    deadline = time.monotonic() + 60
    run = Run(tmp_path / "killed")
    while run.record.epochs_done < 2 and time.monotonic() < deadline:
        time.sleep(0.005)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert 2 <= run.record.epochs_done <= 6
    whole = Run(tmp_path / "whole")
    for each in (run, whole):
        rl.train(recipe(optimizer={"epochs": 6}), each.folder, splits=splits)
    assert_same_bits(weights_of(run), weights_of(whole))
    assert len(run.metrics()) == 6


def test_a_training_of_format_1_goes_on_where_it_stopped(tmp_path):
    """Bit for bit with one thread on the machine that made the folders; others round otherwise."""
    golden = unpack("format-1", tmp_path)
    stopped, whole = Run(golden / "training"), Run(golden / "whole")
    before = stopped.metrics()
    assert stopped.record.epochs_done == 2
    resumed = rl.train(stopped.recipe, stopped.folder)
    assert resumed.record.status == "trained"
    assert resumed.metrics()[:2] == before
    again = rl.train(whole.recipe, tmp_path / "again")
    assert again.recipe.hash() == whole.record.recipe_hash
    for run in (resumed, again):
        for name in ("best", "last", "state"):
            assert distance(weights_of(run, name), weights_of(whole, name)) < 1e-5
        assert [epoch.validation.clean for epoch in run.metrics()] == [
            epoch.validation.clean for epoch in whole.metrics()
        ]
