"""Networks from weights that others wrote, and that do not say what network they are of.

Names and shapes of the tensors are matched against our architectures through `layouts`. Some things neither
tells: how images were normalised, and which of several forward passes uses these tensors. The running
statistics may (see `batch_norm`); where they do not, the user has to. Nothing is guessed.
"""

from collections import OrderedDict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from re import escape, fullmatch
from typing import Any

import torch
from torch import Tensor, nn

from robustlens.errors import ModelError
from robustlens.models import batch_norm, external, registry
from robustlens.models.checkpoints import is_counter, state_dicts
from robustlens.models.layouts import LAYOUTS, NORMALISATIONS, UNSUPPORTED, UNTOLD, Layout, told, untold
from robustlens.models.normalize import Normalize
from robustlens.models.tensors import faults, in_words

_FACTORY = "build it in a function of yours and name that: architecture='package.module:factory'"
_FAR = 0.2  # in running standard deviations: beyond it, running statistics do not follow from the weights
_APART = 1.5  # how much farther from them another form of the network must be
_SAME = 0.01  # layers that differ by less between forms tell nothing
_PIXELS = (0.1, 1.0)  # mean of a channel of images in [0, 1]; normalised ones are near 0, or below

Statistics = tuple[list[float], list[float]]
"""Mean and standard deviation of the images, channel by channel."""


@dataclass(frozen=True)
class Fit:
    """Tensors of a file, and how they fit a network.

    Attributes:
        place: where in the file they are: keys around them, and what stands before their names.
        name: the architecture.
        options: of the architecture; what was not given is as names and shapes tell.
        tensors: those of the network, by its own names.
        statistics: mean and standard deviation of the images, found beside them.
        faults: why they do not fit, a phrase for each tensor.
    """

    place: str
    name: str
    options: dict[str, Any]
    tensors: dict[str, Tensor]
    statistics: list[Statistics]
    faults: list[str]


def build(
    path: Path,
    content: object,
    /,
    architecture: str | None = None,
    entry: str | None = None,
    *,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
    **options: Any,
) -> nn.Module:
    """The network whose tensors are in `content`, and these in it, as float32.

    Args:
        path: of the file, for messages.
        content: what the file holds: mappings of names to tensors, however nested.
        architecture: one of `MODELS`, or "package.module:factory"; None for the one of `MODELS` that fits.
        entry: which network, where the file holds several: a key around it, or a part of its prefix.
        mean: of the images, one value per channel in pixel units, where the file does not hold it.
        std: standard deviation of the images, likewise.
        options: of the architecture, where the file does not tell (`raw_shortcut`); arguments of the factory.

    Raises:
        ModelError: no network fits or several do, or neither file nor options tell something about it.
    """
    at = "" if entry is None else f" at entry {entry!r}"
    if architecture is not None and external.is_factory(architecture):
        model = external.build(architecture, optional={}, options=options)
        fit = _only(path, list(_fits_of(model, architecture, content, entry)), content, architecture + at)
        model.load_state_dict(fit.tensors, strict=False)  # all but counters are there: the fit has no faults
        statistics = _statistics(path, fit, mean, std)
        if statistics is None:
            return model
        return nn.Sequential(OrderedDict(normalize=Normalize(*statistics), model=model))
    _check_options(architecture, options)
    names = list(registry.MODELS) if architecture is None else [architecture]
    fit = _only(path, list(_fits(names, options, content, entry)), content, ", ".join(names) + at)
    statistics = _statistics(path, fit, mean, std)
    model = _told_apart(path, fit, statistics)
    if statistics is None:
        _check_pixels(path, fit, model)
    return model


# -- which tensors, which network ----------------------------------------------------------------------------


def _fits(
    names: Sequence[str], given: Mapping[str, Any], content: object, entry: str | None
) -> Iterator[Fit]:
    """How tensors of the file fit architectures of ours."""
    for layout in LAYOUTS.values():
        for place, mine, beside in _networks(layout, content, entry):
            for name in layout.architectures:
                options = _shape(mine) | told(name, mine) | dict(given)
                wanted = _outline(name, options) if name in names else None
                if wanted is not None:
                    fit = _fit(place, name, options, wanted, mine, beside)
                    yield fit
                    if not fit.faults:
                        break


