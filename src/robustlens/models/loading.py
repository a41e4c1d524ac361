"""Networks with weights: from run folders, safetensors files, factories and other libraries.

Weights are safetensors, never pickle. A file says in its metadata how to build its network (see `describe`),
so that a bare file can be loaded too.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save as save_tensors
from torch import Tensor, nn

from robustlens.errors import ModelError
from robustlens.models import external
from robustlens.models.registry import MODELS, build_from

_KEY = "robustlens"  # of the file's metadata
_ACCEPTED = "a run folder, weights.safetensors, package.module:factory, hf:NAME or timm:NAME"


def load(
    spec: str | Path,
    *,
    checkpoint: str | None = None,
    trust_code: bool = False,
    **options: Any,
) -> nn.Module:
    """A network with its weights, in eval mode, on the CPU.

    Args:
        spec: a run folder; a weights file that robustlens wrote; "package.module:factory"; "hf:NAME" (an
            image classifier of transformers, hub name or folder); "timm:NAME".
        checkpoint: which weights of a run folder: "best" on validation, "last", or None for the best
            where there is one and the last otherwise.
        trust_code: allow a weights file whose network was made by a "package.module:factory" to import and
            call it. Off by default: a file may come from anyone, and its metadata may name any function.
        options: for factories, transformers and timm: arguments of the call.

    Raises:
        ModelError: unknown kind of `spec`; a file that is missing, truncated, or does not fit its network
            (the file and the first tensor are named); a missing library.
    """
    text = str(spec)
    path = Path(spec)
    if text.startswith("hf:"):
        return external.hugging_face(text.removeprefix("hf:"), **options).eval()
    if text.startswith("timm:"):
        return external.timm(text.removeprefix("timm:"), **options).eval()
    if external.is_factory(text):
        return external.build(text, optional={}, options=options).eval()
    if options:
        raise ModelError(
            f"model {text!r}: found the option {next(iter(options))!r}, which only factories take"
        )
    if path.is_dir():
        return _from_file(_checkpoint(path, checkpoint), trust_code)
    if path.suffix == ".safetensors":
        return _from_file(path, trust_code)
    raise ModelError(f"model {text!r}: {_what_is(path)}; expected {_ACCEPTED}")


def load_weights(model: nn.Module, path: str | Path) -> None:
    """Copy the weights in a safetensors file into `model`; every tensor must be there and fit.

    Raises:
        ModelError: the file cannot be read, or a tensor is missing, unexpected or of another shape. The
            model is then unchanged.
    """
    path = Path(path)
    _fill(model, _read(path)[0], path)


def to_bytes(model: nn.Module | Mapping[str, Tensor], description: Mapping[str, Any]) -> bytes:
    """A weights file, to be written as a whole: all parameters and buffers, and how to build the network.

    Args:
        model: the network, or its state dict.
        description: as from `describe`; plain values that JSON can hold.
    """
    state = model.state_dict() if isinstance(model, nn.Module) else model
    # A copy each: safetensors refuses tensors that share memory or are not contiguous (channels_last).
    tensors = {
        key: tensor.detach().to("cpu", copy=True, memory_format=torch.contiguous_format)
        for key, tensor in state.items()
    }
    return save_tensors(tensors, metadata={_KEY: json.dumps({"model": dict(description)})})


def _what_is(path: Path) -> str:
    """What a spec that cannot be loaded seems to be."""
    if str(path) in MODELS:
        return "this is an architecture, which has no weights (models.get builds it)"
    if path.suffix in (".pt", ".pth", ".ckpt", ".bin"):
        return "pickled checkpoints are not read; build the model and load its state dict in a factory"
    return "a file of unknown kind" if path.exists() else "no such file or folder"


def _checkpoint(folder: Path, checkpoint: str | None) -> Path:
    """The weights file of a run folder."""
    if checkpoint not in ("best", "last", None):
        raise ModelError(f"checkpoint: found {checkpoint!r}, expected 'best' or 'last'")
    names = ("best", "last") if checkpoint is None else (checkpoint,)
    for name in names:
        file = folder / f"{name}.safetensors"
        if file.is_file():
            return file
    expected = " or ".join(f"{name}.safetensors" for name in names)
    raise ModelError(
        f"{folder}: found no {expected}, expected a run that has finished an epoch; train it first"
    )


def _from_file(path: Path, trust_code: bool) -> nn.Module:
    state, metadata = _read(path)
    try:
        description = json.loads(metadata[_KEY])["model"]
        name = description["name"]
    except (KeyError, TypeError, ValueError) as error:
        raise ModelError(
            f"{path}: found no metadata {_KEY!r} with a model, expected weights that robustlens wrote; "
            "for others, build the model and load its state dict in a factory, package.module:factory"
        ) from error
    if external.is_factory(str(name)) and not trust_code:
        raise ModelError(
            f"{path}: its network is made by {name!r}, code from outside this file; "
            "load it with trust_code=True if you trust both"
        )
    try:
        model = build_from(description)
    except ModelError as error:
        raise ModelError(f"{path}: {error}") from error
    _fill(model, state, path)
    return model.eval()


def _read(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Tensors and metadata of a safetensors file."""
    if not path.is_file():
        raise ModelError(f"{path}: no such file, expected weights in safetensors format")
    try:
        with safe_open(path, framework="pt") as file:
            return {key: file.get_tensor(key) for key in file.keys()}, file.metadata() or {}  # noqa: SIM118
    except (SafetensorError, OSError, ValueError) as error:
        raise ModelError(
            f"{path}: truncated or damaged, cannot be read as safetensors ({external.one_line(error)}); "
            "take another copy, or train again"
        ) from error


def _fill(model: nn.Module, state: Mapping[str, Tensor], path: Path) -> None:
    """Copy `state` into `model`, or say which tensor does not fit."""
    wanted = model.state_dict()
    missing = [key for key in wanted if key not in state]
    unexpected = [key for key in state if key not in wanted]
    if missing or unexpected:
        kind, keys = ("has no", missing) if missing else ("has an unexpected", unexpected)
        more = f" (and {len(keys) - 1} more)" if len(keys) > 1 else ""
        raise ModelError(
            f"{path}: {kind} tensor {keys[0]!r}{more}; expected the {len(wanted)} tensors of its network"
        )
    for key, tensor in wanted.items():
        if state[key].shape != tensor.shape:
            found, expected = tuple(state[key].shape), tuple(tensor.shape)
            raise ModelError(f"{path}: tensor {key!r} has shape {found}, expected {expected}")
    model.load_state_dict(dict(state))
