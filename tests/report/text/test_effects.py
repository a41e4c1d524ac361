"""Sentences of the first screen, of studies made by hand: every expected text is worked out here."""

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from robustlens.config import BEST
from robustlens.report.data import Network, ReportData, RunReport
from robustlens.report.drawing.palette import styles
from robustlens.report.page.rendering import page
from robustlens.report.text.effects import EffectsReport, effects
from robustlens.report.text.headline import headline
from robustlens.results import (
    EvaluationResult,
    ExplanationResult,
    Measurement,
    Provenance,
    Run,
    RunEntry,
    SplitResult,
    ThreatRecord,
)
from robustlens.stats.intervals import Interval

LINF = ThreatRecord("Linf", 0.1)
NOWHERE = Provenance(None, "", "", BEST, {})


def evaluated(clean: float, robust: float, half: float = 0.02) -> EvaluationResult:
    """Accuracies with intervals of this half width."""
    ends = [Interval(share, share - half, share + half) for share in (clean, robust)]
    split = SplitResult(n=100, clean=ends[0], robust=ends[1], loss=Interval(0.5))
    return EvaluationResult(NOWHERE, LINF, ("pgd-20",), {"test": split}, {})


def explained(
    confidence: float = 0.9,
    margins: tuple[float, ...] = (0.9, 0.8, -0.1, -0.9),
    change: float = 1.5,
    spreads: tuple[float, ...] = (0.5, 0.3),
    rise: float = 2.0,
) -> dict[str, Measurement]:
    """Measures of a network: each array is constant but for the margins, so means are what is given."""
    layers = {f"conv{place}": {"std": spread} for place, spread in enumerate(spreads)}
    margin = np.array(margins)
    heights = np.array([rise, 0.0, rise])[:, None, None] * np.ones((3, 2, 10))
    arrays: dict[str, dict[str, np.ndarray]] = {
        "margins": {
            "test_confidence": np.full(10, confidence),
            "test_probability": margin,
            "test_correct": margin > 0,
        },
        "smoothness": {"probability_change": np.full(10, change)},
        "landscape": {"alpha": np.array([-0.5, 0.0, 0.5]), "test_loss": heights},
        "spectrum": {},
    }
    return {
        name: Measurement({"layers": layers}, "", "", "", {"eps": 0.1, "steps": 10}, arrays=own)
        for name, own in arrays.items()
    }


def run(
    label: str,
    eps: float,
    evaluation: EvaluationResult | None = None,
    measures: dict[str, Measurement] | None = None,
    **entry: Any,
) -> RunReport:
    """One run; `entry` is what the study says of it."""
    source = Run(Path("none"), RunEntry(label, "none", label, eps=eps, **entry))
    method = label.split()[0]
    objective = "standard" if eps == 0 else "at"
    source = Run(Path("none"), RunEntry(label, "none", label, method, objective, eps=eps, **entry))
    explanation = ExplanationResult(NOWHERE, LINF, measures) if measures else None
    return RunReport(
        source=source, name=label, label=label, method=method, eps=eps, seed=0,
        evaluation=evaluation, explanation=explanation,
    )  # fmt: skip


def study(*networks: RunReport | list[RunReport]) -> ReportData:
    """A network of each run, or of each list of runs (its seeds)."""
    groups = [one if isinstance(one, list) else [one] for one in networks]
    looks = styles([(own[0].method, own[0].eps) for own in groups])
    return ReportData(
        "made",
        tuple(
            Network(own[0].label, own[0].method, own[0].eps, tuple(own), look)
            for own, look in zip(groups, looks, strict=True)
        ),
    )


def sentences(shown: EffectsReport) -> dict[str, str]:
    return {effect.topic.title: effect.sentence for effect in shown.effects}


STANDARD = run("Standard", 0.0, evaluated(0.9, 0.01), explained())
ROBUST = explained(0.7, (0.5, 0.1, -0.1, -0.15), 0.2, (0.4, 0.35), 0.5)
STRONG = run("AT 0.1", 0.1, evaluated(0.8, 0.55), ROBUST)