def _fits_of(model: nn.Module, name: str, content: object, entry: str | None) -> Iterator[Fit]:
    """How tensors of the file fit `model`, which the factory `name` made."""
    wanted = _without_counters(model)
    if not wanted:
        raise ModelError(f"model {name!r}: has no tensors that a file could fill")
    layout = Layout((name,), escape(list(wanted)[-1]))
    for place, mine, beside in _networks(layout, content, entry):
        yield _fit(place, name, {}, wanted, mine, beside)


def _networks(
    layout: Layout, content: object, entry: str | None
) -> Iterator[tuple[str, dict[str, Tensor], dict[str, Tensor]]]:
    """Each place where a network may be, its tensors by our names, and the tensors beside it by theirs."""
    for where, found in state_dicts(content):
        prefixes = layout.prefixes(found)
        for prefix in prefixes:
            place = (where + prefix).strip(".")
            if entry is not None and entry not in (place, *place.split(".")):
                continue
            # Another network in the same state dict may be half of this one, unless the user has named one.
            others = tuple(other for other in prefixes if entry is not None and not prefix.startswith(other))
            mine, beside = {}, {}
            for key, tensor in found.items():
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


def _check_options(name: str | None, options: Mapping[str, Any]) -> None:
    """Refuse an architecture or options that do not exist, which would look as if no tensors fitted."""
    for option, values in UNTOLD.values():
        if option in options and options[option] not in values:
            raise ModelError(f"model: found {option}={options[option]!r}, expected one of {values}")
    if name is not None:
        with torch.device("meta"):
            registry.layers_of(name, **{"num_classes": 2, "in_channels": 3} | dict(options))


def _shape(mine: Mapping[str, Tensor]) -> dict[str, int]:
    """Classes and channels of a network with these tensors, as far as they tell."""
    heads = [mine[key] for key in ("linear2.weight", "linear.weight") if key in mine]
    filters = [tensor for tensor in mine.values() if tensor.ndim == 4]
    classes = {"num_classes": len(heads[0])} if heads else {}
    return classes | ({"in_channels": filters[0].shape[1]} if filters else {})


def _fit(
    place: str,
    name: str,
    options: dict[str, Any],
    wanted: Mapping[str, Tensor],
    mine: dict[str, Tensor],
    beside: dict[str, Tensor],
) -> Fit:
    inside = {key: tensor for key, tensor in mine.items() if key in wanted}
    rest = beside | {key: tensor for key, tensor in mine.items() if key not in wanted}
    statistics = list(_taken_statistics(rest))
    return Fit(place, name, options, inside, statistics, faults(inside | rest, wanted))


def _taken_statistics(rest: dict[str, Tensor]) -> Iterator[Statistics]:
    """Statistics of the images among tensors that belong to no layer; they are taken out of `rest`."""
    for key in list(rest):
        stem, dot, last = key.rpartition(".")
        for mean, std in NORMALISATIONS:
            partner = f"{stem}{dot}{std}"
            if last == mean and key in rest and partner in rest:
                yield (
                    rest.pop(key).float().flatten().tolist(),
                    rest.pop(partner).float().flatten().tolist(),
                )


def _without_counters(model: nn.Module) -> dict[str, Tensor]:
    return {key: tensor for key, tensor in model.state_dict().items() if not is_counter(key, tensor)}


def _only(path: Path, found: list[Fit], content: object, looked_for: str) -> Fit:
    """The fit without faults, if there is one alone; otherwise what was found in its place."""
    good = {fit.place: fit for fit in found if not fit.faults}
    if not good:
        raise ModelError(f"{path}: {_why_none(found, content, looked_for)}")
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


def _why_none(found: list[Fit], content: object, looked_for: str) -> str:
    """Why nothing in a file fits."""
    names = [name for _, tensors in state_dicts(content) for name in tensors]
    if not names:
        return f"holds {type(content).__name__} without tensors by name, expected a state dict"
    for pattern, stranger in UNSUPPORTED.items():
        if any(fullmatch(pattern, name) for name in names):
            return f"holds {stranger}, which is not among our architectures; {_FACTORY}"
    if not found:
        shown = f"{len(names)} tensors ({names[0]!r}, ...)"
        return f"its {shown} are named as in none of {looked_for}; {_FACTORY}"
    nearest = min(found, key=lambda fit: len(fit.faults))
    what = f"fits none of {looked_for}; nearest is {nearest.name}: {in_words(nearest.faults)}"
    places = {fit.place: None for fit in found}
    if len(places) > 1:
        return f"{what}; name one of {', '.join(map(repr, places))} with entry if it holds several networks"
    return f"{what}; {_FACTORY}"


