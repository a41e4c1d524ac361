"""One sort of quantity, and the paired bootstrap that resamples it.

A `Quantity` is a function of weighted examples. With equal weights it is the measured value; with the weights
of a bootstrap resample it is one draw of it. Means, spreads, shares, gaps and distances between distributions
are all written that way, so one resampling engine serves every claim.
"""

import hashlib
import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from robustlens.stats.distributions import at_most_heads, student_quantile, student_tail
from robustlens.stats.intervals import LEVEL, TAIL, Inference
from robustlens.stats.samples import weighted_std

Array = NDArray[np.float64]

RESAMPLES = 2000
_CHUNK = 250
_KEPT = 32 << 20  # bytes of weights that are kept: 2,000 resamples of 2,000 images


class Unusable(Exception):  # noqa: N818 - a finding, not a failure: it ends as an inconclusive claim
    """Data that allow no statement; the message gives the reason, to the reader of the report."""


@dataclass(frozen=True)
class Examples:
    """A set of images that is resampled as one. Equal keys mean equal images in equal order."""

    key: str
    n: int

    @classmethod
    def of(cls, split: str, n: int, content: bytes) -> "Examples":
        """`n` images of a split, known by the bytes of what tells them apart."""
        return cls(f"{split} {n} {hashlib.sha256(content).hexdigest()}", n)

    @classmethod
    def at(cls, split: str, positions: NDArray[np.integer]) -> "tuple[Examples, NDArray[np.intp] | None]":
        """The images at these positions of a split, and what sorts them; None: they are sorted."""
        order = np.argsort(positions, kind="stable")
        examples = cls.of(split, len(positions), positions[order].astype(np.int64).tobytes())
        return examples, None if (np.diff(order) > 0).all() else order


@dataclass(frozen=True)
class Quantity:
    """A measured quantity of one run: a number, or a number per layer.

    Args:
        function: `function(*weights) -> (b,)`, or `(b, layers)`. It gets one `(b, n)` array of weights, whose
            rows sum to one, per entry of `examples`.
        examples: the sets of images it rests on; they are resampled apart from one another. Empty where there
            is nothing to resample, such as the spectrum of a weight matrix.
        layers: names, where there is a number per layer.
        conditions: how it was measured; runs are compared under equal conditions only.
        caveat: anything else that an interval of it does not cover.
        floor: 95 % quantile of the value under sampling alone, where there is no difference; for distances,
            which are never negative.
    """

    function: Callable[..., Array]
    examples: tuple[Examples, ...] = ()
    layers: tuple[str, ...] = ()
    conditions: str = ""
    caveat: str = ""
    floor: Callable[[], float] | None = None

    def value(self) -> Array:
        """The value as measured: shape (), or (layers,)."""
        return np.asarray(self.function(*(np.full((1, part.n), 1 / part.n) for part in self.examples))[0])


class Bootstrap:
    """Resamples with replacement, the same ones for the same images, whichever run is asked about."""

    def __init__(self, resamples: int = RESAMPLES, seed: int = 0) -> None:
        self.resamples = resamples
        self.seed = seed
        self._counts: dict[Examples, NDArray[np.uint8]] = {}
        self._weights: dict[Examples, list[Array]] = {}

    def generator(self, key: str) -> np.random.Generator:
        """Random numbers that depend on `key` and the seed only."""
        digest = hashlib.sha256(key.encode()).digest()
        return np.random.default_rng([self.seed, *np.frombuffer(digest, dtype=np.uint32).tolist()])

    def counts(self, examples: Examples) -> NDArray[np.uint8]:
        """Number of times that each image appears in each resample, (resamples, n)."""
        if examples not in self._counts:
            rng, n = self.generator(examples.key), examples.n
            rows = []
            for chunk in self._chunks():
                size = chunk.stop - chunk.start
                drawn = rng.integers(n, size=(size, n)) + n * np.arange(size)[:, None]
                counts = np.bincount(drawn.ravel(), minlength=size * n).reshape(size, n)
                rows.append(counts.clip(max=255).astype(np.uint8))
            self._counts[examples] = np.concatenate(rows)
        return self._counts[examples]

    def draws(self, quantity: Quantity) -> Array:
        """The quantity on every resample: (resamples,), or (resamples, layers)."""
        if not quantity.examples:
            return np.broadcast_to(quantity.value(), (self.resamples, *quantity.value().shape))
        weights = (self._weights_of(examples) for examples in quantity.examples)
        return np.concatenate([quantity.function(*parts) for parts in zip(*weights, strict=True)])

    def _weights_of(self, examples: Examples) -> Iterable[Array]:
        """Weights of the images in some resamples, (b, n), after one another; kept where they are small."""
        if examples in self._weights:
            return self._weights[examples]
        counts = self.counts(examples)
        weights = (counts[chunk] / examples.n for chunk in self._chunks())
        size = counts.size * np.dtype(np.float64).itemsize
        if size > _KEPT:
            return weights
        if size + sum(part.nbytes for parts in self._weights.values() for part in parts) > _KEPT:
            self._weights.clear()
        self._weights[examples] = list(weights)
        return self._weights[examples]

    def _chunks(self) -> Iterator[slice]:
        """The resamples that are taken at a time."""
        for start in range(0, self.resamples, _CHUNK):
            yield slice(start, min(start + _CHUNK, self.resamples))


