"""Tensors of a file matched with networks, by their names and shapes."""

from collections import OrderedDict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from re import escape, fullmatch
from typing import Any

import torch
from torch import Tensor, nn

from robustlens.errors import ModelError
from robustlens.models import registry
from robustlens.models.checkpoints import is_counter, state_dicts
from robustlens.models.layouts import (
    AMBIGUOUS,
    LAYOUTS,
    NORMALISATIONS,
    UNSUPPORTED,
    Layout,
    options_from_tensors,
)
from robustlens.models.tensors import faults, in_words

_FACTORY = "build it in a function of yours and name that: architecture='package.module:factory'"

Statistics = tuple[list[float], list[float]]
"""Mean and standard deviation of the images, channel by channel."""


@dataclass(frozen=True)
class Fit:
    """Tensors of a file, matched with a network.

    Attributes:
        place: of the tensors in the file: keys around them, and the prefix of their names.
        name: the architecture.
        options: of the architecture; those that were not given follow from names and shapes.
        tensors: those of the network, by its own names.
        statistics: mean and standard deviation of the images, from tensors beside them.
        faults: reasons why they do not fit, a phrase for each tensor.
    """

    place: str
    name: str
    options: dict[str, Any]
    tensors: dict[str, Tensor]
    statistics: list[Statistics]
    faults: list[str]


def fits_of_ours(
    names: Sequence[str], given: Mapping[str, Any], content: object, entry: str | None
) -> Iterator[Fit]:
    """Fits of the tensors of a file to architectures of ours."""
    for layout in LAYOUTS.values():
        for place, mine, beside in _networks(layout, content, entry):
            for name in layout.architectures:
                options = _shape(mine) | options_from_tensors(name, mine) | dict(given)
                expected = _outline(name, options) if name in names else None
                if expected is not None:
                    fit = _fit(place, name, options, expected, mine, beside)
                    yield fit
                    if not fit.faults:
                        break


def fits_of_factory(model: nn.Module, name: str, content: object, entry: str | None) -> Iterator[Fit]:
    """Fits of the tensors of a file to `model`, which the factory `name` made."""
    expected = _without_counters(model)
    if not expected:
        raise ModelError(f"model {name!r}: has no tensors that a file could fill")
    layout = Layout((name,), escape(list(expected)[-1]))
    for place, mine, beside in _networks(layout, content, entry):
        yield _fit(place, name, {}, expected, mine, beside)


def _networks(
    layout: Layout, content: object, entry: str | None
) -> Iterator[tuple[str, dict[str, Tensor], dict[str, Tensor]]]:
    """Each place where a network may be, its tensors by our names, and the tensors beside it by theirs."""
    for where, tensors in state_dicts(content):
        prefixes = layout.prefixes(tensors)
        for prefix in prefixes:
            place = (where + prefix).strip(".")
            if entry is not None and entry not in (place, *place.split(".")):
                continue
            # Another network in the same state dict may be half of this one, unless the user has named one.
            others = tuple(other for other in prefixes if entry is not None and not prefix.startswith(other))
            mine, beside = {}, {}
            for key, tensor in tensors.items():
                if key.startswith(prefix):
                    name = layout.ours(key.removeprefix(prefix))
                    if name is not None:
                        mine[name] = tensor
                elif not key.startswith(others):
                    beside[key] = tensor
            yield place, mine, beside


def _outline(name: str, options: Mapping[str, Any]) -> dict[str, Tensor] | None:
    """The tensors of an architecture, without their values; None if it cannot be built with these options."""
    try:
        with torch.device("meta"):
            return _without_counters(nn.Sequential(OrderedDict(registry.layers_of(name, **options))))
    except ModelError:
        return None


def check_options(name: str | None, options: Mapping[str, Any]) -> None:
    """Refuse an architecture or options that do not exist, which would look as if no tensors fitted."""
    for option, values in AMBIGUOUS.values():
        if option in options and options[option] not in values:
            raise ModelError(f"model: found {option}={options[option]!r}, expected one of {values}")
    if name is not None:
        with torch.device("meta"):
            registry.layers_of(name, **{"num_classes": 2, "in_channels": 3} | dict(options))


