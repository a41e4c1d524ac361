"""The generalization bound of Wen, Li and Jia 2020, of a network and its images."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Float64, Int64
from torch import Tensor, nn

from robustlens import losses
from robustlens.certification.lipschitz import diagonal
from robustlens.explain.bound.covering import Covering, covering, intrinsic_dimension
from robustlens.explain.bound.geometry import last_linear, margin_paths, stretch, violations
from robustlens.explain.bound.instance_margins import InstanceMargins, instance_margins
from robustlens.explain.bound.theorem import Bound, ramp_loss
from robustlens.explain.margins import logits_of
from robustlens.explain.measure import Measurement, Subject
from robustlens.models import Normalize
from robustlens.spectra import extremes
from robustlens.threat import ThreatModel

GAMMAS = (0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0)
"""Widths of the ramp, in logits."""

EXAMPLES = 128
"""Images of each split whose instance margins are searched."""

QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95)

_UNRESOLVED = 1e-12  # of the largest singular value: what is smaller cannot be told from 0


def bound(
    model: nn.Module,
    x: Float[Tensor, "n ..."],
    y: Int64[Tensor, " n"],
    x_test: Float[Tensor, "m ..."],
    y_test: Int64[Tensor, " m"],
    *,
    eps: float,
    gammas: Sequence[float] = GAMMAS,
    eta: float = 0.05,
    training_examples: int | None = None,
    margins: InstanceMargins | None = None,
    covered: Covering | None = None,
    operator: str = "circular",
    batch_size: int = 256,
) -> Bound:
    """Every term of the bound of Wen et al. 2020 (theorem 3.1) for a network and its images.

    The layers are those that the network is in eval mode, with the BatchNorm that belongs to them (see
    `spectrum`); the normalisation of the images is a layer too.

    u_min is read in the network's favour: v_min is an upper bound, over the images given and among them over
    those that the network gets right (the theorem is about networks that get all right); average pooling and
    shortcuts, which the theorem does not know, count as nothing lost; and circular convolutions have larger
    smallest values than the zero-padded ones that the layers are. So where the margin term makes the bound
    vacuous, it is, at any eps. Where nothing does, ask for `operator="zero"`, and read the instance margins'
    `lower` and what `geometry` says, before you believe it.

    Args:
        model: evaluated in eval mode, and left as it was.
        x: training images.
        y: their labels.
        x_test: test images, for the gap that the bound is about.
        y_test: their labels.
        eps: radius of the covering balls, in L2; the network should be robust there.
        gammas: widths of the ramp loss.
        eta: probability with which the bound may fail.
        training_examples: m, where the network has seen more than `x`.
        margins: of training images, if known; otherwise of the first 128 of `x`.
        covered: the law of the covering numbers, if known; otherwise from `x`.
        operator: what a convolution is, "circular" or "zero", as in `spectrum`; the latter takes minutes.
        batch_size: changes speed, not results (but for rounding).

    Raises:
        ConfigError: gammas, eps, eta or m out of range, unknown operator. DataError: too few images for a
            covering. ModelError: the last layer is not linear.
    """
    margins = margins or instance_margins(model, x[:EXAMPLES], y[:EXAMPLES], batch_size=batch_size)
    last = last_linear(model, x)
    rows = model.get_parameter(f"{last}.weight").detach().cpu().double()
    ramp = {
        split: _ramp_risks(model, images, labels, gammas, batch_size)
        for split, (images, labels) in {"train": (x, y), "test": (x_test, y_test)}.items()
    }
    return Bound(
        gammas=np.array(gammas, dtype=np.float64),
        distances=torch.linalg.vector_norm(rows[:, None] - rows, dim=2).numpy(),
        sigma_min=_smallest_values(model, x.shape[1:], last, operator),
        v_min=float(margins.upper[margins.correct].min(initial=math.inf)),
        covering=covered or covering(x),
        eps=eps,
        eta=eta,
        training_examples=len(x) if training_examples is None else training_examples,
        ramp_train=ramp["train"],
        ramp_test=ramp["test"],
    )


def l2_radius(threat: ThreatModel, pixels: int) -> float:
    """Radius of the largest L2 ball that lies in the threat's ball: a network robust there is robust in it.

    >>> l2_radius(ThreatModel("Linf", 0.03), 3072)
    0.03
    """
    return threat.eps / math.sqrt(pixels) if threat.norm == "L1" else threat.eps


def measure_bound(
    subject: Subject,
    *,
    gammas: Sequence[float] = GAMMAS,
    eta: float = 0.05,
    eps: float | None = None,
    examples: int = EXAMPLES,
    steps: int = 50,
    points: int = 20,
    operator: str = "circular",
) -> Measurement:
    """The bound with all of its terms, and what it assumes, measured.

    Args:
        subject: what is measured. Covering numbers and ramp losses are of all its images.
        gammas: widths of the ramp loss.
        eta: probability with which the bound may fail.
        eps: radius of the covering balls, in L2; None for the largest L2 ball inside the threat's.
        examples: images of each split whose instance margins are searched.
        steps: of that search.
        points: on each segment from an image to its boundary point.
        operator: what a convolution is, as in `spectrum`.

    Raises:
        ConfigError: an option out of range. DataError: too few training images for a covering. ModelError:
            the last layer is not linear.
    """
    x, y = subject.images("train")
    eps = l2_radius(subject.threat, x[0].numel()) if eps is None else eps
    covered = covering(x)
    reached = {split: _Reached.of(subject, split, examples, steps, points) for split in ("train", "test")}
    terms = bound(
        subject.model,
        x,
        y,
        *subject.images("test"),
        eps=eps,
        gammas=gammas,
        eta=eta,
        training_examples=subject.training_examples,
        margins=reached["train"].margins,
        covered=covered,
        operator=operator,
        batch_size=subject.batch_size,
    )
    value = {
        **_in_words(terms, operator),
        "covering": {
            "dimension": covered.dimension,
            "extent": covered.extent,
            "two_nn": intrinsic_dimension(x),
            "points": covered.points,
        },
        **{split: found.summary(terms) for split, found in reached.items()},
    }
    arrays = {
        "row_distances": terms.distances,
        "covering_eps": covered.eps,
        "covering_count": covered.count,
        **{
            f"{split}_{name}": array
            for split, found in reached.items()
            for name, array in found.arrays().items()
        },
    }
    return Measurement(
        value,
        unit="ramp loss in [0, 1]; distances in L2 of pixels in [0, 1]; margins in logits",
        what="The generalization bound, each of its terms, and how often what it assumes holds.",
        source="Wen, Li and Jia 2020, theorem 3.1 and assumption 3.1; u_min in its favour, see `bound`",
        arrays=arrays,
    )


def _ramp_risks(
    model: nn.Module, x: Tensor, y: Tensor, gammas: Sequence[float], batch_size: int
) -> Float64[np.ndarray, " gammas"]:
    margin = -losses.margin(logits_of(model, x, batch_size).double(), y.cpu()).numpy()
    return np.array([ramp_loss(margin, gamma).mean() for gamma in gammas])


def _smallest_values(
    model: nn.Module, input_shape: Sequence[int], last: str, operator: str
) -> dict[str, float]:
    """Smallest singular value of every layer but the last one; 0 where rounding of the largest hides it."""
    found = {
        name: float(smallest[-1]) if smallest[-1] > _UNRESOLVED * largest[0] else 0.0
        for name, (largest, smallest) in extremes(model, input_shape, operator=operator, fold=True).items()
        if name != last
    }
    parts = model.named_modules()
    scales = {name: diagonal(module) for name, module in parts if isinstance(module, Normalize)}
    return found | {name: float(scale.abs().min()) for name, scale in scales.items() if scale is not None}


@dataclass(frozen=True, eq=False)
class _Reached:
    """Instance margins of some images of a split, and what is on the way to their boundary points.

    `paths`, `at_x` and `on_the_way` are of the images that are right and whose boundary was found.
    """

    index: np.ndarray
    margins: InstanceMargins
    paths: np.ndarray
    stretch: Mapping[str, np.ndarray]

    @classmethod
    def of(cls, subject: Subject, split: str, examples: int, steps: int, points: int) -> "_Reached":
        """Of the first `examples` images of a split."""
        model, size = subject.model, subject.batch_size
        x, y = subject.images(split, examples)
        margins = instance_margins(
            model, x, y, steps=steps, bounds=subject.threat.bounds, seed=subject.seed, batch_size=size
        )
        on = torch.from_numpy(margins.crossed)
        way = x.cpu()[on], margins.nearest[on]
        return cls(
            getattr(subject, split).index[:examples].numpy(),
            margins,
            margin_paths(model, way[0], y.cpu()[on], way[1], points=points, batch_size=size),
            stretch(model, *way, batch_size=size),
        )

    def summary(self, terms: Bound) -> dict[str, Any]:
        """Numbers of this split."""
        found, correct = self.margins, self.margins.correct
        lower = None if found.lower is None else found.lower[correct]
        return {
            "examples": len(correct),
            "correct": float(correct.mean()),
            "upper": _quantiles(found.upper[correct]),
            "lower": None if lower is None else _quantiles(lower),
            "why_no_lower": found.why,
            "robust_at_eps": float((correct & (found.upper > terms.eps)).mean()),
            "certified_at_eps": None if lower is None else float((lower > terms.eps).sum() / len(correct)),
            "min_in_balls": _finite(max(0.0, float(found.upper.min()) - terms.eps)),
            "assumption_3_1_fails": violations(self.paths),
            "stretch": {name: _step(values, terms) for name, values in self.stretch.items()},
        }

    def arrays(self) -> dict[str, np.ndarray]:
        """The raw values."""
        found = self.margins
        lower = {} if found.lower is None else {"lower": found.lower}
        crossed = {"crossed": found.crossed, "paths": self.paths, **self.stretch}
        return {"index": self.index, "correct": found.correct, "upper": found.upper, **lower, **crossed}


def _in_words(terms: Bound, operator: str) -> dict[str, Any]:
    """The terms as `explanation.json` keeps them; None for infinite logarithms."""
    log10 = {
        "distance": math.log10(terms.distance_min) if terms.distance_min else None,
        "sigma_product": _log10(terms.log_sigma_product),
        "v_min": math.log10(terms.v_min) if 0 < terms.v_min < math.inf else None,
        "u_min": _log10(terms.log_u_min),
        "covering_number": _log10(terms.covering.log_count(terms.eps)),
        "complexity_term": _log10(terms.log_complexity_term),
    }
    rows = zip(
        terms.gammas,
        terms.margin_term,
        terms.log_total,
        terms.because(),
        terms.ramp_train,
        terms.ramp_test,
        strict=True,
    )
    return {
        "eps": terms.eps,
        "eta": terms.eta,
        "training_examples": terms.training_examples,
        "operator": operator,
        "distance_min": terms.distance_min,
        "sigma_min": dict(terms.sigma_min),
        "v_min": _finite(terms.v_min),
        "vanishing": terms.vanishing(),
        "log10": log10,
        "gammas": [
            {
                "gamma": float(gamma),
                "margin_term": float(margin),
                "log10_bound": _log10(float(total)),
                "vacuous": bool(because),
                "because": because,
                "ramp_train": float(train),
                "ramp_test": float(test),
                "ramp_gap": float(test - train),
            }
            for gamma, margin, total, because, train, test in rows
        ],
    }


def _step(stretch: np.ndarray, terms: Bound) -> dict[str, Any]:
    """How often the way is stretched less than by the product of the smallest singular values."""
    if len(stretch) == 0:
        return {"fails": None, "quantiles": None, "log10_over_product": None}
    with np.errstate(divide="ignore"):
        logs = np.log(stretch)
    product = terms.log_sigma_product
    return {
        "fails": float((logs < product).mean()),
        "quantiles": _quantiles(stretch),
        "log10_over_product": _quantiles((logs - product) / math.log(10)) if math.isfinite(product) else None,
    }


def _quantiles(values: np.ndarray) -> dict[str, float | None] | None:
    """Quantiles by name, None where there are no values."""
    if len(values) == 0:
        return None
    return {
        str(share): _finite(float(np.quantile(values, share, method="inverted_cdf"))) for share in QUANTILES
    }


def _log10(natural: float) -> float | None:
    return _finite(natural / math.log(10))


def _finite(value: float) -> float | None:
    """None for what JSON does not know."""
    return value if math.isfinite(value) else None
