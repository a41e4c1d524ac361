"""The generalization bound of Wen, Li and Jia 2020 (theorem 3.1), term by term.

With probability 1 - eta, for m training examples and a network that is robust at eps on all of them,

    GE(l_gamma) <= max(0, 1 - u_min / gamma) + sqrt((2 log(2) N(eps) + 2 log(1 / eta)) / m)
    u_min = min_{y != y'} ||w_y - w_y'|| * prod_i sigma_min_i * v_min

where N(eps) = (C_X / eps)^k is a covering number of the images, w are the rows of the last layer, sigma_min
the smallest singular values of the others, and v_min the smallest instance margin. All of it is computed as
logarithms: the product and N(eps) leave the range of floating-point numbers on every real network.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from jaxtyping import Bool, Float64

from robustlens.errors import ConfigError
from robustlens.explain.bound.covering import Covering
from robustlens.results.values import plain
from robustlens.spectra.coverage import Uncovered

_LEAST_SHARE = 0.5
"""A sum of two terms exceeds 1 only if one of them exceeds this: the terms that make a bound vacuous."""


@dataclass(frozen=True, eq=False)
class Bound:
    """Every term of the bound; arrays over gamma have one element for each of `gammas`.

    Attributes:
        gammas: widths of the ramp, in logits.
        distances: (classes, classes), L2 distances between the rows of the last layer.
        sigma_min: smallest singular value of every other layer, by name.
        v_min: smallest instance margin of the training examples, in L2.
        covering: the law of the covering numbers.
        eps: radius of the covering balls, in L2.
        eta: probability with which the bound fails.
        training_examples: m.
        ramp_train: mean ramp loss of training images. ramp_test: of test images.
        operator: matrix of a convolution, "circular" or "zero"; None where there is no convolution.
        searched: how many images v_min is of. right: how many of these the network gets right.
        narrowing: layers that give fewer numbers than they read. uncovered: parts of the network with weights
            that are not in `sigma_min`, by name: with any, the terms do not make a bound.

    Raises:
        ConfigError: a gamma, eps, eta or m out of range.
    """

    gammas: Float64[np.ndarray, " gammas"]
    distances: Float64[np.ndarray, "classes classes"]
    sigma_min: Mapping[str, float]
    v_min: float
    covering: Covering
    eps: float
    eta: float
    training_examples: int
    ramp_train: Float64[np.ndarray, " gammas"]
    ramp_test: Float64[np.ndarray, " gammas"]
    operator: str | None = None
    searched: int | None = None
    right: int | None = None
    narrowing: tuple[str, ...] = ()
    uncovered: Mapping[str, Uncovered] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not (len(self.gammas) and bool((self.gammas > 0).all())):
            raise ConfigError(f"bound.gammas: found {self.gammas.tolist()}, expected widths > 0")
        if not 0 < self.eps < math.inf:
            raise ConfigError(f"bound.eps: found {self.eps}, expected a finite radius > 0")
        if not 0 < self.eta < 1:
            raise ConfigError(f"bound.eta: found {self.eta}, expected a probability between 0 and 1")
        if self.training_examples < 1:
            raise ConfigError(f"bound.training_examples: found {self.training_examples}, expected at least 1")

    @property
    def distance_min(self) -> float:
        """Smallest distance between rows of the last layer."""
        return float(self.distances[~np.eye(len(self.distances), dtype=bool)].min())

    @property
    def log_sigma_product(self) -> float:
        """Logarithm of the product of all smallest singular values; -inf where one is 0."""
        return math.fsum(_log(value) for value in self.sigma_min.values())

    @property
    def log_u_min(self) -> float:
        """Logarithm of the smallest feature margin that the theorem promises; -inf where a factor is 0."""
        factors = (_log(self.distance_min), self.log_sigma_product, _log(self.v_min))
        return -math.inf if -math.inf in factors else math.fsum(factors)

    @property
    def margin_term(self) -> Float64[np.ndarray, " gammas"]:
        """First term, `max(0, 1 - u_min / gamma)`."""
        return 0.0 - np.expm1(np.minimum(0.0, self.log_u_min - np.log(self.gammas)))

    @property
    def log_covering_part(self) -> float:
        """Logarithm of `2 log(2) N(eps) / m`, under the root."""
        return (
            math.log(2 * math.log(2)) + self.covering.log_count(self.eps) - math.log(self.training_examples)
        )

    @property
    def log_confidence_part(self) -> float:
        """Logarithm of `2 log(1 / eta) / m`, under the root."""
        return math.log(2 * -math.log(self.eta)) - math.log(self.training_examples)

    @property
    def log_complexity_term(self) -> float:
        """Logarithm of the second term, the root."""
        return float(np.logaddexp(self.log_covering_part, self.log_confidence_part)) / 2

    @property
    def log_total(self) -> Float64[np.ndarray, " gammas"]:
        """Logarithm of the bound."""
        with np.errstate(divide="ignore"):
            return np.logaddexp(np.log(self.margin_term), self.log_complexity_term)

    @property
    def vacuous(self) -> Bool[np.ndarray, " gammas"]:
        """Mask of the gammas at which the bound says nothing, since the ramp loss is at most 1."""
        return self.log_total > 0

    def because(self) -> list[list[str]]:
        """For each gamma, the terms that make the bound vacuous: those above 1/2, of which there is one.

        "margin", "covering" or "confidence", the last two by the larger part under the root.
        """
        under_root = "covering" if self.log_covering_part >= self.log_confidence_part else "confidence"
        root = [under_root] if self.log_complexity_term > math.log(_LEAST_SHARE) else []
        margin = [["margin"] if term > _LEAST_SHARE else [] for term in self.margin_term]
        return [part + root if void else [] for part, void in zip(margin, self.vacuous, strict=True)]

    def vanishing(self) -> list[str]:
        """The factors of u_min that are 0, where the margin term is 1 at every gamma."""
        layers = [f"sigma_min of {name}" for name, value in self.sigma_min.items() if value == 0]
        others = {"distance of rows of the last layer": self.distance_min, "v_min": self.v_min}
        return [*layers, *(name for name, value in others.items() if value == 0)]

    def favourable(self) -> list[str]:
        """Each way in which u_min is read in the network's favour, one sentence each."""
        readings = ["the instance margins are those that an attack found: upper bounds"]
        infinite = "v_min is infinite" + ("" if self.vanishing() else ", and the margin term 0")
        if self.right == 0:
            readings.append(f"none of {self.searched} images is right: {infinite}")
        elif math.isinf(self.v_min):
            readings.append(f"the attack found no boundary: {infinite}")
        if self.right and self.searched and self.right < self.searched:
            readings.append(f"v_min is over the {self.right} of {self.searched} images that are right")
        if self.narrowing:
            readings.append(f"the null space of {', '.join(self.narrowing)} counts as nothing lost")
        if self.operator == "circular":
            readings.append("convolutions wrap around, which makes their smallest singular values larger")
        return [*readings, "average pooling, shortcuts and attention weights count as nothing lost"]

    def summary(self) -> dict[str, Any]:
        """The terms as plain values; None for infinite numbers and logarithms."""
        log10 = {
            "distance": _log10(self.distance_min),
            "sigma_product": _to_log10(self.log_sigma_product),
            "v_min": _log10(self.v_min),
            "u_min": _to_log10(self.log_u_min),
            "covering_number": _to_log10(self.covering.log_count(self.eps)),
            "complexity_term": _to_log10(self.log_complexity_term),
        }
        return {
            "eps": self.eps,
            "eta": self.eta,
            "training_examples": self.training_examples,
            "distance_min": self.distance_min,
            "sigma_min": dict(self.sigma_min),
            "v_min": finite(self.v_min),
            "vanishing": self.vanishing(),
            "is_bound": not self.uncovered,
            "uncovered": plain(self.uncovered),
            "favourable": self.favourable(),
            "log10": log10,
            "gammas": self._rows(),
        }

    def _rows(self) -> list[dict[str, Any]]:
        """The bound and the measured gap, for each gamma."""
        columns = (self.gammas, self.margin_term, self.log_total, self.ramp_train, self.ramp_test)
        return [
            {
                "gamma": gamma,
                "margin_term": margin,
                "log10_bound": _to_log10(total),
                "vacuous": bool(because),
                "because": because,
                "ramp_train": train,
                "ramp_test": test,
                "ramp_gap": test - train,
            }
            for gamma, margin, total, train, test, because in zip(
                *(column.tolist() for column in columns), self.because(), strict=True
            )
        ]


def finite(value: float) -> float | None:
    """None for an infinite number, which JSON does not know."""
    return value if math.isfinite(value) else None


def _log(value: float) -> float:
    return math.log(value) if value > 0 else -math.inf


def _log10(value: float) -> float | None:
    return math.log10(value) if 0 < value < math.inf else None


def _to_log10(natural: float) -> float | None:
    """A natural logarithm as a decimal one."""
    return finite(natural / math.log(10))
