"""Nothing in the package makes a tensor on the wrong device, and hot loops read no value back to the host.

Everything runs on a pretended device (`helpers.pretended_device`) as it would on a GPU, and ends with the numbers
of the CPU. `READS` lists what reads a value back inside a loop over steps, and why.
"""

import copy
from collections import Counter
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F  # noqa: N812 - the field's name for it
from lightning_fabric import Fabric
from torch import nn

import robustlens as rl
from helpers.pretended_device import DEVICE, MixedDevicesError, OnDevice, moved, pretended
from helpers.training_runs import recipe
from robustlens import noise
from robustlens.attacks.base import craft
from robustlens.data import Split, from_tensors
from robustlens.explain import MEASURES, Subject
from robustlens.explain.activations import activations
from robustlens.explain.bound import instance_margins
from robustlens.explain.bound.geometry import margin_paths
from robustlens.explain.curvature import curvature
from robustlens.explain.flatness import flatness
from robustlens.explain.gallery import gallery
from robustlens.explain.gradients import gradients
from robustlens.explain.jacobian import jacobian
from robustlens.explain.landscape.inputs import input_landscape
from robustlens.explain.landscape.weights import landscape, plane
from robustlens.explain.margins import margins
from robustlens.explain.sharpness import sharpness
from robustlens.explain.smoothness import feature_changes, smoothness
from robustlens.objectives import OBJECTIVES
from robustlens.training.network import describe_model, starting_network
from robustlens.training.step import FreeTrainingStep, TrainingStep
from robustlens.weights import PERTURBATIONS
from test_contracts import ATTACK_ROWS, EPS, MEASURE_ROWS, OBJECTIVE_ROWS

READS = {
    "attacks/apgd.py:_ascend": "images that are broken leave the batch: one look a step saves their passes",
    "attacks/base.py:__getitem__": "the rows that are left, after such a look",
    "attacks/ascents.py:_steepest": "how many coordinates L1 steps move at most, to sort no more than these",
    "attacks/pgd.py:_ascend": "as APGD, where it stops at success; training does not",
    "weights/perturbation.py:_mean_gradients": "weights are never moved along a gradient that is not finite",
}
"""What reads a value back at each step of an attack or of training, and why it is worth the wait."""


