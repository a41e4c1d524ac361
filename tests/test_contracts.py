"""The contracts that every attack, every objective and every measure keeps.

Adding one costs one row here: `test_every_*_has_a_row` fails until it is there.
"""

import json
import math

import pytest
import torch
from torch import nn

import robustlens as rl
from helpers.small_models import NonEmpty, Snapshot, everything, images
from robustlens.config import AttackSpec
from robustlens.data import from_tensors
from robustlens.errors import ModelError
from robustlens.explain import MEASURES, Subject
from robustlens.objectives import OBJECTIVES
from robustlens.results.upgrade import CONDITIONS
from robustlens.weights import AdversarialWeightPerturbation

EPS = {"Linf": 0.1, "L2": 0.6, "L1": 3.0}

# One row per registered attack: how an evaluation builds it, and variants worth a row of their own.
ATTACK_ROWS = {
    "fgsm": lambda threat: rl.attacks.get("fgsm", threat),
    "pgd": lambda threat: rl.attacks.get("pgd-5", threat, restarts=2),
    "cw": lambda threat: rl.attacks.get("cw-5", threat),
    "pgd in train mode": lambda threat: rl.attacks.PGD(threat, steps=3, model_mode="train"),
    "pgd, last iterate": lambda threat: rl.attacks.PGD(threat, steps=3, keep="last"),
    "pgd on kl": lambda threat: rl.attacks.PGD(threat, steps=3, loss="kl"),
    "pgd on dlr": lambda threat: rl.attacks.PGD(threat, steps=3, loss="dlr", random_start=False),
    "pgd, targeted": lambda threat: rl.attacks.PGD(threat, steps=3, targeted=True),
    "pgd, least likely": lambda threat: rl.attacks.PGD(threat, steps=3, targets="least-likely", restarts=2),
    "apgd-ce": lambda threat: rl.attacks.get("apgd-ce-12", threat),
    "apgd-dlr": lambda threat: rl.attacks.get("apgd-dlr-6", threat, restarts=2),
    "apgd-t": lambda threat: rl.attacks.get("apgd-t-5", threat),
    "apgd on the margin of a target": lambda threat: rl.attacks.APGD(
        threat, steps=12, loss="margin", target_rank=1
    ),
    "apgd on kl": lambda threat: rl.attacks.APGD(threat, steps=5, loss="kl"),
    "min-norm": lambda threat: rl.attacks.get("min-norm-9", threat, restarts=2),
    "min-norm-adaptive": lambda threat: rl.attacks.get("min-norm-adaptive-9", threat, restarts=2),
    "min-norm, verdict only": lambda threat: rl.attacks.MinimumNorm(threat, steps=9, stop_at_success=True),
    "min-norm, targeted": lambda threat: rl.attacks.MinimumNorm(threat, steps=3, targeted=True),
    "fab": lambda threat: rl.attacks.get("fab-3", threat, restarts=2),
    "fab-t": lambda threat: rl.attacks.get("fab-t-3", threat),
    "fab, nearest": lambda threat: rl.attacks.FAB(threat, steps=3, targets=2),
    "square": lambda threat: rl.attacks.get("square-20", threat, restarts=2),
    "apgd, eot": lambda threat: rl.attacks.APGD(threat, steps=5, eot=3),
    "fgsm, random start": lambda threat: rl.attacks.FGSM(
        threat, step_size=1.25 * threat.eps or None, random_start=True
    ),
}

# One row per registered objective: its options.
OBJECTIVE_ROWS = {
    "standard": {"label_smoothing": 0.1},
    "fgsm": {},
    "at": {},
    "trades": {"beta": 3.0},
    "mart": {"beta": 2.0},
    "alp": {"weight": 1.0},
    "llr": {"weight": 2.0, "slope_weight": 1.0},
    "cure": {"h": 0.5},
    "vat": {"iterations": 2},
    "gradient-penalty": {"weight": 0.5},
    "ibp": {"kappa": 0.25},
}

WITHOUT_NOISE = ("ibp",)  # its images tell a radius and nothing else
WITHOUT_ATTACK = ("standard", "cure", "gradient-penalty")

