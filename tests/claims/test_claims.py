"""Claims: for each one, data that support it, that reverse it, that show no difference, and missing data."""

import json
import os
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest

from helpers import claim_data
from helpers.claim_data import ALONG, ASSOCIATIONS, EVERY, LADDERS, LAYERS, PAIRS, N, check_one, ladder, story
from helpers.study_files import write_study
from robustlens import claims
from robustlens.claims.designs import STRENGTH_SWEEP, Hypothesis
from robustlens.claims.evidence import StudyData
from robustlens.claims.verdict import Effect, Findings, Statistic, decide
from robustlens.claims.wen2020 import quantities as wen2020
from robustlens.errors import StateError
from robustlens.results.folders import StudyFolder


def test_every_registered_claim_is_tested_here():
    assert list(claims.CLAIMS) == EVERY


# -- verdicts come from data ---------------------------------------------------------------------------


@pytest.mark.parametrize("seeds", [1, 3])
@pytest.mark.parametrize("name", EVERY)
def test_data_that_support_a_claim_support_it(tmp_path, name, seeds):
    found = check_one(tmp_path, name, story(name, "holds", seeds))
    assert found.verdict == "supported", found.why
    assert found.seeds == seeds


@pytest.mark.parametrize("seeds", [1, 3])
@pytest.mark.parametrize("name", EVERY)
def test_reversed_data_do_not_support_it(tmp_path, name, seeds):
    found = check_one(tmp_path, name, story(name, "reversed", seeds))
    assert found.verdict == "not supported", found.why
    assert "opposite" in found.why


@pytest.mark.parametrize("how", ["same", "equal"])
@pytest.mark.parametrize("name", EVERY)
def test_data_without_a_difference_are_inconclusive(tmp_path, name, how):
    found = check_one(tmp_path, name, story(name, how))
    assert found.verdict == "inconclusive", found.why
    assert any(word in found.why for word in ("holds zero", "no difference", "nothing to correlate")), (
        found.why
    )


@pytest.mark.parametrize("name", [*LADDERS, *PAIRS])
def test_the_effect_is_the_difference_that_was_put_in(tmp_path, name):
    effect = check_one(tmp_path, name, story(name, "holds")).effect
    _, _, expected = (LADDERS | PAIRS)[name]
    assert effect.value == pytest.approx(expected, abs=1e-5)
    if name != "singular-spread-falls":  # all layers fall by as much here
        assert effect.low < effect.value < effect.high


@pytest.mark.parametrize("name", list(LADDERS))
def test_the_values_are_those_that_were_put_in(tmp_path, name):
    _, values, _ = LADDERS[name]
    if name == "margins-concentrate":  # half of the images are right; of the wrong ones 20 % are near as well
        values = [(value + 0.2) / 2 for value in values]
    if name == "ramp-gap-shrinks":
        values = [0.155, 0.125, 0.05]
    if name in ("singular-spread-falls", "feature-change-falls"):  # layer i has i times as much, of 8
        values = [4.5 * value for value in values]
    found = only_values(check_one(tmp_path, name, story(name, "holds")))
    assert found == pytest.approx(values, abs=1e-5)


@pytest.mark.parametrize("name", [*PAIRS, *ASSOCIATIONS, *ALONG])
def test_the_values_of_awp_claims_are_those_that_were_put_in(tmp_path, name):
    found = check_one(tmp_path, name, story(name, "holds"))
    if name not in PAIRS:
        assert only_values(found) == pytest.approx([0.05, 0.1, 0.15, 0.2, 0.25, 0.3])
        assert [value["against"] for value in found.values] == pytest.approx([0.5, 0.7, 0.9, 1.1, 1.3, 1.5])
    else:
        assert only_values(found) == pytest.approx(PAIRS[name][1], abs=1e-5)


def only_values(found: claims.Claim) -> list[float]:
    return [value["value"] for value in found.values]


@pytest.mark.parametrize("name", EVERY)
def test_failed_runs_make_it_inconclusive_and_are_named(tmp_path, name):
    nets = story(name, "holds")
    failed = len(nets) - 3 if name in ASSOCIATIONS else 1
    found = check_one(
        tmp_path, name, [*nets[:-failed], *(replace(net, status="failed") for net in nets[-failed:])]
    )
    assert found.verdict == "inconclusive"
    assert f"{nets[-failed].entry['label']} (seed 0) failed (the loss became NaN)" in found.why
    assert found.effect.value is None


