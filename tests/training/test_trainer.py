"""Training: schedules, resume bit for bit, what a kill leaves, and errors that keep the last good state."""

import json
import math
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file, save_file

import robustlens as rl
from robustlens.config import OptimizerSpec, Recipe, checked
from robustlens.data import Split, from_tensors
from robustlens.errors import ConfigError, LockedError, ModelError, NumericsError, StateError, StoppedError
from robustlens.results.folders import Run, locked
from robustlens.training.pseudo_labels import batch_order
from robustlens.training.schedules import learning_rate
from robustlens.training.trainer import accuracy, describe_model


def blobs(n=160, classes=3, seed=0):
    """Images of three noisy patterns: easy, so that a few epochs show learning."""
    generator = torch.Generator().manual_seed(seed)
    patterns = torch.rand(classes, 1, 8, 8, generator=torch.Generator().manual_seed(9))
    y = torch.arange(n) % classes
    x = (patterns[y] + 0.15 * torch.randn(n, 1, 8, 8, generator=generator)).clamp(0, 1)
    return (x * 255).to(torch.uint8), y


@pytest.fixture(scope="module")
def splits():
    return from_tensors(*blobs(), *blobs(60, seed=1))


def recipe(**changes):
    values = {
        "model": {"name": "small-cnn-bn", "options": {"width": 4, "hidden": 8}},
        "threat": {"norm": "Linf", "eps": 0.03},
        "objective": "at",
        "attack": {"steps": 2},
        "optimizer": {"lr": 0.05, "epochs": 3, "batch_size": 32, "schedule": "one-cycle"},
        "monitor": {"examples": 40, "steps": 3},
        "data": {"name": "arrays", "augment": "none"},
    }
    for key, value in changes.items():
        values[key] = {**values[key], **value} if isinstance(value, dict) and key in values else value
    return checked(Recipe, values, "recipe")


def weights(run, name="last"):
    return load_file(run.folder / f"{name}.safetensors")


def test_a_network_learns_and_its_folder_says_how(tmp_path, splits):
    run = rl.train(recipe(optimizer={"epochs": 8, "lr": 0.2}), tmp_path / "run", splits=splits)
    epochs = run.metrics()
    assert [epoch["epoch"] for epoch in epochs] == list(range(1, 9))
    assert epochs[-1]["loss"] < epochs[0]["loss"]
    last = epochs[-1]
    for split in ("train", "validation"):
        assert last[split]["clean"] >= last[split]["robust"] > 0.5
        assert "at w" in last[split]["measured"]
        assert last[split]["loss"] < epochs[0][split]["loss"]
    assert run.status["status"] == "trained"
    assert run.status["epochs_done"] == 8
    best = max(epochs, key=lambda e: (e["validation"]["robust"], e["validation"]["clean"]))
    assert [e["epoch"] for e in epochs if e["best"]][-1] == best["epoch"]
    model = rl.models.load(str(run.folder), checkpoint="best")
    x, y = splits.validation.take(min(40, len(splits.validation)), 0).x(), splits.validation.labels
    found = accuracy(model, x, y, rl.ThreatModel("Linf", 0.03), 3, 64)
    assert found["robust"] == pytest.approx(best["validation"]["robust"])


@pytest.mark.parametrize(("norm", "eps"), [("Linf", 0.03), ("L2", 0.4)])
@pytest.mark.parametrize("objective", ["fgsm", "at", "trades", "mart", "alp"])
def test_training_with_awp_uses_the_ball_of_its_threat_and_stays_in_it(
    objective, norm, eps, tmp_path, splits, monkeypatch
):
    real, moved = rl.objectives.get, []

    class Watched:
        def __init__(self, name, **options):
            self.objective = real(name, **options)
            self.inner_attack = self.objective.inner_attack

        def __call__(self, model, x, x_adv, y):
            moved.append((x_adv - x).detach().flatten(1))
            return self.objective(model, x, x_adv, y)

    monkeypatch.setattr(rl.objectives, "get", Watched)
    wanted = recipe(
        objective=objective, threat={"norm": norm, "eps": eps}, awp={"gamma": 0.01}, optimizer={"epochs": 1}
    )
    run = rl.train(wanted, tmp_path / "run", splits=splits)
    sizes = torch.cat(moved).norm(dim=1, p=math.inf if norm == "Linf" else 2)
    assert sizes.max() <= eps + 1e-6
    assert sizes.mean() > 0.6 * eps
    assert run.metrics()[0]["awp"] is True


