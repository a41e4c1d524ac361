"""Objectives against values worked out by hand, and the inner attacks they name."""

import copy
import math

import pytest
import torch
import torch.nn.functional as F  # noqa: N812 - the field's name for it
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

import robustlens as rl
from helpers.small_models import everything, images
from robustlens import losses, noise
from robustlens.attacks import FGSM, PGD
from robustlens.attacks.base import Goal, input_gradient
from robustlens.config import AttackSpec
from robustlens.errors import ConfigError, ModelError
from robustlens.models.wide_resnet import wide_resnet
from robustlens.objectives import OBJECTIVES, LinearityAttack, VirtualAdversary, takes_soft_labels
from robustlens.objectives.tangent import Tangent


class Table(nn.Module):
    """Maps an input number to fixed logits, so that every term can be computed by hand."""

    def forward(self, x):
        return torch.cat([x, torch.zeros_like(x), -x], 1)


X, X_ADV, Y = torch.tensor([[1.0]]), torch.tensor([[-0.5]]), torch.tensor([0])


def softmax(*logits):
    z = sum(math.exp(v) for v in logits)
    return [math.exp(v) / z for v in logits]


P, P_ADV = softmax(1.0, 0.0, -1.0), softmax(-0.5, 0.0, 0.5)
KL = sum(p * math.log(p / q) for p, q in zip(P, P_ADV, strict=True))


@pytest.mark.parametrize(
    ("name", "options", "expected"),
    [
        ("standard", {}, -math.log(P[0])),
        ("at", {}, -math.log(P_ADV[0])),
        ("fgsm", {}, -math.log(P_ADV[0])),
        ("at", {"label_smoothing": 0.3}, -(0.8 * math.log(P_ADV[0]) + 0.1 * sum(map(math.log, P_ADV[1:])))),
        ("trades", {"beta": 6.0}, -math.log(P[0]) + 6.0 * KL),
        ("trades", {}, -math.log(P[0]) + 6.0 * KL),
        (
            "mart",
            {"beta": 5.0},
            -math.log(P_ADV[0]) - math.log(1.0001 - max(P_ADV[1:])) + 5.0 * (1 - P[0]) * KL,
        ),
        ("mart", {}, -math.log(P_ADV[0]) - math.log(1.0001 - max(P_ADV[1:])) + 5.0 * (1 - P[0]) * KL),
        ("alp", {"weight": 0.7}, -(math.log(P[0]) + math.log(P_ADV[0])) / 2 + 0.7 * (2 * 1.5**2) / 3),
        ("vat", {"weight": 0.7}, -math.log(P[0]) + 0.7 * KL),
    ],
)
def test_losses_equal_hand_computed_values(name, options, expected):
    loss = rl.objectives.get(name, **options)(Table(), X, X_ADV, Y)
    assert loss.item() == pytest.approx(expected, rel=1e-5)


def test_mart_stays_finite_for_a_confident_mistake():
    loss = rl.objectives.get("mart")(Table(), torch.tensor([[80.0]]), torch.tensor([[-80.0]]), Y)
    assert torch.isfinite(loss).all()


@pytest.mark.parametrize("name", OBJECTIVES)
def test_confident_mistakes_stay_finite_under_autocast(name):
    """Logits of +-30 in bfloat16: no loss and no gradient is infinite or NaN."""
    model = nn.Linear(3, 3, bias=False)
    with torch.no_grad():
        model.weight.copy_(60 * torch.eye(3) - 30)
    with torch.autocast("cpu", torch.bfloat16):
        loss = rl.objectives.get(name)(model, torch.eye(3), torch.eye(3), torch.tensor([1, 2, 0]))
    loss.float().mean().backward()
    assert loss.isfinite().all()
    assert model.weight.grad.isfinite().all()