# One row per registered measure: options that make it quick.
MEASURE_ROWS = {
    "spectrum": {},
    "jacobian": {"examples": 4},
    "activations": {},
    "margins": {},
    "smoothness": {"steps": 2},
    "gallery": {"steps": 2},
    "gradients": {},
    "landscape": {
        "alphas": (0.0, 0.5),
        "steps": 2,
        "examples": 8,
        "plane": 2,
        "plane_examples": 4,
        "input": True,
    },
    "flatness": {"draws": 2, "ascents": 2, "steps": 2, "examples": 8},
    "curvature": {"lanczos_steps": 4, "draws": 2, "steps": 2, "examples": 8},
    "sharpness": {"steps": 2, "factors": (1.0,)},
    "bound": {"examples": 12, "steps": 8, "points": 2},
}


def test_every_attack_has_a_row():
    assert set(rl.attacks.ATTACKS) <= set(ATTACK_ROWS)


def test_every_objective_has_a_row():
    assert set(OBJECTIVES) == set(OBJECTIVE_ROWS)


def test_every_measure_has_a_row():
    assert set(MEASURES) == set(MEASURE_ROWS)


attacks = pytest.mark.parametrize("attack_name", ATTACK_ROWS)
norms = pytest.mark.parametrize("norm", EPS)


@attacks
@norms
class TestAttack:
    def test_is_feasible_in_float64(self, attack_name, norm):
        threat = rl.ThreatModel(norm, EPS[norm])
        x, y = images(24)
        x_adv = ATTACK_ROWS[attack_name](threat)(everything(), x, y)
        assert x_adv.shape == x.shape
        assert x_adv.dtype == x.dtype
        assert not x_adv.requires_grad
        assert threat.distance(x_adv.double(), x.double()).max() <= threat.eps + 1e-6
        assert x_adv.min() >= 0
        assert x_adv.max() <= 1
        assert not torch.equal(x_adv, x)

    def test_respects_other_bounds(self, attack_name, norm):
        threat = rl.ThreatModel(norm, 4 * EPS[norm], bounds=(-1.0, 3.0))
        x, y = images()
        x = x * 4 - 1
        x_adv = ATTACK_ROWS[attack_name](threat)(everything(), x, y)
        assert threat.distance(x_adv.double(), x.double()).max() <= threat.eps + 4e-6
        assert x_adv.min() >= -1
        assert x_adv.max() <= 3

    def test_gives_x_at_eps_zero(self, attack_name, norm):
        x, y = images()
        x_adv = ATTACK_ROWS[attack_name](rl.ThreatModel(norm, 0.0))(everything(), x, y)
        assert torch.equal(x_adv, x)

    def test_is_reproducible_from_a_seed(self, attack_name, norm):
        attack, (x, y) = ATTACK_ROWS[attack_name](rl.ThreatModel(norm, EPS[norm])), images()

        def run(seed):
            return attack(everything().eval(), x, y, generator=torch.Generator().manual_seed(seed))

        assert torch.equal(run(3), run(3))
        assert torch.equal(attack(everything(), x, y), attack(everything(), x, y))
        if getattr(attack, "random_start", False):
            assert not torch.equal(run(3), run(4))

    def test_leaves_the_model_and_the_caller_alone(self, attack_name, norm):
        model, (x, y) = everything(), images()
        model(x).sum().backward()
        model.conv.weight.grad.fill_(7.0)
        x_before = x.clone()
        before = Snapshot(model)
        ATTACK_ROWS[attack_name](rl.ThreatModel(norm, EPS[norm]))(model, x, y)
        before.assert_unchanged()
        assert torch.equal(x, x_before)

    def test_leaves_the_model_alone_when_it_raises(self, attack_name, norm):
        model, (x, y) = everything(), images()
        before = Snapshot(model)
        handle = model.fc.register_forward_hook(_fail)
        attack = ATTACK_ROWS[attack_name](rl.ThreatModel(norm, EPS[norm]))
        with pytest.raises(ModelError, match="RuntimeError: on purpose"):
            attack(model, x, y)
        handle.remove()
        before.assert_unchanged()

    def test_works_on_any_shape_and_on_no_images(self, attack_name, norm):
        model = nn.Sequential(NonEmpty(), nn.Linear(7, 16), nn.ReLU(), nn.Linear(16, 4))
        attack = ATTACK_ROWS[attack_name](rl.ThreatModel(norm, EPS[norm]))
        assert attack(model, torch.rand(3, 7), torch.tensor([0, 1, 3])).shape == (3, 7)
        assert attack(model, torch.rand(0, 7), torch.zeros(0, dtype=torch.int64)).shape == (0, 7)