def test_every_sentence_of_a_study_of_two_strengths() -> None:
    shown = effects(study(STANDARD, run("AT 0.05", 0.05, evaluated(0.85, 0.4), explained(0.8)), STRONG))
    assert shown.title == "What robustness did to these networks"
    assert shown.basis == (
        "From Standard to AT 0.1, one seed each: this speaks of these networks, and another seed may differ."
    )
    assert sentences(shown) == {
        "Accuracy": "Accuracy falls from 90.0 % to 80.0 % and robust accuracy rises from 1.0 % to 55.0 %.",
        # one of four images of Standard is lost closely, two of AT 0.1; of four images no change is clear
        "Confidence": "Confidence falls from 0.90 to 0.70 and the share of images lost closely shows no "
        "clear change (25.0 % and 50.0 %).",
        "Margins": "The share near the decision boundary shows no clear change (25.0 % and 75.0 %) and the "
        "spread of the margins falls from 0.73 to 0.26.",
        "Change under attack": "The margin lost to the attack falls from 1.50 to 0.20.",
        # 0.5 to 0.4 and 0.3 to 0.35: the mean falls, in one of two layers
        "Singular values": "The spread of singular values falls from 0.40 to 0.38 (1 of 2 layers).",
        "Landscape": "The rise of the loss around the weights falls from 2.00 to 0.50.",
    }
    assert shown.missing == ()
    assert {effect.aside for effect in shown.effects} == {""}
    assert shown.effects[0].topic.unit == "hollow clean, filled attacked (Linf 0.1)"
    assert shown.effects[3].topic.unit == "mean under PGD-10 at eps 0.1"
    assert shown.effects[0].emphasised == {"Standard", "AT 0.1"}


def test_a_study_that_went_the_other_way_says_so() -> None:
    shown = sentences(
        effects(study(replace(STRONG, label="Standard", eps=0.0), replace(STANDARD, label="AT 0.1", eps=0.1)))
    )
    assert shown["Accuracy"] == (
        "Accuracy rises from 80.0 % to 90.0 % and robust accuracy falls from 55.0 % to 1.0 %."
    )
    assert shown["Landscape"] == "The rise of the loss around the weights rises from 0.50 to 2.00."


def test_a_change_within_its_interval_is_not_clear_and_none_stays() -> None:
    shown = effects(study(STANDARD, run("AT 0.1", 0.1, evaluated(0.89, 0.01), explained(change=1.2))))
    assert sentences(shown)["Accuracy"] == (
        "Accuracy shows no clear change (90.0 % and 89.0 %) and robust accuracy stays at 1.0 %."
    )
    assert sentences(shown)["Confidence"].startswith("Confidence stays at 0.90 and")
    assert sentences(shown)["Change under attack"] == "The margin lost to the attack falls from 1.50 to 1.20."


def test_awp_is_told_beside_strength_where_a_pair_differs_in_nothing_else() -> None:
    awp = run("AT+AWP 0.1", 0.1, evaluated(0.8, 0.65), explained(rise=0.25), perturbation="awp")
    shown = effects(study(STANDARD, STRONG, awp))
    assert shown.basis.startswith("From Standard to AT 0.1, ")
    asides = {effect.topic.title: effect.aside for effect in shown.effects}
    assert asides["Accuracy"] == "AWP on AT 0.1: robust accuracy rises from 55.0 % to 65.0 %."
    assert asides["Landscape"] == "AWP on AT 0.1: falls from 0.50 to 0.25."
    other = replace(
        awp, source=Run(Path("none"), RunEntry("a", "none", "a", perturbation="awp", unperturbed="x"))
    )
    assert {effect.aside for effect in effects(study(STANDARD, STRONG, other)).effects} == {""}


def test_without_strengths_the_pairs_with_awp_are_compared() -> None:
    def method(name: str, robust: float, **entry: Any) -> RunReport:
        return run(name, 0.1, evaluated(0.8, robust), **entry)

    pair = study(
        method("AT", 0.5, unperturbed="a"), method("AT+AWP", 0.6, unperturbed="a", perturbation="awp")
    )
    shown = effects(pair)
    assert shown.title == "What AWP did to these networks"
    assert shown.basis.startswith("From AT to AT+AWP, which differ in AWP alone, one seed each: ")
    assert sentences(shown) == {
        "Accuracy": "Accuracy stays at 80.0 % and robust accuracy rises from 50.0 % to 60.0 %."
    }
    assert shown.missing == ("Confidence", "Margins", "Change under attack", "Singular values", "Landscape")
    more = study(
        method("AT", 0.5, unperturbed="a"), method("AT+AWP", 0.6, unperturbed="a", perturbation="awp"),
        method("MART", 0.5, unperturbed="b"), method("MART+AWP", 0.4, unperturbed="b", perturbation="awp"),
    )  # fmt: skip
    several = effects(more)
    assert several.basis.startswith("2 pairs of networks that differ in AWP alone, one seed each")
    assert sentences(several)["Accuracy"].endswith(
        "robust accuracy rises in 1 and falls in 1 of 2 pairs (AT: 50.0 % to 60.0 %)."
    )


