"""Claims: for each one, data that support it, that reverse it, that show no difference; and `claims.json`."""

import json
import os
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest

from helpers.claim_data import LAYERS, N, write
from helpers.claim_stories import ALONG, ASSOCIATIONS, EVERY, STORIES, check_one, story
from helpers.study_files import write_study
from robustlens import claims
from robustlens.errors import ConfigError, StateError
from robustlens.results import StudyFolder


def test_every_registered_claim_is_tested_here():
    assert list(claims.CLAIMS) == EVERY


@pytest.mark.parametrize(("seeds", "verdict"), [(1, "as claimed"), (3, "supported")])
@pytest.mark.parametrize("name", STORIES)
def test_data_that_support_a_claim_support_it(tmp_path, name, seeds, verdict):
    claim = check_one(tmp_path, name, story(name, "holds", seeds))
    assert claim.verdict == verdict, claim.why
    assert claim.seeds == seeds
    assert (claim.effect.p is None) == (seeds == 1)


@pytest.mark.parametrize(("seeds", "verdict"), [(1, "opposite"), (3, "not supported")])
@pytest.mark.parametrize("name", STORIES)
def test_reversed_data_do_not_support_it(tmp_path, name, seeds, verdict):
    claim = check_one(tmp_path, name, story(name, "reversed", seeds))
    assert claim.verdict == verdict, claim.why
    assert "opposite" in claim.why


@pytest.mark.parametrize("how", ["same", "equal"])
@pytest.mark.parametrize("name", STORIES)
def test_data_without_a_difference_are_unclear(tmp_path, name, how):
    claim = check_one(tmp_path, name, story(name, how))
    assert claim.verdict == "unclear", claim.why
    assert any(word in claim.why for word in ("holds zero", "no difference", "nothing to correlate")), (
        claim.why
    )


@pytest.mark.parametrize("name", STORIES)
def test_failed_runs_leave_it_untested_and_are_named(tmp_path, name):
    nets = story(name, "holds")
    failed = len(nets) - 3 if name in ASSOCIATIONS else 1
    claim = check_one(
        tmp_path, name, [*nets[:-failed], *(replace(net, status="failed") for net in nets[-failed:])]
    )
    assert claim.verdict == "untested"
    assert claim.scope is None
    assert f"{nets[-failed].entry.label} (seed 0) failed (the loss became NaN)" in claim.why
    assert claim.effect.value is None


@pytest.mark.parametrize("name", STORIES)
def test_a_value_that_is_not_finite_makes_it_unclear(tmp_path, name):
    nets = story(name, "holds", seeds=2 if name in ALONG else 1)
    bad = {key: np.full(N, np.nan, dtype=np.float32) for key in (
        "test/clean", "test/loss", "test/robust", "margins/test_confidence", "margins/test_probability",
        "smoothness/probability_change", f"smoothness/attack/{LAYERS[0]}", f"activations/post-activation/{LAYERS[0]}",
        "landscape/test_loss", "landscape/test_matched", "flatness/test_average_loss", "flatness/test_worst_loss",
        "train/clean", "test/distance", "margins/train_probability", "margins/test_scatter_total",
        "smoothness/label_flip", "gradients/test_gini", "gradients/test_contrast",
    )}  # fmt: skip
    knobs = {**nets[1].knobs, "spectrum": np.nan, "top": np.nan, "trace": np.nan, "volume": np.nan}
    nets[1] = replace(nets[1], arrays=bad, knobs=knobs)
    claim = check_one(tmp_path, name, nets)
    assert claim.verdict == "unclear"
    assert "not finite" in claim.why
    assert nets[1].entry.label in claim.why


def test_claims_json_has_the_fields_that_the_report_reads(tmp_path):
    write(tmp_path, story("accuracy-falls", "holds"))
    written = claims.write(tmp_path)
    saved = json.loads((tmp_path / "claims.json").read_text())
    assert saved["format"] == 2
    assert StudyFolder(tmp_path).claims == written
    assert [claim["id"] for claim in saved["claims"]] == EVERY
    place = EVERY.index("accuracy-falls")
    first = saved["claims"][place]
    fields = "id paper statement quantity verdict why statistic effect values seeds note setting scope"
    assert set(first) == {*fields.split(), "adjusted_p", "remedy"}
    assert {"name", "value"} <= set(first["statistic"])
    assert {"name", "value", "low", "high", "unit", "p"} == set(first["effect"])
    assert first["values"][0] == {
        "label": "Standard",
        "eps": 0.0,
        "seed": 0,
        "value": pytest.approx(0.9),
        "checkpoint": None,
        "against": None,
    }
    assert written[place].why == first["why"]
    for claim in saved["claims"]:
        assert claim["verdict"] in {"as claimed", "opposite", "unclear", "untested"}
        assert claim["scope"] == (None if claim["verdict"] == "untested" else "described")
        assert claim["why"].endswith(".")
        assert claim["why"].count("\n") == 0
        assert claim["quantity"]
        assert claim["statement"].endswith(".")


def test_checking_again_gives_the_same_and_writes_nothing(tmp_path):
    write(tmp_path, story("loss-gap-shrinks", "same"))
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}
    assert claims.check(tmp_path) == claims.check(tmp_path)
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")} == before


def test_a_claim_is_found_by_a_near_name():
    with pytest.raises(ConfigError, match=r"claim: found 'awp-flater'.*did you mean 'awp-flatter'"):
        claims.CLAIMS.find("awp-flater")


def test_a_folder_that_is_no_study_is_refused(tmp_path):
    with pytest.raises(StateError, match=r"study\.json"):
        claims.check(tmp_path)


@pytest.mark.parametrize("reverse", [False, True])
def test_a_realistic_study_gets_the_verdicts_of_its_story(tmp_path, reverse):
    write_study(tmp_path, n=600, reverse=reverse)
    verdicts = {claim.id: claim.verdict for claim in claims.check(tmp_path)}
    names = ("accuracy-falls", "less-confident", "margins-concentrate", "smoother-under-attack",
             "activation-spread-falls", "singular-spread-falls", "awp-flatter")  # fmt: skip
    assert {verdicts[name] for name in names} == {"opposite" if reverse else "as claimed"}


def test_a_study_of_six_runs_and_2000_images_is_checked_in_seconds_without_torch(tmp_path):
    write_study(tmp_path, n=2000)
    # In a process of its own: here every call is type-checked.
    code = """
import sys, time
from robustlens import claims
start = time.process_time()
claims.check(sys.argv[1])
assert time.process_time() - start < 10, time.process_time() - start
assert "torch" not in sys.modules
"""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path)], env=environment, check=False)
    assert done.returncode == 0