# In train mode BatchNorm itself mixes the images of a batch, so crafting there cannot keep this one.
@pytest.mark.parametrize("attack_name", [name for name in ATTACK_ROWS if "train mode" not in name])
@norms
def test_an_attack_does_not_depend_on_batch_or_order(attack_name, norm):
    attack, model = ATTACK_ROWS[attack_name](rl.ThreatModel(norm, EPS[norm])), everything(torch.float64)
    x, y = images(dtype=torch.float64)
    whole = attack(model, x, y)
    parts = torch.cat([attack(model, *pair) for pair in zip(x.split(5), y.split(5), strict=True)])
    order = torch.randperm(len(x))
    shuffled = torch.empty_like(x)
    shuffled[order] = attack(model, x[order], y[order])
    torch.testing.assert_close(parts, whole, rtol=0, atol=1e-9)
    torch.testing.assert_close(shuffled, whole, rtol=0, atol=1e-9)


@attacks
@norms
@pytest.mark.parametrize("kind", [torch.float64, torch.bfloat16], ids=str)
def test_logits_may_be_of_another_type_than_the_images(attack_name, norm, kind):
    """As of a last layer in float64, or under autocast; what is found is wrong by these very logits."""
    threat, (x, y), model = rl.ThreatModel(norm, EPS[norm]), images(24), everything()
    y[:20] = model.eval()(x[:20]).argmax(1)
    handle = model.register_forward_hook(lambda module, inputs, output: output.to(kind))
    x_adv = ATTACK_ROWS[attack_name](threat)(model, x, y)
    assert model(x).dtype == kind
    assert x_adv.dtype == x.dtype
    assert threat.distance(x_adv.double(), x.double()).max() <= threat.eps + 1e-6
    before, after = ((model(each).argmax(1) == y).float().mean() for each in (x, x_adv))
    assert after < before or "targeted" in attack_name or "least likely" in attack_name
    handle.remove()
    same = ATTACK_ROWS[attack_name](threat)(model, x, y)
    near = (threat.distance(x_adv, same) < 1e-3 * threat.eps).float().mean()
    assert kind == torch.bfloat16 or near > 0.7


def _fail(module, inputs, output):
    raise RuntimeError("on purpose")


objectives = pytest.mark.parametrize("objective_name", OBJECTIVE_ROWS)


