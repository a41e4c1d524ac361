"""Claims of studies that are not as even as they should be: dead layers, lone settings, runs that lack."""

from dataclasses import replace

import numpy as np
import pytest

from helpers.awp_stories import awp_story
from helpers.claim_data import LAYERS, N, Net, write
from helpers.claim_stories import check_one
from robustlens import claims
from robustlens.claims.evidence import StudyData
from robustlens.config import StudySpec, checked
from robustlens.results import StudyFolder
from robustlens.stats.bootstrap import Bootstrap
from robustlens.study.planning import plan, record

ZERO = np.zeros(N, dtype=np.float32)


def dead(net, *layers):
    """The network with zeros written by these layers."""
    kinds = [
        f"activations/{kind}/{layer}" for layer in layers for kind in ("post-activation", "pre-activation")
    ]
    moved = [f"smoothness/{kind}/{layer}" for layer in layers for kind in ("attack", "noise")]
    return replace(net, arrays={**net.arrays, **dict.fromkeys([*kinds, *moved], ZERO)})


@pytest.mark.parametrize(
    ("name", "knob"), [("activation-spread-falls", "variation"), ("feature-change-falls", "feature")]
)
def test_layers_that_died_in_one_network_are_layers_in_all(tmp_path, name, knob):
    nets = [
        Net(eps, "at" if eps else "standard", seed=seed, knobs={knob: 0.4 - eps}, noise=seed)
        for eps in (0.0, 0.1, 0.2)
        for seed in range(3)
    ]
    nets[-1] = dead(nets[-1], *LAYERS[5:])
    claim = check_one(tmp_path, name, nets)
    assert claim.effect is not None, claim.why
    assert claim.seeds == 3
    assert "different layers" not in claim.why


def test_the_setting_with_strengths_counts_however_many_seeds_another_has(tmp_path):
    wide = [Net(0.1, seed=seed, method="AT wide", setting="wide") for seed in range(7)]
    small = [
        Net(eps, "at" if eps else "standard", seed=seed, setting="small", knobs={"accuracy": 0.9 - eps})
        for eps in (0.0, 0.1)
        for seed in range(3)
    ]
    claim = check_one(tmp_path, "accuracy-falls", [*wide, *small])
    assert claim.effect.value == pytest.approx(-0.1, abs=1e-6)


def test_a_rung_that_failed_in_every_seed_is_none(tmp_path):
    nets = awp_story("awp-larger-flatter", "holds")
    gammas = sorted({net.options["gamma"] for net in nets if net.options})
    failed = [replace(net, status="failed") if net.options.get("gamma") == gammas[1] else net for net in nets]
    claim = check_one(tmp_path, "awp-larger-flatter", failed)
    assert f"{len(gammas) - 1} values" in claim.statistic.name
    assert "rank correlation" not in claim.why


def test_bounds_are_judged_for_each_objective_by_itself(tmp_path):
    nets = [
        Net(
            0.1,
            objective,
            seed=seed,
            method=f"{objective}{' bounded' if bound else ''}",
            unbounded=f"{objective}{seed}",
            setting="bounded" if bound else "free",
            knobs={"variation": 0.3 if bound else 0.6},
            capacity={"low": 0.8, "high": 1.2} if bound else {},
        )
        for seed in range(3)
        for objective in ("at", "trades")
        for bound in (False, True)
    ]
    study = StudyData.of(StudyFolder(write(tmp_path, nets)), Bootstrap(300))
    judged = claims.CLAIMS["bounds-lower-activation-spread"].claims(study)
    assert [claim.setting for claim in judged] == ["in at, at bounded", "in trades, trades bounded"]
    assert all("bounded" in claim.why and claim.effect.value == pytest.approx(-50, abs=1) for claim in judged)


def spec(*methods):
    values = {
        "name": "x",
        "data": {"name": "fashion-mnist-10k"},
        "model": {"name": "small-cnn"},
        "threat": {"norm": "Linf", "eps": 0.1},
        "methods": list(methods),
    }
    return checked(StudySpec, values, "x")


def test_standard_training_has_the_setting_of_the_only_attack(tmp_path):
    at = {"label": "AT", "objective": "at", "eps": [0.05, 0.1], "attack": {"steps": 7}}
    of_seven = spec({"label": "Standard", "objective": "standard"}, at)
    assert len({run.setting for run in record(of_seven, plan(of_seven)).runs}) == 1
    of_two = spec(
        {"label": "Standard", "objective": "standard"}, at, {**at, "label": "B", "attack": {"steps": 9}}
    )
    assert len({run.setting for run in record(of_two, plan(of_two)).runs}) == 3, "neither is the only one"
    own = spec({"label": "Standard", "objective": "standard", "optimizer": {"lr": 0.5}}, at)
    assert len({run.setting for run in record(own, plan(own)).runs}) == 2, (
        "it differs in more than the attack"
    )
