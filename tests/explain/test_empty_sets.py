"""Every measure where a set is empty: no image right, none wrong, of one class only; a constant network."""

import json
import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import robustlens as rl
from helpers.small_models import NonEmpty
from robustlens.config import ExplanationPlan
from robustlens.data import Splits, from_tensors
from robustlens.explain import MEASURES

OPTIONS: dict[str, dict[str, Any]] = {
    "jacobian": {"examples": 4},
    "landscape": {
        "alphas": [-0.5, 0, 0.5],
        "steps": 2,
        "examples": 8,
        "plane": 2,
        "plane_examples": 4,
        "input": True,
    },
    "flatness": {"draws": 2, "ascents": 2, "steps": 2, "examples": 8},
    "curvature": {"examples": 8, "lanczos_steps": 3, "draws": 2, "steps": 2},
    "sharpness": {"examples": 8, "steps": 2},
    "bound": {"examples": 8, "steps": 8, "points": 2},
}
PLAN = ExplanationPlan.model_validate(
    {"measures": list(MEASURES), "examples": 60, "threat": {"norm": "Linf", "eps": 0.05}, "options": OPTIONS}
)


def network() -> nn.Module:
    torch.manual_seed(3)
    layers = nn.Conv2d(1, 3, 3, padding=1), nn.InstanceNorm2d(3), nn.ReLU(), nn.Flatten(), nn.Linear(48, 3)
    return nn.Sequential(NonEmpty(), *layers).eval()


def constant() -> nn.Module:
    linear = nn.Linear(16, 3)
    nn.init.zeros_(linear.weight)
    linear.bias.data = torch.tensor([1.0, 0.0, 0.0])
    return nn.Sequential(NonEmpty(), nn.Flatten(), linear)


def splits(labels: Callable[[Tensor], Tensor], model: nn.Module) -> Splits:
    x = torch.randint(0, 256, (60, 1, 4, 4), dtype=torch.uint8)
    y = labels(model(x / 255))
    return from_tensors(x[:40], y[:40], x[40:], y[40:], classes=tuple("abc"), validation=0.0)


CASES: dict[str, tuple[Callable[[], nn.Module], Callable[[Tensor], Tensor]]] = {
    "all right": (network, lambda logits: logits.argmax(1)),
    "none right": (network, lambda logits: logits.argmin(1)),
    "one class, right": (constant, lambda logits: torch.zeros(len(logits)).long()),
    "one class, wrong": (constant, lambda logits: torch.ones(len(logits)).long()),
    "constant": (constant, lambda logits: torch.arange(len(logits)) % 3),
}


@pytest.mark.parametrize("case", CASES)
def test_what_has_no_value_is_missing_with_its_reason(case: str) -> None:
    make, labels = CASES[case]
    model = make()
    found = rl.explain.explain(model, splits(labels, model), PLAN)
    for name in ("margins", "smoothness", "landscape", "flatness", "curvature"):
        assert "every image is right" in found[name].value["matched_missing"]
    assert math.isnan(found["margins"].value["matched"]["temperature"])
    assert math.isnan(found["smoothness"].value["mean_matched_confidence_change"])
    assert all(math.isnan(rise) for rise in found["landscape"].value["matched_rise"].values())
    assert "every image is right" in found["landscape"].value["plane_matched_missing"]
    assert math.isnan(found["flatness"].value["worst"]["matched"])
    for key in ("relative_top_eigenvalue", "relative_trace", "relative_top_residual"):
        assert math.isnan(found["curvature"].value[key])  # it was exactly 0: the flattest of all
    missing = [
        name
        for name, array in found["margins"].arrays.items()
        if array.dtype.kind == "f" and math.isnan(array[0])
    ]
    assert {name.partition("_")[2].partition("_")[0] for name in missing if "_" in name} == {"matched"}
    share = found["margins"].value["test"]["indecisive_share"]["0.2"]
    assert (share is None) == ("right" in case and "none" not in case)
    json.dumps({name: found[name].value for name in found})


def test_a_network_with_no_right_image_says_so_beside_its_bound() -> None:
    model = network()
    found = rl.explain.explain(
        model,
        splits(lambda logits: logits.argmin(1), model),
        PLAN.model_copy(update={"measures": ("bound",)}),
    )["bound"].value
    assert found["v_min"] is None
    assert [row["margin_term"] for row in found["gammas"]] == [0.0] * len(found["gammas"])
    assert "none of 8 images is right: v_min is infinite, and the margin term 0" in found["favourable"]


def test_numbers_at_matched_temperature_are_there_where_some_images_are_wrong() -> None:
    model = network()

    def some_wrong(logits: Tensor) -> Tensor:
        y = logits.argmax(1)
        y[::3] = (y[::3] + 1) % 3
        return y

    found = rl.explain.explain(model, splits(some_wrong, model), PLAN)
    for measurement in found.values():
        assert "matched_missing" not in measurement.value
    assert found["curvature"].value["relative_trace"] != 0
    assert math.isfinite(found["landscape"].value["matched_rise"]["0.5"])