def test_losses_of_an_epoch_are_means_over_all_images(splits):
    model = rl.models.get("small-cnn", num_classes=3, in_channels=1, width=4, hidden=8)
    x, y = splits.test.x(), splits.test.labels
    found, margins = accuracy(model, x, y, rl.ThreatModel("Linf", 0.0), 1, 7), rl.explain.margins(model, x, y)
    assert found["clean"] == found["robust"] == margins["correct"].mean()
    assert found["ramp_risk"] == pytest.approx(1 - margins["probability"].clip(0, 1).mean(), rel=1e-5)
    assert found["loss"] == pytest.approx(margins["loss"].mean(), rel=1e-5)


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
    "held to a capacity": {"objective": "standard", "capacity": {"low": 0.5, "high": 2, "every": 3}},
}


@pytest.mark.parametrize("variant", VARIANTS)
def test_a_stopped_run_resumes_bit_for_bit(variant, tmp_path, splits):
    whole = rl.train(recipe(**VARIANTS[variant]), tmp_path / "whole", splits=splits)

    class Stop(Exception):  # noqa: N818 - stands for a signal
        pass

    def stop_in_the_middle_of_epoch_two(event):
        if event.done > event.total / 2:
            raise Stop

    with pytest.raises(Stop):
        rl.train(
            recipe(**VARIANTS[variant]),
            tmp_path / "parts",
            splits=splits,
            progress=stop_in_the_middle_of_epoch_two,
        )
    stopped = Run(tmp_path / "parts")
    assert stopped.status["epochs_done"] == 1
    parts = rl.train(recipe(**VARIANTS[variant]), tmp_path / "parts", splits=splits)
    for name in ("best", "last", "state"):
        a, b = weights(whole, name), weights(parts, name)
        assert a.keys() == b.keys()
        assert all(torch.equal(a[key], b[key]) for key in a), name
    drop_time = [{k: v for k, v in e.items() if k != "seconds"} for e in whole.metrics()]
    assert drop_time == [{k: v for k, v in e.items() if k != "seconds"} for e in parts.metrics()]


def test_the_same_recipe_gives_the_same_bits_and_another_seed_others(tmp_path, splits):
    a = rl.train(recipe(), tmp_path / "a", splits=splits)
    torch.manual_seed(123)  # the caller's random state must not matter
    b = rl.train(recipe(), tmp_path / "b", splits=splits)
    c = rl.train(recipe(seed=1), tmp_path / "c", splits=splits)
    assert all(torch.equal(weights(a)[key], weights(b)[key]) for key in weights(a))
    assert not torch.equal(weights(a)["linear2.weight"], weights(c)["linear2.weight"])


def test_training_leaves_the_callers_random_state_alone(tmp_path, splits):
    before = torch.random.get_rng_state()
    rl.train(recipe(optimizer={"epochs": 1}), tmp_path / "a", splits=splits)
    assert torch.equal(torch.random.get_rng_state(), before)


def test_a_finished_run_is_returned_untouched(tmp_path, splits):
    run = rl.train(recipe(optimizer={"epochs": 1}), tmp_path / "a", splits=splits)
    before = {path: path.stat().st_mtime_ns for path in run.folder.iterdir() if path.name != "lock"}
    rl.train(recipe(optimizer={"epochs": 1}), tmp_path / "a", splits=splits)
    assert before == {path: path.stat().st_mtime_ns for path in run.folder.iterdir() if path.name != "lock"}


def test_metrics_after_the_saved_state_are_dropped_on_resume(tmp_path, splits):
    run = rl.train(recipe(optimizer={"epochs": 2}), tmp_path / "a", splits=splits)
    with (run.folder / "metrics.jsonl").open("a") as file:
        file.write(json.dumps({"epoch": 3, "loss": 0.0}) + "\n" + '{"epoch": 4, "lo')  # cut by a kill
    run.update_status(status="training")
    rl.train(recipe(optimizer={"epochs": 2}), tmp_path / "a", splits=splits)
    assert [epoch["epoch"] for epoch in run.metrics()] == [1, 2]


