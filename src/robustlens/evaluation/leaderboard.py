"""An evaluation as the RobustBench leaderboard takes it (Croce et al. 2021)."""

from collections.abc import Iterable, Mapping
from typing import Any

from pydantic import PositiveInt, TypeAdapter, ValidationError

from robustlens.config import eps_text
from robustlens.errors import ConfigError
from robustlens.registry import near_name
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
        about: of the paper and the model: any of `ABOUT`, all text (`authors`, `venue`, `link` to the paper
            ...), `additional_data` (default False) and `number_forward_passes` (default 1).

    Raises:
        ConfigError: the evaluation has no such suite, an unknown field is given, or a link is none.
    """
    about = checked_about(about)
    suite = leaderboard_suite(result.suites, result.attacks)
    test = result.splits["test"]
    flags = [flag.name for flag in test.flags]
    robust = _percent(test.by_attack[result.suites[suite][-1]])
    entry = {
        "link": about.get("link", ""),
        "name": about.get("name", ""),
        "authors": about.get("authors", ""),
        "additional_data": about.get("additional_data", False),
        "number_forward_passes": about.get("number_forward_passes", 1),
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


def checked_about(about: Mapping[str, Any], where: str = "leaderboard") -> dict[str, Any]:
    """Facts of an entry, each of its type; text such as "true" and "20" is read as what is meant.

    Raises:
        ConfigError: an unknown field, or a value that is none of it.
    """
    checked: dict[str, Any] = {}
    names = (*ABOUT, "additional_data", "number_forward_passes")
    kinds: dict[str, Any] = {"additional_data": bool, "number_forward_passes": PositiveInt}
    for name, value in about.items():
        if name not in names:
            expected = f"expected one of {', '.join(names)}{near_name(name, names)}"
            raise ConfigError(f"{where}: found the field {name!r}, {expected}")
        try:
            checked[name] = TypeAdapter(kinds.get(name, str)).validate_python(value)
        except ValidationError as error:
            message = error.errors()[0]["msg"].lower()
            raise ConfigError(f"{where}: {name}: found {value!r}; {message}") from error
    link = checked.get("link", "")
    if link and not link.startswith(("https://", "http://")):
        raise ConfigError(f"{where}: link: found {link!r}, expected an address, https://...")
    return checked


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
