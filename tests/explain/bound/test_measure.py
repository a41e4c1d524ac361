"""The bound as a measure: every term, and reasons in place of infinite numbers."""

import json
import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

import robustlens as rl
from helpers.linear_models import LinearProblem
from helpers.small_models import everything
from robustlens.data import from_tensors
from robustlens.explain import Subject
from robustlens.explain.bound.covering import Covering
from robustlens.explain.bound.instance_margins import InstanceMargins
from robustlens.explain.bound.measure import Crossings, measure_bound
from robustlens.explain.bound.theorem import Bound


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
    x, y = subject.images("train")
    right = subject.model(x).argmax(1) == y
    assert 0.6 < right.double().mean() < 0.9
    assert value["training_examples"] == round(1000 * right.double().mean().item())
    assert 0 < value["best_eps"] <= value["v_min"]
    assert value["within_radius"]
    assert found.conditions["eps"] == "least"
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
    assert value["train"]["min_in_balls"] == pytest.approx(v_min - value["best_eps"])


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


def test_certified_and_robust_shares_are_of_the_right_images_by_the_exact_margins_of_a_linear_network():
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
        certified = (margin[gap > 0] > eps).double().mean().item()
        assert 0.1 < certified < 0.9
        assert 0.1 < float((gap > 0).double().mean()) < 0.9
        assert value[split]["examples"] == len(x)
        assert value[split]["correct"] == pytest.approx(float((gap > 0).double().mean()))
        assert value[split]["certified_at_eps"] == pytest.approx(certified)
        # Every pixel is at the box, so the nearest misclassified image is further away than the margin.
        nearest = LinearProblem(model[1], x.flatten(1), y).distances("L2")
        assert (nearest / eps - 1).abs().min() > 0.005  # more than the search misses
        robust = (nearest[gap > 0] > eps).double().mean().item()
        assert certified < robust
        assert value[split]["robust_at_eps"] == pytest.approx(robust)
        right = margin[margin > 0].sort().values
        for share in (0.25, 0.5, 0.75):
            quantile = right[-(-len(right) * int(100 * share) // 100) - 1]
            assert value[split]["lower"][str(share)] == pytest.approx(float(quantile), rel=1e-4)


TERMS = Bound(
    gammas=np.array([1.0]),
    distances=np.array([[0.0, 1.0], [1.0, 0.0]]),
    sigma_min={"first": 0.5, "second": 0.2},
    v_min=0.5,
    covering=Covering(np.ones(1), np.ones(1), 2.0, 1.0, points=10),
    eps=np.array([0.5]),
    eta=0.05,
    training_examples=100,
    ramp_train=np.zeros(1),
    ramp_test=np.zeros(1),
)


def crossings(upper, lower, correct):
    count = len(upper)
    margins = InstanceMargins(
        np.array(upper),
        None if lower is None else np.array(lower),
        np.array(correct),
        torch.zeros(count, 1),
        "why",
    )
    stretched = np.array([0.05, 0.1, 0.2, 1.0])  # the product of the smallest singular values is 0.1
    stretch = {"at_x": stretched, "on_the_way": stretched[:0]}
    paths = np.array([[1.0, 2.0, 0.0], [1.0, 0.5, 0.0]])
    return Crossings(np.arange(count), margins, paths, stretch)


def test_numbers_of_a_split_by_hand():
    """Robust and certified at eps is what lies further than eps; a boundary at exactly eps does not."""
    upper, lower = [0.0, 0.5, 0.75, math.inf, 0.9], [0.0, 0.25, 0.5, 0.6, 0.7]
    correct = [False, True, True, True, True]
    found = crossings(upper, lower, correct).summary(TERMS)
    assert (found["examples"], found["correct"], found["why_no_lower"]) == (5, 0.8, "why")
    assert (found["robust_at_eps"], found["certified_at_eps"]) == (0.75, 0.5)
    assert found["min_in_balls"] == 0.0
    assert found["upper"] == {"0.05": 0.5, "0.25": 0.5, "0.5": 0.75, "0.75": 0.9, "0.95": None}
    assert found["lower"] == {"0.05": 0.25, "0.25": 0.25, "0.5": 0.5, "0.75": 0.6, "0.95": 0.7}
    assert found["assumption_3_1_fails"] == {"paths": 0.5, "steps": 0.25, "largest": 0.5}
    at_x = found["stretch"]["at_x"]
    assert at_x["fails"] == 0.25
    assert at_x["quantiles"]["0.5"] == 0.1
    assert at_x["log10_over_product"]["0.05"] == pytest.approx(math.log10(0.5))
    assert at_x["log10_over_product"]["0.95"] == pytest.approx(1.0)
    assert found["stretch"]["on_the_way"] == {"fails": None, "quantiles": None, "log10_over_product": None}
    singular = crossings(upper, lower, correct).summary(replace(TERMS, sigma_min={"first": 0.0}))
    assert singular["stretch"]["at_x"]["log10_over_product"] is None
    assert singular["stretch"]["at_x"]["fails"] == 0.0


def test_numbers_of_a_split_without_a_certificate_or_without_a_boundary_by_hand():
    found = crossings([0.75, 0.625], None, [True, True]).summary(TERMS)
    assert (found["lower"], found["certified_at_eps"], found["min_in_balls"]) == (None, None, 0.125)
    none = crossings([math.inf, math.inf], [1.0, 2.0], [True, True])
    assert none.summary(TERMS)["min_in_balls"] is None
    assert set(none.arrays()) == {
        "index",
        "correct",
        "upper",
        "lower",
        "crossed",
        "paths",
        "at_x",
        "on_the_way",
    }
    assert none.arrays()["crossed"].tolist() == [False, False]
    wrong = crossings([0.0], [0.0], [False]).summary(TERMS)
    assert (wrong["upper"], wrong["lower"], wrong["robust_at_eps"]) == (None, None, None)
    assert wrong["min_in_balls"] is None