@pytest.mark.parametrize("name", EVERY)
def test_a_value_that_is_not_finite_makes_it_inconclusive(tmp_path, name):
    nets = story(name, "holds", seeds=2 if name in ALONG else 1)
    bad = {key: np.full(N, np.nan, dtype=np.float32) for key in (
        "test/clean", "test/loss", "test/robust", "margins/test_confidence", "margins/test_probability",
        "smoothness/probability_change", f"smoothness/attack/{LAYERS[0]}", f"activations/{LAYERS[0]}",
        "landscape/test_loss", "landscape/test_matched", "flatness/test_average_loss", "flatness/test_worst_loss",
    )}  # fmt: skip
    knobs = {**nets[1].knobs, "spectrum": np.nan, "top": np.nan, "trace": np.nan}
    nets[1] = replace(nets[1], arrays=bad, knobs=knobs)
    found = check_one(tmp_path, name, nets)
    assert found.verdict == "inconclusive"
    assert "not finite" in found.why
    assert nets[1].entry["label"] in found.why


# -- the rule ------------------------------------------------------------------------------------------


def findings(value, low, high, agreement=1.0, limitation=""):
    return Findings(
        seen="it went", size="a change of", effect=Effect("e", value, low, high), statistic=Statistic("s"),
        agreement=agreement, needed=0.5, trend="", limitation=limitation, scale=1.0, values=(), seeds=1, note="",
    )  # fmt: skip


@pytest.mark.parametrize(
    ("direction", "found", "verdict", "word"),
    [
        (1, findings(0.2, 0.1, 0.3), "supported", "+0.2"),
        (-1, findings(0.2, 0.1, 0.3), "not supported", "opposite"),
        (-1, findings(-0.2, -0.3, -0.1), "supported", "-0.3 to -0.1"),
        (1, findings(-0.2, -0.3, -0.1), "not supported", "opposite"),
        (1, findings(0.2, -0.1, 0.5), "inconclusive", "holds zero"),
        (1, findings(0.2, 0.0, 0.5), "inconclusive", "holds zero"),
        (1, findings(0.2, 0.1, 0.3, agreement=0.4), "inconclusive", "needs 0.5"),
        (1, findings(0.2, 0.1, 0.3, agreement=0.5), "supported", "+0.2"),
        (1, findings(0.2, 0.1, 0.3, agreement=None), "supported", "+0.2"),
        (-1, findings(0.2, 0.1, 0.3, agreement=0.9), "not supported", "opposite"),
        (1, findings(0.2, 0.1, 0.3, limitation="it is noise"), "inconclusive", "it is noise"),
        (-1, findings(0.2, 0.1, 0.3, limitation="it is noise"), "inconclusive", "it is noise"),
        (1, findings(0.2, None, None, limitation="5 layers are too few"), "inconclusive", "too few"),
        (1, findings(0.0, 0.0, 0.0), "inconclusive", "no difference"),
        (1, findings(1e-17, 1e-18, 2e-17), "inconclusive", "no difference"),
        (1, findings(float("nan"), 0.1, 0.2), "inconclusive", "not a finite number"),
    ],
)
def test_the_verdict_rule(direction, found, verdict, word):
    assert decide(direction, found)[0] == verdict
    assert word in decide(direction, found)[1]


def test_ends_that_differ_are_not_enough_where_the_ladder_does_not_follow(tmp_path):
    # Ranks of accuracy 4 1 3 2 over ranks of strength 1 2 3 4: rho = 1 - 6 * 14 / 60 = -0.4.
    nets = ladder(
        {eps: {"accuracy": v} for eps, v in zip((0, 0.1, 0.2, 0.3), (0.9, 0.6, 0.8, 0.7), strict=True)}
    )
    found = check_one(tmp_path, "accuracy-falls", nets)
    assert found.statistic.value == pytest.approx(-0.4)
    assert found.effect.high < 0
    assert found.verdict == "inconclusive"
    assert "support needs 0.5" in found.why


def test_a_trend_against_the_claim_is_no_support_however_strong(tmp_path):
    # Twelve strengths: accuracy rises all the way, and falls below its start at the last. Every rank is off
    # by 1, but the last by 11: rho = 1 - 6 * (11 + 121) / (12 * 143).
    values = [0.6 + 0.02 * step for step in range(11)] + [0.4]
    nets = ladder({0.01 * step: {"accuracy": value} for step, value in enumerate(values)})
    found = check_one(tmp_path, "accuracy-falls", nets)
    assert found.statistic.value == pytest.approx(1 - 6 * 132 / (12 * 143))
    assert found.effect.high < 0
    assert found.verdict == "inconclusive"


