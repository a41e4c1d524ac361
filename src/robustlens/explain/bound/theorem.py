"""The generalization bound of Wen, Li and Jia 2020 (theorem 3.1), term by term.

With probability 1 - eta, for m training examples and a network that is robust at eps on all of them,

    GE(l_gamma) <= max(0, 1 - u_min(eps) / gamma) + sqrt((2 log(2) N(eps) + 2 log(1 / eta)) / m)
    u_min(eps) = min_{y != y'} ||w_y - w_y'|| * prod_i sigma_min_i * (v_min - eps)

where N(eps) = (C_X / eps)^k is a covering number of the images, w are the rows of the last layer, sigma_min
the smallest singular values of the others, and v_min the smallest instance margin of the training images,
so that v_min - eps is the smallest one in the balls about them. v_min is the radius at which the network was
measured to be robust. The theorem holds at every eps below it: larger balls are fewer, and reach nearer to
the boundary. So the bound is given at the eps at which it is least, for each gamma.

Wrong images are no training examples of the theorem, which is about a network that is right and robust on all
of them: v_min, m, and the ramp losses are of the images that it gets right.

All of it is computed as logarithms: the product and N(eps) leave the range of floating-point numbers on every
real network.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from jaxtyping import Bool, Float64
from scipy.optimize import minimize_scalar

from robustlens.errors import ConfigError
from robustlens.explain.bound.covering import Covering
from robustlens.results.values import plain
from robustlens.spectra.coverage import Uncovered

_DECADES = 12
"""How far below the measured radius an eps is looked for."""
_LEAST_SHARE = 0.5
"""A sum of two terms exceeds 1 only if one of them exceeds this: the terms that make a bound vacuous."""


@dataclass(frozen=True, eq=False)
class Bound:
    """Every term of the bound; arrays over gamma have one element for each of `gammas`.

    Attributes:
        gammas: widths of the ramp, in logits.
        distances: (classes, classes), L2 distances between the rows of the last layer, with its BatchNorm.
        sigma_min: smallest singular value of every other layer, by name. calls: how often those run in a
            pass that run more than once, and so are several layers of the product, by name.
        v_min: smallest instance margin of the training examples that are right, in L2.
        covering: the law of the covering numbers.
        eps: radius of the covering balls for each gamma, in L2; see `least_eps`.
        eta: probability with which the bound fails.
        training_examples: m, how many of them the network gets right.
        ramp_train: mean ramp loss of the training images that are right; NaN where none is. ramp_test: of
            the test images that are.
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
    eps: Float64[np.ndarray, " gammas"]
    eta: float
    training_examples: int
    ramp_train: Float64[np.ndarray, " gammas"]
    ramp_test: Float64[np.ndarray, " gammas"]
    operator: str | None = None
    searched: int | None = None
    right: int | None = None
    narrowing: tuple[str, ...] = ()
    uncovered: Mapping[str, Uncovered] = field(default_factory=dict)
    calls: Mapping[str, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not (len(self.gammas) and bool((self.gammas > 0).all())):
            raise ConfigError(f"bound.gammas: found {self.gammas.tolist()}, expected widths > 0")
        if not bool(((self.eps > 0) & (self.eps < math.inf)).all()):
            raise ConfigError(f"bound.eps: found {self.eps.tolist()}, expected finite radii > 0")
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
        return math.fsum(self.calls.get(name, 1) * _log(value) for name, value in self.sigma_min.items())

    @property
    def log_u_min(self) -> float:
        """Logarithm of the smallest feature margin at any eps, that of balls that shrink to their images."""
        return float(self._log_feature_margin(np.array([self.v_min]))[0])

    @property
    def log_u_in_balls(self) -> Float64[np.ndarray, " gammas"]:
        """Logarithm of u_min(eps), the feature margin that the theorem promises; -inf where a factor is 0."""
        return self._log_feature_margin(np.maximum(0.0, self.v_min - self.eps))

    @property
    def margin_term(self) -> Float64[np.ndarray, " gammas"]:
        """First term, `max(0, 1 - u_min(eps) / gamma)`."""
        return 0.0 - np.expm1(np.minimum(0.0, self.log_u_in_balls - np.log(self.gammas)))

    @property
    def log_covering_part(self) -> Float64[np.ndarray, " gammas"]:
        """Logarithm of `2 log(2) N(eps) / m`, under the root."""
        counts = np.array([self.covering.log_count(eps) for eps in self.eps.tolist()])
        return counts + math.log(2 * math.log(2)) - math.log(self.training_examples)

    @property
    def log_confidence_part(self) -> float:
        """Logarithm of `2 log(1 / eta) / m`, under the root."""
        return math.log(2 * -math.log(self.eta)) - math.log(self.training_examples)

    @property
    def log_complexity_term(self) -> Float64[np.ndarray, " gammas"]:
        """Logarithm of the second term, the root."""
        return np.logaddexp(self.log_covering_part, self.log_confidence_part) / 2

    @property
    def log_total(self) -> Float64[np.ndarray, " gammas"]:
        """Logarithm of the bound."""
        with np.errstate(divide="ignore"):
            return np.logaddexp(np.log(self.margin_term), self.log_complexity_term)

    @property
    def vacuous(self) -> Bool[np.ndarray, " gammas"]:
        """Mask of the gammas at which the bound says nothing, since the ramp loss is at most 1."""
        return self.log_total > 0

    def least(self, largest: float) -> "Bound":
        """The same bound at the eps, below v_min, at which it is least for each gamma.

        It is convex in eps: the margin term is linear or 0, the root falls ever more slowly.

        Args:
            largest: eps above which none is looked for where v_min is infinite.
        """
        radius = self.v_min if 0 < self.v_min < math.inf else largest
        if self.v_min == 0:  # no eps is below it, and the margin term is 1 at any
            return replace(self, eps=np.full_like(self.gammas, radius))
        return replace(
            self, eps=np.array([self._least_eps(place, radius) for place in range(len(self.gammas))])
        )

    def _least_eps(self, place: int, radius: float) -> float:
        """The eps up to `radius` at which the bound is least for one gamma, to a part in a million."""

        def log_total(log_eps: float) -> float:
            eps = np.full_like(self.gammas, math.exp(log_eps))
            return float(replace(self, eps=eps).log_total[place])

        ends = math.log(radius) - _DECADES * math.log(10), math.log(radius)
        least = minimize_scalar(log_total, bounds=ends, method="bounded", options={"xatol": 1e-6})
        return radius if log_total(ends[1]) <= least.fun else math.exp(least.x)

    def _log_feature_margin(self, v_min: Float64[np.ndarray, " n"]) -> Float64[np.ndarray, " n"]:
        """Logarithm of the product of all factors with an instance margin of `v_min`; -inf where one is 0."""
        factors = _log(self.distance_min) + self.log_sigma_product
        if factors == -math.inf:  # also where v_min is infinite
            return np.full_like(v_min, -math.inf)
        with np.errstate(divide="ignore"):
            return np.log(v_min) + factors

    def because(self) -> list[list[str]]:
        """For each gamma, the terms that make the bound vacuous: those above 1/2, of which there is one.

        "margin", "covering" or "confidence", the last two by the larger part under the root.
        """
        under_root = np.where(self.log_covering_part >= self.log_confidence_part, "covering", "confidence")
        parts = (
            (self.margin_term > _LEAST_SHARE, np.full(len(self.gammas), "margin")),
            (self.log_complexity_term > math.log(_LEAST_SHARE), under_root),
        )
        return [
            [str(names[place]) for above, names in parts if above[place]] if void else []
            for place, void in enumerate(self.vacuous)
        ]

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
            readings.append(
                f"wrong images count nowhere: v_min is over the {self.right} of {self.searched} images that "
                "are right, m and the ramp losses are of those that are"
            )
        readings.append("eps is chosen after the data were seen")
        if self.narrowing:
            readings.append(f"the null space of {', '.join(self.narrowing)} counts as nothing lost")
        if self.operator == "circular":
            readings.append("convolutions wrap around, which makes their smallest singular values larger")
        return [*readings, "average pooling, shortcuts and attention weights count as nothing lost"]

    def summary(self) -> dict[str, Any]:
        """The terms as plain values; None for infinite numbers and logarithms.

        Of the terms that depend on eps, `log10` has those of the gamma at which the bound is least.
        """
        best = int(np.argmin(self.log_total))
        log10 = {
            "distance": _log10(self.distance_min),
            "sigma_product": _to_log10(self.log_sigma_product),
            "v_min": _log10(self.v_min),
            "u_min": _to_log10(self.log_u_min),
            "covering_number": _to_log10(self.covering.log_count(float(self.eps[best]))),
            "complexity_term": _to_log10(float(self.log_complexity_term[best])),
        }
        return {
            "best_eps": float(self.eps[best]),
            "radius": finite(self.v_min),
            "within_radius": bool((self.eps <= self.v_min).all()),
            "eta": self.eta,
            "training_examples": self.training_examples,
            "distance_min": self.distance_min,
            "sigma_min": dict(self.sigma_min),
            "calls": dict(self.calls),
            "v_min": finite(self.v_min),
            "vanishing": self.vanishing(),
            "is_bound": not self.uncovered and self.right != 0,
            "uncovered": plain(self.uncovered),
            "favourable": self.favourable(),
            "log10": log10,
            "gammas": self._rows(),
        }

    def _rows(self) -> list[dict[str, Any]]:
        """The bound and the measured gap, for each gamma."""
        columns = (self.gammas, self.eps, self.margin_term, self.log_total, self.ramp_train, self.ramp_test)
        return [
            {
                "gamma": gamma,
                "eps": eps,
                "margin_term": margin,
                "log10_bound": _to_log10(total),
                "vacuous": bool(because),
                "because": because,
                "ramp_train": finite(train),
                "ramp_test": finite(test),
                "ramp_gap": finite(test - train),
            }
            for gamma, eps, margin, total, train, test, because in zip(
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
