"""Images, labels and logits of an attack, checked once a call, in the words of `evaluate`."""

import contextlib
from collections.abc import Iterator
from contextvars import ContextVar
from typing import Any

import torch
from torch import Tensor, nn

from robustlens.errors import DataError, RobustlensError, out_of_memory
from robustlens.models import as_logits, device_of, failure_on, forward, frozen, inputs
from robustlens.models.hooks import hooked
from robustlens.models.inputs import Batches, Bounds, Images, Labels
from robustlens.threat import ThreatModel

ImagesLike = Images | Batches
"""Images (n, ...), a tensor or an array; or batches (images, labels), as a DataLoader gives them."""
LabelsLike = Labels | None
"""Classes (n,) of any integer type, or soft labels (n, classes); None with batches."""

_IS_TRUSTED: ContextVar[bool] = ContextVar("is_trusted", default=False)


@contextlib.contextmanager
def trusted() -> Iterator[None]:
    """Inside, attacks take their images as they are: whoever calls them has checked them."""
    token = _IS_TRUSTED.set(True)
    try:
        yield
    finally:
        _IS_TRUSTED.reset(token)


@contextlib.contextmanager
def checked_inputs(
    model: nn.Module,
    x: ImagesLike,
    y: LabelsLike,
    threat: ThreatModel | None,
    mode: str = "eval",
    *,
    beforehand: bool = False,
) -> Iterator[tuple[Tensor, Tensor]]:
    """The images and labels of a call, on the model's device; `model` is frozen in `mode` inside.

    Costs a pass over the pixels; the logits are looked at in the first forward pass that the attack makes.
    Attacks that this one calls are `trusted`.

    Args:
        model: returns logits (n, classes).
        x: in the threat's bounds; what is outside by 1e-6 of their width at most is clamped.
        y: their labels.
        threat: of the attack, if it is known.
        mode: of the model, "eval" or "train".
        beforehand: look at the logits of two images in a pass of their own, where the attack's would be
            compiled and the look with them.

    Raises:
        ConfigError: infinite bounds. DataError: shapes, types, labels or pixels that do not fit.
        ModelError: the model fails on these images, or returns something else than logits (n, classes) with a
            class for every label.
    """
    is_empty = isinstance(x, Tensor) and isinstance(y, Tensor) and x.ndim > 0 and len(x) == 0
    if _IS_TRUSTED.get() or is_empty:
        assert isinstance(x, Tensor)
        assert isinstance(y, Tensor)
        with frozen(model, mode):
            yield x.detach(), y
        return
    if threat is not None:
        threat.require_box()
    images, labels = _checked(model, x, y, None if threat is None else threat.bounds)
    with trusted(), frozen(model, mode), _first_output_checked(model, images, labels, beforehand):
        yield images, labels


def _checked(model: nn.Module, x: ImagesLike, y: LabelsLike, bounds: Bounds | None) -> tuple[Tensor, Tensor]:
    """Images and labels that fit each other and the bounds."""
    if isinstance(y, Tensor) and y.is_floating_point() and y.ndim == 2:
        images, _ = inputs.checked_pair(x, y.argmax(1), bounds, model, where="attack")
        if not (bool((y >= 0).all()) and bool(y.isfinite().all())):
            raise DataError("attack: found soft labels below 0 or NaN, expected a probability for each class")
        labels = y
    else:
        images, labels = inputs.checked_pair(x, y, bounds, model, where="attack")
    device = device_of(model, default=images.device)
    return images.detach().to(device), labels.to(device)


@contextlib.contextmanager
def _first_output_checked(model: nn.Module, x: Tensor, y: Tensor, beforehand: bool) -> Iterator[None]:
    """Inside, or before, a first pass is checked: `ModelError` where it fails or returns no logits."""
    least = y.shape[1] if y.ndim == 2 else max(2, int(y.max()) + 1)
    if beforehand or isinstance(model, torch.jit.ScriptModule):  # which takes no hooks
        as_logits(forward(model, x[:2]), len(x[:2]), at_least=least)
        yield
        return
    running: list[Tensor] = []
    passed = False

    def begin(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        running[:] = (*args, *kwargs.values())[:1]

    def look(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> None:
        nonlocal passed
        if not passed:
            as_logits(output, len(running.pop()), at_least=least)
            passed = True

    try:
        with hooked([model], before=begin, after=look):
            yield
    except RobustlensError:
        raise
    except Exception as error:
        if passed or not running or out_of_memory(error):
            raise
        raise failure_on(running[0], error) from error
