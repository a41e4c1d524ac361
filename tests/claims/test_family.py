"""All decided claims of a study together: adjusted p-values, and what stays of the verdicts."""

import pytest
from scipy import stats

from helpers.chain_stories import LINKS
from helpers.claim_data import write
from helpers.claim_stories import EVERY, STRENGTHS, SWEEPS, story
from robustlens import claims
from robustlens.claims.family import benjamini_hochberg, controlled
from robustlens.results import ClaimResult, Effect, Verdict


def claim(p: float | None, verdict: Verdict = "supported", seeds: int = 3) -> ClaimResult:
    effect = Effect("e", 1.0, 0.5, 1.5, p=p)
    return ClaimResult("id", "paper", "It grows.", "q", verdict, "It went up.", effect=effect, seeds=seeds)


def test_adjusted_p_values_are_scipys():
    p = [0.001, 0.04, 0.012, 0.5, 0.03, 0.03, 1.0]
    assert benjamini_hochberg(p) == pytest.approx(stats.false_discovery_control(p).tolist())
    assert benjamini_hochberg([]) == []


def test_a_claim_that_is_clear_by_itself_may_not_be_among_the_others():
    # Of three, 0.01 * 3 = 0.03 stays and 0.04 * 3 / 2 = 0.06 does not; alone both are below 0.05.
    first, second, third = controlled(
        [claim(0.01), claim(0.04, "not supported"), claim(None, "inconclusive")]
    )
    assert (first.verdict, first.adjusted_p) == ("supported", pytest.approx(0.03))
    assert (second.verdict, second.adjusted_p) == ("inconclusive", pytest.approx(0.06))
    assert second.why == (
        "It went up; not clear among the 3 claims that the study decides (p 0.04 alone, 0.06 among them)."
    )
    assert (third.verdict, third.adjusted_p) == ("inconclusive", 1.0)
    (alone,) = controlled([claim(0.04, "not supported")])
    assert alone.verdict == "not supported"


def test_a_small_p_value_of_an_inconclusive_claim_counts_as_one():
    # It would be the smallest of four; a limitation, or a statistic that disagrees, keeps it inconclusive.
    four = controlled([claim(1e-9, "inconclusive"), claim(0.02), claim(0.9, "inconclusive")])
    assert four[1].adjusted_p == pytest.approx(0.06)
    assert four[1].verdict == "inconclusive"


def test_descriptions_and_untested_claims_are_no_part_of_the_family():
    described, untested = claim(None, "as claimed", seeds=1), claim(None, "untested", seeds=0)
    alone, *others = controlled([claim(0.04), described, untested])
    assert (alone.verdict, alone.adjusted_p) == ("supported", 0.04)
    assert others == [described, untested]


def test_a_study_of_three_seeds_is_controlled_together(tmp_path):
    nets = story("accuracy-falls", "holds", seeds=3)
    checked = claims.check(write(tmp_path, nets))
    decided = [one for one in checked if one.scope == "decided"]
    assert [one.id for one in decided] == [name for name in EVERY if name in SWEEPS or name in LINKS]
    assert len({run.eps for run in nets}) == len(STRENGTHS)
    own = [1.0 if one.effect.p is None or one.verdict == "inconclusive" else one.effect.p for one in decided]
    assert [one.adjusted_p for one in decided] == pytest.approx(benjamini_hochberg(own))
    assert {one.verdict for one in checked if one.id == "accuracy-falls"} == {"supported"}
    assert all(one.adjusted_p is None and one.effect.p is None for one in checked if one.scope != "decided")


@pytest.mark.parametrize("verdict", ["supported", "not supported"])
def test_fewer_than_three_seeds_cannot_decide(verdict):
    with pytest.raises(ValueError, match="takes 3 seeds, found 2"):
        claim(0.01, verdict, seeds=2)
