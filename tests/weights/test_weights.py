"""Adversarial weight perturbation against a plain re-derivation, and the running average."""

import copy
import subprocess
import sys

import pytest
import torch
import torch.nn.functional as F  # noqa: N812 - the field's name for it
from torch import nn

import robustlens as rl
from helpers.small_models import Snapshot, everything, images
from robustlens.errors import ConfigError, NumericsError
from robustlens.weights import RandomWeightPerturbation, SharpnessAwareMinimization, bound_singular_values


def training_model():
    """All modules in train mode, everything trainable: as in a training step."""
    model = everything().train().requires_grad_(True)
    model.drop.p = 0.0
    return model


def test_each_tensor_moves_by_gamma_of_its_norm_along_its_gradient():
    model, (x, y) = training_model(), images()
    awp = rl.AdversarialWeightPerturbation(model, gamma=0.013)

    def loss_fn():
        return F.cross_entropy(model(x), y)

    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    gradients = dict(zip(before, torch.autograd.grad(loss_fn(), list(model.parameters())), strict=True))
    with awp.perturbed(loss_fn):
        for name, p in model.named_parameters():
            moved = p.detach() - before[name]
            if p.ndim == 1:
                assert torch.equal(p, before[name]), f"{name} has one dimension and moved"
                continue
            assert moved.norm() / before[name].norm() == pytest.approx(0.013, rel=1e-5)
            cosine = F.cosine_similarity(moved.flatten(), gradients[name].flatten(), dim=0)
            assert cosine == pytest.approx(1.0, abs=1e-4)


def test_restores_everything_bit_for_bit_and_accumulates_nothing():
    model, (x, y) = training_model(), images()
    before = Snapshot(model)
    awp = rl.AdversarialWeightPerturbation(model, gamma=0.01)
    with awp.perturbed(lambda: F.cross_entropy(model(x), y)):
        pass
    before.assert_unchanged()


def test_restores_everything_when_the_body_raises():
    model, (x, y) = training_model(), images()
    before = Snapshot(model)
    awp = rl.AdversarialWeightPerturbation(model, gamma=0.5)
    with pytest.raises(ZeroDivisionError), awp.perturbed(lambda: F.cross_entropy(model(x), y)):
        raise ZeroDivisionError
    before.assert_unchanged()


def test_batchnorm_sees_the_descent_pass_only():
    model, (x, y) = training_model(), images()
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
    model, (x, y) = training_model(), images()
    model.drop.p = 0.5
    masks = []
    model.drop.register_forward_hook(lambda module, inputs, output: masks.append(output == 0))
    awp = rl.AdversarialWeightPerturbation(model, gamma=0.0)

    def loss_fn():
        return F.cross_entropy(model(x), y)

    with awp.perturbed(loss_fn):
        loss_fn().backward()
    assert torch.equal(masks[0], masks[1])


