"""Networks from weights that others wrote, and that do not say what network they are of.

Names and shapes of the tensors are matched against our architectures (`fits`). Neither decides how images
were normalised, nor which of several forward passes uses these tensors. The running statistics may (see
`batch_norm`); where they do not, the user has to. Nothing is guessed.
"""

from collections import OrderedDict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from robustlens.errors import ModelError
from robustlens.factories import is_factory
from robustlens.models import batch_norm, external, registry
from robustlens.models.fits import Fit, Statistics, check_options, fits_of_factory, fits_of_ours, only_fit
from robustlens.models.layouts import ambiguous_option
from robustlens.models.normalize import Normalize
from robustlens.models.tensors import make_writable

_FAR = 0.2  # in running standard deviations: beyond it, running statistics do not follow from the weights
_APART = 1.5  # how much farther from them another form of the network must be
_SAME = 0.01  # layers that differ by less between forms are no evidence
_PIXELS = (0.1, 1.0)  # mean of a channel of images in [0, 1]; normalised ones are near 0, or below


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
        content: of the file: mappings of names to tensors, however nested.
        architecture: one of `MODELS`, or "package.module:factory"; None for the one of `MODELS` that fits.
        entry: which network, where the file holds several: a key around it, or a part of its prefix.
        mean: of the images, one value per channel in pixel units, where the file has none.
        std: standard deviation of the images, likewise.
        options: of the architecture, where the file leaves them open (`raw_shortcut`); of the factory.

    Raises:
        ModelError: no network fits or several do, or neither file nor options decide something about it.
    """
    at = "" if entry is None else f" at entry {entry!r}"
    if architecture is not None and is_factory(architecture):
        model = external.build(architecture, optional={}, options=options)
        fit = only_fit(
            path, list(fits_of_factory(model, architecture, content, entry)), content, architecture + at
        )
        make_writable(model)
        model.load_state_dict(fit.tensors, strict=False)  # all but counters are there: the fit has no faults
        statistics = _statistics(path, fit, mean, std)
        if statistics is None:
            return model
        return nn.Sequential(OrderedDict(normalize=Normalize(*statistics), model=model))
    check_options(architecture, options)
    names = list(registry.MODELS) if architecture is None else [architecture]
    fits = list(fits_of_ours(names, options, content, entry))
    fit = only_fit(path, fits, content, ", ".join(names) + at)
    statistics = _statistics(path, fit, mean, std)
    model = _disambiguated(path, fit, statistics)
    if statistics is None:
        _check_pixels(path, fit, model)
    return model


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
    if known and any(value > 1 for value in known[0][0]):
        raise ModelError(
            f"{path}: found mean {known[0][0]} of the images, expected that of pixels in [0, 1]; if it is of "
            "0 to 255, divide it and the std by 255"
        )
    return known[0] if known else None


def _close(pair: Statistics, other: Statistics) -> bool:
    """Whether two pairs are the same to the digits that people write."""
    flat = [*pair[0], *pair[1]], [*other[0], *other[1]]
    return len(flat[0]) == len(flat[1]) and all(abs(a - b) < 1e-3 for a, b in zip(*flat, strict=True))


def _disambiguated(path: Path, fit: Fit, statistics: Statistics | None) -> nn.Module:
    """The network of a fit, in the form from which its running statistics come."""
    option, values = ambiguous_option(fit.name)
    if not option or option in fit.options:
        return _built(path, fit, statistics)
    forms = [_built(path, fit, statistics, **{option: value}) for value in values]
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


def _built(path: Path, fit: Fit, statistics: Statistics | None, **more: Any) -> nn.Module:
    mean, std = statistics or (None, None)
    try:
        model = registry.get(fit.name, mean=mean, std=std, **fit.options, **more)
    except ModelError as error:
        raise ModelError(f"{path}: {error}") from error
    model.load_state_dict(fit.tensors, strict=False)  # normalisation is in place, counters are not used
    return model