def test_a_quantity_that_falls_in_half_of_the_layers_only_is_inconclusive(tmp_path):
    weak, strong = ladder({0.0: {"variation": 0.4}, 0.2: {"variation": 0.38}})
    rising = {f"activations/{name}": scale * _norms(0.41) for scale, name in enumerate(LAYERS[:3], start=1)}
    found = check_one(tmp_path, "activation-variation-falls", [weak, replace(strong, arrays=rising)])
    assert found.statistic.value == pytest.approx(5 / 8)
    assert found.effect.high < 0
    assert found.verdict == "inconclusive"


def _norms(variation: float) -> np.ndarray:
    noise = np.random.default_rng(9).standard_normal(N)
    return (10 * (1 + variation * (noise - noise.mean()) / noise.std())).astype(np.float32)


def test_an_activation_saved_under_two_names_counts_once(tmp_path):
    nets = [
        replace(net, arrays={f"activations/{name}": _norms(0.4 - 0.1 * bool(net.eps)) for name in LAYERS[:3]})
        for net in ladder({0.0: {"variation": 0.4}, 0.2: {"variation": 0.5}})
    ]
    # Of eight names three are one activation, which varies less; the other five vary more.
    assert check_one(tmp_path, "activation-variation-falls", nets).statistic.value == pytest.approx(1 / 6)


def test_two_strengths_need_no_correlation(tmp_path):
    found = check_one(tmp_path, "accuracy-falls", ladder({0.0: {"accuracy": 0.9}, 0.1: {"accuracy": 0.7}}))
    assert found.verdict == "supported"
    assert "correlation" not in found.why


def test_statistics_are_those_worked_by_hand(tmp_path):
    # Three seeds of three strengths in perfect order: 2 of (3!)^3 orders are as extreme.
    nets = ladder({0.0: {"accuracy": 0.9}, 0.1: {"accuracy": 0.8}, 0.2: {"accuracy": 0.7}}, seeds=3)
    statistic = check_one(tmp_path, "accuracy-falls", nets).statistic
    assert statistic.value == pytest.approx(-1.0)
    assert statistic.p == pytest.approx(2 / 216)
    layers = check_one(
        tmp_path / "b", "singular-spread-falls", story("singular-spread-falls", "holds")
    ).statistic
    assert (layers.value, layers.high) == (1.0, 1.0)
    assert layers.low == pytest.approx(0.025 ** (1 / 8))
    assert layers.p == pytest.approx(2 / 256)


# -- the files -----------------------------------------------------------------------------------------


def test_claims_json_has_the_fields_that_the_report_reads(tmp_path):
    claim_data.write(tmp_path, story("accuracy-falls", "holds"))
    written = claims.write(tmp_path)
    saved = json.loads((tmp_path / "claims.json").read_text())
    assert saved["format"] == 1
    assert StudyFolder(tmp_path).claims == saved["claims"]
    assert [claim["id"] for claim in saved["claims"]] == EVERY
    first = saved["claims"][0]
    fields = "id paper statement quantity verdict why statistic effect values seeds note setting"
    assert set(first) == set(fields.split())
    assert {"name", "value"} <= set(first["statistic"])
    assert {"name", "value", "low", "high", "unit"} == set(first["effect"])
    assert first["values"][0] == {"label": "Standard", "eps": 0.0, "seed": 0, "value": pytest.approx(0.9)}
    assert written[0].why == first["why"]
    for claim in saved["claims"]:
        assert claim["verdict"] in {"supported", "not supported", "inconclusive"}
        assert claim["why"].endswith(".")
        assert claim["why"].count("\n") == 0
        assert claim["quantity"]
        assert claim["statement"].endswith(".")


def test_checking_again_gives_the_same_and_writes_nothing(tmp_path):
    claim_data.write(tmp_path, story("loss-gap-shrinks", "same"))
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}
    assert claims.check(tmp_path) == claims.check(tmp_path)
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")} == before


def test_a_folder_that_is_no_study_is_refused(tmp_path):
    with pytest.raises(StateError, match=r"study\.json"):
        claims.check(tmp_path)