@objectives
class TestObjective:
    def objective(self, name):
        return rl.objectives.get(name, **OBJECTIVE_ROWS[name])

    def test_gives_one_finite_number_per_example(self, objective_name):
        x, y = images()
        loss = self.objective(objective_name)(everything(), x, x.flip(0), y)
        assert loss.shape == (len(x),)
        assert torch.isfinite(loss).all()

    def test_does_not_mix_examples(self, objective_name):
        model, (x, y) = everything(torch.float64).eval(), images(dtype=torch.float64)
        x_adv = (x + 0.05).clamp(0, 1)
        whole = self.objective(objective_name)(model, x, x_adv, y)
        parts = [
            self.objective(objective_name)(model, x[i : i + 1], x_adv[i : i + 1], y[i : i + 1])
            for i in range(12)
        ]
        torch.testing.assert_close(torch.cat(parts), whole)

    def test_never_crafts_and_never_changes_its_inputs(self, objective_name):
        model, (x, y) = everything().eval(), images()
        x_adv = (x + 0.05).clamp(0, 1)
        saved, before = x_adv.clone(), Snapshot(model)
        self.objective(objective_name)(model, x, x_adv, y)
        before.assert_unchanged()
        assert torch.equal(x_adv, saved)
        assert not x_adv.requires_grad

    def test_falls_under_gradient_descent(self, objective_name):
        model, (x, y) = everything().eval(), images()
        objective = self.objective(objective_name)
        first = objective(model, x, x, y).mean()
        optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.05)
        for _ in range(10):
            optimizer.zero_grad()
            objective(model, x, x, y).mean().backward()
            optimizer.step()
        assert objective(model, x, x, y).mean() < first

    def test_takes_weight_perturbation_around_it(self, objective_name):
        model, (x, y) = everything().eval(), images()
        objective, x_adv = self.objective(objective_name), (x + 0.05).clamp(0, 1)

        def loss_fn():
            return objective(model, x, x_adv, y).mean()

        at_w = loss_fn().item()
        with AdversarialWeightPerturbation(model, gamma=0.02).perturbed(loss_fn):
            assert loss_fn().item() > at_w
        assert loss_fn().item() == at_w

    def test_names_an_attack_that_keeps_the_contract_or_none(self, objective_name):
        build = self.objective(objective_name).inner_attack
        if build is None:
            assert objective_name in WITHOUT_ATTACK
            pytest.skip("it trains without an attack")
        for norm, eps in EPS.items():
            threat, (x, y), model = rl.ThreatModel(norm, eps), images(), everything()
            before = Snapshot(model)
            x_adv = build(threat, AttackSpec(steps=2))(model, x, y)
            before.assert_unchanged()
            assert threat.distance(x_adv, x).max() <= eps + 1e-6
            assert x_adv.min() >= 0
            assert x_adv.max() <= 1
            assert not torch.equal(x_adv, x)
            assert torch.equal(build(threat.at(0.0), AttackSpec(steps=2))(model, x, y), x)

    def test_names_an_attack_that_does_not_depend_on_batch_or_order(self, objective_name):
        build = self.objective(objective_name).inner_attack
        if build is None:
            pytest.skip("it trains without an attack")
        attack, model = build(rl.ThreatModel("L2", 0.5), AttackSpec(steps=2)), everything(torch.float64)
        x, y = images(dtype=torch.float64)
        whole = attack(model, x, y, generator=torch.Generator().manual_seed(4))
        for rows in (slice(5, 9), torch.arange(11, -1, -1), slice(0, 0)):
            part = attack(model, x[rows], y[rows], generator=torch.Generator().manual_seed(4))
            torch.testing.assert_close(part, whole[rows], rtol=0, atol=1e-9)
        other = attack(model, x, y, generator=torch.Generator().manual_seed(5))
        assert torch.equal(other, whole) == (objective_name in WITHOUT_NOISE)


measures = pytest.mark.parametrize("measure_name", MEASURE_ROWS)


def _subject(batch_size=16):
    (x, y), (x_test, y_test) = images(40), images(24)
    splits = from_tensors(
        (x * 255).round().to(torch.uint8),
        y,
        (x_test * 255).round().to(torch.uint8),
        y_test,
        classes=tuple("abcde"),
    )
    model = everything().eval()
    return Subject(model, splits.train, splits.test, rl.ThreatModel("Linf", 0.05), 0, batch_size)


@measures
class TestMeasure:
    def test_says_what_it_is_in_finite_numbers(self, measure_name):
        found = MEASURES[measure_name](_subject(), **MEASURE_ROWS[measure_name])
        assert found.unit
        assert found.source
        assert found.what
        json.dumps(found.value, allow_nan=False)
        json.dumps(found.conditions, allow_nan=False)
        settings = {key: found.value[key] for key in CONDITIONS if key in found.value}
        assert settings.items() <= found.conditions.items()
        for name, array in found.arrays.items():
            assert array.size, name
            missing = "matched" in name and "matched_missing" in str(found.value)
            assert missing or math.isfinite(float(array.sum())), name

    def test_is_reproducible_and_independent_of_batch_size(self, measure_name):
        first = MEASURES[measure_name](_subject(), **MEASURE_ROWS[measure_name])
        again = MEASURES[measure_name](_subject(batch_size=5), **MEASURE_ROWS[measure_name])
        assert first.arrays.keys() == again.arrays.keys()
        for name, array in first.arrays.items():
            torch.testing.assert_close(
                torch.from_numpy(again.arrays[name]),
                torch.from_numpy(array),
                rtol=1e-4,
                atol=1e-4,
                equal_nan="matched" in name,
            )

    def test_leaves_the_model_and_the_caller_alone(self, measure_name):
        subject = _subject()
        subject.model.train()
        before = Snapshot(subject.model)
        MEASURES[measure_name](subject, **MEASURE_ROWS[measure_name])
        before.assert_unchanged()
