"""Networks with weights: from run folders, files of ours and of others, factories and other libraries.

Our weights are sealed safetensors, never pickle. A file says in its metadata how to build its network (see
`describe`), so that a bare file can be loaded too. `foreign` adds the facts that a file of others leaves out.
"""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save as save_tensors
from torch import Tensor, nn

from robustlens import hub
from robustlens.config import BEST, LAST, Checkpoint
from robustlens.config.names import code_in
from robustlens.errors import ConfigError, ModelError, StateError, out_of_memory
from robustlens.factories import is_factory
from robustlens.models import checkpoints, external, foreign, tensors
from robustlens.models.registry import MODELS, build_from
from robustlens.registry import one_line
from robustlens.results import Run, array_files, files

_ACCEPTED = "a run folder, a file of weights, package.module:factory, hf-run:owner/name, hf:NAME or timm:NAME"


def load(
    spec: str | os.PathLike[str],
    *,
    checkpoint: Checkpoint | str | None = None,
    trust_code: bool = False,
    architecture: str | None = None,
    entry: str | None = None,
    **options: Any,
) -> nn.Module:
    """A network with its weights, in eval mode, on the CPU.

    Args:
        spec: a run folder; a weights file that robustlens wrote; weights of others (`.safetensors`, or `.pt`,
            `.pth`, `.ckpt`, `.bin`, `.tar` of torch.save, of which no code is run); "package.module:factory";
            "hf-run:owner/name" (a run on the Hub, with @REVISION for a commit of it); "hf:NAME" (an image
            classifier of transformers, hub name or folder); "timm:NAME".
        checkpoint: which weights of a run folder: "best" on validation, "last", "epoch-0010" if it was kept,
            or None for the best where there is one and the last otherwise.
        trust_code: allow a weights file whose network was made by a "package.module:factory" to import and
            call it. Off by default: a file may come from anyone, and its metadata may name any function.
        architecture: the network that weights of others fill: one of `MODELS` or "package.module:factory".
            None to recognise it.
        entry: which network, where a file of others holds several: a key around it ("ema"), or a part of
            what stands before the names of its tensors ("student").
        options: for factories, transformers and timm: arguments of the call. For weights of others: `mean`
            and `std` of the images, and options of the architecture, where the file does not tell.

    Raises:
        ModelError: unknown kind of `spec`; a file that is missing, damaged, holds code, or does not fit its
            network or not one alone (the file and the first tensor are named); a missing library.
        StateError: the weights of a run folder are damaged or belong to another recipe; a file of ours does
            not have its seal, or a newer robustlens wrote it.
    """
    text, path = os.fspath(spec), Path(spec)
    if hub.is_hub_run(text):
        _refuse(text, {"architecture": architecture, "entry": entry} | options)
        return load(hub.fetch(text, checkpoint).folder, checkpoint=checkpoint, trust_code=trust_code)
    if text.startswith(("hf:", "timm:")) or is_factory(text):
        _refuse(text, {"architecture": architecture, "entry": entry})
        return _from_library(text, options).eval()
    if path.suffix in checkpoints.SUFFIXES and not path.is_dir():
        return foreign.build(path, checkpoints.read(path), architecture, entry, **options).eval()
    in_run = path.is_dir()
    if in_run:
        path = _checkpoint(path, checkpoint)
    if path.suffix != ".safetensors":
        raise ModelError(f"model {text!r}: {_unloadable(path)}; expected {_ACCEPTED}")
    state, header = _read_of_run(path) if in_run else _read(path)
    if header is None:
        return foreign.build(path, state, architecture, entry, **options).eval()
    _refuse(text, {"architecture": architecture, "entry": entry} | options)
    return _described(path, state, header, trust_code).eval()


def load_weights(model: nn.Module, path: str | Path) -> None:
    """Copy the weights in a safetensors file into `model`; every tensor must be there and fit.

    Raises:
        ModelError: the file cannot be read, or a tensor is missing, unexpected or of another shape.
        StateError: a file of ours does not have its seal. The model is then unchanged.
    """
    path = Path(path)
    tensors.fill(model, _read(path)[0], path)


def to_bytes(
    model: nn.Module | Mapping[str, Tensor], description: Mapping[str, Any], recipe: str = "", epoch: int = 0
) -> bytes:
    """A sealed weights file, to be written as a whole: all parameters and buffers, and the description.

    Args:
        model: the network, or its state dict.
        description: as from `describe`; plain values that JSON can hold.
        recipe: hash of the recipe that it was trained by; empty for a network without one.
        epoch: after which it is saved, counted from 1; 0 for a network without one.
    """
    state = model.state_dict() if isinstance(model, nn.Module) else model
    header = {"model": dict(description), "recipe": recipe, "epoch": epoch}
    return array_files.sealed_tensors(save_tensors(tensors.copies(state)), header)