class Dropping(torch.nn.Sequential):
    """A network whose layers draw random numbers."""

    def __init__(self, num_classes=3):
        linear = torch.nn.Linear(64, num_classes)
        super().__init__(torch.nn.Flatten(), torch.nn.Dropout(0.5), linear)


def test_layers_that_draw_are_seeded_too_also_after_a_stop(tmp_path, splits):
    dropping = recipe(model={"name": f"{__name__}:Dropping", "options": {}})
    torch.manual_seed(5)
    whole = rl.train(dropping, tmp_path / "a", splits=splits)

    def stop(event):
        if event.done > event.total / 2:
            raise KeyboardInterrupt

    torch.manual_seed(6)
    with pytest.raises(KeyboardInterrupt):
        rl.train(dropping, tmp_path / "b", splits=splits, progress=stop)
    parts = rl.train(dropping, tmp_path / "b", splits=splits)
    assert all(torch.equal(weights(whole)[key], weights(parts)[key]) for key in weights(whole))


def test_a_resumed_run_refuses_other_images(tmp_path, splits):
    run = rl.train(recipe(optimizer={"epochs": 2}), tmp_path / "a", splits=splits)
    run.update_status(status="training")
    with pytest.raises(StateError, match="other images"):
        rl.train(
            recipe(optimizer={"epochs": 2}), tmp_path / "a", splits=from_tensors(*blobs(seed=7), *blobs(60))
        )


def test_a_signal_is_no_failure(tmp_path, splits):
    def stop(event):
        raise StoppedError("stopped by SIGTERM")

    with pytest.raises(StoppedError):
        rl.train(recipe(), tmp_path / "a", splits=splits, progress=stop)
    assert Run(tmp_path / "a").status["status"] == "training"


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
    assert run.status["status"] == "failed"
    assert run.status["error"]["exit_code"] == 4
    for path in run.folder.glob("*.safetensors"):
        assert all(torch.isfinite(value).all() for value in load_file(path).values()), path
    assert good.status["status"] == "trained"


def test_another_recipe_is_refused_and_nothing_is_altered(tmp_path, splits):
    run = rl.train(recipe(optimizer={"epochs": 1}), tmp_path / "a", splits=splits)
    before = {path.name: path.read_bytes() for path in run.folder.iterdir()}
    with pytest.raises(StateError, match=r"objective: 'at' -> 'trades'"):
        rl.train(recipe(optimizer={"epochs": 1}, objective="trades"), tmp_path / "a", splits=splits)
    assert before == {path.name: path.read_bytes() for path in run.folder.iterdir()}


def test_a_locked_run_is_refused(tmp_path, splits):
    with locked(tmp_path / "a"), pytest.raises(LockedError, match="another process"):
        rl.train(recipe(), tmp_path / "a", splits=splits)


def test_a_damaged_state_is_one_line(tmp_path, splits):
    run = rl.train(recipe(optimizer={"epochs": 2}), tmp_path / "a", splits=splits)
    run.update_status(status="training")
    state = run.folder / "state.safetensors"
    state.write_bytes(state.read_bytes()[:-100])
    with pytest.raises(StateError, match="damaged") as caught:
        rl.train(recipe(optimizer={"epochs": 2}), tmp_path / "a", splits=splits)
    assert "\n" not in str(caught.value)


def test_a_state_of_another_recipe_is_refused(tmp_path, splits):
    run = rl.train(recipe(optimizer={"epochs": 2}), tmp_path / "a", splits=splits)
    run.update_status(status="training")
    save_file({"x": torch.zeros(1)}, run.folder / "state.safetensors", {"robustlens": '{"recipe": "other"}'})
    with pytest.raises(StateError, match="belongs to recipe other"):
        rl.train(recipe(optimizer={"epochs": 2}), tmp_path / "a", splits=splits)


