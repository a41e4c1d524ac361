"""Perturbations of the weights: they come back bit for bit, and leave no trace of the pass that made them."""

import copy
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F  # noqa: N812 - the field's name for it
from torch import nn

import robustlens as rl
from helpers.small_models import Snapshot, everything, everything_in_training, images
from robustlens.errors import ConfigError, NumericsError
from robustlens.weights import PERTURBATIONS


def test_restores_everything_bit_for_bit_and_accumulates_nothing():
    model, (x, y) = everything_in_training(), images()
    before = Snapshot(model)
    awp = rl.AdversarialWeightPerturbation(model, gamma=0.01)
    with awp.perturbed(lambda: F.cross_entropy(model(x), y)):
        pass
    before.assert_unchanged()


def test_restores_everything_when_the_body_raises():
    model, (x, y) = everything_in_training(), images()
    before = Snapshot(model)
    awp = rl.AdversarialWeightPerturbation(model, gamma=0.5)
    with pytest.raises(ZeroDivisionError), awp.perturbed(lambda: F.cross_entropy(model(x), y)):
        raise ZeroDivisionError
    before.assert_unchanged()


def test_batchnorm_sees_the_descent_pass_only():
    model, (x, y) = everything_in_training(), images()
    reference = copy.deepcopy(model)
    awp = rl.AdversarialWeightPerturbation(model, gamma=0.0)

    def loss_fn():
        return F.cross_entropy(model(x), y)

    with awp.perturbed(loss_fn):
        loss_fn().backward()
    F.cross_entropy(reference(x), y).backward()
    for name, buffer in model.named_buffers():
        assert torch.equal(buffer, reference.get_buffer(name)), name
    for p, q in zip(model.parameters(), reference.parameters(), strict=True):
        torch.testing.assert_close(p.grad, q.grad)


def test_dropout_draws_the_same_mask_in_both_passes():
    model, (x, y) = everything_in_training(), images()
    model.drop.p = 0.5
    masks = []
    model.drop.register_forward_hook(lambda module, inputs, output: masks.append(output == 0))
    awp = rl.AdversarialWeightPerturbation(model, gamma=0.0)

    def loss_fn():
        return F.cross_entropy(model(x), y)

    with awp.perturbed(loss_fn):
        loss_fn().backward()
    assert torch.equal(masks[0], masks[1])


def test_the_body_sees_the_perturbed_weights_inside_one_autocast():
    """Autocast keeps low-precision copies of weights; those of the ascent pass must not serve the body."""
    model, x = nn.Linear(30, 10), torch.rand(8, 30)

    def loss_fn():
        return model(x).float().square().mean()

    awp = rl.AdversarialWeightPerturbation(model, gamma=0.1)
    with torch.autocast("cpu", torch.bfloat16):
        at_w = loss_fn().item()
        with awp.perturbed(loss_fn):
            inside = loss_fn().item()
        assert inside > 1.05 * at_w
        assert loss_fn().item() == at_w


def test_frozen_and_unused_weights_stay():
    model = nn.ModuleDict({"used": nn.Linear(4, 3), "unused": nn.Linear(4, 3), "frozen": nn.Linear(4, 3)})
    model["frozen"].requires_grad_(False)
    x = torch.rand(5, 4)
    awp = rl.AdversarialWeightPerturbation(model, gamma=0.1)
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    with awp.perturbed(lambda: (model["used"](x) + model["frozen"](x)).square().sum()):
        moved = [name for name, p in model.named_parameters() if not torch.equal(p, before[name])]
    assert moved == ["used.weight"]


def test_a_loss_that_is_not_finite_is_refused_and_changes_nothing():
    model = nn.Linear(4, 3)
    before = Snapshot(model)
    awp = rl.AdversarialWeightPerturbation(model)
    with (
        pytest.raises(NumericsError, match="not finite"),
        awp.perturbed(lambda: model(torch.ones(1, 4)).sum() * torch.inf),
    ):
        pass
    before.assert_unchanged()


def test_a_gradient_from_elsewhere_that_is_not_finite_is_refused_and_changes_nothing():
    model = nn.Linear(4, 3)
    before = Snapshot(model)
    awp = rl.AdversarialWeightPerturbation(model)
    with (
        pytest.raises(NumericsError, match="awp: the gradient of 1 of 1 tensors is not finite"),
        awp.perturbed_along([torch.full_like(model.weight, torch.nan)]),
    ):
        pass
    before.assert_unchanged()


