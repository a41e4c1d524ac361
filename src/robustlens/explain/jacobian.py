"""Singular values of the network's end-to-end Jacobian: how far its logits move when an image does."""

import numpy as np
import torch
from jaxtyping import Float, Float64
from torch import Tensor, nn

from robustlens.errors import NumericsError
from robustlens.explain.derivatives import with_gradient
from robustlens.explain.measure import Count, Measurement, Subject
from robustlens.models import as_logits, device_of, forward, frozen
from robustlens.models.inputs import Batches, Images, checked_images

_MOST_BYTES = 1 << 28  # of the matrices in hand: one of 1,000 classes and 224x224 pixels alone has more


def jacobian(model: nn.Module, x: Images | Batches, *, batch_size: int = 64) -> dict[str, np.ndarray]:
    """Singular values of the Jacobian of the logits with respect to each image.

    The largest is the local Lipschitz constant in L2: to first order no change of the image of length 1 moves
    the logits further. They are those of the function at x; between x and its neighbours a ReLU may switch.

    One forward pass and one backward pass for each class, for a batch at a time.

    Args:
        model: evaluated in eval mode, and left as it was.
        x: images, with d values each.
        batch_size: at most, changes speed and memory, not results (but for rounding).

    Returns:
        singular_values: (n, min(classes, d)), descending, float64, of derivatives in the model's precision.

    Raises:
        DataError: no images, or pixels that are not finite, or bytes.
        ModelError: the model does not take these images or return logits (n, classes), or these carry no
            gradient.
        NumericsError: a derivative is NaN or infinite.
    """
    x = checked_images(x, None, model, where="jacobian")
    with frozen(model), torch.enable_grad():
        classes = as_logits(forward(model, x[:1].to(device_of(model))), 1).shape[1]
        held = max(1, _MOST_BYTES // (8 * classes * max(1, x[0].numel())))
        parts = x.split(min(batch_size, held))
        values = [_singular_values(model, images.to(device_of(model))) for images in parts]
    return {"singular_values": torch.cat(values).numpy()}


def summarize(singular_values: Float64[np.ndarray, "n k"]) -> dict[str, float | None]:
    """Means over images of numbers of each image's singular values s_1 >= ... >= s_k.

    largest: s_1, with its standard deviation over images beside it. smallest: s_k. frobenius: the root of
    sum s^2. stable_rank: sum s^2 / s_1^2, over the images where s_1 is not 0; None where there are none.
    """
    squares = (singular_values**2).sum(1)
    largest = singular_values[:, 0]
    moves = largest > 0
    return {
        "mean_largest": float(largest.mean()),
        "std_largest": float(largest.std()),
        "mean_smallest": float(singular_values[:, -1].mean()),
        "mean_frobenius": float(np.sqrt(squares).mean()),
        "mean_stable_rank": float((squares[moves] / largest[moves] ** 2).mean()) if moves.any() else None,
    }


def measure_jacobian(subject: Subject, *, examples: Count = 64) -> Measurement:
    """Singular values of the Jacobian at the first `examples` test images."""
    x, _ = subject.images("test", examples)
    values = jacobian(subject.model, x, batch_size=min(64, subject.batch_size))["singular_values"]
    return Measurement(
        {"examples": len(x), **summarize(values)},
        unit="logits per unit of image (L2)",
        what="Singular values of the derivative of the logits with respect to the image, at test images.",
        source="Wen, Li and Jia 2020 study layers one by one; the Jacobian is that of all of them together",
        conditions={"split": "test", "examples": len(x)},
        arrays={"test_singular_values": values, "test_index": subject.index("test", examples)},
    )


def _singular_values(model: nn.Module, images: Float[Tensor, "n ..."]) -> Float64[Tensor, "n k"]:
    leaf = images.detach().clone().requires_grad_()
    logits = with_gradient(as_logits(forward(model, leaf * 1), len(leaf)))  # a network may write to it
    rows = [
        torch.autograd.grad(logit.sum(), leaf, retain_graph=True, materialize_grads=True)[0].flatten(1)
        for logit in logits.unbind(1)
    ]
    derivatives = torch.stack(rows, 1).cpu().double()
    if not bool(derivatives.isfinite().all()):
        raise NumericsError(
            "jacobian: found a derivative that is NaN or infinite, expected finite numbers; the network "
            "has a root, logarithm or division at the edge of its domain"
        )
    return torch.linalg.svdvals(derivatives)
