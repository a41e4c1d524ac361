"""Training steps: attack, perturbation of the weights, micro-batches, penalty, replays."""

import math
import subprocess
import sys
from typing import get_args

import pytest
import torch
from safetensors.torch import load_file

import robustlens as rl
from helpers.training_runs import (
    RST,
    after_one_epoch,
    assert_same_bits,
    distance,
    recipe,
    weights_of,
    without_batch_norm,
)
from robustlens import models, weights
from robustlens.config import PerturbationSpec, Recipe, checked
from robustlens.errors import ConfigError
from robustlens.training import loop as training_loop
from robustlens.training.network import describe_model

SAM = "robustlens.weights:SharpnessAwareMinimization"


def own(factory, warmup_epochs=0, **options):
    """A recipe's field for a perturbation by where its class lies."""
    return {"weight_perturbation": {"factory": factory, "options": options, "warmup_epochs": warmup_epochs}}


def test_the_recipe_has_a_field_for_each_registered_perturbation_and_one_for_all_others():
    fields = {
        name
        for name, field in Recipe.model_fields.items()
        if any(
            isinstance(kind, type) and issubclass(kind, PerturbationSpec)
            for kind in get_args(field.annotation)
        )
    }
    assert fields == {*weights.PERTURBATIONS, "weight_perturbation"}
    for name in weights.PERTURBATIONS:
        (spec,) = checked(Recipe, {name: {}}, "recipe").perturbations.values()
        options = spec.entry(name)[1]
        assert tuple(options) == weights.PERTURBATIONS.options(name)
        defaults = weights.PERTURBATIONS.checked(name, options)
        assert defaults == options


def test_a_perturbation_by_where_its_class_lies_is_that_of_its_name(tmp_path, splits):
    named = rl.train(recipe(sam={"rho": 0.1, "warmup_epochs": 1}), tmp_path / "named", splits=splits)
    located = rl.train(recipe(**own(SAM, 1, rho=0.1)), tmp_path / "located", splits=splits)
    assert_same_bits(weights_of(named), weights_of(located))
    for run in (named, located):
        assert [epoch.perturbed for epoch in run.metrics()] == [False, True, True]
    assert named.recipe.hash() != located.recipe.hash()


def test_sam_follows_the_attack_too(tmp_path, splits):
    plain, exact, cheap = (
        after_one_epoch(tmp_path / name, splits, attack={"steps": 5}, **options)
        for name, options in {
            "plain": {},
            "exact": {"sam": {"rho": 0.1}},
            "cheap": {"sam": {"rho": 0.1, "from_attack": True}},
        }.items()
    )
    assert 0 < distance(exact, cheap) < distance(exact, plain)


def test_rounds_of_awp_need_no_attack(tmp_path, splits):
    rounds = {"awp": {"steps": 1, "alternations": 2}, "objective": "standard"}
    assert after_one_epoch(tmp_path / "run", splits, **rounds)


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
    assert run.metrics()[0].perturbed is True


