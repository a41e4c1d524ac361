"""The spectra of a network as a measure."""

from collections.abc import Mapping
from typing import Annotated, Any, Literal

import numpy as np
from pydantic import Field

from robustlens.explain.measure import Count, Measurement, Subject
from robustlens.results.values import plain
from robustlens.spectra.convolution import MAX_BYTES, OPERATORS, OperatorName
from robustlens.spectra.coverage import Survey, in_words
from robustlens.spectra.density import DRAWS, STEPS, Density
from robustlens.spectra.folded import Folding
from robustlens.spectra.layers import Layer, blank
from robustlens.spectra.summary import summarize
from robustlens.spectra.values import finite, for_each_layer, spectrum_or_density

Draws = Annotated[int, Field(ge=2)]
"""Option that counts draws of which the spread is needed."""
FOLDED = "folded/"
"""Begins the keys of arrays in which BatchNorm is folded into its layer."""


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
    that have weights in "uncovered", by name.

    Args:
        subject: the network.
        operator: which matrix a convolution stands for, "circular" or "zero".
        batch_norm: "apart", or "fold": beside the layers as they are ("layers"), those into which a BatchNorm
            is folded, in the same form ("folded"; their arrays are "folded/<layer>").
        max_bytes: as in `spectrum`. A layer as it is ("zero") whose dense matrix is larger gets the density
            of its values: its numbers name the "method" and their "error" (half widths of 95 % intervals),
            "max" is exact, "min" is None where its factor is larger too, with "min_at_most" in its place, and
            its array holds 1,000 quantiles.
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
    with_norm = finite(Folding.of(model, layers, blank(model, shape)).applied(layers)) if fold else {}
    values = for_each_layer(
        every | {FOLDED + name: layer for name, layer in with_norm.items()},
        lambda layer: spectrum_or_density(
            layer, operator, draws=draws, steps=steps, max_bytes=max_bytes, seed=subject.seed
        ),
        subject.progress,
    )
    summaries = {"layers": _summaries(layers, values), "scales": _summaries(scales, values)}
    if fold:
        summaries["folded"] = _summaries(with_norm, values, FOLDED)
    conditions = {"operator": operator, "batch_norm": batch_norm}
    estimated = [name for name, each in values.items() if isinstance(each, Density)]
    return Measurement(
        {**conditions, **summaries, "uncovered": plain(survey.uncovered)},
        unit="singular value",
        what=f"Singular values of each layer, {OPERATORS[operator]} at its borders, "
        f"BatchNorm {'folded too' if fold else 'not folded'}."
        + (f" Too large for all values, so by their density: {', '.join(estimated)}." if estimated else "")
        + (f" Not covered: {in_words(survey.uncovered)}." if survey.uncovered else ""),
        source="Wen, Li and Jia 2020 (variance of singular values); Sedghi, Gupta and Long 2019 (circular)",
        conditions=conditions,
        arrays={
            name: each.quantiles() if isinstance(each, Density) else each for name, each in values.items()
        },
    )


def _summaries(
    layers: Mapping[str, Layer], values: Mapping[str, np.ndarray | Density], prefix: str = ""
) -> dict[str, dict[str, Any]]:
    summaries: dict[str, dict[str, Any]] = {}
    for name, layer in layers.items():
        each = values[prefix + name]
        numbers = each.summary() if isinstance(each, Density) else summarize(each)
        summaries[name] = {**numbers, "shape": str(layer)}
    return summaries
