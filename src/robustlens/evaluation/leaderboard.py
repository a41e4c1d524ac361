"""An evaluation as the RobustBench leaderboard takes it (Croce et al. 2021)."""

from collections.abc import Iterable
from typing import Any

from robustlens.config import eps_text
from robustlens.errors import ConfigError
from robustlens.results import EvaluationResult
from robustlens.stats.intervals import Interval

ABOUT = ("name", "authors", "venue", "link", "architecture", "dataset", "footnote", "reported")
"""Facts that the numbers do not give; empty unless given."""


def leaderboard_entry(result: EvaluationResult, **about: Any) -> dict[str, Any]:
    """The fields of RobustBench's `model_info` files.

    Accuracies are of the test images, in per cent with two decimals, as text, as the leaderboard has them.
    `unreliable` is true where a reliability flag is raised, and the footnote then names the flags.

    Args:
        result: an evaluation with the suite "standard" or "plus" among its attacks.
        about: of the paper and the model: any of `ABOUT`, `additional_data` (default False) and
            `number_forward_passes` (default 1).

    Raises:
        ConfigError: the evaluation has no such suite, or an unknown field is given.
    """
    unknown = sorted(set(about) - {*ABOUT, "additional_data", "number_forward_passes"})
    if unknown:
        raise ConfigError(f"leaderboard: found the field {unknown[0]!r}, expected one of {', '.join(ABOUT)}")
    suite = leaderboard_suite(result.suites, result.attacks)
    test = result.splits["test"]
    flags = [flag.name for flag in test.flags]
    robust = _percent(test.by_attack[result.suites[suite][-1]])
    entry = {
        "link": about.get("link", ""),
        "name": about.get("name", ""),
        "authors": about.get("authors", ""),
        "additional_data": bool(about.get("additional_data", False)),
        "number_forward_passes": int(about.get("number_forward_passes", 1)),
        "dataset": about.get("dataset", ""),
        "venue": about.get("venue", ""),
        "architecture": about.get("architecture", ""),
        "eps": eps_text(result.threat.eps),
        "clean_acc": _percent(test.clean),
        "reported": about.get("reported", robust),
        "autoattack_acc": robust,
        "unreliable": bool(flags),
    }
    footnote = [about["footnote"]] if about.get("footnote") else []
    footnote += [f"Reliability flags: {', '.join(flags)}."] if flags else []
    return entry | ({"footnote": " ".join(footnote)} if footnote else {})


def leaderboard_suite(suites: Iterable[str], attacks: Iterable[str] = ()) -> str:
    """The suite among these that the leaderboard takes its number from; `attacks` are named where it is none.

    Raises:
        ConfigError: there is none.
    """
    known = tuple(suites)
    suite = next((name for name in ("standard", "plus") if name in known), None)
    if suite is None:
        raise ConfigError(
            f"leaderboard: found the attacks {', '.join(attacks or known)}, expected the suite standard; "
            "add --attacks standard"
        )
    return suite


def _percent(interval: Interval) -> str:
    return f"{100 * interval.value:.2f}"