@pytest.mark.parametrize("weight_decay", [0.0, 5e-4])
def test_steps_agree_with_the_published_update(weight_decay):
    """Re-derived plainly: gradient at w + v, taken from w; decay acts on w (theirs: on w + v)."""
    model, (x, y) = training_model(), images()
    plain = copy.deepcopy(model)
    gamma, rate = 0.01, 0.1
    awp = rl.AdversarialWeightPerturbation(model, gamma)
    optimizer = torch.optim.SGD(model.parameters(), lr=rate, weight_decay=weight_decay)

    def loss_fn():
        return F.cross_entropy(model(x), y)

    for _ in range(3):
        optimizer.zero_grad()
        with awp.perturbed(loss_fn):
            loss_fn().backward()
        optimizer.step()

        parameters = list(plain.parameters())
        ascent = torch.autograd.grad(F.cross_entropy(plain(x), y), parameters)
        v = [
            gamma * p.norm() / (g.norm() + 1e-20) * g if p.ndim > 1 else torch.zeros_like(p)
            for p, g in zip(parameters, ascent, strict=True)
        ]
        with torch.no_grad():
            for p, step in zip(parameters, v, strict=True):
                p += step
        descent = torch.autograd.grad(F.cross_entropy(plain(x), y), parameters)
        with torch.no_grad():
            for p, step, g in zip(parameters, v, descent, strict=True):
                p -= step
                p -= rate * (g + weight_decay * p)
    for p, q in zip(model.parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(p, q, rtol=1e-4, atol=1e-6)


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


def test_wrong_settings_are_refused():
    with pytest.raises(ConfigError, match="gamma"):
        rl.AdversarialWeightPerturbation(nn.Linear(2, 2), gamma=-1)
    with pytest.raises(ConfigError, match="awp: the model has no trainable weight"):
        rl.AdversarialWeightPerturbation(nn.BatchNorm1d(3))
    with pytest.raises(ConfigError, match="decay"):
        rl.ExponentialMovingAverage(nn.Linear(2, 2), 1.0)


def test_the_running_average_follows_its_formula():
    model = nn.Linear(3, 2)
    ema = rl.ExponentialMovingAverage(model, decay=0.9)
    expected = model.weight.detach().clone()
    for t in range(40):
        with torch.no_grad():
            model.weight += 0.1 * (t + 1)
        ema.update()
        decay = min(0.9, (1 + t) / (10 + t))
        expected = decay * expected + (1 - decay) * model.weight.detach()
    torch.testing.assert_close(ema.average.weight, expected, rtol=1e-5, atol=1e-6)
    assert not ema.average.weight.requires_grad


# -- capacity ------------------------------------------------------------------------------------------


def test_singular_values_are_clipped_and_their_vectors_stay():
    q, _ = torch.linalg.qr(torch.randn(6, 6, generator=torch.Generator().manual_seed(0)))
    layer = nn.Conv2d(2, 3, (1, 3))  # the matrix (3, 2 * 1 * 3)
    with torch.no_grad():
        layer.weight.copy_((torch.diag(torch.tensor([4.0, 1.0, 0.1])) @ q[:3]).view(3, 2, 1, 3))
    bias = layer.bias.detach().clone()
    bound_singular_values(layer, 0.5, 2.0)
    expected = torch.diag(torch.tensor([2.0, 1.0, 0.5])) @ q[:3]
    assert torch.allclose(layer.weight.detach().flatten(1), expected, atol=1e-6)
    assert torch.equal(layer.bias, bias)


def test_a_cap_alone_leaves_small_values():
    layer = nn.Linear(2, 2, bias=False)
    with torch.no_grad():
        layer.weight.copy_(torch.tensor([[3.0, 0.0], [0.0, 0.2]]))
    bound_singular_values(layer, 0.0, 1.0)
    assert torch.allclose(layer.weight, torch.tensor([[1.0, 0.0], [0.0, 0.2]]), atol=1e-6)


def test_frozen_weights_are_not_clipped_and_broken_ones_are_refused_before_any_is():
    model = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3))
    model[0].weight.requires_grad_(False)
    frozen = model[0].weight.clone()
    bound_singular_values(model, 5.0, 6.0)
    assert torch.equal(model[0].weight, frozen)
    assert torch.allclose(torch.linalg.svdvals(model[1].weight.detach()), torch.full((3,), 5.0))
    model[0].weight.requires_grad_(True)
    with torch.no_grad():
        model[1].weight[0, 0] = torch.nan
    with pytest.raises(NumericsError, match="NaN or infinite"):
        bound_singular_values(model, 0.0, 1.0)
    assert torch.equal(model[0].weight, frozen)


# -- the family ----------------------------------------------------------------------------------------


