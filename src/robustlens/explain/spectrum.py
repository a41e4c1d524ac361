"""The spectra of a network as a measure."""

from collections.abc import Mapping
from typing import Any, Literal

import numpy as np

from robustlens.explain.measure import Count, Measurement, Subject
from robustlens.results.values import plain
from robustlens.spectra.convolution import MAX_BYTES, OPERATORS, OperatorName
from robustlens.spectra.coverage import Survey, in_words
from robustlens.spectra.folded import Folding
from robustlens.spectra.layers import Layer, blank
from robustlens.spectra.summary import summarize
from robustlens.spectra.values import finite, for_each_layer, singular_values

FOLDED = "folded/"
"""Begins the keys of arrays in which BatchNorm is folded into its layer."""


def measure_spectrum(
    subject: Subject,
    *,
    operator: OperatorName = "circular",
    batch_norm: Literal["apart", "fold"] = "apart",
    max_bytes: Count = MAX_BYTES,
) -> Measurement:
    """Singular values of every layer, at the feature-map sizes of the test images.

    Matrices are in "layers", the factors of each BatchNorm in "scales", and the other parts of the network
    that have weights in "uncovered", by name.

    Args:
        subject: the network.
        operator: which matrix a convolution stands for, "circular" or "zero".
        batch_norm: "apart", or "fold": beside the layers as they are ("layers"), those into which a BatchNorm
            is folded, in the same form ("folded"; their arrays are "folded/<layer>").
        max_bytes: as in `spectrum`.

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
        lambda layer: singular_values(layer, operator, max_bytes=max_bytes),
        subject.progress,
    )
    summaries = {"layers": _summaries(layers, values), "scales": _summaries(scales, values)}
    if fold:
        summaries["folded"] = _summaries(with_norm, values, FOLDED)
    conditions = {"operator": operator, "batch_norm": batch_norm}
    return Measurement(
        {**conditions, **summaries, "uncovered": plain(survey.uncovered)},
        unit="singular value",
        what=f"Singular values of each layer, {OPERATORS[operator]} at its borders, "
        f"BatchNorm {'folded too' if fold else 'not folded'}."
        + (f" Not covered: {in_words(survey.uncovered)}." if survey.uncovered else ""),
        source="Wen, Li and Jia 2020 (variance of singular values); Sedghi, Gupta and Long 2019 (circular)",
        conditions=conditions,
        arrays=values,
    )


def _summaries(
    layers: Mapping[str, Layer], values: Mapping[str, np.ndarray], prefix: str = ""
) -> dict[str, dict[str, Any]]:
    return {name: summarize(values[prefix + name]) | {"shape": str(layer)} for name, layer in layers.items()}