def _unloadable(path: Path) -> str:
    """Words for a spec that cannot be loaded."""
    if str(path) in MODELS:
        return "this is an architecture, which has no weights (models.get builds it)"
    return "a file of unknown kind" if path.exists() else "no such file or folder"


def _checkpoint(folder: Path, checkpoint: Checkpoint | str | None) -> Path:
    """The weights file of a run folder."""
    try:
        wanted = (BEST, LAST) if checkpoint is None else (Checkpoint.parse(checkpoint),)
    except ConfigError as error:
        raise ModelError(
            f"checkpoint: found {checkpoint!r}, expected best, last, or epoch-0010 if it was kept"
        ) from error
    paths = [Run(folder).path(f"{one}.safetensors") for one in wanted]
    for path in paths:
        if path.is_file():
            return path
    expected = " or ".join(path.name for path in paths)
    raise ModelError(
        f"{folder}: found no {expected}, expected a run that has finished an epoch; train it first"
    )


def _refuse(text: str, options: Mapping[str, Any]) -> None:
    """Refuse options that repeat known facts."""
    for name, value in options.items():
        if value is not None:
            raise ModelError(
                f"model {text!r}: found the option {name}={value!r}, which only factories take, "
                "and weights of others"
            )


def _from_library(text: str, options: Mapping[str, Any]) -> nn.Module:
    """A network that other code makes."""
    if text.startswith("hf:"):
        return external.hugging_face(text.removeprefix("hf:"), **options)
    if text.startswith("timm:"):
        return external.timm(text.removeprefix("timm:"), **options)
    return external.build(text, optional={}, options=options)


def _described(
    path: Path, state: Mapping[str, Tensor], header: Mapping[str, Any], trust_code: bool
) -> nn.Module:
    """The network that a file of ours describes."""
    try:
        description = header["model"]
        name = description["name"]
    except (KeyError, TypeError) as error:
        raise ModelError(
            f"{path}: found metadata 'robustlens' without a model, expected weights that robustlens wrote; "
            "take another copy"
        ) from error
    if is_factory(str(name)) and not trust_code:
        raise ModelError(
            f"{path}: its network is made by {name!r}, code from outside this file; "
            "load it with trust_code=True (--trust-code) if you trust both"
        )
    named = next(code_in(description.get("options")), None)
    if named is not None and not trust_code:
        raise ModelError(
            f"{path}: its network asks to run code of {name!r} ({named[0]}), from outside this file; "
            "load it with trust_code=True (--trust-code) if you trust both"
        )
    try:
        model = build_from(description)
    except ModelError as error:
        raise ModelError(f"{path}: {error}") from error
    except Exception as error:  # values of any type may stand in a file
        if out_of_memory(error):
            raise
        raise ModelError(f"{path}: describes no network ({one_line(error)})") from error
    tensors.fill(model, state, path)
    return model


def _read(path: Path) -> tuple[dict[str, Tensor], Mapping[str, Any] | None]:
    """Tensors of a safetensors file, and the header of a file of ours, its seal checked; None in others'."""
    if not path.is_file():
        raise ModelError(f"{path}: no such file, expected weights in safetensors format")
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            state = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 - no mapping
    except (SafetensorError, OSError, ValueError) as error:
        raise ModelError(
            f"{path}: truncated or damaged, cannot be read as safetensors ({one_line(error)}); "
            "take another copy, or train again"
        ) from error
    if not array_files.is_ours(metadata):
        return state, None
    return state, array_files.check_tensors(files.read_bytes(path), str(path), metadata).values


def _read_of_run(path: Path) -> tuple[dict[str, Tensor], Mapping[str, Any]]:
    """As `_read`, of a checkpoint in a run folder: it has to be ours, and the one that the folder speaks of.

    Raises:
        StateError: it is damaged, or belongs to another recipe, network or epoch.
    """
    try:
        state, header = _read(path)
    except ModelError as error:
        raise StateError(str(error)) from error
    if header is None or not isinstance(header.get("model"), Mapping):
        raise StateError(f"{path}: damaged, it does not describe its network; restore it or train again")
    run, recipe = Run(path.parent), header.get("recipe")
    if recipe and run.has_recipe:
        record, own = run.record, run.recipe
        kept = Checkpoint.parse(path.stem)
        epoch = {"best": record.best_epoch, "last": record.epochs_done}.get(kept.kind, kept.epoch)
        _expect(path, "recipe", recipe, own.hash())
        _expect(path, "network", header["model"].get("name"), own.model.name)
        if record.is_trained and header.get("epoch"):
            _expect(path, "epoch", header["epoch"], epoch)
    return state, header


def _expect(path: Path, what: str, found: object, expected: object) -> None:
    if found != expected:
        raise StateError(
            f"{path}: found weights of {what} {found!r}, expected {expected!r} as its run folder says; "
            "restore it or train again"
        )
