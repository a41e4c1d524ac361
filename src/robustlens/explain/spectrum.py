"""The spectra of a network as a measure."""

from collections.abc import Mapping
from typing import Annotated, Any, Literal

import numpy as np
from pydantic import Field

from robustlens.explain.measure import Count, Measurement, Subject
from robustlens.results.values import plain
from robustlens.spectra.convolution import KERNEL, MAX_BYTES, OPERATORS, OperatorName
from robustlens.spectra.coverage import Survey, in_words
from robustlens.spectra.density import DRAWS, STEPS, Density
from robustlens.spectra.folded import Folding
from robustlens.spectra.layers import Layer, blank
from robustlens.spectra.summary import summarize
from robustlens.spectra.values import finite, for_each_layer, singular_values, spectrum_or_density

Draws = Annotated[int, Field(ge=2)]
"""Option that counts draws of which the spread is needed."""
FOLDED = "folded/"
"""Begins the keys of arrays in which BatchNorm is folded into its layer."""
KERNEL_KEY = f"{KERNEL}/"
"""Begins the keys of arrays of the weights as matrices, whatever the feature map."""


def measure_spectrum(
    subject: Subject,
    *,
    operator: OperatorName = "circular",
    batch_norm: Literal["apart", "fold"] = "apart",
    max_bytes: Count = MAX_BYTES,
    draws: Draws = DRAWS,
    steps: Count = STEPS,
) -> Measurement:
    """Singular values of every layer, at the feature-map sizes of the test images.

    Matrices are in "layers", the factors of each BatchNorm in "scales", and the other parts of the network
    that have weights in "uncovered", by name. "unfolded" names the BatchNorms that can be folded into no
    layer, and "calls" how often a pass runs what it runs several times. Beside them stand, in "kernel", the
    weights as matrices (outputs, inputs * kernel) ("layers"; arrays "kernel/<layer>"), which `capacity` holds
    in training, and those of them that have a BatchNorm with its factor in them ("folded"; arrays
    "kernel/folded/<layer>").

    Args:
        subject: the network.
        operator: which matrix on its feature map a convolution stands for, "circular" or "zero".
        batch_norm: "apart", or "fold": beside the layers as they are ("layers"), those into which a BatchNorm
            is folded, in the same form ("folded"; their arrays are "folded/<layer>").
        max_bytes: as in `spectrum`. A layer whose dense matrix is larger (of "zero" any, of "circular" one
            whose stride does not divide its map) gets the density of its values: its numbers name the
            "method" and their "error" (half widths of 95 % intervals), "max" is exact, "min" is None where
            its factor is larger too, with "min_at_most" in its place, and its array holds 1,000 quantiles.
        draws: random vectors of a density.
        steps: Lanczos steps of each.

    Raises:
        ConfigError: as `spectrum`.
    """
    fold, model, shape = batch_norm == "fold", subject.model, subject.test.shape
    survey = Survey.of(model, shape)
    every = finite(survey.layers)
    layers = {name: layer for name, layer in every.items() if not layer.is_scale}
    scales = {name: layer for name, layer in every.items() if layer.is_scale}
    folding = Folding.of(model, layers, blank(model, shape)) if fold or scales else None
    folded = finite(folding.applied(layers)) if folding else {}
    with_norm = folded if fold else {}
    values = for_each_layer(
        every | {FOLDED + name: layer for name, layer in with_norm.items()},
        lambda layer: spectrum_or_density(
            layer, operator, draws=draws, steps=steps, max_bytes=max_bytes, seed=subject.seed
        ),
        subject.progress,
    )
    counts = {name: survey.calls[layer.module] for name, layer in every.items()}
    summaries: dict[str, Any] = {
        "layers": _summaries(layers, values),
        "scales": _summaries(scales, values),
        "unfolded": list(folding.apart(scales)) if folding else [],
        "calls": {name: count for name, count in counts.items() if count > 1},
    }
    if fold:
        summaries["folded"] = _summaries(with_norm, values, FOLDED)
    summaries[KERNEL], kernels = _of_kernels(layers, folded, values)
    conditions = {"operator": operator, "batch_norm": batch_norm}
    estimated = [name for name, each in values.items() if isinstance(each, Density)]
    return Measurement(
        {**conditions, **summaries, "uncovered": plain(survey.uncovered)},
        unit="singular value",
        what=f"Singular values of each layer, {OPERATORS[operator]} at its borders, "
        f"BatchNorm {'folded too' if fold else 'not folded'}, and of each weight laid flat ({KERNEL})."
        + (f" Too large for all values, so by their density: {', '.join(estimated)}." if estimated else "")
        + (f" Not covered: {in_words(survey.uncovered)}." if survey.uncovered else ""),
        source="Wen, Li and Jia 2020 (variance of singular values); Sedghi, Gupta and Long 2019 (circular)",
        conditions=conditions,
        arrays={
            name: each.quantiles() if isinstance(each, Density) else each for name, each in values.items()
        }
        | kernels,
    )


def _of_kernels(
    layers: Mapping[str, Layer],
    folded: Mapping[str, Layer],
    known: Mapping[str, np.ndarray | Density],
) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """Summaries and singular values of the weights as matrices, as they are and with their BatchNorm."""

    def of(layer: Layer) -> np.ndarray:
        return singular_values(layer, KERNEL)

    # The matrix of a layer without a feature map is its weight: its values are known.
    raw: dict[str, np.ndarray | Density] = {
        name: of(layer) if layer.is_convolution else known[name] for name, layer in layers.items()
    }
    scaled: dict[str, np.ndarray | Density] = {name: of(layer) for name, layer in folded.items()}
    arrays = {
        f"{KERNEL_KEY}{prefix}{name}": values
        for prefix, each in (("", raw), (FOLDED, scaled))
        for name, values in each.items()
        if isinstance(values, np.ndarray)
    }
    return {"layers": _summaries(layers, raw), "folded": _summaries(folded, scaled)}, arrays


def _summaries(
    layers: Mapping[str, Layer], values: Mapping[str, np.ndarray | Density], prefix: str = ""
) -> dict[str, dict[str, Any]]:
    summaries: dict[str, dict[str, Any]] = {}
    for name, layer in layers.items():
        each = values[prefix + name]
        numbers = each.summary() if isinstance(each, Density) else summarize(each)
        summaries[name] = {**numbers, "shape": str(layer)}
    return summaries