def test_inner_attacks_are_the_published_ones():
    threat, spec = rl.ThreatModel("Linf", 8 / 255), AttackSpec()
    for name, loss in {"at": "ce", "trades": "kl", "mart": "ce"}.items():
        attack = rl.objectives.get(name).inner_attack(threat, spec)
        assert isinstance(attack, PGD)
        assert (attack.loss, attack.steps, attack.keep, attack.random_start) == (loss, 10, "last", True)
    fast = rl.objectives.get("fgsm").inner_attack(threat, spec)
    assert isinstance(fast, FGSM)
    assert fast.step_size == pytest.approx(10 / 255)
    assert fast.random_start
    other = rl.objectives.get("fgsm").inner_attack(threat, AttackSpec(step_size=2 / 255))
    assert other.step_size == pytest.approx(10 / 255), "the step of PGD is not the step of FGSM"
    assert rl.objectives.get("standard").inner_attack is None


@pytest.mark.parametrize(
    ("name", "options", "said"),
    [
        ("trade", {}, "one of standard, fgsm, at, trades, mart, alp, llr, cure, vat, gradient-penalty, ibp"),
        ("trades", {"betta": 1.0}, "expected one of beta, label_smoothing"),
        ("trades", {"beta": -1.0}, "beta: found -1.0; input should be greater than or equal to 0"),
        ("trades", {"beta": True}, "beta: found True; input should be a valid number"),
        ("trades", {"beta": float("inf")}, "beta: found inf; input should be a finite number"),
        ("at", {"label_smoothing": 1.0}, "label_smoothing: found 1.0; input should be less than 1"),
        ("mart", {"beta": "six"}, "beta: found .six.; input should be a valid number"),
        ("mart", {"inner_attack": None}, "unknown option"),
        ("cure", {"inner_attack": None}, "unknown option"),
        ("cure", {"h": 0}, "objective_options.h: found 0; input should be greater than 0"),
        ("vat", {"xi": 0.0}, "objective_options.xi: found 0.0; input should be greater than 0"),
        ("vat", {"iterations": 1.5}, "iterations: found 1.5; input should be a valid integer"),
        (
            "vat",
            {"iterations": 0},
            "objective_options.iterations: found 0; input should be greater than or equal to 1",
        ),
    ],
)
def test_wrong_objectives_are_refused_in_one_line(name, options, said):
    with pytest.raises(ConfigError, match=said) as caught:
        rl.objectives.get(name, **options)
    assert "\n" not in str(caught.value)


# -- objectives of the input gradient, on losses that are known in closed form ------------------------


class LossOf(nn.Module):
    """Two logits whose cross entropy with class 0 is exactly the positive function `q` of the image."""

    def __init__(self, q):
        super().__init__()
        self.q = q

    def forward(self, x):
        return torch.stack([torch.zeros(len(x), dtype=x.dtype), torch.expm1(self.q(x)).log()], 1)


HESSIAN = torch.tensor([[3.0, 1.0, 0.0], [1.0, -2.0, 0.5], [0.0, 0.5, 1.0]], dtype=torch.float64)
SLOPE = torch.tensor([0.4, -0.3, 0.2], dtype=torch.float64)
POINTS = torch.tensor([[0.2, 0.1, -0.3], [0.0, 0.4, 0.1]], dtype=torch.float64)
MOVES = torch.tensor([[0.1, -0.2, 0.05], [-0.1, 0.1, 0.3]], dtype=torch.float64)
FIRST = torch.zeros(2, dtype=torch.int64)


def quadratic(x):
    return 5 + x @ SLOPE + (x @ HESSIAN * x).sum(1) / 2


def affine(x):
    return 5 + x @ SLOPE


def softmax_regression(seed=0):
    torch.manual_seed(seed)
    return nn.Linear(6, 4, dtype=torch.float64), torch.rand(5, 6, dtype=torch.float64)


@pytest.mark.parametrize("soft", [False, True])
def test_the_gradient_penalty_of_softmax_regression_has_a_closed_form(soft):
    model, x = softmax_regression()
    y = torch.tensor([0, 1, 2, 3, 0])
    label = F.one_hot(y, 4).double()
    if soft:
        y = label = (label + label.roll(1, 1)) / 2
    p = model(x).softmax(1)
    expected = -(label * p.log()).sum(1) + 0.3 * ((p - label) @ model.weight).square().sum(1)
    found = rl.objectives.get("gradient-penalty", weight=0.3)(model, x, x, y)
    torch.testing.assert_close(found, expected)