# -- what names and shapes do not tell -----------------------------------------------------------------------


def _statistics(
    path: Path, fit: Fit, mean: Sequence[float] | None, std: Sequence[float] | None
) -> Statistics | None:
    """Mean and standard deviation of the images, from the file or as given; None if they are in neither."""
    if (mean is None) != (std is None):
        raise ModelError(f"{path}: found {'std' if mean is None else 'mean'} alone, expected mean and std")
    known = list(fit.statistics)
    if mean is not None and std is not None:
        known.append((list(mean), list(std)))
    for other in known[1:]:
        if not _close(known[0], other):
            raise ModelError(
                f"{path}: found mean and std of the images twice, {known[0]} and {other}, expected one pair; "
                "leave out what the file holds"
            )
    return known[0] if known else None


def _close(pair: Statistics, other: Statistics) -> bool:
    """Whether two pairs are the same to the digits that people write."""
    flat = [*pair[0], *pair[1]], [*other[0], *other[1]]
    return len(flat[0]) == len(flat[1]) and all(abs(a - b) < 1e-3 for a, b in zip(*flat, strict=True))


def _told_apart(path: Path, fit: Fit, statistics: Statistics | None) -> nn.Module:
    """The network of a fit, in the form from which its running statistics come."""
    option, values = untold(fit.name)
    if not option or option in fit.options:
        return _made(path, fit, statistics)
    forms = [_made(path, fit, statistics, **{option: value}) for value in values]
    best = _clearly_nearest(forms, fit.options["in_channels"])
    if best is not None:
        return best
    choices = " or ".join(f"{option}={value!r}" for value in values)
    raise ModelError(
        f"{path}: its tensors fit {fit.name} with {choices}, and its running statistics do not tell which; "
        "give the one that it was trained with"
    )


def _clearly_nearest(forms: Sequence[nn.Module], channels: int) -> nn.Module | None:
    """The one of some forms of a network that its running statistics follow from, if one clearly is."""
    seen = batch_norm.image_mean(forms[0], channels)
    if seen is None:
        return None
    layers = torch.stack([batch_norm.disagreement(form, seen[0]) for form in forms])
    matters = layers.amax(0) - layers.amin(0) > _SAME
    distances = layers[:, matters].square().mean(1).sqrt().tolist()
    nearest, second = sorted(range(len(forms)), key=distances.__getitem__)[:2]
    clear = distances[nearest] < _FAR and distances[nearest] * _APART < distances[second]
    return forms[nearest] if clear else None


def _check_pixels(path: Path, fit: Fit, model: nn.Module) -> None:
    """Refuse a network of normalised images, for which `model` does not normalise."""
    seen = batch_norm.image_mean(model, fit.options["in_channels"])
    evidence = "and nothing in it tells whether they were normalised"
    if seen is not None and seen[1] < _FAR:
        if all(_PIXELS[0] < value < _PIXELS[1] for value in seen[0].tolist()):
            return
        shown = ", ".join(f"{value:.2f}" for value in seen[0].tolist())
        evidence = f"and its first BatchNorm has seen images of mean {shown}, which are no pixels in [0, 1]"
    channels = fit.options["in_channels"]
    raise ModelError(
        f"{path}: found no mean and std of the images, {evidence}; give mean=... and std=..., "
        f"or mean={[0] * channels} and std={[1] * channels} if it takes pixels as they are"
    )


def _made(path: Path, fit: Fit, statistics: Statistics | None, **more: Any) -> nn.Module:
    mean, std = statistics or (None, None)
    try:
        model = registry.get(fit.name, mean=mean, std=std, **fit.options, **more)
    except ModelError as error:
        raise ModelError(f"{path}: {error}") from error
    model.load_state_dict(fit.tensors, strict=False)  # normalisation is in place, counters are not used
    return model
