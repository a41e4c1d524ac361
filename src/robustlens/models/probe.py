"""The device of a network, and a check that it returns logits."""

from itertools import chain

import torch
from jaxtyping import Float
from torch import Tensor, nn

from robustlens.errors import ModelError, NumericsError, RobustlensError, out_of_memory
from robustlens.models.inference import inference
from robustlens.registry import one_line


def device_of(model: nn.Module, *, default: torch.device | None = None) -> torch.device:
    """The device of the model's first tensor; `default`, or else the CPU, for a model without any."""
    tensor = next(chain(model.parameters(), model.buffers()), None)
    return (default or torch.device("cpu")) if tensor is None else tensor.device


def forward(model: nn.Module, x: Float[Tensor, "n ..."]) -> object:
    """`model(x)`, of any type; an error inside becomes one `ModelError` line."""
    try:
        return model(x)
    except RobustlensError:
        raise
    except Exception as error:
        if out_of_memory(error):
            raise
        raise failure_on(x, error) from error


def failure_on(x: Tensor, error: Exception) -> ModelError:
    """One line for an error inside a model that was called on `x`."""
    return ModelError(f"model: fails on images of shape {tuple(x.shape)}: {one_line(error)}")


def check_logits(
    model: nn.Module, x: Float[Tensor, "n ..."], num_classes: int | None = None, *, at_least: int = 2
) -> Float[Tensor, "n c"]:
    """Run `model` once on `x`, in eval mode, leaving it as it was; returns its logits if they are sound.

    Args:
        model: takes (n, ...), should return (n, classes).
        x: images on the model's device.
        num_classes: expected number of logits; None for any number of `at_least` or more.
        at_least: smallest number of logits, e.g. the largest label plus 1.

    Raises:
        ModelError: `model` fails on `x`, or returns something other than float logits of that shape.
        NumericsError: a logit is NaN or infinite.
    """
    with inference(model):
        output = forward(model, x)
    logits = as_logits(output, len(x), num_classes, at_least=at_least)
    bad = int((~logits.isfinite()).any(1).sum())
    if bad:
        raise NumericsError(
            f"model: found NaN or infinite logits for {bad} of {len(x)} images, expected finite numbers; "
            "its weights are broken, or the images are not in [0, 1]"
        )
    return logits


def as_logits(
    output: object, examples: int, num_classes: int | None = None, *, at_least: int = 2
) -> Float[Tensor, "n c"]:
    """`output` itself if it is a float tensor (examples, classes); one `ModelError` line otherwise."""
    wanted = f"({examples}, {num_classes if num_classes is not None else 'classes'})"
    if not isinstance(output, Tensor):
        raise ModelError(
            f"model: returned {_kind(output)}, expected a tensor of logits {wanted}; {_fix(output)}"
        )
    shape = tuple(output.shape)
    if not output.is_floating_point():
        raise ModelError(f"model: returned {output.dtype} of shape {shape}, expected float logits {wanted}")
    if len(shape) != 2 or shape[0] != examples:
        squeezed = len(shape) > 2 and shape[0] == examples and all(size == 1 for size in shape[2:])
        fix = "; flatten the trailing dimensions in its forward" if squeezed else ""
        raise ModelError(f"model: returned shape {shape}, expected logits {wanted}{fix}")
    if shape[1] < at_least or (num_classes is not None and shape[1] != num_classes):
        expected = num_classes if num_classes is not None else f"at least {at_least}"
        raise ModelError(
            f"model: returned {shape[1]} logits an image, expected {expected}, the classes of the data"
        )
    return output


def _kind(output: object) -> str:
    """The type of a model's output, in words."""
    if isinstance(output, tuple | list):
        return f"a {type(output).__name__} of {len(output)}"
    if isinstance(output, dict):
        return f"{type(output).__name__} with {', '.join(map(str, list(output)[:4]))}"
    return type(output).__name__


def _fix(output: object) -> str:
    if hasattr(output, "logits"):
        return "wrap it in a module whose forward returns model(x).logits"
    return "wrap it in a module whose forward returns the logits only"