def test_a_wrong_recipe_leaves_no_folder(tmp_path):
    with pytest.raises(ConfigError):
        rl.train({"objective": "at", "objective_options": {"betta": 1}}, tmp_path / "a")
    with pytest.raises(ConfigError):
        rl.train({"optimiser": {}}, tmp_path / "a")
    with pytest.raises(ModelError):
        rl.train({"model": {"name": "resnet21"}}, tmp_path / "a")
    assert not (tmp_path / "a").exists()


def test_a_killed_process_loses_at_most_its_epoch(tmp_path):
    """A real SIGKILL in the middle, then the same command: the bits are those of an undisturbed run."""
    program = (
        "import sys; sys.path.insert(0, sys.argv[1]); import torch; torch.set_num_threads(1)\n"
        "import test_train as t, robustlens as rl\n"
        "splits = t.from_tensors(*t.blobs(), *t.blobs(60, seed=1))\n"
        "rl.train(t.recipe(optimizer={'epochs': 6}), sys.argv[2], splits=splits)\n"
    )
    tests = os.path.dirname(__file__)  # noqa: PTH120 - handed to another process
    command = [sys.executable, "-c", program, tests, str(tmp_path / "killed")]
    process = subprocess.Popen(command)
    deadline = time.monotonic() + 60
    run = Run(tmp_path / "killed")
    while run.status.get("epochs_done", 0) < 2 and time.monotonic() < deadline:
        time.sleep(0.005)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert 2 <= run.status["epochs_done"] <= 6
    subprocess.run(command, check=True)
    subprocess.run([*command[:-1], str(tmp_path / "whole")], check=True)
    whole = Run(tmp_path / "whole")
    assert all(torch.equal(weights(run)[key], weights(whole)[key]) for key in weights(whole))
    assert len(run.metrics()) == 6


@pytest.mark.parametrize(
    ("schedule", "done", "expected"),
    [
        ("piecewise", 0.0, 1.0),
        ("piecewise", 0.5, 0.1),
        ("piecewise", 0.74, 0.1),
        ("piecewise", 0.75, 0.01),
        ("cosine", 0.0, 1.0),
        ("cosine", 0.5, 0.5),
        ("cosine", 1.0, 0.0),
        ("one-cycle", 0.0, 0.0),
        ("one-cycle", 0.15, 0.5),
        ("one-cycle", 0.3, 1.0),
        ("one-cycle", 0.65, 0.5),
        ("constant", 0.9, 1.0),
    ],
)
def test_learning_rates_by_hand(schedule, done, expected):
    spec = OptimizerSpec(lr=1.0, schedule=schedule)
    assert math.isclose(learning_rate(spec, done), expected, rel_tol=1e-12, abs_tol=1e-12)


def test_normalisation_is_that_of_the_training_images(splits):
    description = describe_model(recipe(), splits)
    x = splits.train.x().double()
    assert description["mean"] == pytest.approx([x.mean().item()], abs=1e-5)
    assert description["std"] == pytest.approx([x.std(unbiased=False).item()], abs=1e-5)


def test_without_validation_images_the_last_epoch_is_the_best(tmp_path):
    splits = from_tensors(*blobs(), *blobs(60, seed=1), validation=0)
    run = rl.train(recipe(optimizer={"epochs": 2}), tmp_path / "a", splits=splits)
    assert run.metrics()[-1]["validation"] is None
    assert all(torch.equal(weights(run)[key], weights(run, "best")[key]) for key in weights(run))


def test_saved_weights_keep_to_the_capacity_of_their_recipe(tmp_path, splits):
    held = {"capacity": {"low": 0.5, "high": 1.5, "every": 1000}}  # projected at the ends of epochs alone
    run = rl.train(recipe(objective="standard", **held), tmp_path / "held", splits=splits)
    for name in ("best", "last"):
        for key, weight in weights(run, name).items():
            if weight.ndim > 1 and not key.startswith("normalize."):
                values = torch.linalg.svdvals(weight.flatten(1))
                assert values.min() > 0.5 - 1e-5
                assert values.max() < 1.5 + 1e-5


# -- what a step may be ---------------------------------------------------------------------------------


def without_batch_norm(**changes):
    return recipe(model={"name": "small-cnn"}, **changes)