def test_cure_of_a_quadratic_loss_is_its_hessian_along_the_sign_of_the_gradient():
    z = (SLOPE + POINTS @ HESSIAN).sign() / 3**0.5
    expected = quadratic(POINTS) + 2.0 * (0.3 * z @ HESSIAN).square().sum(1)
    found = rl.objectives.get("cure", weight=2.0, h=0.3)(LossOf(quadratic), POINTS, POINTS, FIRST)
    torch.testing.assert_close(found, expected)
    flat = rl.objectives.get("cure", weight=2.0, h=0.3)(LossOf(affine), POINTS, POINTS, FIRST)
    torch.testing.assert_close(flat, affine(POINTS))


def test_llr_of_a_quadratic_loss_is_its_second_order_term_and_of_an_affine_one_the_slope_alone():
    objective = rl.objectives.get("llr", weight=2.0, slope_weight=0.5)
    rise = (MOVES * (SLOPE + POINTS @ HESSIAN)).sum(1)
    bend = (MOVES @ HESSIAN * MOVES).sum(1) / 2
    assert (bend > 0).any()
    assert (bend < 0).any()
    found = objective(LossOf(quadratic), POINTS, POINTS + MOVES, FIRST)
    torch.testing.assert_close(found, quadratic(POINTS) + 2.0 * bend.abs() + 0.5 * rise.abs())
    found = objective(LossOf(affine), POINTS, POINTS + MOVES, FIRST)
    torch.testing.assert_close(found, affine(POINTS) + 0.5 * (MOVES @ SLOPE).abs())


@pytest.mark.parametrize("norm", ["Linf", "L2"])
def test_the_attack_of_llr_finds_where_a_quadratic_loss_is_furthest_from_its_tangent(norm):
    eps, wide = 0.2, (-5.0, 5.0)
    corners = torch.cartesian_prod(*[torch.tensor([-eps, eps], dtype=torch.float64)] * 3)
    # |delta H delta / 2|: at a corner of the cube for a form that is convex there, at an eigenvector in L2.
    positive = HESSIAN + 4 * torch.eye(3, dtype=torch.float64)
    furthest = {
        "Linf": (corners @ positive * corners).sum(1).amax() / 2,
        "L2": eps**2 * torch.linalg.eigvalsh(positive).amax() / 2,
    }[norm]
    model = LossOf(lambda x: 5 + x @ SLOPE + (x @ positive * x).sum(1) / 2)
    attack = LinearityAttack(rl.ThreatModel(norm, eps, wide), steps=60, step_size=eps)
    x_adv = attack(model, POINTS, FIRST)
    found = Tangent.at(model, POINTS, FIRST).violation(model, x_adv, FIRST)
    torch.testing.assert_close(found, furthest.expand(2), rtol=1e-3, atol=0)


def kl_hessian(model, x):
    """Of KL(p(x) || p(x + r)) at r = 0, for a linear model: W^T (diag p - p p^T) W."""
    p = model(x).softmax(1)
    return torch.stack([model.weight.T @ (q.diag() - q[:, None] * q) @ model.weight for q in p])


def test_the_power_method_of_vat_finds_the_top_eigenvector_and_steps_to_the_sphere():
    model, x = softmax_regression(1)
    top = torch.linalg.eigh(kl_hessian(model, x)).eigenvectors[:, :, -1]
    wide, labels = (-9.0, 9.0), torch.zeros(5, dtype=torch.int64)
    r = VirtualAdversary(rl.ThreatModel("L2", 0.5, wide), xi=1e-3, iterations=60)(model, x, labels) - x
    torch.testing.assert_close(r.norm(dim=1), torch.full((5,), 0.5, dtype=torch.float64))
    torch.testing.assert_close((F.normalize(r) * top).sum(1).abs(), torch.ones(5, dtype=torch.float64))
    box = VirtualAdversary(rl.ThreatModel("Linf", 0.1, wide), xi=1e-3, iterations=60)(model, x, labels)
    torch.testing.assert_close((box - x).abs(), torch.full_like(x, 0.1))
    assert torch.equal((box - x).sign(), r.sign())


