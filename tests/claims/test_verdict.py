"""The verdict rule: supported, not supported, inconclusive."""

from dataclasses import replace

import pytest

from robustlens.claims.verdict import Consistency, Findings, decide
from robustlens.results import Effect, Statistic


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