def trained(tmp_path, splits, name, **changes):
    """Weights after one epoch of a network without BatchNorm, whose batches can be split."""
    run = rl.train(
        without_batch_norm(optimizer={"epochs": 1, **changes.pop("optimizer", {})}, **changes),
        tmp_path / name,
        splits=splits,
    )
    return {key: tensor for key, tensor in weights(run).items() if not key.startswith("normalize.")}


def distance(a, b):
    return max(float((a[key] - b[key]).abs().max()) for key in a)


TOGETHER = """
import sys, torch, robustlens as rl
from robustlens.training import distributed as ranks
from robustlens.config import Recipe
from robustlens.data import from_tensors
generator = torch.Generator().manual_seed(0)
x, y = (torch.rand(64, 1, 8, 8, generator=generator) * 255).to(torch.uint8), torch.arange(64) % 3
recipe = Recipe.model_validate({
    "model": {"name": "small-cnn", "options": {"width": 4, "hidden": 8}}, "attack": {"steps": 2},
    "optimizer": {"epochs": 2, "batch_size": 16, "lr": 0.05}, "data": {"name": "arrays", "augment": "crop-flip"},
    "monitor": {"examples": 8, "steps": 1}, "awp": {"gamma": 0.01}, "objective": "trades"})
rl.train(recipe, sys.argv[1], splits=from_tensors(x, y, x, y))
ranks.shutdown()
"""


def test_two_processes_train_one_network_as_one_process_does(tmp_path):
    script = tmp_path / "together.py"
    script.write_text(TOGETHER)
    alone = [sys.executable, script, str(tmp_path / "alone")]
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "--standalone"]
    for command in (alone, [*torchrun, script, str(tmp_path / "together")]):
        subprocess.run(command, check=True, timeout=300)
    one, two = (Run(tmp_path / name) for name in ("alone", "together"))
    a, b = weights(one), weights(two)
    assert distance(a, b) < 1e-6
    assert len(two.metrics()) == 2
    for mine, theirs in zip(one.metrics(), two.metrics(), strict=True):
        assert theirs["loss"] == pytest.approx(mine["loss"], rel=1e-5)
        assert theirs["validation"] == mine["validation"]


COMPILED = """
import functools, sys, torch, robustlens as rl
from robustlens.config import Recipe
from robustlens.data import from_tensors
torch.compile = functools.partial(torch.compile, backend="eager")  # the default backend takes a compiler
x, y = (torch.rand(64, 1, 8, 8) * 255).to(torch.uint8), torch.arange(64) % 3
for flag in (False, True):
    recipe = Recipe.model_validate({
        "model": {"name": "small-cnn", "options": {"width": 4, "hidden": 8}}, "attack": {"steps": 2},
        "optimizer": {"epochs": 1, "batch_size": 32}, "data": {"name": "arrays", "augment": "none"},
        "awp": {"gamma": 0.01}, "compile": flag})
    rl.train(recipe, f"{sys.argv[1]}/{flag}", splits=from_tensors(x, y, x, y))
"""


def test_a_compiled_network_trains_as_the_plain_one(tmp_path):
    # In a process of its own: here every call is type-checked, which dynamo cannot follow.
    subprocess.run([sys.executable, "-c", COMPILED, str(tmp_path)], check=True, timeout=240)
    plain, compiled = (load_file(tmp_path / str(flag) / "last.safetensors") for flag in (False, True))
    assert distance(plain, compiled) < 1e-5


def test_micro_batches_change_nothing_but_rounding(tmp_path, splits):
    awp = {"awp": {"gamma": 0.01}}
    whole = trained(tmp_path, splits, "whole", **awp)
    parts = trained(tmp_path, splits, "parts", optimizer={"accumulate": 4}, **awp)
    plain = trained(tmp_path, splits, "plain")
    assert distance(whole, parts) < 1e-5
    assert distance(whole, plain) > 1e-4  # the perturbation does matter


def test_awp_from_the_attack_goes_nearly_where_awp_goes(tmp_path, splits):
    """The gradient of the last attack step is near that of AWP's own pass, and far from none at all."""
    plain, exact, cheap = (
        trained(tmp_path, splits, name, attack={"steps": 5}, **options)
        for name, options in {
            "plain": {},
            "exact": {"awp": {"gamma": 0.02}},
            "cheap": {"awp": {"gamma": 0.02, "from_attack": True}},
        }.items()
    )

    def away(w):
        return torch.cat([(w[key] - plain[key]).flatten() for key in plain])

    cosine = torch.nn.functional.cosine_similarity(away(exact), away(cheap), dim=0)
    assert cosine > 0.9
    assert distance(exact, cheap) > 0


