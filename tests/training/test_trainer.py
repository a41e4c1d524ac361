"""Training runs: what they learn and leave behind, and errors that keep the last good epoch."""

import itertools
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import load_file
from torch.nn.utils.parametrizations import spectral_norm

import robustlens as rl
from helpers.small_models import blobs
from helpers.training_runs import assert_same_bits, recipe, weights_of
from robustlens.data import from_tensors
from robustlens.errors import ConfigError, LockedError, ModelError, NumericsError, StateError, StoppedError
from robustlens.results import MonitorRecord, Run
from robustlens.results.locks import locked
from robustlens.training import monitor, stopwatch
from robustlens.training.monitor import accuracy


def test_the_best_epoch_of_standard_training_is_the_most_accurate(tmp_path, splits, monkeypatch):
    """Under attack a standard network is best in one of its first epochs, when it has learned little."""
    accuracies = iter([(0.5, 0.4), (0.5, 0.4), (0.7, 0.2), (0.7, 0.2), (0.9, 0.1), (0.9, 0.1)])

    def measured(*arguments):
        clean, robust = next(accuracies)
        return MonitorRecord(10, clean, robust, 1.0, 1.0, "at w")

    monkeypatch.setattr(monitor, "accuracy", measured)
    asked = recipe(objective="standard", optimizer={"epochs": 3, "lr": 0.1})
    run = rl.train(asked, tmp_path / "run", splits=splits)
    assert [epoch.best for epoch in run.metrics()] == [True, True, True]


def test_a_network_learns_and_its_folder_says_how(tmp_path, splits):
    run = rl.train(recipe(optimizer={"epochs": 8, "lr": 0.2}), tmp_path / "run", splits=splits)
    epochs = run.metrics()
    assert [epoch.epoch for epoch in epochs] == list(range(1, 9))
    first, last = epochs[0], epochs[-1]
    assert last.loss < first.loss
    for before, after in ((first.train, last.train), (first.validation, last.validation)):
        assert after.clean >= after.robust > 0.5
        assert "at w" in after.measured
        assert after.loss < before.loss
    assert run.record.status == "trained"
    assert run.record.epochs_done == 8
    best = max(epochs, key=lambda epoch: (epoch.validation.robust, epoch.validation.clean))
    assert [epoch.epoch for epoch in epochs if epoch.best][-1] == best.epoch
    model = rl.models.load(str(run.folder), checkpoint="best")
    x, y = splits.validation.take(min(40, len(splits.validation)), 0).x(), splits.validation.labels
    record = accuracy(model, x, y, rl.ThreatModel("Linf", 0.03), 3, 64)
    assert record.robust == pytest.approx(best.validation.robust)


def test_the_same_recipe_gives_the_same_bits_and_another_seed_others(tmp_path, splits):
    a = rl.train(recipe(), tmp_path / "a", splits=splits)
    torch.manual_seed(123)  # the caller's random state must not matter
    b = rl.train(recipe(), tmp_path / "b", splits=splits)
    c = rl.train(recipe(seed=1), tmp_path / "c", splits=splits)
    assert_same_bits(weights_of(a), weights_of(b))
    assert not torch.equal(weights_of(a)["linear2.weight"], weights_of(c)["linear2.weight"])


def test_training_leaves_the_callers_random_state_alone(tmp_path, splits):
    before = torch.random.get_rng_state()
    rl.train(recipe(optimizer={"epochs": 1}), tmp_path / "a", splits=splits)
    assert torch.equal(torch.random.get_rng_state(), before)


def test_a_finished_run_is_returned_untouched(tmp_path, splits):
    run = rl.train(recipe(optimizer={"epochs": 1}), tmp_path / "a", splits=splits)
    before = {path: path.stat().st_mtime_ns for path in run.folder.iterdir() if path.name != "lock"}
    rl.train(recipe(optimizer={"epochs": 1}), tmp_path / "a", splits=splits)
    assert before == {path: path.stat().st_mtime_ns for path in run.folder.iterdir() if path.name != "lock"}


def test_a_signal_is_no_failure(tmp_path, splits):
    def stop(event):
        raise StoppedError("stopped by SIGTERM")

    with pytest.raises(StoppedError):
        rl.train(recipe(), tmp_path / "a", splits=splits, progress=stop)
    assert Run(tmp_path / "a").record.status == "training"


def test_a_diverging_run_stops_and_keeps_the_last_good_epoch(tmp_path, splits):
    good = rl.train(recipe(objective="standard", optimizer={"epochs": 2}), tmp_path / "good", splits=splits)
    wild = recipe(
        objective="standard",
        model={"name": "small-cnn", "options": {"width": 4, "hidden": 8}},
        optimizer={"epochs": 6, "lr": 1e12, "schedule": "one-cycle", "warmup": 0.9},
    )
    with pytest.raises(NumericsError, match=r"lower optimizer\.lr") as caught:
        rl.train(wild, tmp_path / "wild", splits=splits)
    assert caught.value.exit_code == 4
    run = Run(tmp_path / "wild")
    assert run.record.status == "failed"
    assert run.record.error.exit_code == 4
    for path in run.folder.glob("*.safetensors"):
        assert all(torch.isfinite(value).all() for value in load_file(path).values()), path
    assert good.record.status == "trained"


