"""One style per network: visible, distinct, and the same from one report to the next."""

import math
from itertools import combinations, pairwise

from robustlens.report.drawing import palette


def test_every_colour_stands_out_from_its_page() -> None:
    networks = [(method, eps) for method in palette.HUES for eps in (0.05, 0.1, 0.2, 0.4)]
    for style in palette.styles(networks):
        assert palette.contrast(style.light, "#ffffff") >= 3
        assert palette.contrast(style.dark, "#1b1f25") >= 3


def test_methods_differ_in_colour_and_marker_and_strengths_in_lightness_and_dash() -> None:
    single = palette.styles([(method, 0.1) for method in palette.HUES])
    for one, other in combinations(single, 2):
        assert math.dist(palette.oklab(one.light), palette.oklab(other.light)) > 0.04
        assert one.symbol != other.symbol
    strengths = palette.styles([("AT", eps) for eps in (0.05, 0.1, 0.2)])
    assert [style.dash for style in strengths] == ["dot", "dash", "solid"]
    assert len({style.symbol for style in strengths}) == 1
    for weak, strong in pairwise(strengths):
        assert palette.oklab(weak.light)[0] > palette.oklab(strong.light)[0] + 0.05
        assert palette.oklab(weak.dark)[0] < palette.oklab(strong.dark)[0] - 0.05


def test_a_known_method_keeps_its_colour_in_another_study_and_a_new_one_gets_a_free_colour() -> None:
    (alone,) = palette.styles([("TRADES", 0.1)])
    mine, trades, other = palette.styles([("Mine", 0.1), ("TRADES", 0.1), ("Other", 0.1)])
    assert trades == alone
    assert len({mine.light, trades.light, other.light}) == 3
