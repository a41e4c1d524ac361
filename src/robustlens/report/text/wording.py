"""Numbers and lists as the page writes them."""

import json
from collections.abc import Iterable, Mapping
from typing import Any


def number(value: float, digits: int = 3) -> str:
    """A number for reading, with a real minus sign.

    >>> number(-0.01234), number(1234567.0), number(0.5)
    ('\N{MINUS SIGN}0.0123', '1.23e+06', '0.5')
    """
    return f"{value:.{digits}g}".replace("-", "\N{MINUS SIGN}", 1) if value < 0 else f"{value:.{digits}g}"


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


def duration(seconds: Any) -> str:
    """Seconds as people say them; empty if there are none."""
    if not isinstance(seconds, int | float):
        return ""
    if seconds >= 90:
        return f"{seconds / 60:.1f} min"
    return f"{seconds:.1f} s" if seconds >= 1 else f"{seconds:.2f} s"


def count(value: float, decimals: int = 0) -> str:
    """A number of things, or a mean of such numbers.

    >>> count(1200), count(1200, 1)
    ('1,200', '1,200.0')
    """
    return f"{value:,.{decimals}f}"


def flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, str]:
    """A nested mapping as dotted names and short texts.

    >>> flat({"a": {"b": 1}, "c": [1, 2]})
    {'a.b': '1', 'c': '1, 2'}
    """
    found: dict[str, str] = {}
    for key, value in values.items():
        if isinstance(value, Mapping):
            found |= flat(value, f"{prefix}{key}.")
        else:
            found[f"{prefix}{key}"] = short(value)
    return found


def short(value: Any) -> str:
    """A value of a recipe as text."""
    if isinstance(value, list | tuple):
        return ", ".join(short(item) for item in value)
    if value is None:
        return "not set"
    if isinstance(value, float):
        return f"{value:.6g}"
    return value if isinstance(value, str) else json.dumps(value)
