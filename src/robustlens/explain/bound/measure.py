"""The bound of Wen, Li and Jia 2020 as a measure, with what it assumes."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any

import numpy as np
import torch
from pydantic import Field

from robustlens.explain.bound.covering import covering, intrinsic_dimension
from robustlens.explain.bound.geometry import margin_paths, stretch, violations
from robustlens.explain.bound.instance_margins import InstanceMargins, instance_margins
from robustlens.explain.bound.terms import EXAMPLES, GAMMAS, bound
from robustlens.explain.bound.theorem import Bound, finite
from robustlens.explain.margins import SPLITS
from robustlens.explain.measure import Count, Measurement, Positive, SplitName, Subject
from robustlens.spectra.convolution import OperatorName
from robustlens.spectra.coverage import in_words

QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95)
NO_BOUND = "It is not a bound on this network: it"


def measure_bound(
    subject: Subject,
    *,
    gammas: Annotated[Sequence[Positive], Field(min_length=1)] = GAMMAS,
    eta: Annotated[Positive, Field(lt=1)] = 0.05,
    eps: Positive | None = None,
    examples: Count = EXAMPLES,
    steps: Count = 50,
    points: Count = 20,
    operator: OperatorName = "circular",
) -> Measurement:
    """The bound with all of its terms, and its assumptions, measured.

    Args:
        subject: a network and its images. Covering numbers and ramp losses are of all the images.
        gammas: widths of the ramp loss.
        eta: probability with which the bound may fail.
        eps: radius of the covering balls, in L2; None for the one at which the bound is least, for each gamma
            by itself, up to the smallest margin found.
        examples: images of each split whose instance margins are searched.
        steps: of that search.
        points: on each segment from an image to its boundary point.
        operator: which matrix a convolution stands for, as in `spectrum`.

    Raises:
        ConfigError: an option out of range. DataError: too few training images for a covering. ModelError:
            the last layer is not linear.
    """
    x, y = subject.images("train")
    net = covering(x)
    crossings = {split: Crossings.of(subject, split, examples, steps, points) for split in SPLITS}
    terms = bound(
        subject.model,
        x,
        y,
        *subject.images("test"),
        eps=eps,
        gammas=gammas,
        eta=eta,
        training_examples=subject.training_examples,
        margins=crossings["train"].margins,
        covered=net,
        operator=operator,
        batch_size=subject.batch_size,
        bounds=subject.threat.bounds,
    )
    space = {"dimension": net.dimension, "extent": net.extent, "points": net.points}
    arrays = {"row_distances": terms.distances, "covering_eps": net.eps, "covering_count": net.count}
    for split, crossed in crossings.items():
        arrays |= {f"{split}_{name}": array for name, array in crossed.arrays().items()}
    return Measurement(
        {
            **terms.summary(),
            "operator": operator,
            "covering": {**space, "two_nn": intrinsic_dimension(x)},
            **{split: crossed.summary(terms) for split, crossed in crossings.items()},
        },
        unit="ramp loss in [0, 1]; distances in L2 of pixels in [0, 1]; margins in logits",
        what="The generalization bound, each of its terms, and how often what it assumes holds."
        + (f" {NO_BOUND} leaves out {in_words(terms.uncovered)}." if terms.uncovered else ""),
        source="Wen, Li and Jia 2020, theorem 3.1 and assumption 3.1; u_min in its favour, see `bound`",
        conditions={
            "eps": "least" if eps is None else eps,
            "eta": eta,
            "examples": examples,
            "steps": steps,
            "operator": operator,
        },
        arrays=arrays,
    )


@dataclass(frozen=True, eq=False)
class Crossings:
    """Instance margins of some images of a split, and the ways to their boundary points.

    `paths` and `stretch` are of the images that are right and whose boundary was found.
    """

    index: np.ndarray
    margins: InstanceMargins
    paths: np.ndarray
    stretch: Mapping[str, np.ndarray]

    @classmethod
    def of(cls, subject: Subject, split: SplitName, examples: int, steps: int, points: int) -> "Crossings":
        """Instance margins and paths of the first `examples` images of a split."""
        model, batch_size = subject.model, subject.batch_size
        x, y = subject.images(split, examples)
        margins = instance_margins(
            model, x, y, steps=steps, bounds=subject.threat.bounds, seed=subject.seed, batch_size=batch_size
        )
        crossed = torch.from_numpy(margins.crossed)
        start, end, labels = x.cpu()[crossed], margins.nearest[crossed], y.cpu()[crossed]
        return cls(
            subject.index(split, examples),
            margins,
            margin_paths(model, start, labels, end, points=points, batch_size=batch_size),
            stretch(model, start, end, batch_size=batch_size),
        )

    def summary(self, terms: Bound) -> dict[str, Any]:
        """Numbers of this split; but for `correct` they are all of the images that are right."""
        margins, correct = self.margins, self.margins.correct
        upper = margins.upper[correct]
        lower = None if margins.lower is None else margins.lower[correct]
        eps = float(terms.eps[np.argmin(terms.log_total)])
        return {
            "examples": len(correct),
            "correct": float(correct.mean()),
            "upper": _quantiles(upper),
            "lower": None if lower is None else _quantiles(lower),
            "why_no_lower": margins.why,
            "robust_at_eps": _share(upper > eps),
            "certified_at_eps": None if lower is None else _share(lower > eps),
            "min_in_balls": finite(max(0.0, float(upper.min(initial=math.inf)) - eps)),
            "assumption_3_1_fails": violations(self.paths),
            "stretch": {name: _step(values, terms) for name, values in self.stretch.items()},
        }

    def arrays(self) -> dict[str, np.ndarray]:
        """The raw values."""
        margins = self.margins
        lower = {} if margins.lower is None else {"lower": margins.lower}
        crossed = {"crossed": margins.crossed, "paths": self.paths, **self.stretch}
        return {"index": self.index, "correct": margins.correct, "upper": margins.upper, **lower, **crossed}


def _share(mask: np.ndarray) -> float | None:
    """Share of True, None where there is nothing to share."""
    return float(mask.mean()) if len(mask) else None


def _step(stretch: np.ndarray, terms: Bound) -> dict[str, Any]:
    """Frequency with which the way is stretched less than by the product of the smallest singular values."""
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
        str(share): finite(float(np.quantile(values, share, method="inverted_cdf"))) for share in QUANTILES
    }
