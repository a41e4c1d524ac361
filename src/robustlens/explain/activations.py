"""Norms of the activations that each layer works on."""

from collections.abc import Callable, Iterable

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn

from robustlens.errors import ConfigError, ModelError
from robustlens.explain.measure import Measurement, Subject
from robustlens.models import as_logits, device_of, forward, inference
from robustlens.models.hooks import MatrixLayer, matrix_layers, reading
from robustlens.models.inputs import Batches, Images, Reader, checked_images

INPUT = ".input"
"""Ends the keys that name what a layer reads."""
LOGITS = "logits"

Reduction = Callable[[Tensor], Tensor]
"""From an activation (rows, ...) to L2 norms whose last axis is the images."""


def activations(
    model: nn.Module, x: Images | Batches | Reader, *, batch_size: int = 256
) -> dict[str, np.ndarray]:
    """L2 norm of every activation of the network, for each image.

    The activation *after* a layer (Wen et al. 2020) is what the next layer *reads*: after BatchNorm, ReLU,
    pooling and shortcuts, however the model's code writes these. (Hooks on ReLU modules would miss functional
    ones.) So every convolution and linear layer but the first one called, which reads the image, gives the
    norm of its input, under the key "<layer>.input": the singular values that `spectrum` gives for "<layer>"
    act on that very vector. The last activation is "logits".

    An activation that two layers read, such as a convolution and its block's shortcut, is there under both
    names. A layer that is called several times gives the norm of all that it reads together.

    Args:
        model: evaluated in eval mode without gradients, and left as it was.
        x: images; moved to the model's device batch by batch, and left as they are.
        batch_size: changes speed and memory, not results (but for rounding).

    Returns:
        Norms (n,), float32, in the order in which the layers are called.

    Raises:
        DataError: no images, or pixels that are not finite, or bytes.
        ModelError: the model does not take these images or return logits (n, classes), or a layer reads a
            tensor whose first dimension is not the images.
    """
    x = checked_images(x, None, model, where="activations")
    return over_layers(model, x.split(batch_size), l2_norm)


def over_layers(model: nn.Module, batches: Iterable[Tensor], reduce: Reduction) -> dict[str, np.ndarray]:
    """`reduce` of every activation of the network, by the keys of `activations`, joined over the batches.

    Activations are reduced while the forward pass goes by, so no more than one is kept, and layers that write
    in place change nothing. The input of a layer that is called several times counts as one long vector.

    Args:
        model: evaluated in eval mode without gradients, and left as it was.
        batches: inputs; each is copied to the model's device.
        reduce: from one activation to norms; their last axis is joined over the batches.

    Raises:
        ModelError: as `activations`.
    """
    parts: dict[str, list[np.ndarray]] = {}
    with inference(model):
        for batch in batches:
            for key, values in _one_pass(model, batch, reduce).items():
                parts.setdefault(key, []).append(values.cpu().numpy())
    return {key: np.concatenate(values, axis=-1) for key, values in parts.items()}


def l2_norm(values: Float[Tensor, "n ..."]) -> Float[Tensor, " n"]:
    """L2 norm over all dimensions but the first, float32."""
    return torch.linalg.vector_norm(values.float(), dim=tuple(range(1, values.ndim)))


def summarize(norms: np.ndarray) -> dict[str, float]:
    """Mean, standard deviation and coefficient of variation of an activation's norms over images."""
    mean, std = float(norms.mean(dtype=np.float64)), float(norms.std(dtype=np.float64))
    return {"mean": mean, "std": std, "std_over_mean": coefficient_of_variation(norms)}


def coefficient_of_variation(values: np.ndarray) -> float:
    """Standard deviation (divided by n) over mean: the spread, free of the scale. 0 where all values are 0.

    Raises:
        ConfigError: there are no values.

    >>> coefficient_of_variation(np.array([1.0, 3.0]))
    0.5
    """
    if values.size == 0:
        raise ConfigError("activations: found no values, expected those of at least 1 image")
    mean = float(values.mean(dtype=np.float64))
    return float(values.std(dtype=np.float64)) / mean if mean else 0.0


def measure_activations(subject: Subject) -> Measurement:
    """Norms of the activations on test images, and how much they vary from image to image."""
    x, _ = subject.readable("test")
    norms = activations(subject.model, x, batch_size=subject.batch_size)
    return Measurement(
        {"layers": {key: summarize(values) for key, values in norms.items()}},
        unit="L2 norm",
        what="Norm of what each layer reads (<layer>.input), and of the logits, for every test image.",
        source="Wen, Li and Jia 2020 (norms of activations); read at the next layer's input",
        conditions={"split": "test", "examples": len(x)},
        arrays={**norms, "index": subject.index("test")},
    )


def _one_pass(model: nn.Module, batch: Tensor, reduce: Reduction) -> dict[str, Tensor]:
    """`over_layers` of one batch: every layer but the first one called, which reads the image, and logits."""
    keys = {layer: f"{name}{INPUT}" for name, layer in matrix_layers(model).items()}
    values: dict[str, Tensor] = {}
    called: list[MatrixLayer] = []

    def read(layer: MatrixLayer, activation: Tensor) -> None:
        called.append(layer)
        if layer is called[0]:
            return
        key = keys[layer]
        if len(activation) != len(batch):
            rows = f"{len(activation)} rows for {len(batch)} images"
            raise ModelError(f"activations: {key!r} has {rows}, expected one row for each image")
        reduced = reduce(activation)
        values[key] = torch.hypot(values[key], reduced) if key in values else reduced

    with reading(keys, read):
        output = forward(model, batch.clone().to(device_of(model)))
    values[LOGITS] = reduce(as_logits(output, len(batch)))
    return values