def published_ascent(model, loss_of, x_adv_of, gamma, steps, alternations):
    """Algorithm 1 of Wu et al. 2020 in plain code: {name: v}, of weights with two or more dimensions."""
    w = {name: p.detach().clone() for name, p in model.named_parameters()}
    v = {name: torch.zeros_like(p) for name, p in w.items() if p.ndim > 1}
    for round_ in range(alternations):
        x_adv = x_adv_of(model, round_)
        for _ in range(steps):
            named = dict(model.named_parameters())
            gradients = torch.autograd.grad(loss_of(model, x_adv), [named[name] for name in v])
            for name, gradient in zip(v, gradients, strict=True):
                moved = v[name] + gamma / steps * w[name].norm() * gradient / gradient.norm()
                longest = gamma * w[name].norm()
                v[name] = moved * min(1.0, float(longest / moved.norm()))
                named[name].data = w[name] + v[name]
    for name, p in model.named_parameters():
        p.data = w[name]
    return v


@pytest.mark.parametrize("alternations", [1, 2])
@pytest.mark.parametrize("steps", [1, 2])
@pytest.mark.parametrize("objective", ["at", "trades", "mart"])
def test_the_perturbation_agrees_with_the_published_algorithm(objective, steps, alternations):
    model, (x, y) = everything().eval().requires_grad_(True).double(), images()
    x = x.double()
    chosen = rl.objectives.get(objective)

    def crafted(network, round_):
        # Stands for the attack: depends on the weights as they are, and on the round.
        leaf = x.clone().requires_grad_()
        (slope,) = torch.autograd.grad(F.cross_entropy(network(leaf), y, reduction="sum"), leaf)
        return (x + 0.05 * (1 + round_) * slope.sign()).clamp(0, 1)

    def loss_of(network, x_adv):
        return chosen(network, x, x_adv, y).mean()

    expected = published_ascent(model, loss_of, crafted, 0.01, steps, alternations)
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    batch = {"x_adv": crafted(model, 0), "round": 0}

    def craft():
        batch["round"] += 1
        batch["x_adv"] = crafted(model, batch["round"])

    awp = rl.AdversarialWeightPerturbation(model, 0.01, steps=steps, alternations=alternations)
    with awp.perturbed(lambda: loss_of(model, batch["x_adv"]), craft=craft):
        moved = {name: p.detach() - before[name] for name, p in model.named_parameters()}
    for name, v in expected.items():
        assert torch.allclose(moved[name], v, rtol=1e-6, atol=1e-12), name
    assert batch["round"] == alternations - 1
    assert all(torch.equal(p, before[name]) for name, p in model.named_parameters())


def test_micro_batches_give_the_perturbation_of_the_whole_batch():
    model, (x, y) = everything().eval().requires_grad_(True).double(), images()
    x = x.double()
    awp = rl.AdversarialWeightPerturbation(model, 0.01)

    def share(rows):
        return lambda: F.cross_entropy(model(x[rows]), y[rows], reduction="sum") / len(x)

    whole = awp.offsets([share(slice(None))])
    parts = awp.offsets([share(slice(0, 3)), share(slice(3, None))])
    assert all(torch.allclose(a, b, rtol=1e-9, atol=1e-15) for a, b in zip(whole, parts, strict=True))


def test_sam_moves_everything_by_rho_along_the_gradient():
    model, (x, y) = everything().eval().requires_grad_(True), images()
    before = [p.detach().clone() for p in model.parameters()]
    gradient = torch.autograd.grad(F.cross_entropy(model(x), y), list(model.parameters()))
    length = torch.cat([g.flatten() for g in gradient]).norm()
    with SharpnessAwareMinimization(model, rho=0.3).perturbed(lambda: F.cross_entropy(model(x), y)):
        for p, w, g in zip(model.parameters(), before, gradient, strict=True):
            assert torch.allclose(p.detach(), w + 0.3 * g / length, atol=1e-6)
    assert all(torch.equal(p, w) for p, w in zip(model.parameters(), before, strict=True))


