"""Explanations as files keep them: `explanation.json` and its arrays."""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from robustlens.results.values import Arrays, Number, Provenance, ThreatRecord


@dataclass(frozen=True)
class Measurement:
    """One thing that is known about a network.

    Attributes:
        value: numbers by name, nested if need be. unit: of these numbers.
        what: one sentence. source: paper and figure or equation, and where we differ.
        conditions: how it was measured (eps, steps ...): only measurements under equal conditions compare.
        seconds: that it took.
        arrays: the raw values behind the numbers, for plots and for the claims.
    """

    value: Mapping[str, Any]
    unit: str
    what: str
    source: str
    conditions: Mapping[str, Any] = field(default_factory=dict)
    seconds: Number = 0.0
    arrays: Arrays = field(default_factory=dict, compare=False, repr=False)

    def at(self, *path: str) -> Any:
        """The content at `path` of the value, or None where there is nothing."""
        inner: Any = self.value
        for key in path:
            inner = inner.get(key) if isinstance(inner, Mapping) else None
        return inner

    def number(self, *path: str) -> float | None:
        """The number at `path` of the value, or None where there is none."""
        inner = self.at(*path)
        is_number = isinstance(inner, int | float) and not isinstance(inner, bool)
        return float(inner) if is_number else None

    def as_called(self, layers: Iterable[str], kind: str = "") -> list[str]:
        """Names of layers in the order in which the network calls them, as the value has it.

        A file has its arrays by name, "10" before "2". What the value does not name comes last, as given.

        Args:
            layers: as the arrays of `kind` name them.
            kind: begins the keys of these arrays, if the measure has several kinds: "train/pre-activation".
        """
        numbers = self.at(*kind.split("/")) or self.at("layers") or {}
        called = {name: place for place, name in enumerate(numbers)}
        return sorted(layers, key=lambda name: called.get(name, len(called)))


LARGEST_ERROR = 0.01
"""Largest relative error of a layer's std, where it is estimated, with which claims take it."""


def density_error(layer: Mapping[str, Any]) -> float | None:
    """Relative error of the std of a layer's singular values; None where they are all known.

    The error is that of a density, the half width of its 95 % interval.
    """
    errors = layer.get("error")
    if not isinstance(errors, Mapping):
        return None
    std, error = layer.get("std"), errors.get("std")
    return float(error) / float(std) if std and error is not None else math.inf


def leaves_batch_norm_out(spectrum: Measurement) -> bool:
    """Whether the network has BatchNorms that the measure `spectrum` could fold into layers, and did not.

    The largest singular values of such layers have an arbitrary scale, which the BatchNorms take out again.
    """
    foldable = set(spectrum.at("scales") or ()) - set(spectrum.at("unfolded") or ())
    return bool(foldable) and not spectrum.at("folded")


def log_gain(spectrum: Measurement) -> float | None:
    """Logarithm of the product of all layers' largest singular values, as the measure `spectrum` has them.

    They are those of the feature maps, with BatchNorm folded in where a layer has one. A BatchNorm that is in
    no layer counts as one, and each as often as it runs in a pass; files of older versions tell neither. The
    product bounds how fast a plain feed-forward network changes its logits; beside shortcuts it is a scale.

    Returns:
        None where BatchNorms are left out, or a layer has no largest singular value above zero.
    """
    folded = spectrum.at("folded") or {}
    places = [("folded" if name in folded else "layers", name) for name in spectrum.at("layers") or ()]
    places += [("scales", name) for name in spectrum.at("unfolded") or ()]
    gains = {name: spectrum.number(kind, name, "max") or 0.0 for kind, name in places}
    if leaves_batch_norm_out(spectrum) or min(gains.values(), default=0.0) <= 0:
        return None
    return sum((spectrum.number("calls", name) or 1.0) * math.log(gain) for name, gain in gains.items())


@dataclass(frozen=True)
class ExplanationResult:
    """Everything that was measured of one checkpoint, on the same images."""

    provenance: Provenance
    threat: ThreatRecord
    measures: Mapping[str, Measurement]

    @property
    def is_complete(self) -> bool:
        """Whether every measure of its plan is there; the others were not reached when it was stopped."""
        return all(name in self.measures for name in self.provenance.plan.get("measures", ()))
