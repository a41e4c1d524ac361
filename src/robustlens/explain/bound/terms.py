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
from robustlens.explain.bound.last_layer import LastLayer
from robustlens.explain.bound.theorem import Bound
from robustlens.explain.margins import logits_of
from robustlens.models import Normalize, device_of
from robustlens.models.inputs import Bounds, Images, Labels, checked
from robustlens.spectra import Survey, extremes
from robustlens.spectra.coverage import Uncovered

GAMMAS = (0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0)
"""Widths of the ramp, in logits."""
EXAMPLES = 128
"""Images of each split whose instance margins are searched."""

_COMPARED = 16  # images whose logits are those of the last layer or not
_UNRESOLVED = 1e-12  # of the largest singular value: smaller ones are rounding


def bound(
    model: nn.Module,
    x: Images,
    y: Labels,
    x_test: Images,
    y_test: Labels,
    *,
    eps: float | None = None,
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
    `spectrum`); the normalisation of the images is a layer too. The rows of the last layer, whose distances
    count, have the factors of a BatchNorm in them that it reads, too: u_min does not depend on how a scale is
    shared between the two. A layer that runs several times in a pass is as many layers (`Bound.calls`).

    Images that the network gets wrong count in no term: v_min is over the right ones that were searched, m is
    the share of `x` that is right of the training examples, and the ramp losses are of right images. The
    covering numbers alone are of all images: they are a property of the space, the same for every network.
    Where no image is right there is no bound.

    u_min is read in the network's favour, in ways that `Bound.favourable` names: v_min is an upper bound,
    over the images given; average pooling, shortcuts and attention weights, which the theorem does not know,
    count as nothing lost, as does the null space of a layer that narrows; and circular convolutions have
    larger smallest values than the zero-padded ones that the layers are. So where it is vacuous, it is, at
    any eps that the theorem allows. Where it is not, ask for `operator="zero"`, and read the instance
    margins' `lower` and what `geometry` says, before you believe it. A network with layers that no spectrum
    covers has no bound: `Bound.uncovered`.

    Args:
        model: evaluated in eval mode, and left as it was.
        x: training images.
        y: their labels.
        x_test: test images, for the gap that the bound is about.
        y_test: their labels.
        eps: radius of the covering balls, in L2; the network should be robust there. None for the one, up to
            the smallest instance margin, at which the bound is least, for each gamma by itself.
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
    last = LastLayer.of(model, x)
    survey = Survey.of(model, x.shape[1:])
    covered = covered or covering(x)
    right, ramp_train = _ramp_risks(model, x, y, gammas, batch_size)
    _, ramp_test = _ramp_risks(model, x_test, y_test, gammas, batch_size)
    seen = len(x) if training_examples is None else training_examples
    sigma_min, calls = _smallest_values(model, x.shape[1:], survey, last.name, operator)
    terms = Bound(
        gammas=np.array(gammas, dtype=np.float64),
        distances=torch.linalg.vector_norm(last.weight[:, None] - last.weight, dim=2).numpy(),
        sigma_min=sigma_min,
        calls=calls,
        v_min=float(margins.upper[margins.correct].min(initial=math.inf)),
        covering=covered,
        eps=np.full(len(gammas), covered.extent if eps is None else eps, dtype=np.float64),
        eta=eta,
        training_examples=max(1, round(right * seen)),
        ramp_train=ramp_train,
        ramp_test=ramp_test,
        operator=operator if any(layer.is_convolution for layer in survey.layers.values()) else None,
        searched=len(margins.correct),
        right=int(margins.correct.sum()),
        narrowing=tuple(name for name, layer in survey.layers.items() if layer.narrows and name != last.name),
        uncovered={**survey.uncovered, **_behind(last, model, x)},
    )
    return terms.least(covered.extent) if eps is None else terms


def _ramp_risks(
    model: nn.Module, x: Tensor, y: Tensor, gammas: Sequence[float], batch_size: int
) -> tuple[float, Float64[np.ndarray, " gammas"]]:
    """The share of images that are right, and their mean ramp loss at each gamma; NaN where none is."""
    logits = logits_of(model, x, batch_size).double()
    right = (~losses.is_wrong(logits, y.cpu())).numpy()
    margin = -losses.margin(logits, y.cpu()).numpy()[right]
    risks = [losses.ramp(margin, gamma).mean() if len(margin) else math.nan for gamma in gammas]
    return float(right.mean()), np.array(risks)


def _behind(last: LastLayer, model: nn.Module, x: Tensor) -> dict[str, Uncovered]:
    """What comes between the last layer and the logits, where these are others than its own."""
    few = x[:_COMPARED].to(device_of(model))
    return {} if last.gives_logits(model, few) else {"logits": Uncovered(f"not those of {last.name}", 0, 0.0)}


def _smallest_values(
    model: nn.Module, input_shape: Sequence[int], survey: Survey, last: str, operator: str
) -> tuple[dict[str, float], dict[str, int]]:
    """Smallest singular value of every layer but the last one; 0 where rounding of the largest hides it.

    And how often those layers run that run more than once.
    """
    smallest_values = {
        name: float(smallest[-1]) if smallest[-1] > _UNRESOLVED * largest[0] else 0.0
        for name, (largest, smallest) in extremes(model, input_shape, operator=operator, fold=True).items()
        if name != last
    }
    modules: dict[str, nn.Module] = {name: survey.layers[name].module for name in smallest_values}
    for name, module in model.named_modules():
        if (
            isinstance(module, Normalize)
            and module in survey.calls
            and (scale := diagonal(module)) is not None
        ):
            smallest_values[name], modules[name] = float(scale.abs().min()), module
    calls = {name: survey.calls[module] for name, module in modules.items()}
    return smallest_values, {name: count for name, count in calls.items() if count > 1}