def test_rwp_has_the_size_of_awp_and_the_direction_of_its_generator():
    model = everything().eval().requires_grad_(True)
    rwp = RandomWeightPerturbation(model, gamma=0.02)

    def offsets(seed):
        return rwp.offsets([], None, torch.Generator().manual_seed(seed))

    first, again, other = offsets(1), offsets(1), offsets(2)
    for weight, a, b, c in zip(rwp.weights(), first, again, other, strict=True):
        assert float(a.norm() / weight.detach().norm()) == pytest.approx(0.02, rel=1e-5)
        assert torch.equal(a, b)
        assert not torch.equal(a, c)


def test_alternations_need_a_way_to_craft_and_sizes_are_checked():
    model = nn.Linear(2, 2)
    awp = rl.AdversarialWeightPerturbation(model, alternations=2)
    with pytest.raises(ConfigError, match="craft"), awp.perturbed(lambda: model.weight.sum()):
        pass
    with pytest.raises(ConfigError, match=r"found steps 0"):
        rl.AdversarialWeightPerturbation(model, steps=0)
    for build in (RandomWeightPerturbation, SharpnessAwareMinimization):
        with pytest.raises(ConfigError, match="expected a finite number >= 0"):
            build(model, float("nan"))


DATA_PARALLEL = """
import copy, sys, torch, torch.nn.functional as F
import torch.distributed as dist
from torch.nn.parallel import DistributedDataParallel
import robustlens as rl
from robustlens.weights import RandomWeightPerturbation, SharpnessAwareMinimization

rank, size, store, out = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3], sys.argv[4]
torch.manual_seed(0)
start = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(12, 8), torch.nn.ReLU(), torch.nn.Linear(8, 3)).double()
x, y = torch.rand(16, 12, dtype=torch.float64), torch.arange(16) % 3
if size > 1:
    dist.init_process_group("gloo", init_method="file://" + store, rank=rank, world_size=size)
x, y = x.chunk(size)[rank], y.chunk(size)[rank]
torch.manual_seed(rank)  # nobody says that ranks share their random state
perturbations = {
    "awp": lambda model: rl.AdversarialWeightPerturbation(model, gamma=0.05, steps=2),
    "rwp": lambda model: RandomWeightPerturbation(model, gamma=0.05),
    "sam": lambda model: SharpnessAwareMinimization(model, rho=0.05),
}
trained = {}
for name, perturbation_of in perturbations.items():
    model = copy.deepcopy(start)
    model = DistributedDataParallel(model) if size > 1 else model
    perturbation = perturbation_of(model)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    for _ in range(4):
        loss_fn = lambda: F.cross_entropy(model(x), y)
        optimizer.zero_grad()
        with perturbation.perturbed(loss_fn):
            loss_fn().backward()
        optimizer.step()
    trained[name] = [p.detach() for p in model.parameters()]
if rank == 0:
    torch.save(trained, out)
if size > 1:
    dist.barrier()  # a rank that leaves early may abort the other
    dist.destroy_process_group()
"""


def test_two_processes_train_as_one(tmp_path):
    """Each rank sees half of the batch; gradients and perturbations are those of the whole."""
    script = tmp_path / "data_parallel.py"
    script.write_text(DATA_PARALLEL)
    for size in (1, 2):
        ranks = [
            subprocess.Popen(
                [
                    sys.executable,
                    script,
                    str(rank),
                    str(size),
                    str(tmp_path / f"store{size}"),
                    tmp_path / f"w{size}",
                ]
            )
            for rank in range(size)
        ]
        assert [process.wait(timeout=240) for process in ranks] == [0] * size
    one, two = (torch.load(tmp_path / f"w{size}", weights_only=True) for size in (1, 2))
    for name, alone in one.items():
        pairs = zip(alone, two[name], strict=True)
        assert all(torch.allclose(a, b, rtol=1e-6, atol=1e-9) for a, b in pairs), name
