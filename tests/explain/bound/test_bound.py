"""The bound of Wen et al. against cases worked by hand, in ranges that floating-point numbers do not hold."""

import json
import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from test_instance_margins import WIDE, _orthogonal_network
from torch import nn

import robustlens as rl
from helpers.small_models import Snapshot, everything
from robustlens.data import from_tensors
from robustlens.errors import ConfigError
from robustlens.explain import Subject
from robustlens.explain.bound.covering import Covering
from robustlens.explain.bound.measure import l2_radius, measure_bound
from robustlens.explain.bound.theorem import Bound, ramp_loss


def _covering(dimension, extent):
    return Covering(np.ones(1), np.ones(1), dimension, extent, points=10)


# u_min = 5 * (1/2 * 1/5) * 2 = 1; N = (1 / 0.5)^2 = 4; m = 800.
BY_HAND = Bound(
    gammas=np.array([0.5, 1.0, 2.0, 4.0]),
    distances=np.array([[0.0, 5.0, 7.0], [5.0, 0.0, 6.0], [7.0, 6.0, 0.0]]),
    sigma_min={"first": 0.5, "second": 0.2},
    v_min=2.0,
    covering=_covering(2.0, 1.0),
    eps=0.5,
    eta=0.05,
    training_examples=800,
    ramp_train=np.zeros(4),
    ramp_test=np.zeros(4),
)


def test_the_ramp_loss_by_hand():
    margins = np.array([-3.0, 0.0, 0.5, 1.0, 2.0, 5.0])
    assert ramp_loss(margins, 2.0).tolist() == [1.0, 1.0, 0.75, 0.5, 0.0, 0.0]


def test_the_bound_by_hand():
    root = math.sqrt((2 * math.log(2) * 4 + 2 * math.log(20)) / 800)
    assert BY_HAND.distance_min == 5.0
    assert BY_HAND.log_sigma_product == pytest.approx(math.log(0.1))
    assert BY_HAND.log_u_min == pytest.approx(0.0, abs=1e-12)
    assert math.exp(BY_HAND.log_complexity_term) == pytest.approx(root)
    np.testing.assert_allclose(BY_HAND.margin_term, [0.0, 0.0, 0.5, 0.75], atol=1e-12)
    np.testing.assert_allclose(np.exp(BY_HAND.log_total), np.array([0.0, 0.0, 0.5, 0.75]) + root, atol=1e-12)
    assert root < 0.25
    assert not BY_HAND.vacuous.any()
    assert BY_HAND.because() == [[], [], [], []]
    assert BY_HAND.vanishing() == []


@pytest.mark.parametrize(
    ("changes", "because"),
    [
        ({"v_min": 2e-3}, [["margin"]] * 4),  # u_min 0.001
        (
            {"covering": _covering(20.0, 10.0)},
            [["covering"], ["covering"], ["covering"], ["margin", "covering"]],
        ),
        ({"training_examples": 2, "eta": 1e-9}, [["confidence"]] * 3 + [["margin", "confidence"]]),
        ({"v_min": 1.0, "training_examples": 50}, [[], ["margin"], ["margin"], ["margin"]]),
    ],
)
def test_the_terms_that_make_it_vacuous(changes, because):
    found = replace(BY_HAND, **{"training_examples": 100, **changes})
    if "training_examples" not in changes and "covering" not in changes:
        found = replace(found, gammas=np.full(4, 10.0))
    if changes.get("training_examples") == 50:
        found = replace(found, gammas=np.array([0.5, 2.0, 4.0, 8.0]))
    assert found.because() == because
    assert found.vacuous.tolist() == [bool(terms) for terms in because]


