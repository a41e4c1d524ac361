"""Tensors by name: whether they fit a network, and putting them into it."""

from collections.abc import Mapping

from torch import Tensor, nn

from robustlens.errors import ModelError


def faults(tensors: Mapping[str, Tensor], wanted: Mapping[str, Tensor]) -> list[str]:
    """Reasons why `tensors` cannot take the places of `wanted`: a phrase for each, none if they fit.

    Half precision and double precision fit, for they are converted; integers do not.
    """
    missing = [f"has no tensor {key!r}" for key in wanted if key not in tensors]
    unexpected = [f"has an unexpected tensor {key!r}" for key in tensors if key not in wanted]
    unfit = []
    for key in [key for key in wanted if key in tensors]:
        ours, theirs = wanted[key], tensors[key]
        if ours.shape != theirs.shape:
            unfit.append(f"tensor {key!r} has shape {tuple(theirs.shape)}, expected {tuple(ours.shape)}")
        elif ours.is_floating_point() != theirs.is_floating_point():
            unfit.append(f"tensor {key!r} holds {theirs.dtype}, expected {ours.dtype}")
    return missing + unexpected + unfit


def in_words(phrases: list[str]) -> str:
    """The first of some faults, and how many more there are."""
    return phrases[0] + (f" (and {len(phrases) - 1} more)" if len(phrases) > 1 else "")


def fill(model: nn.Module, tensors: Mapping[str, Tensor], where: object) -> None:
    """Copy `tensors` into `model`; every tensor must be there and fit.

    Raises:
        ModelError: one is missing, unexpected, or of another shape or kind; the line starts with `where`. The
            model is then unchanged.
    """
    wanted = model.state_dict()
    phrases = faults(tensors, wanted)
    if phrases:
        raise ModelError(f"{where}: {in_words(phrases)}; expected the {len(wanted)} tensors of its network")
    model.load_state_dict(dict(tensors))
