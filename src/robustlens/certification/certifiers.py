"""`certify`: images of which it is proven that no image inside the threat model is misclassified."""

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from robustlens import losses, models
from robustlens.certification.bounded import METHODS, BoundedNetwork
from robustlens.certification.smoothing import smoothing
from robustlens.certification.verdict import Certification, Certifier
from robustlens.errors import ConfigError
from robustlens.models import inputs
from robustlens.models.inputs import Images, Labels
from robustlens.registry import Registry
from robustlens.threat import ThreatModel, checked_threat

_STEPS = 12
"""Bisections of a radius."""


def _bounds(method: str) -> Callable[..., Certification]:
    """The certifier that bounds margins by a method of `bounded.METHODS`."""

    def certifier(
        model: nn.Module, x: Tensor, y: Tensor, threat: ThreatModel, *, batch_size: int, radius: bool
    ) -> Certification:
        network = BoundedNetwork.of(model, x.shape[1:], threat, method)
        right, margins, radii = [], [], []
        for images, labels in zip(x.split(batch_size), y.split(batch_size), strict=True):
            right.append(~losses.is_wrong(network.checked_logits(model, images), labels))
            whole = torch.full((len(images),), threat.eps, dtype=torch.float64)
            lower = partial(network.margins, images, labels)
            margins.append(lower(whole))
            if radius:
                radii.append(_bisected(lower, whole, margins[-1], right[-1]))
        reached = torch.cat(radii) if radius else None
        return Certification.of(threat, torch.cat(right), torch.cat(margins), reached)

    return certifier


def _bisected(
    lower: Callable[[Tensor], Tensor], whole: Tensor, margins: Tensor, right: Bool[Tensor, " n"]
) -> Float[Tensor, " n"]:
    """The largest radius up to `whole` that bisection certifies, 0 where the prediction is wrong."""
    below = torch.where(margins.amin(1) > 0, whole, 0.0)
    above = whole.clone()
    for _ in range(_STEPS):
        middle = (below + above) / 2
        holds = lower(middle).amin(1) > 0
        below, above = torch.where(holds, middle, below), torch.where(holds, above, middle)
    return below * right


CERTIFIERS: Registry[Certifier] = Registry(
    "certify.method",
    {
        **{method: _bounds(method) for method in METHODS},
        "smoothing": smoothing,
    },
    hidden=("batch_size", "radius"),
)
"""Methods by name; their parameters with a default are their options.

`ibp`: intervals (Gowal et al. 2018). `crown-ibp`: backward linear bounds, the inputs of ReLUs bounded by
intervals (Zhang et al. 2020). `crown`: these are bounded by backward passes as well (Zhang et al. 2018).
`smoothing`: of the smoothed classifier (Cohen, Rosenfeld and Kolter 2019). To add one: a line here.
"""


def certify(
    model: nn.Module,
    x: Images,
    y: Labels,
    threat: ThreatModel,
    method: str = "crown",
    *,
    batch_size: int = 16,
    radius: bool = False,
    **options: Any,
) -> Certification:
    """Prove of images that no image inside the threat model is misclassified.

    `ibp`, `crown-ibp` and `crown` bound the margins f_y - f_i of the network from below, over all images in
    the ball and the pixel box, in eval mode and float64, outward by more than rounding may have taken away.
    The network is one of real numbers, with its weights, and the factors of its BatchNorms, as float64 has
    them. Each method is tighter than the one before on the whole, and costs more: two passes an image; a
    backward pass for each class; one for each ReLU whose sign is not decided as well. They know convolution,
    linear layers, BatchNorm in eval mode, ReLU and leaky ReLU, max, average and adaptive average pooling,
    sums, concatenation, padding and reshapes, in any Python whose course does not depend on activations.

    `smoothing` takes any network, in L2. What it certifies is not the network but the smoothed classifier,
    whose prediction is the most frequent one under Gaussian noise; its options are `sigma`, `n0`, `n`,
    `alpha` and `seed`.

    Args:
        model: returns logits (n, classes); in any mode, left as it was.
        x: images (n, ...) in the threat's bounds.
        y: labels (n,).
        threat: norm, radius and pixel bounds.
        method: of `CERTIFIERS`.
        batch_size: images bounded at once; changes memory and time alone.
        radius: also look for the largest radius up to eps that is certified, by bisection to eps / 4096. It
            costs 12 more passes. Smoothing gives its radius always.
        options: of the method.

    Raises:
        ConfigError: unknown method or option, an infinite eps, a batch size below 1, another norm than L2
            for smoothing.
        DataError: shapes, types, labels or pixel range do not fit; no images.
        ModelError: the model does not return logits, or an operation in it has no rule.
    """
    if not checked_threat(threat, "certify").eps < torch.inf:
        raise ConfigError("certify: found eps inf, expected a finite radius")
    if isinstance(batch_size, bool) or batch_size < 1:
        raise ConfigError(f"certify.batch_size: found {batch_size}, expected >= 1")
    certifier = CERTIFIERS.find(method)
    checked = CERTIFIERS.checked(method, options, "certify")
    images, labels = inputs.checked(model, x, y, threat.bounds, where="certify")
    with models.inference(model):
        return certifier(
            model, images[:], labels.cpu(), threat, batch_size=batch_size, radius=radius, **checked
        )
