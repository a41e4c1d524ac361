"""The spectra of a network as a measure."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from robustlens.errors import ConfigError
from robustlens.explain.measure import Measurement, Subject
from robustlens.spectra.convolution import MAX_BYTES, OPERATORS, check_operator
from robustlens.spectra.folded import folded
from robustlens.spectra.layers import Layer, blank
from robustlens.spectra.summary import summarize
from robustlens.spectra.values import each, select, singular_values

FOLDED = "folded/"
"""Begins the keys of arrays in which BatchNorm is folded into its layer."""


def measure_spectrum(
    subject: Subject, *, operator: str = "circular", batch_norm: str = "apart", max_bytes: int = MAX_BYTES
) -> Measurement:
    """Singular values of every layer, at the feature-map sizes of the test images.

    Args:
        subject: the network.
        operator: which matrix a convolution stands for, "circular" or "zero".
        batch_norm: "apart", or "fold": beside the layers as they are ("layers"), those into which a BatchNorm
            is folded, in the same form ("folded"; their arrays are "folded/<layer>").
        max_bytes: as in `spectrum`.

    Raises:
        ConfigError: as `spectrum`; unknown `batch_norm`.
    """
    check_operator(operator)
    if batch_norm not in ("apart", "fold"):
        raise ConfigError(f"spectrum.batch_norm: found {batch_norm!r}, expected 'apart' or 'fold'")
    model, shape = subject.model, subject.test.images.shape[1:]
    layers = select(model, shape)
    with_norm = folded(model, layers, blank(model, shape)) if batch_norm == "fold" else {}
    jobs = layers | {FOLDED + name: layer for name, layer in with_norm.items()}
    found = each(jobs, lambda layer: singular_values(layer, operator, max_bytes=max_bytes), subject.listen)
    value = {"operator": operator, "batch_norm": batch_norm, "layers": _summaries(layers, found)}
    if batch_norm == "fold":
        value["folded"] = _summaries(with_norm, found, FOLDED)
    how = "folded too" if batch_norm == "fold" else "not folded"
    return Measurement(
        value,
        unit="singular value",
        what=f"Singular values of each layer, {OPERATORS[operator]} at its borders, BatchNorm {how}.",
        source="Wen, Li and Jia 2020 (variance of singular values); Sedghi, Gupta and Long 2019 (circular)",
        arrays=found,
    )


def _summaries(
    layers: Mapping[str, Layer], found: Mapping[str, np.ndarray], prefix: str = ""
) -> dict[str, dict[str, Any]]:
    return {name: summarize(found[prefix + name]) | {"shape": str(layer)} for name, layer in layers.items()}