def test_nothing_overflows_and_nothing_vanishes_unsaid():
    layers = {f"layer{i}": 1e-9 for i in range(100)}  # a product of 1e-900
    found = replace(BY_HAND, sigma_min=layers, covering=_covering(3000.0, 100.0), eps=1e-3)
    assert found.log_u_min / math.log(10) == pytest.approx(-900 + 1)
    assert found.log_total / math.log(10) == pytest.approx(
        [(15000 + math.log10(2 * math.log(2) / 800)) / 2] * 4
    )
    assert found.margin_term.tolist() == [1.0] * 4
    assert found.vanishing() == []
    singular = replace(found, sigma_min={**layers, "flat": 0.0}, v_min=0.0)
    assert singular.log_u_min == -math.inf
    assert singular.margin_term.tolist() == [1.0] * 4
    assert singular.vanishing() == ["sigma_min of flat", "v_min"]
    assert replace(singular, v_min=math.inf).log_u_min == -math.inf
    assert replace(BY_HAND, v_min=math.inf).margin_term.tolist() == [0.0] * 4


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"gammas": np.array([1.0, 0.0, 2.0, 3.0])},
            r"bound\.gammas: found \[1.0, 0.0, 2.0, 3.0\], expected widths > 0",
        ),
        ({name: np.zeros(0) for name in ("gammas", "ramp_train", "ramp_test")}, r"bound\.gammas: found \[\]"),
        ({"eps": 0.0}, r"bound\.eps"),
        ({"eps": math.inf}, r"bound\.eps"),
        ({"eta": 1.0}, r"bound\.eta"),
        ({"training_examples": 0}, r"bound\.training_examples"),
    ],
)
def test_terms_out_of_range_are_refused(changes, message):
    with pytest.raises(ConfigError, match=message):
        replace(BY_HAND, **changes)


def test_the_feature_margin_that_the_theorem_promises_is_met_exactly_by_an_orthogonal_network():
    model, x = _orthogonal_network(), torch.rand(60, 12)
    logits = model(x).detach()
    y = logits.argmax(1)
    margins = rl.explain.instance_margins(model, x, y, bounds=WIDE)
    found = rl.explain.bound(model, x, y, x[:20], 1 - y[:20], eps=0.1, margins=margins, gammas=(1.0,))
    assert list(found.sigma_min.values()) == pytest.approx([1.0] * 3)
    smallest = (logits[:, 0] - logits[:, 1]).abs().min().item()
    assert math.exp(found.log_u_min) == pytest.approx(smallest, rel=2e-3)
    assert found.training_examples == 60
    gap = (logits[:, 0] - logits[:, 1]).abs()
    np.testing.assert_allclose(found.ramp_train, (1 - gap).clamp(0, 1).mean(), rtol=1e-5)
    assert found.ramp_test.tolist() == [1.0]  # every label is wrong


def test_layers_are_those_of_the_network_in_eval_mode():
    """BatchNorm is folded into its layer; the normalisation of the images is a layer."""
    torch.manual_seed(0)
    conv, norm = nn.Conv2d(1, 2, 1, bias=False), nn.BatchNorm2d(2, eps=0.0)
    conv.weight.data = torch.tensor([[[[3.0]]], [[[4.0]]]])
    norm.weight.data = torch.tensor([2.0, 0.5])
    model = nn.Sequential(
        rl.models.Normalize([0.5], [0.1]), conv, norm, nn.ReLU(), nn.Flatten(), nn.Linear(32, 3)
    )
    x = torch.rand(20, 1, 4, 4)
    before = Snapshot(model)
    found = rl.explain.bound(model, x, torch.zeros(20).long(), x, torch.zeros(20).long(), eps=0.1)
    before.assert_unchanged()
    assert found.sigma_min == pytest.approx({"1": math.hypot(6, 2), "0": 10.0}, rel=1e-6)
    assert set(found.sigma_min) == {"0", "1"}


def test_a_singular_layer_says_so():
    model = nn.Sequential(nn.Linear(6, 6), nn.ReLU(), nn.Linear(6, 2))
    model[0].weight.data[5] = model[0].weight.data[4]
    x = torch.rand(20, 6)
    found = rl.explain.bound(model, x, model(x).argmax(1), x, model(x).argmax(1), eps=0.1)
    assert found.sigma_min == {"0": 0.0}
    assert "sigma_min of 0" in found.vanishing()
    assert found.because()[-1][0] == "margin"


def test_the_radius_of_a_threat_in_l2():
    assert l2_radius(rl.ThreatModel("Linf", 0.03), 48) == 0.03
    assert l2_radius(rl.ThreatModel("L2", 0.5), 48) == 0.5
    assert l2_radius(rl.ThreatModel("L1", 12.0), 16) == 3.0


def _subject(model, classes="abcde"):
    torch.manual_seed(5)
    x = torch.randint(0, 256, (60, 3, 4, 4), dtype=torch.uint8)
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