DATA_PARALLEL = """
import copy, sys, torch, torch.nn.functional as F
sys.path.insert(0, sys.argv[1])
import torch.distributed as dist
from torch.nn.parallel import DistributedDataParallel
import robustlens as rl
from helpers.ranks import in_ranks
from robustlens.weights import RandomWeightPerturbation, SharpnessAwareMinimization

PERTURBATIONS = {
    "awp": lambda model: rl.AdversarialWeightPerturbation(model, gamma=0.05, steps=2),
    "awp, small": lambda model: rl.AdversarialWeightPerturbation(
        model, gamma=0.05, images="small-loss", loss_threshold=1.1),  # about half of the images
    "rwp": lambda model: RandomWeightPerturbation(model, gamma=0.05),
    "sam": lambda model: SharpnessAwareMinimization(model, rho=0.05),
}

def train(rank, size):
    torch.manual_seed(0)
    layers = [torch.nn.Flatten(), torch.nn.Linear(12, 8), torch.nn.ReLU(), torch.nn.Linear(8, 3)]
    start = torch.nn.Sequential(*layers).double()
    x, y = torch.rand(16, 12, dtype=torch.float64), torch.arange(16) % 3
    if size > 1:
        dist.init_process_group("gloo")
    x, y = x.chunk(size)[rank], y.chunk(size)[rank]
    torch.manual_seed(rank)  # nobody says that ranks share their random state
    trained = {}
    for name, perturbation_of in PERTURBATIONS.items():
        model = copy.deepcopy(start)
        model = DistributedDataParallel(model) if size > 1 else model
        perturbation = perturbation_of(model)
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
        for _ in range(4):
            losses = lambda: F.cross_entropy(model(x), y, reduction="none")
            loss_fn = lambda: losses().mean()
            optimizer.zero_grad()
            with perturbation.perturbed(losses if perturbation.takes_image_losses else loss_fn):
                loss_fn().backward()
            optimizer.step()
        trained[name] = [p.detach() for p in model.parameters()]
    if rank == 0:
        torch.save(trained, f"{sys.argv[2]}/w{size}")
    if size > 1:
        dist.barrier()  # a rank that leaves early may abort the other
        dist.destroy_process_group()

for size in (1, 2):
    assert in_ranks(size, lambda rank: train(rank, size)) == [0] * size
"""


@pytest.mark.slow
def test_two_processes_train_as_one(tmp_path):
    """Each rank sees half of the batch; gradients and perturbations are those of the whole."""
    tests = str(Path(__file__).resolve().parents[1])
    subprocess.run([sys.executable, "-c", DATA_PARALLEL, tests, str(tmp_path)], check=True, timeout=500)
    one, two = (torch.load(tmp_path / f"w{size}", weights_only=True) for size in (1, 2))
    for name, alone in one.items():
        pairs = zip(alone, two[name], strict=True)
        assert all(torch.allclose(a, b, rtol=1e-6, atol=1e-9) for a, b in pairs), name


@pytest.mark.parametrize("name", PERTURBATIONS)
def test_a_model_without_weights_and_a_size_out_of_range_are_refused(name):
    with pytest.raises(ConfigError, match=f"{name}: the model has no trainable weight"):
        PERTURBATIONS[name](nn.ReLU())
    (size, *_) = PERTURBATIONS.options(name)
    for value in (-1.0, float("nan"), float("inf")):
        with pytest.raises(ConfigError, match=rf"{name}.{size}: .*expected a finite number >= 0"):
            PERTURBATIONS.build(name, nn.Linear(2, 2), options={size: value}, where=name)


@pytest.mark.parametrize("name", ["awp", "sam"])
@pytest.mark.parametrize(
    ("of", "said"),
    [
        (lambda loss: loss, r"a Tensor of shape \(\d+,\), expected one number with a gradient"),
        (
            lambda loss: lambda: float(loss().mean().detach()),
            "is a float, expected one number with a gradient",
        ),
        (lambda loss: lambda: loss().mean().detach(), r"shape \(\), expected one number with a gradient"),
    ],
)
def test_what_is_no_scalar_loss_is_refused_in_one_line(name, of, said):
    model, (x, y) = everything_in_training(), images()
    perturbation = PERTURBATIONS.build(name, model)
    loss_fn = of(lambda: F.cross_entropy(model(x), y, reduction="none"))
    with pytest.raises(ConfigError, match=f"{name}: .*{said}"), perturbation.perturbed(loss_fn):
        pass