@pytest.mark.parametrize("perturbation", [{}, {"awp": {"gamma": 0.5}}], ids=["at w", "awp"])
def test_the_l1_penalty_pulls_every_weight_by_its_factor_and_no_bias(perturbation, tmp_path, splits):
    """Its gradient is that at w, also where w + v has another sign."""
    one_step = {"batch_size": len(splits.train), "momentum": 0.0, "schedule": "constant", "lr": 0.5}
    plain, held = (
        trained(
            tmp_path, splits, name, objective="standard", optimizer={**one_step, "l1": l1}, **perturbation
        )
        for name, l1 in (("plain", 0.0), ("held", 0.01))
    )
    torch.manual_seed(0)  # that of the recipe: the weights as they were
    start = rl.models.build_from(describe_model(without_batch_norm(), splits)).state_dict()
    for name, tensor in plain.items():
        expected = 0.5 * 0.01 * start[name].sign() if tensor.ndim > 1 else torch.zeros_like(tensor)
        assert torch.allclose(tensor - held[name], expected, atol=1e-6), name


def test_free_training_steps_on_every_replay_and_keeps_its_perturbation(tmp_path, splits, monkeypatch):
    """Against algorithm 1 of Shafahi et al. 2019 in plain code."""
    room = sys.modules["robustlens.training.trainer"]  # `rl.train` is the function
    seen = []
    whole = room.step_for(without_batch_norm(attack={"replays": 3}))

    class Watched(whole):
        def __call__(self, epoch, step, rows):
            before = {name: p.detach().clone() for name, p in self.model.named_parameters()}
            carried = self.moved.clone() if step else torch.zeros(len(rows), 1, 8, 8)
            loss = super().__call__(epoch, step, rows)
            seen.append(
                (rows, before, carried, self.moved.clone(), self.optimizer.param_groups[0]["lr"], loss)
            )
            return loss

    monkeypatch.setattr(room, "step_for", lambda _: Watched)
    flat = {"momentum": 0.0, "weight_decay": 0.0, "l1": 0.01, "schedule": "constant", "epochs": 1}
    run = rl.train(
        without_batch_norm(attack={"replays": 3}, optimizer=flat), tmp_path / "free", splits=splits
    )
    network = rl.models.load(str(run.folder)).train()
    rows, before, moved, after, lr, loss = seen[1]
    network.load_state_dict({**network.state_dict(), **before})
    x, y = splits.train.x(rows), splits.train.labels[rows]
    losses = []
    for _ in range(3):
        leaf = (x + moved).clamp(0, 1).requires_grad_()
        value = torch.nn.functional.cross_entropy(network(leaf), y)
        losses.append(float(value.detach()))
        network.zero_grad()
        value.backward()
        with torch.no_grad():
            for p in network.parameters():
                p -= lr * (p.grad + 0.01 * p.sign() * (p.ndim > 1))
        ascended = (leaf.detach() + 0.03 * leaf.grad.sign() - x).clamp(-0.03, 0.03)
        moved = (x + ascended).clamp(0, 1) - x
    assert torch.allclose(moved, after, atol=1e-6)
    assert float(loss) == pytest.approx(sum(losses) / 3, rel=1e-4)
    assert float(after.abs().max()) == pytest.approx(0.03, rel=1e-4)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"objective": "cure", "attack": {"replays": 2}}, "attack.replays: 'cure' at eps 0.03"),
        (
            {"objective": "fgsm", "awp": {"from_attack": True}},
            "awp.from_attack: 'fgsm' does not train on PGD",
        ),
        ({"objective": "mart", "mixup": 1.0}, "mixup: 'mart' takes no soft labels"),
    ],
)
def test_parts_that_do_not_go_together_are_refused_before_anything_is_written(
    changes, said, tmp_path, splits
):
    with pytest.raises(ConfigError, match=said):
        rl.train(recipe(**changes), tmp_path / "run", splits=splits)
    assert not (tmp_path / "run").exists()


