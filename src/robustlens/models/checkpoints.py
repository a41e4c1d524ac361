"""Files of torch.save, of which tensors and plain values are read and nothing is run."""

import pickle
import re
import warnings
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path

import torch
from torch import Tensor

from robustlens.errors import ModelError, out_of_memory
from robustlens.machine import memory
from robustlens.registry import one_line

SUFFIXES = (".pt", ".pth", ".ckpt", ".bin", ".tar", ".th")
"""Endings of files of torch.save."""

_DEEPEST = 50  # mappings in mappings; a mapping that holds itself is deeper
_MOST = 100_000  # mappings, each counted as often as it is met; the state of an optimizer has one a tensor
_WRITE = "torch.save(model.state_dict(), 'weights.pt')"


def read(path: Path) -> object:
    """The content of a file of torch.save, tensors on the CPU.

    Raises:
        ModelError: the file is absent, damaged, no checkpoint, or holds objects beside tensors and plain
            values; these would have to run code to be read. Mappings hold themselves; a tensor by name is
            sparse, quantised, nested or without values.
    """
    if not path.is_file():
        raise ModelError(f"{path}: no such file, expected a checkpoint that torch.save wrote")
    _check_archive(path)
    try:
        with warnings.catch_warnings():  # torch warns of what it refuses next; the refusal says more
            warnings.simplefilter("ignore")
            content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # damage can make it raise anything
        if out_of_memory(error):
            raise
        raise ModelError(f"{path}: {_diagnosis(path, error)}") from error
    _check_content(path, content)
    return content


def state_dicts(content: object, place: str = "") -> Iterator[tuple[str, dict[str, Tensor]]]:
    """Each mapping of names to tensors in nested mappings, and its place ("state_dict."); no counters."""
    if not isinstance(content, Mapping):
        return
    tensors = {
        key: value.detach()
        for key, value in content.items()
        if isinstance(key, str) and isinstance(value, Tensor) and not is_counter(key, value)
    }
    if tensors:
        yield place, tensors
    for key, value in content.items():
        yield from state_dicts(value, f"{place}{key}.")


def is_counter(name: str, tensor: Tensor) -> bool:
    """Whether a tensor is a count, as `num_batches_tracked` and `n_averaged`, which eval mode never reads."""
    return name.endswith("num_batches_tracked") or (tensor.ndim == 0 and not tensor.is_floating_point())


def _check_archive(path: Path) -> None:
    """Refuse an archive in which a byte has changed: torch.load would not notice."""
    if not zipfile.is_zipfile(path):
        return
    try:
        with zipfile.ZipFile(path) as archive:
            size = sum(member.file_size for member in archive.infolist())
            if size > memory() // 2:
                raise ModelError(
                    f"{path}: holds {size / 1e9:.3g} GB unpacked, expected at most half of the memory here"
                )
            bad = archive.testzip()
    except ModelError:
        raise
    except Exception as error:  # damage can make it raise anything
        raise ModelError(f"{path}: damaged ({one_line(error)}); take another copy") from error
    if bad is not None:
        raise ModelError(f"{path}: damaged, {bad!r} in it does not have its checksum; take another copy")


def _check_content(path: Path, content: object) -> None:
    """Refuse mappings of which there is no end, and tensors that a network cannot take."""
    levels = [(0, content)]
    seen = 0
    while levels:
        depth, level = levels.pop()
        if not isinstance(level, Mapping):
            continue
        seen += 1
        if depth > _DEEPEST or seen > _MOST:
            raise ModelError(
                f"{path}: holds mappings in itself, or more than {_DEEPEST} deep; "
                f"write the weights alone: {_WRITE}"
            )
        levels += [(depth + 1, value) for value in level.values()]
        for key, value in level.items():
            kind = _kind(value) if isinstance(value, Tensor) and isinstance(key, str) else None
            if kind is not None:
                raise ModelError(
                    f"{path}: tensor {key!r} is {kind}, expected dense weights; write these: {_WRITE}"
                )


def _kind(tensor: Tensor) -> str | None:
    """A word for a tensor without plain values, or None."""
    if tensor.is_nested:
        return "nested"
    if tensor.is_quantized:
        return "quantised"
    if tensor.is_meta:
        return "without values, on the meta device"
    return None if tensor.layout is torch.strided else "sparse"


def _diagnosis(path: Path, error: Exception) -> str:
    """The kind of a file that torch.load refuses, and the fix."""
    message = str(error)
    objects = _objects(path, message)
    if objects:
        return (
            f"holds {', '.join(objects)}, for which code would have to run; if you trust it, load it "
            f"where that code is and write the weights alone: {_WRITE}"
        )
    for sign, kind in (("TorchScript", "a TorchScript archive"), ("legacy .tar", "in torch's oldest format")):
        if sign in message:
            return f"is {kind}, found no state dict; load it in torch and write its weights: {_WRITE}"
    with path.open("rb") as file:
        start = file.read(16)
    if isinstance(error, pickle.UnpicklingError) or not start:
        return f"is no checkpoint of torch.save, it starts with {start!r}; take another copy"
    return f"truncated or damaged, cannot be read ({one_line(error)}); take another copy"


def _objects(path: Path, message: str) -> list[str]:
    """Names of the objects in a file that are neither tensors nor plain values."""
    try:
        return sorted(torch.serialization.get_unsafe_globals_in_checkpoint(path))
    except Exception:  # it reads archives only; of other files the message names the first object
        return re.findall(r"GLOBAL (\S+) (?:was not an allowed|whose module)", message)
