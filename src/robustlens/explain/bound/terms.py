"""Every term of the bound of Wen, Li and Jia 2020, of a network and its images."""

import math
from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Float64
from torch import Tensor, nn

from robustlens import losses
from robustlens.certification.lipschitz import diagonal
from robustlens.explain.bound.covering import Covering, covering
from robustlens.explain.bound.instance_margins import InstanceMargins, instance_margins
from robustlens.explain.bound.theorem import Bound
from robustlens.explain.features import last_linear
from robustlens.explain.margins import logits_of
from robustlens.models import Normalize
from robustlens.models.inputs import Bounds, Images, Labels, checked
from robustlens.spectra import Survey, extremes
from robustlens.threat import ThreatModel

GAMMAS = (0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0)
"""Widths of the ramp, in logits."""
EXAMPLES = 128
"""Images of each split whose instance margins are searched."""

_UNRESOLVED = 1e-12  # of the largest singular value: smaller ones are rounding


def bound(
    model: nn.Module,
    x: Images,
    y: Labels,
    x_test: Images,
    y_test: Labels,
    *,
    eps: float,
    gammas: Sequence[float] = GAMMAS,
    eta: float = 0.05,
    training_examples: int | None = None,
    margins: InstanceMargins | None = None,
    covered: Covering | None = None,
    operator: str = "circular",
    batch_size: int = 256,
    bounds: Bounds = (0.0, 1.0),
) -> Bound:
    """Every term of the bound of Wen et al. 2020 (theorem 3.1) for a network and its images.

    The layers are those that the network is in eval mode, with the BatchNorm that belongs to them (see
    `spectrum`); the normalisation of the images is a layer too.

    u_min is read in the network's favour, in ways that `Bound.favourable` names: v_min is an upper bound,
    over the images given and among them over those that the network gets right (the theorem is about
    networks that get all right; where none is right, v_min is infinite and the margin term 0); average
    pooling, shortcuts and attention weights, which the theorem does not know, count as nothing lost, as does
    the null space of a layer that narrows; and circular convolutions have larger smallest values than the
    zero-padded ones that the layers are. So where the margin term makes the bound vacuous, it is, at any
    eps. Where nothing does, ask for `operator="zero"`, and read the instance margins' `lower` and what
    `geometry` says, before you believe it. A network with layers that no spectrum covers has no bound:
    `Bound.uncovered`.

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
        operator: matrix of a convolution, "circular" or "zero", as in `spectrum`; the latter takes minutes.
        batch_size: changes speed, not results (but for rounding).
        bounds: of the pixels.

    Raises:
        ConfigError: gammas, eps, eta or m out of range, unknown operator. DataError: images or labels do not
            fit, too few images for a covering. ModelError: the model does not return logits (n, classes), or
            its last layer is not linear.
    """
    x, y = checked(model, x, y, bounds, where="bound")
    x_test, y_test = checked(model, x_test, y_test, bounds, where="bound")
    margins = margins or instance_margins(
        model, x[:EXAMPLES], y[:EXAMPLES], bounds=bounds, batch_size=batch_size
    )
    last = last_linear(model, x)
    survey = Survey.of(model, x.shape[1:])
    rows = model.get_parameter(f"{last}.weight").detach().cpu().double()
    return Bound(
        gammas=np.array(gammas, dtype=np.float64),
        distances=torch.linalg.vector_norm(rows[:, None] - rows, dim=2).numpy(),
        sigma_min=_smallest_values(model, x.shape[1:], last, operator),
        v_min=float(margins.upper[margins.correct].min(initial=math.inf)),
        covering=covered or covering(x),
        eps=eps,
        eta=eta,
        training_examples=len(x) if training_examples is None else training_examples,
        ramp_train=_ramp_risks(model, x, y, gammas, batch_size),
        ramp_test=_ramp_risks(model, x_test, y_test, gammas, batch_size),
        operator=operator if any(layer.is_convolution for layer in survey.layers.values()) else None,
        searched=len(margins.correct),
        right=int(margins.correct.sum()),
        narrowing=tuple(name for name, layer in survey.layers.items() if layer.narrows and name != last),
        uncovered=survey.uncovered,
    )


def l2_radius(threat: ThreatModel, pixels: int) -> float:
    """Radius of the largest L2 ball that lies in the threat's ball: a network robust there is robust in it.

    >>> l2_radius(ThreatModel("Linf", 0.03), 3072)
    0.03
    """
    return threat.eps / math.sqrt(pixels) if threat.norm == "L1" else threat.eps


def _ramp_risks(
    model: nn.Module, x: Tensor, y: Tensor, gammas: Sequence[float], batch_size: int
) -> Float64[np.ndarray, " gammas"]:
    margin = -losses.margin(logits_of(model, x, batch_size).double(), y.cpu()).numpy()
    return np.array([losses.ramp(margin, gamma).mean() for gamma in gammas])


def _smallest_values(
    model: nn.Module, input_shape: Sequence[int], last: str, operator: str
) -> dict[str, float]:
    """Smallest singular value of every layer but the last one; 0 where rounding of the largest hides it."""
    smallest_values = {
        name: float(smallest[-1]) if smallest[-1] > _UNRESOLVED * largest[0] else 0.0
        for name, (largest, smallest) in extremes(model, input_shape, operator=operator, fold=True).items()
        if name != last
    }
    parts = model.named_modules()
    scales = {name: diagonal(module) for name, module in parts if isinstance(module, Normalize)}
    return smallest_values | {
        name: float(scale.abs().min()) for name, scale in scales.items() if scale is not None
    }