def test_one_iteration_of_vat_is_one_product_with_the_hessian_and_asks_for_no_label():
    model, x = softmax_regression(2)
    attack = VirtualAdversary(rl.ThreatModel("L2", 0.5, (-9.0, 9.0)), xi=1e-4)
    seed = noise.seed_from(torch.Generator().manual_seed(3))
    start = noise.normal(noise.keys(x, seed), x)
    expected = F.normalize((kl_hessian(model, x) @ start[:, :, None]).squeeze(2)) * 0.5
    for y in (torch.zeros(5, dtype=torch.int64), torch.tensor([3, 2, 1, 0, 3])):
        found = attack(model, x, y, generator=torch.Generator().manual_seed(3)) - x
        torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-4)


def test_vat_takes_the_clean_prediction_for_a_constant():
    model, x = softmax_regression()
    y, x_adv = torch.tensor([0, 1, 2, 3, 0]), x + 0.1
    rl.objectives.get("vat", weight=2.0)(model, x, x_adv, y).mean().backward()
    p = model(x).softmax(1).detach()
    teacher = (p * (p.log() - model(x_adv).log_softmax(1))).sum(1)
    expected = torch.autograd.grad((F.cross_entropy(model(x), y) + 2.0 * teacher.mean()), model.weight)
    torch.testing.assert_close(model.weight.grad, expected[0])


# -- gradients of objectives, in the settings of training ---------------------------------------------


def slope_and_difference(objective, model, x, x_adv, y, step=1e-5):
    """The derivative along a random direction of the weights: by autograd, and by central differences."""
    weights = [p for p in model.parameters() if p.requires_grad]
    along = [torch.randn_like(p) for p in weights]
    gradients = torch.autograd.grad(objective(model, x, x_adv, y).mean(), weights)
    slope = sum((g * v).sum() for g, v in zip(gradients, along, strict=True))

    def moved(by):
        other = copy.deepcopy(model)
        with torch.no_grad():
            there = [p for p in other.parameters() if p.requires_grad]
            for p, v in zip(there, along, strict=True):
                p.add_(by * v)
        return objective(other, x, x_adv, y).mean().detach()

    return slope, (moved(step) - moved(-step)) / (2 * step)


# VAT's gradient is, on purpose, not that of its value: it has a test of its own.
differentiated = pytest.mark.parametrize("name", [name for name in OBJECTIVES if name != "vat"])


@differentiated
@pytest.mark.parametrize("mode", ["train", "eval"])
@pytest.mark.parametrize(("norm", "eps"), [("Linf", 0.05), ("L2", 0.3)])
def test_weight_gradients_agree_with_finite_differences(name, mode, norm, eps):
    model, (x, y) = everything(torch.float64), images(dtype=torch.float64)
    model.train(mode == "train").drop.p = 0.0
    objective = rl.objectives.get(name)
    build = objective.inner_attack
    threat = rl.ThreatModel(norm, eps)
    x_adv = x if build is None else build(threat, AttackSpec(steps=3, model_mode=mode))(model, x, y)
    slope, difference = slope_and_difference(objective, model, x, x_adv, y, step=1e-7)
    torch.testing.assert_close(slope, difference, rtol=1e-4, atol=1e-6)


NETWORKS = {
    "small-cnn-bn": lambda: rl.models.get("small-cnn-bn", num_classes=4, in_channels=3, width=4, hidden=16),
    "resnet8": lambda: rl.models.get("resnet8", num_classes=4, in_channels=3),
    "preactresnet18": lambda: rl.models.get("preactresnet18", num_classes=4, in_channels=3, width=4),
    "wide resnet with silu": lambda: nn.Sequential(
        *wide_resnet(10, 1, num_classes=4, in_channels=3, activation="silu").values()
    ),
}