def network(seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    layers = nn.Conv2d(3, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 64, 5)
    return nn.Sequential(*layers).eval()


def images(n: int = 12) -> tuple[torch.Tensor, torch.Tensor]:
    """Images, and labels most of which the network gets right."""
    x = torch.rand(n, 3, 8, 8, generator=torch.Generator().manual_seed(1))
    y = network()(x).argmax(1)
    y[0] = (y[0] + 1) % 5
    return x, y


def close(here: Any, there: torch.Tensor, tolerance: float = 1e-4) -> None:
    assert isinstance(here, OnDevice)
    torch.testing.assert_close(here.held, there, rtol=tolerance, atol=tolerance)


# -- the device itself -----------------------------------------------------------------------------------


def test_the_pretended_device_refuses_to_mix_and_counts_reads():
    with pretended() as device:
        x = torch.arange(4.0).to(DEVICE)
        with pytest.raises(MixedDevicesError):
            x + torch.ones(4)
        with pytest.raises(TypeError, match=r"use Tensor\.cpu\(\) first"):
            x.numpy()
        close(2 * x + torch.tensor(1.0), torch.tensor([1.0, 3.0, 5.0, 7.0]))
        close(torch.zeros(2, device=DEVICE) + x[:2], torch.tensor([0.0, 1.0]))
        places, put = torch.tensor([0, 3]), torch.zeros(4, device=DEVICE)
        put[places], put[1] = x[places], 7.0  # indices may be the CPU's, single numbers, too
        put[places[:1]] = torch.tensor(5.0)
        close(put, torch.tensor([5.0, 7.0, 0.0, 3.0]))
        with pytest.raises(MixedDevicesError):
            put[places] = torch.ones(2)
        with pytest.raises(MixedDevicesError):
            torch.ones(4)[places] = put[:2]
        with pytest.raises(MixedDevicesError):
            torch.ones(4)[put.long().clamp(0, 3)]
        assert not device.reads
        assert (x.max().item(), len(x[x > 1]), bool((x > 0).any()), x.cpu().tolist()[2]) == (
            3.0,
            2,
            True,
            2.0,
        )
        assert len(device.reads) == 4
    leaf = moved(nn.Linear(2, 1))
    with pretended():
        leaf(torch.ones(3, 2, device=DEVICE)).sum().backward()
        close(leaf.weight.grad, torch.full((1, 2), 3.0))


# -- attacks ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ATTACK_ROWS)
@pytest.mark.parametrize("norm", EPS)
def test_every_attack_finds_the_same_images_on_a_device(name, norm):
    x, y = images(5)
    attack = ATTACK_ROWS[name](rl.ThreatModel(norm, EPS[norm] / 4))
    wanted = attack(network(), x, y)
    with pretended():
        found = attack(moved(network()), x.to(DEVICE), y.to(DEVICE))
        distance = attack.threat.distance(found, wanted.to(DEVICE)).cpu()
    # Sums are rounded otherwise where an L2 ball is cut with the box; a search may go another way from there.
    assert distance.median() <= (1e-3 if norm == "L2" else 0.0) * attack.threat.eps


@pytest.mark.parametrize("norm", EPS)
def test_attacks_of_training_read_nothing_back(norm):
    x, y = images()
    attack = rl.attacks.PGD(rl.ThreatModel(norm, EPS[norm] / 4), steps=4, keep="last")
    model = moved(network())
    with pretended() as device:
        x, y = x.to(DEVICE), y.to(DEVICE)
        device.reads.clear()
        crafted = craft(attack, model, x, y, weights=list(model.parameters()))
        assert crafted.weight_gradients is not None
        assert not device.reads


@pytest.mark.parametrize("name", ["apgd-ce-20", "apgd-dlr-20"])
@pytest.mark.parametrize("norm", EPS)
def test_evaluations_read_back_what_is_listed_alone(name, norm):
    x, y = images()
    attack = rl.attacks.get(name, rl.ThreatModel(norm, EPS[norm] / 20))
    with pretended() as device:
        x, y = x.to(DEVICE), y.to(DEVICE)
        model = moved(network())
        device.reads.clear()
        craft(attack, model, x, y)
    counts = Counter(device.reads)
    assert set(counts) - {"attacks/base.py:<dictcomp>"} <= READS.keys()
    assert counts["attacks/apgd.py:_ascend"] + counts["attacks/ascents.py:_steepest"] <= 2 * 20 * (
        2 if norm == "L1" else 1
    )


@pytest.mark.parametrize(("n", "d", "eps"), [(1, 1, 0.3), (7, 12, 0.5), (64, 300, 1.0), (3, 3072, 4.0)])
def test_both_ways_to_an_l2_projection_agree(n, d, eps):
    from robustlens.threat.norms import _share_by_rounds, _share_by_sorting

    generator = torch.Generator().manual_seed(d)
    x = torch.rand(n, d, generator=generator, dtype=torch.float64)
    x = torch.where(torch.rand(n, d, generator=generator) < 0.2, x.round(), x)  # some pixels at the box
    heavy = torch.randn(n, d, generator=generator, dtype=torch.float64) ** 5
    for scale in (1e-3, 0.1, 1.0, 30.0):
        delta = scale * heavy
        delta[0, 0] = 0.0
        shares = [way(delta, eps, -x, 1 - x) for way in (_share_by_rounds, _share_by_sorting)]
        torch.testing.assert_close(*shares, rtol=1e-9, atol=1e-12)
        size = (shares[1] * delta).clamp(-x, 1 - x).norm(dim=1)
        assert (size <= eps * (1 + 1e-9)).all()


# -- training --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", OBJECTIVES)
def test_every_objective_has_the_same_gradient_on_a_device_and_reads_nothing(name):
    objective, (x, y) = rl.objectives.get(name, **OBJECTIVE_ROWS[name]), images()
    here, there = network().train(), moved(network().train())
    objective(here, x, (x + 0.02).clamp(0, 1), y).mean().backward()
    with pretended() as device:
        x, y = x.to(DEVICE), y.to(DEVICE)
        device.reads.clear()
        objective(there, x, (x + 0.02).clamp(0, 1), y).mean().backward()
        assert not device.reads
        for one, other in zip(there.parameters(), here.parameters(), strict=True):
            assert other.grad is not None
            close(one.grad, other.grad)


@pytest.mark.parametrize("name", PERTURBATIONS)
def test_every_perturbation_moves_the_weights_alike_on_a_device(name):
    x, y = images()
    seen: dict[str, list[torch.Tensor]] = {}
    reads: list[str] = []

    def step(where: str, model: nn.Module, x: torch.Tensor, y: torch.Tensor) -> None:
        perturbation = PERTURBATIONS[name](model)
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
        generator = torch.Generator().manual_seed(3)
        with perturbation.perturbed(lambda: F.cross_entropy(model(x), y), generator=generator):
            F.cross_entropy(model(x), y).backward()
        optimizer.step()
        seen[where] = [parameter.detach() for parameter in model.parameters()]

    step("here", network().train(), x, y)
    with pretended() as device:
        x, y = x.to(DEVICE), y.to(DEVICE)
        model = moved(network().train())
        device.reads.clear()
        step("there", model, x, y)
        reads += device.reads
    assert len(reads) <= 1
    assert set(reads) <= READS.keys()
    for one, other in zip(seen["there"], seen["here"], strict=True):
        close(one, other)


class OnPretended(Fabric):
    """Fabric of a process whose device is the pretended one."""

    @property
    def device(self) -> torch.device:
        return DEVICE


@pytest.mark.parametrize(
    ("changes", "reads"),
    [
        ({}, 0),
        ({"threat": {"norm": "L2", "eps": 0.3}}, 0),
        ({"threat": {"norm": "L1", "eps": 3.0}}, 0),
        ({"objective": "trades", "awp": {"gamma": 0.01, "warmup_epochs": 0}}, 1),
        ({"awp": {"gamma": 0.01, "from_attack": True, "warmup_epochs": 0}}, 1),
        ({"objective": "mart", "optimizer": {"accumulate": 2}, "ema": 0.9}, 0),
        ({"attack": {"replays": 2}}, 0),
        ({"mixup": 1.0, "data": {"augment": "crop-flip"}, "optimizer": {"l1": 1e-4}}, 0),
    ],
    ids=str,
)
def test_a_training_step_is_the_same_on_a_device(changes, reads):
    asked = recipe(**changes)
    x, y = (
        (torch.rand(40, 3, 8, 8, generator=torch.Generator().manual_seed(2)) * 255).byte(),
        torch.arange(40) % 5,
    )
    splits = from_tensors(x, y, x, y, classes=tuple("abcde"), validation=0.0)
    kind = FreeTrainingStep if asked.attack.replays > 1 else TrainingStep
    ended, counts = {}, Counter[str]()
    for where in ("cpu", "device"):
        model = starting_network(asked, describe_model(asked, splits)).train()
        with pretended() as device:
            fabric: Any = Fabric(accelerator="cpu", devices=1)
            if where == "device":
                model, fabric = moved(model), OnPretended(accelerator="cpu", devices=1)
            optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
            step = kind(asked, model, splits.train, optimizer, fabric, 5)
            device.reads.clear()
            for number in range(2):
                step(0, number, torch.arange(20 * number, 20 * number + 20))
            counts.update(device.reads)
            ended[where] = [parameter.detach().cpu() for parameter in model.parameters()]
    assert set(counts) <= READS.keys()
    assert counts.total() == 2 * reads
    for one, other in zip(ended["device"], ended["cpu"], strict=True):
        torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-4)


