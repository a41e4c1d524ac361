"""One style per network: visible, distinct, and the same from one report to the next."""

import math
from itertools import combinations, pairwise

from robustlens.report.drawing import palette


def contrast(one: str, other: str) -> float:
    """WCAG 2 contrast ratio of two colours: 21 for black on white."""
    weights = (0.2126, 0.7152, 0.0722)
    dark, bright = sorted(
        sum(w * part for w, part in zip(weights, palette._linear(colour), strict=True))
        for colour in (one, other)
    )
    return (bright + 0.05) / (dark + 0.05)


def test_every_colour_stands_out_from_its_page() -> None:
    assert round(contrast("#ffffff", "#000000")) == 21
    networks = [(method, eps) for method in palette.HUES for eps in (0.05, 0.1, 0.2, 0.4)]
    for style in palette.styles(networks):
        assert contrast(style.light, "#ffffff") >= 3
        assert contrast(style.dark, "#1b1f25") >= 3


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
