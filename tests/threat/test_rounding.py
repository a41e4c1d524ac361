"""Projections and attacks end inside the ball in float64, at every size and in every box."""

import pytest
import torch
from torch import nn

import robustlens as rl
from robustlens.evaluation.verifier import checked_distance

BOXES = [(0.0, 1.0), (-1.0, 1.0), (0.0, 255.0), (100.0, 101.0)]
SHAPES = [(1, 28, 28), (3, 224, 224)]
RADII = {"Linf": (8 / 255,), "L2": (0.5, 3.0), "L1": (12.0, 600.0)}  # of a box of width 1
CASES = [(norm, radius) for norm, radii in RADII.items() for radius in radii]


def setting(norm, radius, shape, box, n=3, dtype=torch.float32):
    """A threat, and images of which a fifth of the pixels lie at the box."""
    low, high = box
    generator = torch.Generator().manual_seed(0)
    x = (torch.rand(n, *shape, generator=generator) * 1.2 - 0.1).clamp(0, 1) * (high - low) + low
    return rl.ThreatModel(norm, radius * (high - low), box), x.to(dtype)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("box", BOXES)
@pytest.mark.parametrize(("norm", "radius"), CASES)
def test_projections_end_inside(norm, radius, shape, box):
    threat, x = setting(norm, radius, shape, box, n=24 if shape[0] == 1 else 2)
    for size in (0.02, 0.3, 5.0):
        far = x + size * (box[1] - box[0]) * torch.randn(x.shape, generator=torch.Generator().manual_seed(1))
        x_adv = threat.project(far, x)
        checked_distance("projection", x_adv, x, threat)
        assert threat.distance(x_adv.double(), x.double()).max() <= threat.eps + 1e-6
        assert x_adv.min() >= box[0]
        assert x_adv.max() <= box[1]


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize(("norm", "radius"), CASES)
def test_narrow_floats_end_inside_too(norm, radius, dtype):
    threat, x = setting(norm, radius, (1, 28, 28), (0.0, 1.0), dtype=dtype)
    x_adv = threat.contract((x + 0.05).clamp(0, 1), x)
    assert x_adv.dtype == dtype
    assert threat.distance(x_adv.double(), x.double()).max() <= threat.eps + 1e-6


@pytest.mark.parametrize(("norm", "radius"), CASES)
def test_what_is_inside_stays_and_pixels_at_the_box_stay_there(norm, radius):
    threat, x = setting(norm, radius, (1, 28, 28), (0.0, 1.0), n=24)
    x_adv = threat.project(x + 3 * torch.randn(x.shape), x)
    assert torch.equal(threat.contract(x_adv, x), x_adv)
    wider = threat.at(threat.eps * (1 + 2e-6)).project(x + 3 * torch.randn(x.shape), x)
    inside = threat.contract(wider, x)
    at_box = (wider == 0) | (wider == 1)
    assert torch.equal(inside[at_box], wider[at_box])
    assert ((inside - x).abs() <= (wider - x).abs()).all()


def test_double_precision_and_the_fields_usual_ball_are_left_alone():
    for norm, box, dtype in (("Linf", (0.0, 1.0), torch.float32), ("L1", (0.0, 255.0), torch.float64)):
        threat, x = setting(norm, RADII[norm][0], (1, 28, 28), box, dtype=dtype)
        beyond = x + 1e-4 * (box[1] - box[0])
        assert threat.contract(beyond, x) is beyond  # no rounding there is worth a look


def test_a_millionth_of_the_box_is_allowed_and_never_more_than_a_millionth():
    narrow, x = rl.ThreatModel("L2", 0.005, (100.0, 100.01)), torch.full((400, 49), 100.005)
    generator = torch.Generator().manual_seed(0)
    far = x + 0.001 * torch.randn(x.shape, generator=generator)
    near = x.double() + 0.005 * (far - x).double() / (far - x).double().norm(dim=1, keepdim=True)
    excess = narrow.distance(near.float().double(), x.double()) - 0.005
    assert ((excess > 1e-8) & (excess < 1e-6)).any()
    assert narrow.distance(narrow.contract(near.float(), x).double(), x.double()).max() <= 0.005 + 1e-8
    wide, x = rl.ThreatModel("L2", 0.5, (-1.0, 1.0)), torch.zeros(1, 3, 224, 224)
    for excess, stays in ((5e-7, True), (2e-6, False)):
        x_adv = torch.full_like(x, (0.5 + excess) / x.numel() ** 0.5)
        assert abs(wide.distance(x_adv.double(), x.double()).item() - 0.5 - excess) < 1e-7
        assert torch.equal(wide.contract(x_adv, x), x_adv) == stays


def attacks_on(threat):
    """Every attack, in few steps."""
    return {
        "fgsm": rl.attacks.FGSM(threat, step_size=1.25 * threat.eps, random_start=True),
        "pgd": rl.attacks.PGD(threat, steps=3),
        "apgd": rl.attacks.APGD(threat, steps=12, loss="margin"),
        "fab": rl.attacks.FAB(threat, steps=2, targets=1),
        "fab, restarted": rl.attacks.FAB(threat, steps=1, restart=1),
        "square": rl.attacks.Square(threat, queries=8),
        "min-norm": rl.attacks.MinimumNorm(threat, steps=8),
    }


@pytest.mark.slow
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("box", BOXES)
@pytest.mark.parametrize(("norm", "radius"), CASES)
def test_every_attack_ends_inside(norm, radius, shape, box):
    threat, x = setting(norm, radius, shape, box, n=2)
    torch.manual_seed(0)
    width = box[1] - box[0]
    model = nn.Sequential(nn.AdaptiveAvgPool2d(4), nn.Flatten(), nn.Linear(shape[0] * 16, 4))
    with torch.no_grad():
        model[2].weight.mul_(20 / width)
        model[2].bias.copy_(-(model[2].weight.sum(1) * sum(box) / 2))
    y = model(x).argmax(1)
    for name, attack in attacks_on(threat).items():
        x_adv = attack(model, x, y)
        checked_distance(name, x_adv, x, threat)
        assert threat.distance(x_adv.double(), x.double()).max() <= threat.eps + 1e-6, name


@pytest.mark.parametrize("suite", ["fast", ["apgd-ce-10", "fab-t-2", "square-20"]])
def test_an_l1_evaluation_of_real_images_is_valid(suite):
    splits = rl.data.load("fashion-mnist-10k", train_limit=20, test_limit=40)
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(784, 10))
    x = splits.test.x()
    evaluation = rl.evaluate(model, x, model(x).argmax(1), rl.ThreatModel("L1", 12.0), suite, flags=False)
    assert evaluation.clean.all()
    assert evaluation.robust.sum() < 40
