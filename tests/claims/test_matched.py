"""Second looks of the claims: at matched temperature, under noise, over the gains of the layers."""

from dataclasses import replace

import numpy as np
import pytest

from helpers.claim_data import N, Net, check_one, ladder, story
from robustlens.claims.evidence import RunData
from robustlens.claims.verdict import Unusable
from robustlens.claims.wen2020 import quantities as wen2020
from robustlens.results.folders import Run
from robustlens.stats.bootstrap import Bootstrap
from robustlens.stats.misclassification import outcomes

TWINS = {
    "less-confident": "margins/test_matched_confidence",
    "margins-concentrate": "margins/test_matched_probability",
    "smoother-under-attack": "smoothness/matched_probability_change",
    "errors-indecisive": "margins/test_matched_probability",
    "train-test-margins-closer": "margins/test_matched_probability",
    "ramp-gap-shrinks": "margins/test_matched_probability",
    "loss-gap-shrinks": "margins/test_matched_loss",
}
TWIN = "the same at matched temperature"


@pytest.mark.parametrize("name", TWINS)
def test_what_depends_on_confidence_has_a_twin_that_may_be_missing(tmp_path, name):
    whole = check_one(tmp_path, name, story(name, "holds"))
    assert f"{TWIN}: " in whole.note or f"{TWIN} goes" in whole.note
    older = [replace(net, drop=(TWINS[name],)) for net in story(name, "holds")]
    found = check_one(tmp_path / "older", name, older)
    assert f"{TWIN}: not measured" in found.note
    assert (found.verdict, found.effect) == (whole.verdict, whole.effect)


@pytest.mark.parametrize(
    ("cooled", "told"), [(-0.2, f"{TWIN}: -0.2"), (0.2, f"{TWIN} goes the other way, +0.2")]
)
@pytest.mark.parametrize("name", ["less-confident", "loss-gap-shrinks"])
def test_a_twin_says_whether_it_was_low_confidence_alone(tmp_path, name, cooled, told):
    knob, low, high = {
        "less-confident": ("confidence", 0.6, 0.9),
        "loss-gap-shrinks": ("loss_gap", 0.1, 0.4),
    }[name]
    found = check_one(tmp_path, name, ladder({0.0: {knob: high}, 0.1: {knob: low, "cooled": cooled}}))
    assert found.verdict == "supported"
    assert told in found.note
    assert ("low confidence alone" in found.note) == (cooled > 0)


def source_of(folder, **knobs):
    arrays = knobs.pop("arrays", {})
    check_one(folder, "accuracy-falls", [Net(knobs=knobs, arrays=arrays)])
    net = Net()
    return RunData(Run(folder / net.entry["folder"], net.entry), Bootstrap(10))


def test_the_ramp_gap_by_hand(tmp_path):
    margin = np.zeros(N, dtype=np.float32)
    test, train = margin.copy(), margin.copy()
    test[:100], test[100:200], train[:100], train[100:200] = -0.7, 0.25, 0.5, 1.0
    arrays = {"margins/test_probability": test, "margins/train_probability": train}
    # Test risk: 300 images of 1 and 100 of 0.75; training risk: 200 of 1, 100 of 0.5, 100 of 0.
    found = wen2020.ramp_gap(source_of(tmp_path, arrays=arrays)).value()
    assert found == pytest.approx((300 + 75) / N - (200 + 50) / N)


def test_the_spread_of_margins_is_divided_by_the_product_of_the_gains(tmp_path):
    margin = np.where(np.arange(N) % 2, 3.0, -1.0).astype(np.float32)
    source = source_of(tmp_path, arrays={"margins/test_logit": margin})
    # Its std is 2; eight layers have a largest singular value of 2.
    assert wen2020.normalised_spread(source).value() == pytest.approx(2 / 2**8)


def test_without_gains_there_is_no_normalised_margin(tmp_path):
    source = source_of(tmp_path)
    explanation = source.run.read_json("explanation")
    explanation["measures"]["spectrum"]["value"]["layers"]["layer0"]["max"] = None
    source.run.write_json("explanation", explanation)
    with pytest.raises(Unusable, match="without a largest singular value"):
        wen2020.normalised_spread(source)


def test_features_change_under_noise_as_well(tmp_path):
    source = source_of(tmp_path, feature=0.4)
    attack, noise = (wen2020.feature_change(source, moved=moved) for moved in ("attack", "noise"))
    np.testing.assert_allclose(attack.value(), [0.4 * layer for layer in range(1, 9)], rtol=1e-5)
    np.testing.assert_allclose(noise.value(), attack.value() / 10, rtol=1e-5)
    assert attack.conditions == "eps 0.1, 10 steps"


def test_smooth_in_the_attacked_direction_only_is_said(tmp_path):
    weak, strong = ladder({0.0: {"feature": 0.5}, 0.2: {"feature": 0.3}})
    rough = {
        f"smoothness/noise/layer{i}": np.full(N, 0.2, np.float32) + np.float32(0.01 * i) for i in range(8)
    }
    found = check_one(tmp_path, "feature-change-falls", [weak, replace(strong, arrays=rough)])
    assert found.verdict == "supported"
    assert "the same under random noise in the ball goes the other way" in found.note
    assert "not smoother in all directions" in found.note


def test_indecisive_errors_are_those_of_the_room_that_knows_them(tmp_path):
    margin = np.linspace(-0.5, 0.5, N).astype(np.float32)
    right = margin > 0
    source = source_of(tmp_path, arrays={"margins/test_probability": margin, "margins/test_correct": right})
    expected = (outcomes(right, margin, wen2020.TAU) == 1).mean()
    assert wen2020.indecisive_rate(source).value() == pytest.approx(expected)
    assert 0.1 < expected < 0.3