def interval_over_examples(value: float, draws: Array) -> Inference:
    """Interval from bootstrap draws of one trained network: it covers another draw of images.

    The quantiles of the draws, moved by twice the bias that the bootstrap shows. For means and shares there
    is none and this is the percentile interval; a Wasserstein distance of two samples is too large by what
    sampling adds, and its draws once more so.

    Raises:
        Unusable: more than one draw in twenty is undefined (a share of errors where a resample has none).
    """
    draws = _usable(draws)
    low, high = np.quantile(draws, [TAIL, 1 - TAIL]) - 2 * (draws.mean() - value)
    return Inference(value, float(low), float(high))


def interval_over_seeds(
    values: Array, draws: Array, reduce: Callable[[Array], Array], rng: np.random.Generator
) -> Inference:
    """Interval that covers training randomness and images: a bootstrap over seeds, then over examples.

    All seeds are measured on the same images, so a resample takes the same images for every seed that it
    drew. It draws one seed fewer than there are, which makes its variance unbiased (Rao and Wu 1988), and
    the interval is Student's with the degrees of freedom of Satterthwaite (1946): two or three seeds drawn
    with replacement would otherwise give intervals that are far too short.

    The p-value is that of the same Student statistic, the middle of the interval over its standard error. Far
    out, where Satterthwaite's degrees of freedom are too many (seeds that agree by chance raise them), it is
    the one of seeds - 1 degrees, scaled to be 0.05 at the same place.

    Args:
        values: (seeds,) or (seeds, layers), the effect of each seed.
        draws: (seeds, resamples) or (seeds, resamples, layers).
        reduce: from layers to one number over the last axis; the identity where there are none.
        rng: draws the seeds.
    """
    seeds, resamples = draws.shape[:2]
    value = float(reduce(values.mean(0, keepdims=True))[0])
    chosen = rng.integers(seeds, size=(resamples, seeds - 1))
    resampled = _usable(reduce(draws[chosen, np.arange(resamples)[:, None]].mean(1)))
    between = float(np.var(reduce(values), ddof=1)) / seeds
    total = max(float(resampled.var(ddof=1)), between)
    ratio = total / between if between > 0 else math.inf
    freedom = min((seeds - 1) * ratio * ratio, 1e6)  # beyond, Student's quantile is the normal one
    error = math.sqrt(total)
    half = student_quantile(1 - TAIL, freedom) * error
    examples_only = _usable(reduce(draws.mean(0)))
    middle = value - (float(examples_only.mean()) - value)
    return Inference(value, middle - half, middle + half, _student_p(middle, error, freedom, seeds))


def _student_p(middle: float, error: float, freedom: float, seeds: int) -> float:
    """Two-sided p-value that is 0.05 at the ends of the 95 % interval, with the tail of seeds - 1 degrees."""
    if error == 0:
        return float(middle == 0)
    statistic = abs(middle) / error
    scale = student_quantile(1 - TAIL, seeds - 1) / student_quantile(1 - TAIL, freedom)
    own = 2 * student_tail(statistic, freedom)
    return max(own, 2 * student_tail(statistic * scale, seeds - 1))