def test_training_stops_when_patience_ends_and_goes_no_further_when_called_again(tmp_path, splits):
    # A rate of almost nothing: the first epoch stays the best.
    slow = recipe(
        objective="standard", optimizer={"lr": 1e-9, "epochs": 9, "patience": 2, "schedule": "constant"}
    )
    run = rl.train(slow, tmp_path / "run", splits=splits)
    assert len(run.metrics()) == 3
    assert (run.status["status"], run.status["best_epoch"], run.status["epochs_done"]) == ("trained", 1, 3)
    assert rl.train(slow, tmp_path / "run", splits=splits).status == run.status


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


def test_a_network_starts_from_another_with_a_head_of_its_own(tmp_path, splits):
    before = rl.train(recipe(objective="standard"), tmp_path / "before", splits=splits)
    x, y = blobs(classes=2)
    fewer = from_tensors(x, y, x, y)
    slow = {"lr": 1e-12, "epochs": 1, "weight_decay": 0.0}
    init = {"model": str(before.folder), "new_head": True}
    after = weights(rl.train(recipe(init=init, optimizer=slow), tmp_path / "after", splits=fewer))
    theirs = weights(before, "best")
    assert torch.allclose(after["conv1.weight"], theirs["conv1.weight"], atol=1e-6)
    assert after["linear2.weight"].shape == (2, 8)
    with pytest.raises(
        ModelError, match=r"linear2.bias is \(3,\) .* expected \(2,\); with other classes give"
    ):
        rl.train(recipe(init={"model": str(before.folder)}), tmp_path / "refused", splits=fewer)
    assert not (tmp_path / "refused").exists()


def test_a_network_starts_from_a_kept_epoch(tmp_path, splits):
    before = rl.train(recipe(objective="standard", keep_every=2), tmp_path / "before", splits=splits)
    slow = {"lr": 1e-12, "epochs": 1, "weight_decay": 0.0}
    init = {"model": str(before.folder), "checkpoint": "epoch-2"}
    after = weights(rl.train(recipe(init=init, optimizer=slow), tmp_path / "after", splits=splits))
    kept = weights(before, "epoch-0002")
    assert torch.allclose(after["conv1.weight"], kept["conv1.weight"], atol=1e-6)
    assert not torch.allclose(after["conv1.weight"], weights(before, "last")["conv1.weight"], atol=1e-6)
    for several in ("both", "every"):
        with pytest.raises(ConfigError, match=f"found '{several}', expected best, last or epoch-NNNN"):
            recipe(init={**init, "checkpoint": several})


def test_a_run_that_began_from_other_weights_is_refused(tmp_path, splits):
    begun = [
        rl.train(recipe(objective="standard", seed=seed), tmp_path / f"from{seed}", splits=splits)
        for seed in (0, 1)
    ]
    start = recipe(init={"model": str(tmp_path / "from0")}, optimizer={"epochs": 2})
    with pytest.raises(StoppedError):
        rl.train(start, tmp_path / "run", splits=splits, progress=stop_in_epoch_two)
    (begun[1].folder / "best.safetensors").rename(begun[0].folder / "best.safetensors")
    with pytest.raises(StateError, match="began from other weights"):
        rl.train(start, tmp_path / "run", splits=splits)


def stop_in_epoch_two(event):
    if event.phase == "train" and event.done > event.total / 2:
        raise StoppedError("stop")


# -- pseudo-labels --------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def partly_labelled():
    full = from_tensors(*blobs(240), *blobs(60, seed=1))
    pool = full.train.take(100, seed=3)
    rest = torch.tensor([row for row in range(len(full.train)) if full.train.index[row] not in pool.index])
    train = Split(full.train.images[rest], full.train.labels[rest], full.train.index[rest])
    return replace(full, train=train, unlabeled=pool)


RST = {
    "objective": "trades",
    "data": {"unlabeled": 100},
    "pseudo_labels": {"teacher": {"lr": 0.05, "epochs": 3, "batch_size": 32, "schedule": "one-cycle"}},
}


