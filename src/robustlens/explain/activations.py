"""Norms of the activations that each layer works on."""

import contextlib
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from robustlens.errors import ConfigError, ModelError
from robustlens.explain.measure import Measurement, SplitName, Subject
from robustlens.models import as_logits, device_of, forward, inference
from robustlens.models.hooks import MatrixLayer, hooked, matrix_layers, reading
from robustlens.models.inputs import Batches, Images, Reader, checked_images
from robustlens.stats.samples import weighted_within_std

INPUT = ".input"
"""Ends the keys that name what a layer reads."""
LOGITS = "logits"
PRE, POST = "pre-activation", "post-activation"
"""Begin the keys "pre-activation/<layer>", what the layer writes (W x + b), and "post-activation/<layer>"."""
NON_LINEARITIES = frozenset((
    "relu", "relu6", "leaky_relu", "prelu", "rrelu", "threshold", "elu", "selu", "celu", "gelu", "silu",
    "mish", "softplus", "softsign", "softshrink", "tanh", "tanhshrink", "sigmoid", "log_sigmoid",
    "logsigmoid", "hardtanh", "hardswish", "hardsigmoid", "hardshrink", "clamp", "clamp_min", "clip", "glu",
))  # fmt: skip
"""Functions of torch, in place or not, whose outputs are post-activations."""

Reduction = Callable[[Tensor], Tensor]
"""From an activation (rows, ...) to L2 norms whose last axis is the images."""


def activations(
    model: nn.Module, x: Images | Batches | Reader, *, outputs: bool = False, batch_size: int = 256
) -> dict[str, np.ndarray]:
    """L2 norm of every activation of the network, for each image.

    The activation *after* a layer (Wen et al. 2020) is what the next layer *reads*: after BatchNorm, ReLU,
    pooling and shortcuts, however the model's code writes these. (Hooks on ReLU modules would miss functional
    ones.) So every call of a convolution or linear layer but the first, which reads the image, gives the
    norm of its input, under the key "<layer>.input": the singular values that `spectrum` gives for "<layer>"
    act on that very vector. The last activation is "logits".

    An activation that two layers read, such as a convolution and its block's shortcut, is there under both
    names. A layer that is called several times gives the norm of all that it reads together.

    What lies between two layers can be read on the way as well (`outputs`): "pre-activation/<layer>" is what
    the layer writes, W x + b, before BatchNorm; "post-activation/<layer>" what the non-linearity that follows
    the layer writes, before pooling and the shortcut that comes after it. Several non-linearities behind one
    layer count together; a layer without one, such as most last ones, has no "post-activation". The last
    layer's "pre-activation" is the logits.

    Args:
        model: evaluated in eval mode without gradients, and left as it was.
        x: images; moved to the model's device batch by batch, and left as they are.
        outputs: with "pre-activation/<layer>" and "post-activation/<layer>".
        batch_size: changes speed and memory, not results (but for rounding).

    Returns:
        Norms (n,), float32, in the order in which the layers are called.

    Raises:
        DataError: no images, or pixels that are not finite, or bytes.
        ModelError: the model does not take these images or return logits (n, classes), or a layer reads a
            tensor whose first dimension is not the images.
    """
    x = checked_images(x, None, model, where="activations")
    return over_layers(model, x.split(batch_size), l2_norm, outputs=outputs)


def over_layers(
    model: nn.Module, batches: Iterable[Tensor], reduce: Reduction, *, outputs: bool = False
) -> dict[str, np.ndarray]:
    """`reduce` of every activation of the network, by the keys of `activations`, joined over the batches.

    Activations are reduced while the forward pass goes by, so no more than one is kept, and layers that write
    in place change nothing. The input of a layer that is called several times counts as one long vector.

    Args:
        model: evaluated in eval mode without gradients, and left as it was.
        batches: inputs; each is copied to the model's device.
        reduce: from one activation to norms; their last axis is joined over the batches.
        outputs: as in `activations`.

    Raises:
        ModelError: as `activations`.
    """
    parts: dict[str, list[np.ndarray]] = {}
    with inference(model):
        for batch in batches:
            for key, values in _one_pass(model, batch, reduce, outputs).items():
                parts.setdefault(key, []).append(values.cpu().numpy())
    return {key: np.concatenate(values, axis=-1) for key, values in parts.items()}


def l2_norm(values: Float[Tensor, "n ..."]) -> Float[Tensor, " n"]:
    """L2 norm over all dimensions but the first, float32."""
    return torch.linalg.vector_norm(values.float(), dim=tuple(range(1, values.ndim)))


