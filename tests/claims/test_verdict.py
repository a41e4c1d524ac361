"""The verdict rule: supported, not supported, inconclusive."""

from dataclasses import replace

import pytest

from robustlens.claims.verdict import ORDER, SHARE, Consistency, Findings, decide
from robustlens.results import Effect, Statistic
from robustlens.stats.intervals import ROUNDING


def findings(value, low, high, agreement=1.0, limitation="") -> Findings:
    consistency = Consistency(Statistic("s"), agreement, needed=0.5, words="")
    effect = Effect("e", value, low, high)
    return Findings("it went", "a change of", effect, consistency, (), 1, "", limitation=limitation)


@pytest.mark.parametrize(
    ("direction", "shown", "verdict", "word"),
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
def test_the_verdict_rule(direction, shown, verdict, word):
    assert decide(direction, shown)[0] == verdict
    assert word in decide(direction, shown)[1]


def test_the_reason_joins_what_there_is_to_say():
    shown = findings(0.2, 0.1, 0.3)
    assert decide(1, shown)[1] == "it went, a change of +0.2 (95 % interval +0.1 to +0.3)."
    in_percent = replace(shown, effect=Effect("e", 0.2, 0.1, 0.3, "%"))
    in_pairs = replace(in_percent, consistency=replace(shown.consistency, words="in 2 of 3 pairs"))
    assert decide(-1, in_pairs)[1] == (
        "it went, a change of +0.2 % (95 % interval +0.1 to +0.3), in 2 of 3 pairs; the opposite of the claim."
    )


@pytest.mark.parametrize("ends", [(None, 0.1, 0.3), (0.2, None, 0.3), (0.2, 0.1, None)])
def test_an_effect_that_lacks_an_end_or_its_value_decides_nothing_and_is_not_told(ends):
    assert decide(1, findings(*ends)) == ("inconclusive", "it went; there is no interval.")


@pytest.mark.parametrize("direction", [1, -1])
@pytest.mark.parametrize("side", [1, -1])
@pytest.mark.parametrize("part", [0.5, 1.0])
def test_an_end_that_is_off_zero_by_rounding_alone_holds_it(direction, side, part):
    near, far = sorted((side * part * ROUNDING, side * 0.3))
    verdict, why = decide(direction, findings(side * 0.2, near, far))
    assert (verdict, "holds zero" in why) == ("inconclusive", True)


def test_rounding_is_that_of_the_values_compared():
    within, beyond = (
        findings(part * ROUNDING, part * ROUNDING, part * ROUNDING) for part in (1000.0, 1001.0)
    )
    assert "no difference" in decide(1, replace(within, scale=1000.0))[1]
    assert decide(1, replace(beyond, scale=1000.0))[0] == "supported"
    assert decide(1, within)[0] == "supported"  # where the values are of size 1


@pytest.mark.parametrize(("needed", "least"), [(ORDER, 0.5), (SHARE, 2 / 3)])
def test_support_needs_half_a_rank_correlation_or_two_thirds_of_the_units(needed, least):
    for agreement, verdict in ((least, "supported"), (least - 0.01, "inconclusive")):
        shown = findings(0.2, 0.1, 0.3, agreement=agreement)
        shown = replace(shown, consistency=replace(shown.consistency, needed=needed))
        assert decide(1, shown)[0] == verdict