def _shape(mine: Mapping[str, Tensor]) -> dict[str, int]:
    """Classes and channels of a network with these tensors, as far as they follow from them."""
    heads = [mine[key] for key in ("linear2.weight", "linear.weight") if key in mine]
    filters = [tensor for tensor in mine.values() if tensor.ndim == 4]
    classes = {"num_classes": len(heads[0])} if heads else {}
    return classes | ({"in_channels": filters[0].shape[1]} if filters else {})


def _fit(
    place: str,
    name: str,
    options: dict[str, Any],
    expected: Mapping[str, Tensor],
    mine: dict[str, Tensor],
    beside: dict[str, Tensor],
) -> Fit:
    matched = {key: tensor for key, tensor in mine.items() if key in expected}
    rest = beside | {key: tensor for key, tensor in mine.items() if key not in expected}
    statistics = list(_pop_statistics(rest))
    return Fit(place, name, options, matched, statistics, faults(matched | rest, expected))


def _pop_statistics(rest: dict[str, Tensor]) -> Iterator[Statistics]:
    """Statistics of the images among tensors that belong to no layer; removed from `rest`."""
    for key in list(rest):
        stem, dot, last = key.rpartition(".")
        for mean, std in NORMALISATIONS:
            partner = f"{stem}{dot}{std}"
            if last == mean and key in rest and partner in rest:
                yield (rest.pop(key).float().flatten().tolist(), rest.pop(partner).float().flatten().tolist())


def _without_counters(model: nn.Module) -> dict[str, Tensor]:
    return {key: tensor for key, tensor in model.state_dict().items() if not is_counter(key, tensor)}


def only_fit(path: Path, fits: list[Fit], content: object, candidates: str) -> Fit:
    """The fit without faults, if there is one alone; otherwise a `ModelError` that says why not."""
    good = {fit.place: fit for fit in fits if not fit.faults}
    if not good:
        raise ModelError(f"{path}: {_reason(fits, content, candidates)}")
    first, *others = good.values()
    broken = [key for key, tensor in first.tensors.items() if not bool(tensor.isfinite().all())]
    if broken:
        raise ModelError(f"{path}: tensor {broken[0]!r} holds NaN or infinite values; take another copy")
    if not all(_equal(first, other) for other in others):
        places = ", ".join(repr(place) for place in good)
        raise ModelError(
            f"{path}: holds {len(good)} networks, {places}; say which with entry, e.g. entry={first.place!r}"
        )
    return first


def _equal(fit: Fit, other: Fit) -> bool:
    """Whether two fits are the same network, twice in the file."""
    same = (fit.name, fit.options, fit.statistics) == (other.name, other.options, other.statistics)
    return same and all(torch.equal(tensor, other.tensors[key]) for key, tensor in fit.tensors.items())


def _reason(fits: list[Fit], content: object, candidates: str) -> str:
    """Reason why nothing in a file fits."""
    names = [name for _, tensors in state_dicts(content) for name in tensors]
    if not names:
        return f"holds {type(content).__name__} without tensors by name, expected a state dict"
    for pattern, unsupported in UNSUPPORTED.items():
        if any(fullmatch(pattern, name) for name in names):
            return f"holds {unsupported}, which is not among our architectures; {_FACTORY}"
    if not fits:
        shown = f"{len(names)} tensors ({names[0]!r}, ...)"
        return f"its {shown} are named as in none of {candidates}; {_FACTORY}"
    nearest = min(fits, key=lambda fit: len(fit.faults))
    reason = f"fits none of {candidates}; nearest is {nearest.name}: {in_words(nearest.faults)}"
    places = {fit.place: None for fit in fits}
    if len(places) > 1:
        return f"{reason}; name one of {', '.join(map(repr, places))} with entry if it holds several networks"
    return f"{reason}; {_FACTORY}"