@pytest.mark.parametrize("network", NETWORKS)
@pytest.mark.parametrize("objective", ["gradient-penalty", "cure", "llr"])
def test_our_networks_can_be_differentiated_twice(network, objective):
    model = NETWORKS[network]().double()
    x, y = torch.rand(4, 3, 8, 8, dtype=torch.float64), torch.tensor([0, 1, 2, 3])
    slope, difference = slope_and_difference(
        rl.objectives.get(objective), model, x, (x + 0.03).clamp(0, 1), y, step=1e-7
    )
    torch.testing.assert_close(slope, difference, rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize("name", OBJECTIVES)
def test_autocast_changes_an_objective_by_rounding_only(name):
    model, (x, y) = everything(), images(64)
    model.train().drop.p = 0.0
    objective, x_adv = rl.objectives.get(name), (x + 0.05).clamp(0, 1)
    weights = [p for p in model.parameters() if p.requires_grad]

    def run(enabled):
        with torch.autocast("cpu", torch.bfloat16, enabled=enabled):
            loss = objective(model, x, x_adv, y)
        return loss, torch.cat([g.flatten() for g in torch.autograd.grad(loss.mean(), weights)])

    (exact, gradient), (rounded, gradient_rounded) = run(False), run(True)
    assert rounded.dtype == torch.float32
    assert rounded.mean().item() == pytest.approx(exact.mean().item(), rel=0.02)
    assert F.cosine_similarity(gradient, gradient_rounded, dim=0) > 0.98


def test_the_attack_of_vat_does_not_round_under_autocast():
    model, (x, y) = everything().eval(), images()
    attack = VirtualAdversary(rl.ThreatModel("L2", 0.3))
    with torch.autocast("cpu", torch.bfloat16):
        rounded = attack(model, x, y)
    assert torch.equal(rounded, attack(model, x, y))


@pytest.mark.parametrize("name", OBJECTIVES)
def test_one_image_in_train_mode_is_a_batch(name):
    model, (x, y) = everything().train(), images(1)
    objective = rl.objectives.get(name)
    build = objective.inner_attack
    attack = build and build(rl.ThreatModel("Linf", 0.1), AttackSpec(steps=2))
    loss = objective(model, x, attack(model, x, y) if attack else x, y)
    loss.mean().backward()
    assert torch.isfinite(loss).all()
    assert torch.isfinite(model.conv.weight.grad).all()


@pytest.mark.parametrize("name", OBJECTIVES)
def test_an_objective_can_be_looked_at_without_gradients(name):
    model, (x, y) = everything().eval(), images()
    objective, x_adv = rl.objectives.get(name), (x + 0.05).clamp(0, 1)
    with torch.no_grad():
        looked = objective(model, x, x_adv, y)
    assert not looked.requires_grad
    torch.testing.assert_close(looked, objective(model, x, x_adv, y))


@pytest.mark.parametrize("name", ["gradient-penalty", "cure", "llr"])
def test_a_network_without_input_gradients_is_refused(name):
    model = nn.Sequential(nn.Flatten(), nn.Linear(12, 3))
    model.register_forward_pre_hook(lambda module, inputs: (inputs[0].detach(),))
    x = torch.rand(2, 3, 2, 2)
    with pytest.raises(ModelError, match="no gradient with respect to the input"):
        rl.objectives.get(name)(model, x, x, torch.tensor([0, 1]))


class Products(TorchDispatchMode):
    """Counts matrix products: in a deep network of equal layers, so many of them are one forward pass."""

    count = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.count += func.overloadpacket in (torch.ops.aten.mm, torch.ops.aten.addmm)
        return func(*args, **(kwargs or {}))


STEPS = 4
PASSES = {
    "standard": 3,
    "fgsm": 5,
    "at": 2 * STEPS + 3,
    "trades": 2 * STEPS + 7,
    "mart": 2 * STEPS + 6,
    "alp": 2 * STEPS + 6,
    "llr": 2 * STEPS + 11,
    "cure": 12,
    "vat": 9,
    "gradient-penalty": 6,
    "ibp": 9,
}
"""Of a training step, in forward passes: the numbers of docs/methods.md."""


@pytest.mark.parametrize("name", OBJECTIVES)
def test_a_training_step_costs_the_passes_that_its_card_says(name):
    layers = 20
    model = nn.Sequential(*[part for _ in range(layers) for part in (nn.Linear(8, 8, bias=False), nn.ReLU())])
    x, y = torch.rand(3, 8), torch.tensor([0, 1, 2])
    objective = rl.objectives.get(name)
    build = objective.inner_attack
    objective(model, x, x, y)  # interval bounds record the network once
    with Products() as products:
        x_adv = x
        if build is not None:
            x_adv = build(rl.ThreatModel("Linf", 0.1), AttackSpec(steps=STEPS))(model, x, y)
        objective(model, x, x_adv, y).mean().backward()
    assert products.count / layers == pytest.approx(PASSES[name], abs=0.16)  # no gradient of x at the end


@pytest.mark.parametrize("name", OBJECTIVES)
def test_running_statistics_take_in_each_forward_pass_of_the_objective(name):
    model, (x, y) = everything().train(), images()
    before = model.norm.num_batches_tracked.item()
    rl.objectives.get(name)(model, x, x, y)
    passes = 1 if name in ("standard", "fgsm", "at", "gradient-penalty", "ibp") else 2
    assert model.norm.num_batches_tracked.item() - before == passes


# -- soft labels --------------------------------------------------------------------------------------

LINEAR = [name for name in OBJECTIVES if rl.objectives.takes_soft_labels(rl.objectives.get(name))]


@pytest.mark.parametrize("name", LINEAR)
def test_one_hot_labels_are_labels(name):
    model, (x, y) = everything(torch.float64).eval(), images(dtype=torch.float64)
    objective, x_adv = rl.objectives.get(name), (x + 0.05).clamp(0, 1)
    hard, soft = (objective(model, x, x_adv, labels) for labels in (y, F.one_hot(y, 5).double()))
    torch.testing.assert_close(soft, hard)


@pytest.mark.parametrize("name", ["standard", "fgsm", "at", "trades", "alp", "vat"])
def test_what_is_linear_in_the_label_blends_with_it(name):
    model, (x, y) = everything(torch.float64).eval(), images(dtype=torch.float64)
    objective, x_adv = rl.objectives.get(name), (x + 0.05).clamp(0, 1)
    ends = [F.one_hot(labels, 5).double() for labels in (y, y.flip(0))]
    blended = objective(model, x, x_adv, 0.3 * ends[0] + 0.7 * ends[1])
    expected = 0.3 * objective(model, x, x_adv, y) + 0.7 * objective(model, x, x_adv, y.flip(0))
    torch.testing.assert_close(blended, expected)


def test_mart_margin_and_dlr_refuse_soft_labels():
    model, (x, y) = everything().eval(), images()
    soft = F.one_hot(y, 5).float()
    with pytest.raises(ConfigError, match="objective 'mart': found soft labels"):
        rl.objectives.get("mart")(model, x, x, soft)
    assert [name for name in OBJECTIVES if not takes_soft_labels(rl.objectives.get(name))] == ["mart", "ibp"]
    for name in ("margin", "dlr"):
        with pytest.raises(ConfigError, match=f"loss '{name}': found soft labels"):
            losses.get(name)(model(x), soft)


def test_an_attack_on_cross_entropy_climbs_the_blended_loss_and_wins_against_the_likeliest_class():
    model, (x, y) = everything(torch.float64).eval(), images(dtype=torch.float64)
    other = (y + 1) % 5
    soft = 0.6 * F.one_hot(y, 5).double() + 0.4 * F.one_hot(other, 5)
    gradient, value, won = input_gradient(model, x, Goal.of(model, x, soft, "ce", targeted=False))
    parts = [
        input_gradient(model, x, Goal.of(model, x, labels, "ce", targeted=False)) for labels in (y, other)
    ]
    torch.testing.assert_close(gradient, 0.6 * parts[0][0] + 0.4 * parts[1][0])
    torch.testing.assert_close(value, 0.6 * parts[0][1] + 0.4 * parts[1][1])
    assert torch.equal(won, parts[0][2])
    assert won.any()
    assert not won.all()