COMPILED = """
import functools, json, sys, torch, robustlens as rl
from robustlens.config import Recipe
from robustlens.data import from_tensors
torch.compile = functools.partial(torch.compile, backend="eager")  # the default backend takes a compiler
x, y = (torch.rand(64, 1, 8, 8) * 255).to(torch.uint8), torch.arange(64) % 3
for flag in (False, True):
    recipe = Recipe.model_validate({
        "model": {"name": sys.argv[2], "options": {"width": 4, "hidden": 8}}, "attack": {"steps": 2},
        "optimizer": {"epochs": 1, "batch_size": 32}, "data": {"name": "arrays", "augment": "none"},
        "awp": {"gamma": 0.01, **(json.loads(sys.argv[3]))}, "compile": flag})
    rl.train(recipe, f"{sys.argv[1]}/{flag}", splits=from_tensors(x, y, x, y))
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    ("model", "awp"),
    [("small-cnn", "{}"), ("small-cnn-bn", '{"images": "small-loss", "loss_threshold": 1.1}')],
)
def test_a_compiled_network_and_attack_train_as_the_plain_ones(model, awp, tmp_path):
    # In a process of its own: here every call is type-checked, which dynamo cannot follow.
    subprocess.run([sys.executable, "-c", COMPILED, str(tmp_path), model, awp], check=True, timeout=240)
    plain, compiled = (load_file(tmp_path / str(flag) / "last.safetensors") for flag in (False, True))
    assert distance(plain, compiled) < 1e-5


@pytest.mark.parametrize(
    "images", [{}, {"images": "small-loss", "loss_threshold": 1.1}], ids=["all", "small"]
)
def test_micro_batches_change_nothing_but_rounding(images, tmp_path, splits):
    awp = {"awp": {"gamma": 0.01, **images}}
    whole = after_one_epoch(tmp_path / "whole", splits, **awp)
    parts = after_one_epoch(tmp_path / "parts", splits, optimizer={"accumulate": 4}, **awp)
    plain = after_one_epoch(tmp_path / "plain", splits)
    assert distance(whole, parts) < 1e-5
    assert distance(whole, plain) > 1e-4  # the perturbation does matter


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


def test_awp_from_the_attack_goes_nearly_where_awp_goes(tmp_path, splits):
    """The gradient of the last attack step is near that of AWP's own pass, and far from none at all."""
    plain, exact, cheap = (
        after_one_epoch(tmp_path / name, splits, attack={"steps": 5}, **options)
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
    plain, penalised = (
        after_one_epoch(
            tmp_path / name, splits, objective="standard", optimizer={**one_step, "l1": l1}, **perturbation
        )
        for name, l1 in (("plain", 0.0), ("penalised", 0.01))
    )
    torch.manual_seed(0)  # that of the recipe: the weights as they were
    start = rl.models.build_from(describe_model(without_batch_norm(), splits)).state_dict()
    for name, tensor in plain.items():
        expected = 0.5 * 0.01 * start[name].sign() if tensor.ndim > 1 else torch.zeros_like(tensor)
        assert torch.allclose(tensor - penalised[name], expected, atol=1e-6), name


def test_free_training_steps_on_every_replay_and_keeps_its_perturbation(tmp_path, splits, monkeypatch):
    """Against algorithm 1 of Shafahi et al. 2019 in plain code."""
    seen = []
    whole = training_loop.step_for(without_batch_norm(attack={"replays": 3}))

    class Watched(whole):
        def __call__(self, epoch, step, rows):
            before = {name: p.detach().clone() for name, p in self.model.named_parameters()}
            carried = self.memory["delta"].clone() if step else torch.zeros(len(rows), 1, 8, 8)
            loss = super().__call__(epoch, step, rows)
            seen.append(
                (
                    rows,
                    before,
                    carried,
                    self.memory["delta"].clone(),
                    self.optimizer.param_groups[0]["lr"],
                    loss,
                )
            )
            return loss

    monkeypatch.setattr(training_loop, "step_for", lambda _: Watched)
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
        (
            {"objective": "standard", "sam": {"from_attack": True}},
            "sam.from_attack: 'standard' does not train",
        ),
        ({"rwp": {"from_attack": True}}, "rwp.from_attack: this perturbation follows no gradient"),
        (
            {"awp": {"from_attack": True, "images": "small-loss", "loss_threshold": 1.0}},
            "from_attack: the attack's gradient is of all images; found small-loss",
        ),
        ({"awp": {"images": "large-loss"}}, "loss_threshold: found without images"),
        ({"awp": {"loss_threshold": 1.0}}, "loss_threshold: found without images"),
        (own("nowhere:Class"), "'nowhere:Class': cannot import 'nowhere'"),
        (own("torch.nn:Linear"), "weight perturbation 'torch.nn:Linear': failed"),
        (own("torch.nn:Identity"), "'torch.nn:Identity': gives a Identity, expected a WeightPerturbation"),
        (own(SAM, ro=1), "weight_perturbation.options.ro: unknown option of .* did you mean 'rho'"),
        (own(SAM, rho=True), "weight_perturbation.options.rho: found True"),
    ],
)
def test_parts_that_do_not_go_together_are_refused_before_anything_is_written(
    changes, said, tmp_path, splits
):
    with pytest.raises(ConfigError, match=said):
        rl.train(recipe(**changes), tmp_path / "run", splits=splits)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("awp", [{}, {"awp": {"gamma": 0.01}}, {"awp": {"gamma": 0.01, "from_attack": True}}])
@pytest.mark.parametrize("model_mode", ["eval", "train"])
def test_crafting_on_a_faster_copy_changes_nothing_but_rounding(
    awp, model_mode, tmp_path, splits, monkeypatch
):
    made, changes = [], {**awp, "attack": {"model_mode": model_mode}, "optimizer": {"epochs": 1}}
    real = models.training_copy
    monkeypatch.setattr(
        models, "training_copy", lambda *args, **how: made.append(real(*args, **how)) or made[-1]
    )
    with_copy = rl.train(recipe(**changes), tmp_path / "copy", splits=splits)
    assert [fast is not None for fast in made] == [True] * (model_mode == "eval")
    monkeypatch.setattr(models, "training_copy", lambda *args, **how: None)
    without = rl.train(recipe(**changes), tmp_path / "none", splits=splits)
    assert distance(weights_of(with_copy), weights_of(without)) < (1e-4 if model_mode == "eval" else 1e-12)