def test_a_new_claim_is_one_function_and_one_entry(tmp_path):
    def half_of_accuracy(source):
        quantity = wen2020.accuracy(source)
        return replace(quantity, of=lambda weights: wen2020.accuracy(source).of(weights) / 2)

    toy = Hypothesis("toy", "nobody", "It falls.", "half", "half", "", half_of_accuracy, -1, STRENGTH_SWEEP)
    folder = claim_data.write(tmp_path, story("accuracy-falls", "holds"))
    found = toy.check(StudyData.of(StudyFolder(folder)))
    assert found.effect.value == pytest.approx(-0.1)
    assert found.verdict == "supported"


def test_a_study_of_two_settings_gets_a_verdict_in_each(tmp_path):
    knob, values, effect = LADDERS["accuracy-falls"]

    def sweep(setting, values):
        knobs = {eps: {knob: value} for eps, value in zip(claim_data.STRENGTHS, values, strict=True)}
        nets = claim_data.ladder(knobs, setting=setting)
        return [replace(net, method=f"{net.name} ({setting})") for net in nets]

    lonely = [
        claim_data.Net(0.1, method="AT (wide)", setting="wide"),
        claim_data.Net(0.1, awp=True, setting="plain"),
    ]
    nets = [*sweep("plain", values), *sweep("BN", values[::-1]), *lonely]
    found = [
        claim for claim in claims.check(claim_data.write(tmp_path, nets)) if claim.id == "accuracy-falls"
    ]
    assert [(claim.setting, claim.verdict) for claim in found] == [
        ("in Standard (plain), AT (plain)", "supported"),
        ("in Standard (BN), AT (BN)", "not supported"),
    ]
    assert [claim.effect.value for claim in found] == pytest.approx([effect, -effect], abs=0.003)
    # What is no matter of strengths is checked once, on the whole study.
    assert [claim.setting for claim in claims.check(tmp_path) if claim.id == "awp-flatter"] == [""]


def test_awp_is_judged_at_the_best_and_at_the_last_checkpoint(tmp_path):
    def net(awp, best, last):
        return claim_data.Net(0.1, awp=awp, knobs={"robust_gap": best}, along={40: {"robust_gap": last}})

    folder = claim_data.write(tmp_path, [net(False, 0.05, 0.4), net(True, 0.15, 0.1)])
    found = {claim.setting: claim for claim in claims.check(folder) if claim.id == "awp-smaller-robust-gap"}
    assert {setting: claim.verdict for setting, claim in found.items()} == {
        "at the best checkpoint": "not supported",
        "at the last checkpoint": "supported",
    }
    assert found["at the last checkpoint"].effect.value == pytest.approx(-0.3)
    assert {value["checkpoint"] for value in found["at the last checkpoint"].values} == {"last"}


def test_what_the_last_checkpoint_lacks_is_not_said_twice(tmp_path):
    nets = [claim_data.Net(0.1, awp=awp, along={40: {}}) for awp in (False, True)]
    folder = claim_data.write(tmp_path, nets)
    for file in folder.glob("runs/*/explanation-last.*"):
        file.unlink()
    found = [(claim.id, claim.setting) for claim in claims.check(folder)]
    assert ("awp-flatter", "at the best checkpoint") in found
    assert ("awp-flatter", "at the last checkpoint") not in found
    assert ("flatter-smaller-gap", "at the last checkpoint") not in found
    assert ("awp-smaller-robust-gap", "at the last checkpoint") in found


def test_methods_are_the_units_along_training_and_their_seeds_are_not(tmp_path):
    def nets(method, gaps, seeds):
        along = {
            10 * (i + 1): {"rise": 0.5 + 0.2 * i, "robust_gap": 0.05 + 0.08 * gap}
            for i, gap in enumerate(gaps)
        }
        return [claim_data.Net(0.1, method=method, seed=seed, along=along) for seed in range(seeds)]

    found = check_one(
        tmp_path,
        "gap-follows-landscape",
        [*nets("A", (0, 1, 2, 3), 6), *nets("B", (1, 0, 3, 2), 1), *nets("C", (3, 2, 1, 0), 1)],
    )
    assert found.effect.value == pytest.approx((1 + 0.6 - 1) / 3)
    assert found.verdict == "inconclusive"
    assert "2 of 3 methods" in found.why