# -- evaluation and measures -----------------------------------------------------------------------------


@pytest.mark.parametrize("at", ["cpu", DEVICE])
def test_adversarial_images_that_a_folder_kept_are_put_together_on_a_device(tmp_path, at):
    """Of images that lie on the device, and of images that are moved there batch by batch."""
    x, y = images()
    threat = rl.ThreatModel("Linf", 0.02)
    evaluate = {"attacks": ["fgsm", "pgd-3"], "save_adversarial": True, "batch_size": 5}
    here = rl.evaluate(network(), x, y, threat, **evaluate)
    assert not torch.equal(here.x_adv, x)
    with pretended():
        for _ in range(2):  # a second time from what is kept alone
            there = rl.evaluate(moved(network()), x.to(at), y, threat, **evaluate, state=tmp_path)
            torch.testing.assert_close(there.x_adv.cpu(), here.x_adv, rtol=0, atol=1e-6)


def test_an_evaluation_has_the_same_masks_on_a_device():
    x, y = images()
    threat, attacks = rl.ThreatModel("Linf", 0.02), ["fgsm", "pgd-3", "apgd-ce-5", "square-30", "min-norm-9"]
    evaluate = {"attacks": attacks, "curve": (0.5, 2.0), "save_adversarial": True, "batch_size": 5}
    here = rl.evaluate(network(), x, y, threat, **evaluate)
    with pretended():
        there = rl.evaluate(moved(network()), x, y, threat, **evaluate)
    assert there.notes == here.notes
    assert [flag.name for flag in there.flags] == [flag.name for flag in here.flags]
    assert here.by_attack.keys() == there.by_attack.keys()
    for name, mask in here.by_attack.items():
        assert torch.equal(there.by_attack[name], mask), name
    assert torch.equal(there.x_adv, here.x_adv)