@pytest.mark.parametrize("name", PERTURBATIONS)
def test_a_known_gradient_gives_the_perturbation_of_its_loss_or_is_refused(name):
    model, (x, y) = everything().eval().requires_grad_(True), images()
    perturbation = PERTURBATIONS.build(name, model)

    def loss_fn():
        return F.cross_entropy(model(x), y)

    if not perturbation.follows_gradient:
        with pytest.raises(ConfigError, match=f"{name}.from_attack: .* follows no gradient"):
            perturbation.offsets_along([])
        return
    gradients = torch.autograd.grad(loss_fn(), perturbation.weights())
    with perturbation.perturbed(loss_fn):
        expected = [weight.detach().clone() for weight in perturbation.weights()]
    with perturbation.perturbed_along(gradients):
        assert all(
            torch.equal(weight, other) for weight, other in zip(perturbation.weights(), expected, strict=True)
        )


@pytest.mark.parametrize(("name", "size"), [("awp", 0.01), ("rwp", 0.01), ("sam", 0.05)])
def test_a_perturbation_has_the_papers_size_unless_told_otherwise_and_leaves_frozen_weights(name, size):
    model, (x, y) = everything().eval().requires_grad_(True), images()
    frozen = next(p for p in model.parameters() if p.ndim > 1)
    frozen.requires_grad_(False)
    perturbation = PERTURBATIONS.build(name, model)
    weights = [weight.detach().clone() for weight in perturbation.weights()]
    assert not any(weight is frozen for weight in perturbation.weights())
    offsets = perturbation.offsets([lambda: F.cross_entropy(model(x), y)], None, None)
    if name == "sam":
        assert torch.cat([v.flatten() for v in offsets]).norm() == pytest.approx(size, rel=1e-5)
    else:
        assert [float(v.norm() / w.norm()) for v, w in zip(offsets, weights, strict=True)] == pytest.approx(
            [size] * len(weights), rel=1e-5
        )


@pytest.mark.parametrize("name", PERTURBATIONS)
def test_size_zero_and_gradient_zero_move_nothing(name):
    model = nn.Linear(3, 2)
    before = copy.deepcopy(model.state_dict())
    (size, *_) = PERTURBATIONS.options(name)
    still = PERTURBATIONS.build(name, model, options={size: 0.0}, where=name)
    with still.perturbed(lambda: model(torch.ones(1, 3)).sum()):
        assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    perturbation = PERTURBATIONS.build(name, model)
    if perturbation.follows_gradient:
        with perturbation.perturbed(lambda: 0 * model(torch.ones(1, 3)).sum()):
            assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())


def test_weights_move_by_the_offset_and_its_factor():
    weight = nn.Parameter(torch.tensor([1.0, 2.0]))
    with rl.weights.offset_weights([weight], [torch.tensor([0.5, -1.0])]):
        assert weight.tolist() == [1.5, 1.0]
    with rl.weights.offset_weights([weight], [torch.tensor([0.5, -1.0])], alpha=-2.0):
        assert weight.tolist() == [0.0, 4.0]
    assert weight.tolist() == [1.0, 2.0]


def test_ranks_that_hold_the_same_take_the_gradient_of_one_and_the_draw_of_the_first(monkeypatch):
    sources = []
    monkeypatch.setattr(torch.distributed, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.distributed, "get_world_size", lambda: 3)
    monkeypatch.setattr(torch.distributed, "all_reduce", lambda tensor: tensor.mul_(3))
    monkeypatch.setattr(torch.distributed, "broadcast", lambda tensor, src: sources.append(src))
    model, x = nn.Linear(3, 2), torch.rand(4, 3)
    perturbation = PERTURBATIONS.build("awp", model)
    (gradient,) = torch.autograd.grad(model(x).square().mean(), [model.weight])
    assert torch.allclose(perturbation.gradient([lambda: model(x).square().mean()])[0], gradient)
    random = PERTURBATIONS.build("rwp", model)
    random.offsets([], None, torch.Generator().manual_seed(0))
    assert sources == []  # the generator of the caller is the same on every rank
    random.offsets([])
    assert sources == [0]


def test_a_perturbation_of_the_users_own_goes_where_a_name_goes():
    sam = PERTURBATIONS.build(
        "robustlens.weights.sam:SharpnessAwareMinimization", nn.Linear(2, 2), options={"rho": 0.2}
    )
    assert sam.rho == 0.2