def test_one_network_is_described_and_nothing_compared() -> None:
    shown = effects(study(STRONG))
    assert shown.title == "What was measured"
    assert shown.basis == (
        "One network, one seed: this speaks of this network, and another seed may differ; there is nothing to "
        "compare it with."
    )
    assert sentences(shown)["Accuracy"] == "Accuracy is 80.0 % and robust accuracy is 55.0 %."
    assert shown.effects[0].emphasised == {"AT 0.1"}


def test_networks_of_one_strength_show_their_range() -> None:
    shown = effects(study(STRONG, run("TRADES 0.1", 0.1, evaluated(0.7, 0.55)), run("MART 0.1", 0.1)))
    assert (
        shown.basis
        == "No two networks differ in strength or in weight perturbation alone, so these are ranges."
    )
    assert sentences(shown)["Accuracy"] == (
        "Accuracy lies between 70.0 % (TRADES 0.1) and 80.0 % (AT 0.1) and robust accuracy is 55.0 % in all 2 "
        "networks."
    )
    assert sentences(shown)["Landscape"] == "The rise of the loss around the weights is 0.50 (AT 0.1 alone)."


def test_without_a_standard_network_the_weakest_is_the_start() -> None:
    shown = effects(study(run("AT 0.05", 0.05, evaluated(0.9, 0.4)), STRONG))
    assert shown.basis.startswith("From AT 0.05 to AT 0.1 (no standard network has results), one seed each")


def test_a_strongest_network_without_results_is_passed_over() -> None:
    shown = effects(study(STANDARD, STRONG, run("AT 0.2", 0.2)))
    assert shown.basis.startswith("From Standard to AT 0.1, ")


def test_seeds_are_counted() -> None:
    shown = effects(study([STANDARD] * 3, [STRONG] * 3))
    assert shown.basis == "From Standard to AT 0.1, means of 3 seeds."
    assert effects(study([STANDARD] * 2, [STRONG] * 3)).basis.endswith("means of 2 and 3 seeds.")


def test_seeds_without_a_result_are_not_counted() -> None:
    explained_alone = run("AT 0.1", 0.1, None, ROBUST)
    shown = effects(study([STANDARD] * 3, [STRONG, explained_alone, explained_alone]))
    assert shown.basis == "From Standard to AT 0.1, means of 1 and 3 seeds."
    nothing = run("AT 0.1", 0.1)
    assert "one seed each" in effects(study([STANDARD], [STRONG, nothing, nothing])).basis


def test_numbers_that_are_not_finite_are_no_numbers() -> None:
    broken = explained(math.nan, (math.nan,) * 4, math.nan, (math.nan, math.nan), math.nan)
    shown = effects(study(STANDARD, run("AT 0.1", 0.1, evaluated(math.nan, 0.4), broken)))
    assert sentences(shown)["Accuracy"] == (
        "Accuracy is 90.0 % (Standard alone) and robust accuracy rises from 1.0 % to 40.0 %."
    )
    assert sentences(shown)["Confidence"].startswith("Confidence is 0.90 (Standard alone)")
    assert sentences(shown)["Landscape"].endswith("is 2.00 (Standard alone).")
    assert effects(study(run("AT 0.1", 0.1, evaluated(math.nan, math.nan), broken))).effects == ()


@pytest.mark.parametrize("networks", [(), (run("Standard", 0.0),), (run("A", 0.0), run("B", 0.1))])
def test_a_study_without_results_has_no_effects(networks: tuple[RunReport, ...]) -> None:
    shown = effects(study(*networks))
    assert shown.effects == ()
    assert len(shown.missing) == 6


def test_a_topic_whose_drawn_numbers_are_unknown_has_its_sentence_alone() -> None:
    """Activations were measured; singular values, which the drawing is of, were not."""
    measures = {"activations": explained(spreads=(0.5, 0.3))["spectrum"]}
    data = study(run("AT 0.1", 0.1, measures=measures))
    (shown,) = effects(data).effects
    assert (shown.topic.title, shown.values) == ("Singular values", ())
    assert shown.sentence == "The spread of activation norms is 0.40."
    assert "<article" in page(data, [], headline(data), ())