def test_square_asks_a_device_about_several_queries_at_once(monkeypatch):
    x, y = images()
    model, attack = moved(network()), rl.attacks.Square(rl.ThreatModel("Linf", 0.01), 300)
    wanted, passes = attack(network(), x, y), []
    model[0].register_forward_hook(lambda *_: passes.append(1))
    with pretended():
        close(attack.filling(64)(model, x.to(DEVICE), y.to(DEVICE)), wanted, 0.0)
    assert len(passes) < 301 * 2 / 3
    asked, filling = [], rl.attacks.Square.filling
    monkeypatch.setattr(rl.attacks.Square, "filling", lambda *args: asked.append(args[1]) or filling(*args))
    rl.evaluate(network(), x, y, attack.threat, ["square-20"], batch_size=7)
    assert not asked
    with pretended():
        rl.evaluate(moved(network()), x, y, attack.threat, ["square-20"], batch_size=7)
    assert set(asked) == {7}


@pytest.mark.parametrize("name", MEASURES)
def test_every_measure_has_the_same_numbers_on_a_device(name):
    x, y = images()
    pixels = (255 * x).byte()
    part: Split = from_tensors(pixels, y, pixels, y, classes=tuple("abcde"), validation=0.0).train
    threat, measure = rl.ThreatModel("Linf", 0.05), rl.explain.get(name, **MEASURE_ROWS[name])
    here = measure(Subject(network(), part, part, threat))
    with pretended():
        there = measure(Subject(moved(network()), part, part, threat))
    assert here.arrays.keys() == there.arrays.keys()
    for key, array in here.arrays.items():
        np.testing.assert_allclose(there.arrays[key], array, rtol=1e-3, atol=1e-4, err_msg=key)


LINF = rl.ThreatModel("Linf", 0.05)
RADII = (0.0, 1.0)
FUNCTIONS = {
    "activations": lambda m, x, y: activations(m, x),
    "margins": margins,
    "smoothness": lambda m, x, y: smoothness(m, x, y, LINF, steps=1),
    "feature changes": lambda m, x, y: feature_changes(m, x, x * 0.5),
    "gallery": lambda m, x, y: gallery(m, x, y, LINF, steps=1),
    "gradients": gradients,
    "jacobian": lambda m, x, y: jacobian(m, x),
    "curvature": lambda m, x, y: curvature(m, x, y, LINF, steps=1, eigenvalues=1, lanczos_steps=2, draws=1),
    "flatness": lambda m, x, y: flatness(m, x, y, LINF, steps=1, draws=1, ascents=1),
    "landscape": lambda m, x, y: landscape(m, x, y, LINF, steps=1, alphas=(1.0,)),
    "plane": lambda m, x, y: plane(m, x, y, LINF, steps=1, alphas=(1.0,)),
    "input landscape": lambda m, x, y: input_landscape(m, x, y, LINF, steps=1, radii=RADII),
    "input landscape, attack": lambda m, x, y: input_landscape(
        m, x, y, LINF, steps=1, radii=RADII, towards="attack"
    ),
    "sharpness": lambda m, x, y: sharpness(m, x, y, LINF, steps=1, factors=(1.0,)),
    "instance margins": lambda m, x, y: instance_margins(m, x, y, steps=8),
    "margin paths": lambda m, x, y: margin_paths(m, x, y, x * 0.5, points=2),
}
"""What explains a model and images that a caller gives, by name."""


@pytest.mark.parametrize("name", FUNCTIONS)
def test_functions_of_explain_take_images_wherever_they_lie(name):
    x, y = images(6)
    with pretended():
        FUNCTIONS[name](moved(network()), x, y)
        FUNCTIONS[name](moved(network()), x.to(DEVICE), y.to(DEVICE))


def test_noise_has_the_same_bits_on_a_device():
    x, _ = images()
    with pretended() as device:
        on = x.to(DEVICE)
        device.reads.clear()
        for make in (noise.uniform, noise.normal):
            wanted = make(noise.keys(x, 5), x)
            made = make(noise.keys(on, 5), on)
            assert torch.equal(made.held, wanted)
        assert not device.reads
    assert isinstance(copy.deepcopy(made), OnDevice)
