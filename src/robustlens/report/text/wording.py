"""Numbers, names and lists as the page writes them."""

import json
import math
from collections.abc import Iterable, Mapping
from typing import Any

from robustlens.config import Recipe
from robustlens.config.recipe import FactoryPerturbationSpec
from robustlens.stats.intervals import flushed, rounded

OBJECTIVES = {
    "standard": "Standard",
    "at": "AT",
    "trades": "TRADES",
    "mart": "MART",
    "fgsm": "FGSM",
    "alp": "ALP",
    "llr": "LLR",
    "cure": "CURE",
    "vat": "VAT",
    "gradient-penalty": "Gradient penalty",
    "ibp": "IBP",
}
"""Names of the objectives in the papers."""
SPLITS = {"test": "test", "train": "training"}
"""Keys of an evaluation's splits, and what their images are called."""


def method_name(recipe: Recipe) -> str:
    """Method of a recipe, as papers write it.

    >>> method_name(Recipe(objective="trades", awp={"gamma": 0.005}))
    'TRADES+AWP'
    """
    if recipe.threat.eps == 0:
        return OBJECTIVES["standard"]
    perturbations = [
        spec.factory.rpartition(":")[2] if isinstance(spec, FactoryPerturbationSpec) else name.upper()
        for name, spec in recipe.perturbations.items()
    ]
    return "+".join([OBJECTIVES.get(recipe.objective, recipe.objective), *perturbations])


def number(value: float, digits: int = 3, scale: float = 0.0) -> str:
    """A number for reading, with a real minus sign; zero if it is rounding of numbers of size `scale`.

    >>> number(-0.01234), number(1234567.0), number(0.5), number(-1.11e-16), number(1.11e-16, scale=0.5)
    ('\N{MINUS SIGN}0.0123', '1.23e+06', '0.5', '0', '0')
    """
    return minus(f"{flushed(rounded(value, scale)):.{digits}g}")


def p_value(p: float) -> str:
    """A p-value for reading.

    >>> p_value(0.0312), p_value(1e-9)
    ('p = 0.031', 'p < 0.0001')
    """
    return f"p = {p:.2g}" if p >= 1e-4 else "p < 0.0001"


def names(words: Iterable[str]) -> str:
    """Words as a list in a sentence.

    >>> names(["a", "b", "c"])
    'a, b and c'
    """
    every = list(words)
    return ", ".join(every[:-1]) + " and " + every[-1] if len(every) > 1 else "".join(every)


def attack_name(name: str) -> str:
    """An attack as papers write it.

    >>> attack_name("apgd-ce"), attack_name("square")
    ('APGD-CE', 'Square')
    """
    return name.capitalize() if name.startswith(("square", "min-norm")) else name.upper()


def suite_name(name: str) -> str:
    """A suite, never mistaken for a network or an accuracy of that name.

    >>> suite_name("standard")
    'Standard suite'
    """
    return f"{name.capitalize()} suite"


def sentence(text: str) -> str:
    """The text with a capital at its start and a full stop at its end.

    >>> sentence("the interval contains 0")
    'The interval contains 0.'
    """
    return f"{text[:1].upper()}{text[1:]}{'' if text[-1:] in ('', '.', '!', '?') else '.'}"


def points(value: float) -> str:
    """A share as percent or points, one decimal.

    >>> points(0.5)
    '50.0'
    """
    return f"{100 * value:.1f}"


def minus(text: str) -> str:
    """A number with a real minus sign, and none before a zero.

    >>> minus("-0.0"), minus("-0.1")
    ('0.0', '\N{MINUS SIGN}0.1')
    """
    if text.startswith("-"):
        return text[1:] if float(text) == 0 else text.replace("-", "\N{MINUS SIGN}", 1)
    return text


def duration(seconds: float | None) -> str:
    """Seconds as people say them; empty if they are not known.

    >>> duration(120), duration(2.5), duration(0.25), duration(math.nan)
    ('2.0 min', '2.5 s', '0.25 s', '')
    """
    if seconds is None or math.isnan(seconds):
        return ""
    if seconds >= 90:
        return f"{seconds / 60:.1f} min"
    return f"{seconds:.1f} s" if seconds >= 1 else f"{seconds:.2f} s"


def count(value: float) -> str:
    """A number of things, or a mean of such numbers, which has a decimal where it is not whole.

    >>> count(1200), count(1200.0), count(59.5)
    ('1,200', '1,200', '59.5')
    """
    return f"{value:,.1f}".removesuffix(".0")


def flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, str]:
    """A nested mapping as dotted names and short texts.

    >>> flat({"a": {"b": 1}, "c": [1, 2]})
    {'a.b': '1', 'c': '1, 2'}
    """
    texts: dict[str, str] = {}
    for key, value in values.items():
        if isinstance(value, Mapping):
            texts |= flat(value, f"{prefix}{key}.")
        else:
            texts[f"{prefix}{key}"] = short(value)
    return texts


def short(value: Any) -> str:
    """A value of a recipe as text."""
    if isinstance(value, list | tuple):
        return ", ".join(short(item) for item in value)
    if value is None:
        return "not set"
    if isinstance(value, float):
        return f"{value:.6g}"
    return value if isinstance(value, str) else json.dumps(value)
