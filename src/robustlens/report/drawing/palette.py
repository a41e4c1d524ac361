"""One style per network, used by the table, the plots and the figures: made once, by `styles`.

Hue and marker name the method, lightness and dash its strength, so that nothing rests on colour alone. The
hues of the first methods are Okabe and Ito's ("Color universal design", 2008), distinct with every common
colour blindness; the lightness is moved in OKLab (Ottosson 2020), where equal steps look equal. The stronger
the training, the more its line stands out from the page, on a light page and on a dark one.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from math import atan2, cos, hypot, sin

HUES = {
    "Standard": "#6b7280",
    "AT": "#0072b2",
    "TRADES": "#d55e00",
    "AT+AWP": "#009e73",
    "MART": "#cc79a7",
    "FGSM": "#8f8a00",
    "TRADES+AWP": "#e69f00",
    "MART+AWP": "#8f5fbf",
    "RST": "#0099a8",
}
"""Methods we know keep their colour from one report to the next; others take what is left, in order."""

SYMBOLS = ("circle", "square", "diamond", "triangle-up", "cross", "star", "triangle-down", "hexagon", "x")
DASHES = ("solid", "dash", "dot", "dashdot")
"""The strongest network of a method is drawn solid, weaker ones broken."""

_LIGHT = (0.64, 0.40)  # OKLab lightness, weakest to strongest, on a white page
_DARK = (0.62, 0.88)


@dataclass(frozen=True)
class Style:
    """Appearance of one network: colours on light and on dark, plotly's names of dash and marker."""

    light: str
    dark: str
    dash: str
    symbol: str


def styles(networks: Sequence[tuple[str, float]]) -> list[Style]:
    """A style for each (method, eps), in order.

    >>> first, second = styles([("AT", 0.1), ("AT", 0.2)])
    >>> first.symbol == second.symbol, first.dash, second.dash
    (True, 'dash', 'solid')
    """
    methods = list(dict.fromkeys(method for method, _ in networks))
    free = [name for name in HUES if name not in methods]
    hue: dict[str, str] = {}
    symbol: dict[str, str] = {}
    known = list(HUES)
    for method in methods:
        name = method if method in HUES else (free.pop() if free else known[len(hue) % len(known)])
        hue[method], symbol[method] = HUES[name], SYMBOLS[known.index(name) % len(SYMBOLS)]
    made = []
    for method, eps in networks:
        strengths = sorted({other for name, other in networks if name == method})
        rank = strengths.index(eps)
        share = rank / (len(strengths) - 1) if len(strengths) > 1 else 0.4
        made.append(
            Style(
                light=_with_lightness(hue[method], _between(_LIGHT, share)),
                dark=_with_lightness(hue[method], _between(_DARK, share)),
                dash=DASHES[(len(strengths) - 1 - rank) % len(DASHES)],
                symbol=symbol[method],
            )
        )
    return made


def oklab(colour: str) -> tuple[float, float, float]:
    """OKLab lightness, a and b of a "#rrggbb" colour."""
    r, g, b = _linear(colour)
    long = (0.4122214708 * r + 0.5363325363 * g + 0.0514459929 * b) ** (1 / 3)
    medium = (0.2119034982 * r + 0.6806995451 * g + 0.1073969566 * b) ** (1 / 3)
    short = (0.0883024619 * r + 0.2817188376 * g + 0.6299787005 * b) ** (1 / 3)
    return (
        0.2104542553 * long + 0.7936177850 * medium - 0.0040720468 * short,
        1.9779984951 * long - 2.4285922050 * medium + 0.4505937099 * short,
        0.0259040371 * long + 0.7827717662 * medium - 0.8086757660 * short,
    )


def _between(ends: tuple[float, float], share: float) -> float:
    return ends[0] + share * (ends[1] - ends[0])


def _with_lightness(colour: str, lightness: float) -> str:
    """The colour of the same hue at another lightness; chroma gives way until it can be shown."""
    _, a, b = oklab(colour)
    chroma, hue = hypot(a, b), atan2(b, a)
    while True:
        rgb = _linear_rgb(lightness, chroma * cos(hue), chroma * sin(hue))
        if chroma < 1e-4 or all(-1e-3 <= part <= 1.001 for part in rgb):
            return "#" + "".join(f"{round(255 * _encoded(part)):02x}" for part in rgb)
        chroma *= 0.97


def _linear_rgb(lightness: float, a: float, b: float) -> tuple[float, float, float]:
    long = (lightness + 0.3963377774 * a + 0.2158037573 * b) ** 3
    medium = (lightness - 0.1055613458 * a - 0.0638541728 * b) ** 3
    short = (lightness - 0.0894841775 * a - 1.2914855480 * b) ** 3
    return (
        4.0767416621 * long - 3.3077115913 * medium + 0.2309699292 * short,
        -1.2684380046 * long + 2.6097574011 * medium - 0.3413193965 * short,
        -0.0041960863 * long - 0.7034186147 * medium + 1.7076147010 * short,
    )


def _linear(colour: str) -> tuple[float, ...]:
    parts = (int(colour[place : place + 2], 16) / 255 for place in (1, 3, 5))
    return tuple(part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts)


def _encoded(part: float) -> float:
    part = min(1.0, max(0.0, part))
    return 12.92 * part if part <= 0.0031308 else 1.055 * part ** (1 / 2.4) - 0.055