def test_awp_from_the_attack_is_no_part_of_the_papers_claim(tmp_path):
    nets = [
        claim_data.Net(0.1, awp=awp, knobs={"robust_gap": gap}) for awp, gap in ((False, 0.3), (True, 0.1))
    ]
    cheap = claim_data.Net(0.1, awp=True, method="cheap", knobs={"robust_gap": 0.9})
    folder = claim_data.write(tmp_path, [*nets, cheap])
    meta = json.loads((folder / "study.json").read_text())
    meta["runs"][-1]["awp_from_attack"] = True
    (folder / "study.json").write_text(json.dumps(meta))
    (found,) = [claim for claim in claims.check(folder) if claim.id == "awp-smaller-robust-gap"]
    assert found.effect.value == pytest.approx(-0.2)


def test_the_setting_names_the_checkpoint_that_was_chosen(tmp_path):
    folder = claim_data.write(
        tmp_path, [claim_data.Net(0.1, awp=awp, along={40: {}}) for awp in (False, True)]
    )
    for file in folder.glob("runs/*/evaluation.json"):
        file.write_text(json.dumps({**json.loads(file.read_text()), "checkpoint": "epoch-0010"}))
    found = {claim.setting for claim in claims.check(folder) if claim.id == "awp-flatter"}
    assert found == {"at the epoch-0010 checkpoint", "at the last checkpoint"}


def test_what_cannot_be_used_at_the_last_checkpoint_is_said_there(tmp_path):
    nets = [claim_data.Net(0.1, awp=awp, along={40: {}}) for awp in (False, True)]
    folder = claim_data.write(tmp_path, nets)
    file = next(folder.glob("runs/*/evaluation-last.json"))
    file.write_text(json.dumps({**json.loads(file.read_text()), "attacks": ["fgsm"]}))
    found = {claim.setting: claim for claim in claims.check(folder) if claim.id == "awp-smaller-robust-gap"}
    assert "under different conditions" in found["at the last checkpoint"].why


def test_correlations_along_training_are_averaged_over_runs(tmp_path):
    # Ranks 2 1 4 3 against 1 2 3 4: rho = 1 - 6 * 4 / 60 = 0.6; and 1 2 3 4 against themselves: 1.
    def net(seed, gaps):
        along = {
            10 * (i + 1): {"rise": 0.5 + 0.2 * i, "robust_gap": 0.05 + 0.08 * gap}
            for i, gap in enumerate(gaps)
        }
        return claim_data.Net(0.1, seed=seed, along=along)

    short = claim_data.Net(0.1, seed=2, along={10: {}, 20: {}, 30: {}})
    found = check_one(tmp_path, "gap-follows-landscape", [net(0, (1, 0, 3, 2)), net(1, (0, 1, 2, 3)), short])
    assert found.effect.value == pytest.approx(0.8)
    # Student's with one degree of freedom over two runs: half the difference is 0.2.
    assert found.effect.low == pytest.approx(max(-1, 0.8 - 12.7062 * 0.2))
    assert found.effect.high == 1.0
    assert found.statistic.value == 1.0
    assert "AT 0.1 (seed 2) was measured at 3 epochs" in found.note
    assert "grow with time alone" in found.note
    assert "2 runs, at 4 epochs each" in found.why
    assert [value["checkpoint"] for value in found.values[:4]] == [
        "epoch-0010",
        "epoch-0020",
        "epoch-0030",
        "last",
    ]


@pytest.mark.parametrize("reverse", [False, True])
def test_a_realistic_study_gets_the_verdicts_of_its_story(tmp_path, reverse):
    write_study(tmp_path, n=600, reverse=reverse)
    found = {claim.id: claim.verdict for claim in claims.check(tmp_path)}
    told = ("accuracy-falls", "less-confident", "margins-concentrate", "smoother-under-attack",
            "activation-variation-falls", "singular-spread-falls", "awp-flatter")  # fmt: skip
    assert {found[name] for name in told} == {"not supported" if reverse else "supported"}


def test_a_study_of_six_runs_and_2000_images_is_checked_in_two_seconds_without_torch(tmp_path):
    write_study(tmp_path, n=2000)
    # In a process of its own: here every call is type-checked.
    code = """
import sys, time
from robustlens import claims
start = time.process_time()
claims.check(sys.argv[1])
assert time.process_time() - start < 2, time.process_time() - start
assert "torch" not in sys.modules
"""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path)], env=environment, check=False)
    assert done.returncode == 0