def test_another_recipe_is_refused_and_nothing_is_altered(tmp_path, splits):
    run = rl.train(recipe(optimizer={"epochs": 1}), tmp_path / "a", splits=splits)
    before = {path.name: path.read_bytes() for path in run.folder.iterdir()}
    with pytest.raises(StateError, match=r"objective: 'at' -> 'trades'"):
        rl.train(recipe(optimizer={"epochs": 1}, objective="trades"), tmp_path / "a", splits=splits)
    assert before == {path.name: path.read_bytes() for path in run.folder.iterdir()}


def test_a_locked_run_is_refused(tmp_path, splits):
    with locked(tmp_path / "a"), pytest.raises(LockedError, match="another process"):
        rl.train(recipe(), tmp_path / "a", splits=splits)


def test_a_wrong_recipe_leaves_no_folder(tmp_path):
    with pytest.raises(ConfigError):
        rl.train({"objective": "at", "objective_options": {"betta": 1}}, tmp_path / "a")
    with pytest.raises(ConfigError):
        rl.train({"optimiser": {}}, tmp_path / "a")
    with pytest.raises(ModelError):
        rl.train({"model": {"name": "resnet21"}}, tmp_path / "a")
    assert not (tmp_path / "a").exists()


def test_without_validation_images_the_last_epoch_is_the_best(tmp_path):
    splits = from_tensors(*blobs(), *blobs(60, seed=1), validation=0)
    run = rl.train(recipe(optimizer={"epochs": 2}), tmp_path / "a", splits=splits)
    assert run.metrics()[-1].validation is None
    assert all(torch.equal(weights_of(run)[key], weights_of(run, "best")[key]) for key in weights_of(run))


def test_saved_weights_keep_to_the_capacity_of_their_recipe(tmp_path, splits):
    held = {"capacity": {"low": 0.5, "high": 1.5, "every": 1000}}  # projected at the ends of epochs alone
    run = rl.train(recipe(objective="standard", **held), tmp_path / "held", splits=splits)
    for name in ("best", "last"):
        for key, weight in weights_of(run, name).items():
            if weight.ndim > 1 and not key.startswith("normalize."):
                values = torch.linalg.svdvals(weight.flatten(1))
                assert values.min() > 0.5 - 1e-5
                assert values.max() < 1.5 + 1e-5


def test_a_capacity_that_a_weight_cannot_keep_to_is_refused_before_training(tmp_path, splits, monkeypatch):
    build = rl.models.build_from

    def normalised(description):
        model = build(description)
        spectral_norm(model.linear2)
        return model

    monkeypatch.setattr(rl.models, "build_from", normalised)
    with pytest.raises(ConfigError, match="weight of layer 'linear2' is made of other parameters"):
        rl.train(recipe(capacity={"low": 0.5, "high": 1.5}), tmp_path / "run", splits=splits)
    assert not (tmp_path / "run").exists()


def test_training_stops_when_patience_ends_and_goes_no_further_when_called_again(tmp_path, splits):
    # A rate of almost nothing: the first epoch stays the best.
    slow = recipe(
        objective="standard", optimizer={"lr": 1e-9, "epochs": 9, "patience": 2, "schedule": "constant"}
    )
    run = rl.train(slow, tmp_path / "run", splits=splits)
    assert len(run.metrics()) == 3
    assert (run.record.status, run.record.best_epoch, run.record.epochs_done) == ("trained", 1, 3)
    assert rl.train(slow, tmp_path / "run", splits=splits).record == run.record


@pytest.mark.parametrize(
    ("changes", "where"),
    [
        ({"optimizer": {"patience": 2}}, "optimizer.patience"),
        (
            {"pseudo_labels": {"teacher": {"patience": 2}}, "data": {"unlabeled": 60}},
            "pseudo_labels.teacher",
        ),
    ],
)
def test_patience_needs_validation_images(changes, where, tmp_path, splits):
    nothing = replace(splits, validation=splits.test.take(0, seed=0), unlabeled=splits.test)
    with pytest.raises(ConfigError, match=f"{where}.* without validation images"):
        rl.train(recipe(**changes), tmp_path / "run", splits=nothing)
    assert not (tmp_path / "run").exists()


def test_weights_are_kept_every_so_many_epochs(tmp_path, splits):
    run = rl.train(recipe(objective="standard", keep_every=2), tmp_path / "run", splits=splits)
    assert [path.name for path in sorted(run.folder.glob("epoch-*"))] == ["epoch-0002.safetensors"]
    network = rl.models.load(str(run.folder), checkpoint="epoch-0002")
    assert network(splits.test.x()).shape == (60, 3)


def test_bf16_trains_too_and_saves_float32(tmp_path, splits):
    run = rl.train(
        recipe(precision="bf16-mixed", optimizer={"epochs": 8, "lr": 0.2}), tmp_path / "a", splits=splits
    )
    assert run.metrics()[-1].train.clean > 0.5
    assert {value.dtype for key, value in weights_of(run).items() if "weight" in key} == {torch.float32}


def test_the_time_of_an_epoch_is_that_of_the_clock_and_that_of_the_processor(tmp_path, splits, monkeypatch):
    clock, processor = (map(float, itertools.count(0, step)) for step in (10, 1))
    times = SimpleNamespace(perf_counter=lambda: next(clock), process_time=lambda: next(processor))
    monkeypatch.setattr(stopwatch, "time", times)
    run = rl.train(recipe(optimizer={"epochs": 2}), tmp_path / "run", splits=splits)
    for epoch in run.metrics():
        assert epoch.seconds > 0
        assert epoch.cpu_seconds == epoch.seconds / 10
