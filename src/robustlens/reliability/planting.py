"""Planted adversarial images: another readout gives a known point near an image another label."""

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Float64
from torch import Tensor, nn

from robustlens import noise
from robustlens.errors import ModelError, out_of_memory
from robustlens.models.hooks import hooked, input_of
from robustlens.models.last_layer import forward_reading
from robustlens.threat import ThreatModel

INNER = 1000
"""Inner points of an image, itself among them."""
INNER_RADIUS = 0.9
"""Radius of the inner ball, as a share of eps."""
CLOSENESS = 0.99
"""Place of the decision boundary on the way from the nearest inner features (0) to the planted ones (1)."""
_PLANTED, _GUESSES, _INNER = 0, 1, 2
"""Streams of random numbers."""


@dataclass(frozen=True, eq=False)
class Readout:
    """Two logits, linear in the features: class 1 around the planted point's, class 0 elsewhere.

    Attributes:
        origin: features of the planted point, (d,).
        weights: of the features less `origin`, (d,); their product is 0 there, and 1 or more at inner points.
        threshold: value of that product at which the label changes.
    """

    origin: Tensor
    weights: Tensor
    threshold: float

    def __call__(self, features: Float[Tensor, "n d"]) -> Float[Tensor, "n 2"]:
        """The logits of the features; the first is the larger one beyond the threshold."""
        beyond = (features - self.origin) @ self.weights - self.threshold
        return torch.stack([beyond, -beyond], dim=1)


@dataclass(frozen=True, eq=False)
class PlantedImage:
    """An image with an adversarial one at a known place in its ball.

    Attributes:
        x: the image, (1, ...). x_adv: the planted one, of class 1 by `readout`. inner: points of the smaller
            ball, (k, ...), of class 0, `x` first.
    """

    x: Tensor
    x_adv: Tensor
    inner: Tensor
    readout: Readout


def plant(
    model: nn.Module, layer: nn.Linear, x: Float[Tensor, "1 ..."], threat: ThreatModel, seed: int
) -> PlantedImage | None:
    """Plant an adversarial image in the ball of `x`, or return None where no readout tells it from the rest.

    The planted point lies on the surface of the ball: a step of length eps along noise (a corner, in Linf),
    projected on ball and box. Inner points are the image and such points of a ball of 0.9 eps. The readout is
    the hyperplane with the widest margin between their features and the planted ones, moved towards these,
    so that random points hardly ever have the other label (Zimmermann, Brendel, Tramer and Carlini 2022,
    whose readout is found by logistic regression).

    Args:
        model: frozen.
        layer: its last linear layer.
        x: one image.
        threat: whose ball it is.
        seed: of the points.
    """
    key = noise.keys(x, seed)
    inner_ball = threat.at(INNER_RADIUS * threat.eps)
    keys = torch.cat([noise.fold(noise.fold(key, _INNER), number) for number in range(INNER - 1)])
    inner = torch.cat([x, on_surface(inner_ball, x.expand(INNER - 1, *x.shape[1:]), keys)])
    x_adv = on_surface(threat, x, noise.fold(key, _PLANTED))
    features = features_of(model, layer, torch.cat([x_adv, inner]))
    origin, others = features[0], features[1:]
    weights = widest_margin((others.double() - origin.double()).cpu().numpy())
    if weights is None:
        return None
    readout = Readout(origin, torch.from_numpy(weights).to(origin), 1 - CLOSENESS)
    planted = PlantedImage(x, x_adv, inner, readout)
    return planted if _holds(planted, model, layer) else None


def on_surface(threat: ThreatModel, x: Float[Tensor, "n ..."], key: Tensor) -> Float[Tensor, "n ..."]:
    """Points at distance eps from `x` in random directions, projected on ball and box."""
    return threat.project(threat.ascend(x, noise.normal(key, x), threat.eps), x)


def guesses(
    threat: ThreatModel, x: Float[Tensor, "1 ..."], count: int, seed: int
) -> Float[Tensor, "count ..."]:
    """Points of the ball by the draws that make planted ones, which know nothing of the network."""
    key = noise.fold(noise.keys(x, seed), _GUESSES)
    keys = torch.cat([noise.fold(key, number) for number in range(count)])
    return on_surface(threat, x.expand(count, *x.shape[1:]), keys)


def features_of(model: nn.Module, layer: nn.Linear, x: Float[Tensor, "n ..."]) -> Float[Tensor, "n d"]:
    """Whatever `layer` reads when the network looks at `x`, without gradients.

    Raises:
        ModelError: it reads something other than one row an image.
    """
    with torch.no_grad():
        _, read = forward_reading(model, layer, x)
    if len(read) != 1 or read[0].ndim != 2 or len(read[0]) != len(x):
        shapes = ", ".join(str(tuple(each.shape)) for each in read) or "nothing"
        raise ModelError(
            f"planted: the last linear layer reads {shapes}, expected ({len(x)}, features), once a pass"
        )
    return read[0].detach()


@contextlib.contextmanager
def read_by(readout: Readout, layer: nn.Linear) -> Iterator[None]:
    """Inside, `layer` answers with the logits of `readout`; its weights are not touched."""

    def replaced(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> Tensor:
        return readout(input_of(args, kwargs))

    with hooked([layer], after=replaced):
        yield


def widest_margin(differences: Float64[np.ndarray, "k d"]) -> Float64[np.ndarray, " d"] | None:
    """The smallest w with `differences @ w >= 1`, or None where there is none.

    A least-distance problem, solved as the nonnegative least-squares problem that is its dual (Lawson and
    Hanson 1974, chapter 23, section 4), in the coordinates that the differences span.
    """
    from scipy.optimize import nnls  # takes a while to import, and an evaluation does without it

    scale = np.linalg.norm(differences, axis=1).max()
    if not (np.isfinite(scale) and scale > 0):
        return None
    basis, coordinates = np.linalg.qr((differences / scale).T)
    ones = np.ones((1, len(differences)))
    target = np.append(np.zeros(len(coordinates)), 1.0)
    try:
        dual, _ = nnls(np.vstack([coordinates, ones]), target)
    except RuntimeError:  # too many steps
        return None
    residual = np.vstack([coordinates, ones]) @ dual - target
    if -residual[-1] < 1e-9:
        return None
    return basis @ (-residual[:-1] / residual[-1]) / scale


def _holds(planted: PlantedImage, model: nn.Module, layer: nn.Linear) -> bool:
    """Whether the network itself, in its own precision, gives the two labels.

    Raises:
        ModelError: what follows the last linear layer does not give two logits from two.
    """
    alone = inner = None
    with read_by(planted.readout, layer), torch.no_grad():
        try:
            alone, inner = model(planted.x_adv), model(planted.inner)
        except (RuntimeError, ValueError, IndexError) as error:
            if out_of_memory(error):
                raise
    if not (isinstance(alone, Tensor) and isinstance(inner, Tensor) and alone.shape == (1, 2)):
        raise ModelError(
            "planted: the last linear layer is not the last: with two outputs in its place the network "
            "returns no logits (n, 2); expected a network that ends in a Linear layer"
        )
    return bool((alone.argmax(1) == 1).all() and (inner.argmax(1) == 0).all())