def interval_of_median(values: Array) -> Inference:
    """Median with the interval that inverts the exact sign test (order statistics); layers are the units.

    Below six values no such interval reaches 95 %, and the ends are None. A value of zero counts against the
    larger side.
    """
    ranked, n = np.sort(values), len(values)
    tails = at_most_heads(n)
    outside = int(np.searchsorted(tails, TAIL, side="right")) - 1
    middle = float(np.median(values))
    if outside < 0:
        return Inference(middle)
    larger = max(int(np.sum(values > 0)), int(np.sum(values < 0)))
    p = min(1.0, 2 * float(tails[n - larger]))
    return Inference(middle, float(ranked[outside]), float(ranked[n - 1 - outside]), p)


def hull(one: Inference, other: Inference) -> Inference:
    """The value of `one` with an interval that holds both; p is the larger."""
    if one.low is None or one.high is None or other.low is None or other.high is None:
        return Inference(one.value)
    p = None if one.p is None or other.p is None else max(one.p, other.p)
    return Inference(one.value, min(one.low, other.low), max(one.high, other.high), p)


def _usable(draws: Array) -> Array:
    finite = draws[np.isfinite(draws)]
    if len(finite) < 0.95 * len(draws):
        raise Unusable("too many resamples leave the quantity undefined; it rests on too few images")
    return finite


def mean(examples: Examples, values: Array, conditions: str = "", caveat: str = "") -> Quantity:
    """The mean over examples of `values` (n,)."""
    return Quantity(lambda w: w @ values, (examples,), conditions=conditions, caveat=caveat)


def difference(one: tuple[Examples, Array], other: tuple[Examples, Array], conditions: str = "") -> Quantity:
    """Mean of `one` minus mean of `other`, over two sets of images that are resampled apart."""
    return Quantity(lambda w, v: w @ one[1] - v @ other[1], (one[0], other[0]), conditions=conditions)


def standard_deviation(examples: Examples, values: Array) -> Quantity:
    """The standard deviation (over n, not n - 1) of `values` (n,)."""
    return Quantity(lambda w: weighted_std(w, values), (examples,))


def ratio(examples: Examples, top: Array, bottom: Array) -> Quantity:
    """Sum of `top` over sum of `bottom`; NaN on a resample where the bottom is zero."""
    return Quantity(lambda w: divide(w @ top, w @ bottom), (examples,))


def wasserstein(one: tuple[Examples, Array], other: tuple[Examples, Array], bootstrap: Bootstrap) -> Quantity:
    """Wasserstein-1 distance between two samples: the area between their distribution functions.

    Its `floor` is the 95 % quantile of the same distance after the two samples have been shuffled together.
    """
    pooled = np.concatenate([one[1], other[1]])
    order = np.argsort(pooled, kind="stable")
    steps = np.diff(pooled[order])

    def of(w: Array, v: Array) -> Array:
        signed = np.concatenate([w, -v], axis=1)[:, order]
        return np.abs(np.cumsum(signed, axis=1)[:, :-1]) @ steps

    def floor() -> float:
        rng = bootstrap.generator(f"shuffled {one[0].key} {other[0].key}")
        n, m = one[0].n, other[0].n
        labels = np.concatenate([np.full(n, 1 / n), np.full(m, -1 / m)])
        shuffled = rng.permuted(np.broadcast_to(labels, (400, n + m)), axis=1)
        return float(np.quantile(np.abs(np.cumsum(shuffled, axis=1)[:, :-1]) @ steps, LEVEL))

    return Quantity(of, (one[0], other[0]), floor=floor)


def divide(top: Array, bottom: Array) -> Array:
    """Top over bottom, NaN where the bottom is zero."""
    return np.divide(top, bottom, out=np.full(np.broadcast(top, bottom).shape, np.nan), where=bottom != 0)


def relative_change(before: Array, after: Array) -> Array:
    """`after / before - 1`; zero where both are zero, NaN where only `before` is."""
    return np.where((before == 0) & (after == 0), 0.0, divide(after, before) - 1)


def median(values: Array) -> Array:
    """Median over the last axis (the layers)."""
    return np.asarray(np.median(values, axis=-1))


def identity(values: Array) -> Array:
    """The values themselves, where there are no layers to sum up."""
    return np.asarray(values)
