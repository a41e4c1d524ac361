"""The bound as a measure: every term, and reasons in place of infinite numbers."""

import json

import pytest
import torch
from torch import nn

import robustlens as rl
from helpers.linear_models import LinearProblem
from helpers.small_models import everything
from robustlens.data import from_tensors
from robustlens.explain import Subject
from robustlens.explain.bound.measure import measure_bound


def _subject(model, classes="abcde", grey=True):
    torch.manual_seed(5)
    x = torch.randint(0, 256, (60, 3, 4, 4), dtype=torch.uint8)
    x = x if grey else (x > 127).to(torch.uint8) * 255
    logits = model.eval()(x / 255)
    y = logits.argmax(1)
    y[::4] = logits[::4].argmin(1)  # a quarter is misclassified
    splits = from_tensors(x[:40], y[:40], x[40:], y[40:], classes=tuple(classes), validation=0.0)
    return Subject(model, splits.train, splits.test, rl.ThreatModel("Linf", 0.05), training_examples=1000)


def test_the_measure_writes_every_term_as_json_knows_it():
    subject = _subject(everything())
    found = measure_bound(subject, examples=10, steps=8, points=4, gammas=(0.1, 1.0))
    value = json.loads(json.dumps(found.value, allow_nan=False))
    assert value["training_examples"] == 1000
    assert value["eps"] == 0.05
    assert set(value["sigma_min"]) == {"conv"}
    assert [row["gamma"] for row in value["gammas"]] == [0.1, 1.0]
    assert value["log10"]["u_min"] == pytest.approx(
        sum(value["log10"][name] for name in ("distance", "sigma_product", "v_min"))
    )
    for split in ("train", "test"):
        crossed = int(found.arrays[f"{split}_crossed"].sum())
        assert found.arrays[f"{split}_upper"].shape == (10,)
        assert found.arrays[f"{split}_paths"].shape == (crossed, 5)
        assert found.arrays[f"{split}_at_x"].shape == (crossed,)
        assert value[split]["lower"] is None
        assert "Everything" in value[split]["why_no_lower"]
    v_min = found.arrays["train_upper"][found.arrays["train_correct"]].min()
    assert value["v_min"] == pytest.approx(v_min)
    assert v_min > 0 == found.arrays["train_upper"].min()
    assert value["train"]["min_in_balls"] == pytest.approx(max(0.0, found.arrays["train_upper"].min() - 0.05))


def test_the_measure_of_a_singular_network_has_reasons_in_place_of_infinite_numbers():
    torch.manual_seed(1)
    model = nn.Sequential(nn.Flatten(), nn.Linear(48, 48), nn.ReLU(), nn.Linear(48, 3))
    model[1].weight.data[0] = 0.0
    found = measure_bound(_subject(model), examples=6, steps=8, points=2)
    value = json.loads(json.dumps(found.value, allow_nan=False))
    assert value["log10"]["u_min"] is None
    assert value["log10"]["sigma_product"] is None
    assert value["vanishing"] == ["sigma_min of 1"]
    assert value["train"]["stretch"]["at_x"]["fails"] == 0.0
    assert value["train"]["lower"]["0.5"] <= value["train"]["upper"]["0.5"]


def test_certified_and_robust_shares_are_of_all_images_by_the_exact_margins_of_a_linear_network():
    """Of two classes the margin is (w_y - w_other) . x + b_y - b_other over the norm of w_0 - w_1."""
    torch.manual_seed(2)
    model = nn.Sequential(nn.Flatten(), nn.Linear(48, 2))
    subject = _subject(model, classes="ab", grey=False)
    eps = 0.3
    value = measure_bound(subject, eps=eps, examples=40, steps=20, points=2).value
    weight, bias = model[1].weight.detach().double(), model[1].bias.detach().double()
    for split in ("train", "test"):
        x, y = subject.images(split, 40)
        logits = x.double().flatten(1) @ weight.T + bias
        gap = torch.where(y == 0, 1, -1) * (logits[:, 0] - logits[:, 1])
        margin = gap / (weight[0] - weight[1]).norm()
        certified = (margin > eps).double().mean().item()
        assert 0.1 < certified < float((gap > 0).double().mean()) < 0.9
        assert value[split]["examples"] == len(x)
        assert value[split]["correct"] == pytest.approx(float((gap > 0).double().mean()))
        assert value[split]["certified_at_eps"] == pytest.approx(certified)
        # Every pixel is at the box, so the nearest misclassified image is further away than the margin.
        nearest = LinearProblem(model[1], x.flatten(1), y).distances("L2")
        assert (nearest / eps - 1).abs().min() > 0.005  # more than the search misses
        robust = (nearest > eps).double().mean().item()
        assert certified < robust
        assert value[split]["robust_at_eps"] == pytest.approx(robust)
        right = margin[margin > 0].sort().values
        for share in (0.25, 0.5, 0.75):
            quantile = right[-(-len(right) * int(100 * share) // 100) - 1]
            assert value[split]["lower"][str(share)] == pytest.approx(float(quantile), rel=1e-4)