def summarize(norms: np.ndarray, labels: np.ndarray | None = None) -> dict[str, float]:
    """Mean, standard deviation and coefficient of variation of an activation's norms over images.

    With labels (n,) also within classes: the root of the mean squared distance to the mean of the image's own
    class, and that over the mean of all.
    """
    mean, std = float(norms.mean(dtype=np.float64)), float(norms.std(dtype=np.float64))
    summary = {"mean": mean, "std": std, "std_over_mean": coefficient_of_variation(norms)}
    if labels is None:
        return summary
    weights = np.full((1, len(norms)), 1 / len(norms))
    within = float(weighted_within_std(weights, norms.astype(np.float64), labels)[0])
    relative = within / mean if mean else 0.0
    return summary | {"within_class_std": within, "within_class_std_over_mean": relative}


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
    """Norms of the activations on test and training images, and how much they vary from image to image.

    Arrays of training images are under "train/<key>". The labels are there as well ("label", "train_label"),
    so that the variance within classes can be told from that between them.
    """
    value: dict[str, Any] = {}
    arrays: dict[str, np.ndarray] = {}
    splits: tuple[SplitName, ...] = ("test", "train")
    for split in splits:
        if not len(subject.split(split)):
            continue
        x, y = subject.readable(split)
        norms = activations(subject.model, x, outputs=True, batch_size=subject.batch_size)
        labels = y.cpu().numpy()
        summaries = _by_kind({key: summarize(each, labels) for key, each in norms.items()})
        value |= summaries if split == "test" else {"train": summaries}
        before, joined = ("", "") if split == "test" else ("train/", "train_")
        arrays |= {f"{before}{key}": each for key, each in norms.items()}
        arrays |= {f"{joined}label": labels, f"{joined}index": subject.index(split)}
    return Measurement(
        value,
        unit="L2 norm",
        what="Norm of what each layer reads (<layer>.input), of what it writes (pre-activation), of what the "
        "non-linearity after it writes (post-activation), and of the logits, for every image.",
        source="Wen, Li and Jia 2020 (variance of the norms of the activation outputs)",
        conditions={"split": "test", "examples": len(subject.test)},
        arrays=arrays,
    )


def _by_kind(summaries: dict[str, dict[str, float]]) -> dict[str, dict[str, dict[str, float]]]:
    """Summaries of what layers read and of the logits in "layers", the others by kind and layer."""
    kinds: dict[str, dict[str, dict[str, float]]] = {"layers": {}, PRE: {}, POST: {}}
    for key, summary in summaries.items():
        kind, _, layer = key.partition("/")
        if kind in (PRE, POST):
            kinds[kind][layer] = summary
        else:
            kinds["layers"][key] = summary
    return kinds


class _NonLinearities(TorchFunctionMode):
    """Inside, `written` gets the output of every non-linearity."""

    def __init__(self, written: Callable[[Tensor], None]) -> None:
        super().__init__()
        self.written = written

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        if isinstance(result, Tensor) and getattr(func, "__name__", "").strip("_") in NON_LINEARITIES:
            self.written(result)
        return result


def _one_pass(model: nn.Module, batch: Tensor, reduce: Reduction, outputs: bool) -> dict[str, Tensor]:
    """`over_layers` of one batch: every call of a layer but the first, which reads the image, and logits."""
    names = {layer: name for name, layer in matrix_layers(model).items()}
    values: dict[str, Tensor] = {}
    called: list[MatrixLayer] = []

    def add(key: str, activation: Tensor) -> None:
        if len(activation) != len(batch):
            rows = f"{len(activation)} rows for {len(batch)} images"
            raise ModelError(f"activations: {key!r} has {rows}, expected one row for each image")
        reduced = reduce(activation)
        values[key] = torch.hypot(values[key], reduced) if key in values else reduced

    def read(layer: MatrixLayer, activation: Tensor) -> None:
        called.append(layer)
        if len(called) > 1:
            add(f"{names[layer]}{INPUT}", activation)

    def written(layer: Any, args: Any, named: Any, output: Tensor) -> None:
        add(f"{PRE}/{names[layer]}", output)

    def activated(output: Tensor) -> None:
        # A function of the image before the first layer, or of a parameter, is no activation of a layer.
        if called and output.ndim > 1 and len(output) == len(batch):
            add(f"{POST}/{names[called[-1]]}", output)

    with contextlib.ExitStack() as stack:
        stack.enter_context(reading(names, read))
        if outputs:
            stack.enter_context(hooked(names, after=written))
            stack.enter_context(_NonLinearities(activated))
        output = forward(model, batch.clone().to(device_of(model)))
    values[LOGITS] = reduce(as_logits(output, len(batch)))
    return values
