"""Singular values of the layers of a network: all of them, or the largest and the smallest."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TypeVar

import numpy as np
import torch
from torch import nn

from robustlens.errors import ConfigError, NumericsError
from robustlens.progress import Event, Listener, silent
from robustlens.spectra.circular import circular_singular_values
from robustlens.spectra.convolution import KERNEL, MAX_BYTES, OPERATORS, Convolution, check_operator
from robustlens.spectra.coverage import Survey
from robustlens.spectra.dense import dense_singular_values, fits
from robustlens.spectra.density import DRAWS, STEPS, Density, density_of
from robustlens.spectra.extreme import FACTOR_BYTES, largest_values, smallest_values
from robustlens.spectra.folded import Folding
from robustlens.spectra.layers import Layer, blank
from robustlens.spectra.workers import decomposition, descending

DTYPES = {"float64": torch.float64, "float32": torch.float32}

Value = TypeVar("Value")


def spectrum(
    model: nn.Module,
    input_shape: Sequence[int],
    *,
    operator: str = "circular",
    layers: Iterable[str] | None = None,
    fold: bool = False,
    dtype: str = "float64",
    method: str = "svd",
    max_bytes: int = MAX_BYTES,
    progress: Listener = silent,
) -> dict[str, np.ndarray]:
    """Singular values of every linear map that a forward pass calls.

    These are convolutions and transposed ones (of one, two and three sides), linear layers, the projections
    of attention layers, and BatchNorm, as a factor for each channel; other layers with weights are named by
    `uncovered`. Weights are taken as they are in eval mode. The model is left as it was.

    Args:
        model: takes images (n, *input_shape).
        input_shape: of one image, (c, h, w): it decides the size of every feature map.
        operator: which matrix a convolution stands for, "circular", "zero" or "kernel"; see the module's
            text.
        layers: names of the layers wanted, as `trace` gives them; None for all.
        fold: with BatchNorm in the layer that it belongs to, where there is one, and not apart (`Folding`).
        dtype: "float64", or "float32", which is faster: values are then off by some 1e-7 of the largest, so
            that those below that are noise.
        method: "svd", or "gram": square roots of the eigenvalues of A A^T, a little faster. In float64 values
            below 1e-8 of the largest are noise. In float32 those below 3e-4 of the largest are: the smallest
            can be wrong by 100 %.
        max_bytes: largest matrix to hold: of the frequency blocks of all workers together, or the dense
            matrix of one group, which is built for "zero", and for "circular" where the stride does not
            divide the feature map. A decomposition needs about as much again.
        progress: hears an event before every layer, and at the end.

    Returns:
        For each layer, in the order of `model.named_modules()`, all min(rows, columns) singular values of
        its matrix, descending, float64; of a BatchNorm |gamma| / sqrt(var + eps), one for each channel.

    Raises:
        ConfigError: unknown operator, layer, dtype or method; a dense matrix would be larger than
            `max_bytes` (see `extremes` and `density`); a layer pads with something else than
            zeros where "zero" is asked for.
        ModelError: the model does not take images of that shape.
        NumericsError: a weight is not finite.
    """
    _check_operator(operator)
    if dtype not in DTYPES:
        raise ConfigError(f"spectrum.dtype: found {dtype!r}, expected 'float64' or 'float32'")
    chosen = select(model, input_shape, layers=layers, fold=fold)

    def of(layer: Layer) -> np.ndarray:
        return singular_values(layer, operator, dtype=DTYPES[dtype], method=method, max_bytes=max_bytes)

    return for_each_layer(chosen, of, progress)


def extremes(
    model: nn.Module,
    input_shape: Sequence[int],
    *,
    operator: str = "circular",
    layers: Iterable[str] | None = None,
    fold: bool = False,
    count: int = 1,
    max_bytes: int = FACTOR_BYTES,
    progress: Listener = silent,
) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """The `count` largest and the `count` smallest singular values of every layer, to float64 accuracy.

    As in `spectrum`, whose arguments these are, but for large maps with zero borders too, and strides that do
    not divide their maps: see `extreme`. All values have converged, within 1e-12 of the largest one of the
    layer, or there is an error. A layer that has fewer than `count` values gives those; for "zero",
    `max_bytes` bounds the triangular factor of one group. Where a stride does not divide its map, it bounds
    the dense matrix, of which all values are computed if `count` is above 1.

    Returns:
        (largest, smallest) for each layer, both descending.

    Raises:
        ConfigError: as `spectrum`; `count` is below 1; the factor would be larger than `max_bytes`.
        ModelError: the model does not take images of that shape.
        NumericsError: a weight is not finite; an iteration has not converged.
    """
    _check_operator(operator)
    if count < 1:
        raise ConfigError(f"extremes.count: found {count}, expected at least 1")

    def of(layer: Layer) -> tuple[np.ndarray, np.ndarray]:
        convolution = _without_blocks(layer, operator)
        # Wrapped borders give values in pairs, of which Lanczos may miss one: several are taken from all.
        if convolution is not None and (count == 1 or not convolution.wraps):
            smallest = smallest_values(convolution, count, max_bytes=max_bytes)
            return largest_values(convolution, count), smallest
        values = singular_values(layer, operator, max_bytes=max_bytes)
        return values[:count], values[-count:]

    return for_each_layer(select(model, input_shape, layers=layers, fold=fold), of, progress)


def spectral_norms(
    model: nn.Module,
    input_shape: Sequence[int],
    *,
    operator: str = "circular",
    layers: Iterable[str] | None = None,
    fold: bool = False,
    max_bytes: int = FACTOR_BYTES,
    progress: Listener = silent,
) -> dict[str, float]:
    """The largest singular value of every layer, by the cheapest way that is exact.

    That is Lanczos for a large convolution with zero borders, or with a stride that does not divide its map,
    which holds no matrix, and the Gram matrix in float64 otherwise, which loses nothing at the large end.
    Arguments and errors as in `extremes`.
    """
    _check_operator(operator)

    def of(layer: Layer) -> float:
        if (convolution := _without_blocks(layer, operator)) is not None:
            return float(largest_values(convolution)[0])
        return float(singular_values(layer, operator, method="gram", max_bytes=max_bytes)[0])

    return for_each_layer(select(model, input_shape, layers=layers, fold=fold), of, progress)


def select(
    model: nn.Module, input_shape: Sequence[int], *, layers: Iterable[str] | None = None, fold: bool = False
) -> dict[str, Layer]:
    """The layers that are wanted, in the order of `model.named_modules()`, all of them finite.

    Raises:
        ConfigError: unknown layer.
        NumericsError: a weight, or the scale of a BatchNorm that is folded into it, is not finite.
    """
    called = Survey.of(model, input_shape).layers
    if fold:
        called = Folding.of(model, called, blank(model, input_shape)).apart(called)
    wanted = set(called if layers is None else layers)
    for name in sorted(wanted - set(called)):
        raise ConfigError(
            f"spectrum.layers: found {name!r}, expected some of {', '.join(called)}, the linear maps that a "
            "forward pass calls"
        )
    return finite({name: layer for name, layer in called.items() if name in wanted})


def finite(layers: Mapping[str, Layer]) -> dict[str, Layer]:
    """The layers themselves; a weight that is NaN or infinite raises `NumericsError`."""
    for name, layer in layers.items():
        if not bool(layer.weight.isfinite().all()):
            raise NumericsError(
                f"spectrum: layer {name!r} has a weight that is NaN or infinite; train it again"
            )
    return dict(layers)


def singular_values(
    layer: Layer,
    operator: str,
    *,
    dtype: torch.dtype = torch.float64,
    method: str = "svd",
    max_bytes: int = MAX_BYTES,
) -> np.ndarray:
    """All singular values of one layer, descending, float64."""
    if layer.is_convolution and operator == KERNEL:
        return descending(decomposition(method)(layer.weight.flatten(1).to(dtype)))
    if layer.is_convolution and operator == "circular":
        wrapped = Convolution.of(layer, operator)
        if wrapped.is_block_diagonal:
            return circular_singular_values(
                wrapped.weight,
                wrapped.size,
                stride=wrapped.stride,
                dilation=wrapped.dilation,
                groups=wrapped.groups,
                dtype=dtype,
                method=method,
                max_bytes=max_bytes,
            )
    return dense_singular_values(layer, operator, dtype=dtype, method=method, max_bytes=max_bytes)


def _without_blocks(layer: Layer, operator: str) -> Convolution | None:
    """The convolution that a layer is, where its values need its matrix; None where they do not.

    A circular one, whose stride divides its map, is decomposed frequency by frequency.
    """
    if not layer.is_convolution or operator == KERNEL:
        return None
    convolution = Convolution.of(layer, operator)
    return None if convolution.is_block_diagonal else convolution


def _check_operator(operator: str) -> None:
    """Refuse an unknown operator."""
    if operator not in (*OPERATORS, KERNEL):
        expected = "'circular', 'zero' or 'kernel'"
        raise ConfigError(f"spectrum.operator: found {operator!r}, expected {expected}")


def spectrum_or_density(
    layer: Layer, operator: str, *, draws: int, steps: int, max_bytes: int, seed: int
) -> np.ndarray | Density:
    """All singular values of a layer; their density where that needs a matrix larger than `max_bytes`."""
    convolution = _without_blocks(layer, operator)
    if convolution is not None and not fits(next(convolution.parts()), max_bytes):
        return density_of(convolution, draws=draws, steps=steps, max_bytes=max_bytes, seed=seed)
    return singular_values(layer, operator, max_bytes=max_bytes)


def density(
    model: nn.Module,
    input_shape: Sequence[int],
    *,
    operator: str = "zero",
    layers: Iterable[str] | None = None,
    fold: bool = False,
    draws: int = DRAWS,
    steps: int = STEPS,
    max_bytes: int = MAX_BYTES,
    seed: int = 0,
    progress: Listener = silent,
) -> dict[str, Density]:
    """Density of the singular values of every convolution, as the zero-padded operator that it is.

    For layers that are too large for `spectrum`; arguments and errors as there and in `density_of`. With
    operator "circular" of the wrap-around one, for strides that do not divide their maps.
    """
    check_operator(operator)
    every = select(model, input_shape, layers=layers, fold=fold)
    chosen = {name: layer for name, layer in every.items() if layer.is_convolution}

    def of(layer: Layer) -> Density:
        convolution = Convolution.of(layer, operator)
        return density_of(convolution, draws=draws, steps=steps, max_bytes=max_bytes, seed=seed)

    return for_each_layer(chosen, of, progress)


def for_each_layer(
    layers: Mapping[str, Layer], function: Callable[[Layer], Value], progress: Listener
) -> dict[str, Value]:
    """`function` of every layer; an error says in which."""
    values = {}
    for number, (name, layer) in enumerate(layers.items()):
        progress(Event("spectrum", number, len(layers), name))
        try:
            values[name] = function(layer)
        except (ConfigError, NumericsError) as error:
            raise type(error)(f"layer {name!r}: {error}") from error
    progress(Event("spectrum", len(layers), len(layers)))
    return values