def test_a_standard_network_labels_the_unlabeled_images_and_batches_mix_both(tmp_path, partly_labelled):
    run = rl.train(recipe(**RST), tmp_path / "run", splits=partly_labelled)
    teacher = Run(run.folder / "teacher")
    assert teacher.recipe.objective == "standard"
    network = rl.models.load(str(teacher.folder), checkpoint="best")
    with torch.no_grad():
        predicted = network(partly_labelled.unlabeled.x()).argmax(1)
    assert run.array("pseudo_labels", "label").tolist() == predicted.tolist()
    assert run.array("pseudo_labels", "index").tolist() == partly_labelled.unlabeled.index.tolist()
    right = float((predicted == partly_labelled.unlabeled.labels).double().mean())
    assert run.status["pseudo_labels"] == {"images": 100, "right": pytest.approx(right)}
    assert right > 0.4  # chance is 1/3


def test_true_labels_of_the_pool_are_never_trained_on(tmp_path, partly_labelled):
    pool = partly_labelled.unlabeled
    lying = replace(partly_labelled, unlabeled=replace(pool, labels=(pool.labels + 1) % 3))
    one, other = (
        rl.train(recipe(**RST), tmp_path / name, splits=data)
        for name, data in (("one", partly_labelled), ("other", lying))
    )
    a, b = weights(one), weights(other)
    assert all(torch.equal(a[key], b[key]) for key in a)


def test_each_batch_holds_its_share_and_each_epoch_every_labelled_image_once():
    asked = recipe(**RST, optimizer={"batch_size": 10})
    batches = batch_order(asked, 52)(torch.Generator().manual_seed(0))
    assert [len(rows) for rows in batches] == [10] * 10
    assert all(int((rows < 52).sum()) == 5 for rows in batches)
    own = torch.cat(batches)[torch.cat(batches) < 52]
    assert len(own.unique()) == len(own) == 50  # the last incomplete batch is dropped
    others = torch.cat(batches)[torch.cat(batches) >= 52]
    assert others.max() < 152
    assert len(others.unique()) == 50
    with pytest.raises(ConfigError, match=r"batches of 5 of 3 labelled and 5 of 100 unlabeled"):
        batch_order(asked, 3)


def test_each_micro_batch_holds_its_share_of_both_kinds(tmp_path, partly_labelled, monkeypatch):
    real, seen = rl.objectives.get, []

    class Watched:
        inner_attack = None

        def __init__(self, name, **options):
            self.objective = real(name, **options)

        def __call__(self, model, x, x_adv, y):
            seen.append(x)
            return self.objective(model, x, x_adv, y)

    first = recipe(**RST, optimizer={"batch_size": 30, "epochs": 1, "accumulate": 4})
    monkeypatch.setattr(rl.objectives, "get", Watched)
    rl.train(first, tmp_path / "run", splits=partly_labelled)
    own = {image.numpy().tobytes() for image in partly_labelled.train.x()}
    of_this_run = [part for part in seen if len(part) < 30]  # the teacher takes whole batches
    assert {len(part) for part in of_this_run} == {7, 8}
    for part in of_this_run:
        labelled = sum(image.numpy().tobytes() in own for image in part)
        assert labelled in (len(part) // 2, -(-len(part) // 2))


def test_a_stopped_run_with_pseudo_labels_resumes_bit_for_bit(tmp_path, partly_labelled):
    whole = rl.train(recipe(**RST), tmp_path / "whole", splits=partly_labelled)
    with pytest.raises(StoppedError):
        rl.train(recipe(**RST), tmp_path / "parts", splits=partly_labelled, progress=stop_in_epoch_two)
    parts = rl.train(recipe(**RST), tmp_path / "parts", splits=partly_labelled)
    a, b = weights(whole), weights(parts)
    assert all(torch.equal(a[key], b[key]) for key in a)


def test_bf16_trains_too_and_saves_float32(tmp_path, splits):
    run = rl.train(
        recipe(precision="bf16-mixed", optimizer={"epochs": 8, "lr": 0.2}), tmp_path / "a", splits=splits
    )
    assert run.metrics()[-1]["train"]["clean"] > 0.5
    assert {value.dtype for key, value in weights(run).items() if "weight" in key} == {torch.float32}
