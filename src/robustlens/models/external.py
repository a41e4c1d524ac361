"""Networks from elsewhere: a factory of the user's, transformers ("hf:") and timm ("timm:")."""

import copy
import importlib
from collections.abc import Callable, Mapping
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from robustlens.errors import ModelError, RobustlensError
from robustlens.extras import install_package
from robustlens.factories import is_factory
from robustlens.models import image_processors
from robustlens.models.normalize import Normalize
from robustlens.registry import imported, near_name, one_line, parameters_of, takes_any

_TRANSFORMERS = install_package("transformers")
_TIMM = "pip install timm and the torchvision that fits your torch"
_FETCHING = {"cache_dir", "checkpoint_path", "model_name", "pretrained", "pretrained_cfg"}
_FETCHING |= {"pretrained_cfg_overlay", "pretrained_model_name_or_path", "proxies", "token", "use_auth_token"}
"""Options of both libraries that say where weights come from, and not which network it is."""

_DTYPES = {"dtype", "torch_dtype"}
_NO_CODE = {"trust_remote_code": False}
"""Where it is left out, transformers asks the terminal."""


class Adapter(nn.Module):
    """Normalisation before a foreign network, and its logits after it.

    The network may return a tensor or an object with `.logits` (transformers). Images are not
    resized: give them in the size that the network was trained on.
    """

    def __init__(self, normalize: nn.Module, model: nn.Module) -> None:
        super().__init__()
        self.normalize = normalize
        self.model = model

    def forward(self, x: Float[Tensor, "n c h w"]) -> Float[Tensor, "n classes"]:
        """Logits of images in [0, 1]."""
        output = self.model(self.normalize(x))
        return getattr(output, "logits", output)


def build(name: str, *, optional: Mapping[str, Any], options: Mapping[str, Any]) -> nn.Module:
    """Call the factory "package.module:factory" with `options`, and those of `optional` that it takes.

    The module is imported as by `import`, with the working directory as the last place to look. Of a network
    in place of the factory it is a copy: two calls share no weights.

    Raises:
        ModelError: the module or the factory does not exist, does not take the options, raises, or does not
            return an `nn.Module`; a network cannot be copied.
    """
    factory = imported(name, "model", ModelError)
    if isinstance(factory, nn.Module):
        return _copied(name, factory)
    if not callable(factory):
        raise ModelError(
            f"model {name!r}: found {type(factory).__name__}, expected a function that returns an nn.Module"
        )
    accepted = set(parameters_of(factory))
    accepted |= {"num_classes"} if takes_any(factory) else set()  # as torchvision's do
    arguments = {key: value for key, value in optional.items() if key in accepted} | dict(options)
    model = call(f"model {name!r}", factory, arguments)
    if not isinstance(model, nn.Module):
        raise ModelError(
            f"model {name!r}: the factory returned {type(model).__name__}, expected an nn.Module"
        )
    return model


def _copied(name: str, network: nn.Module) -> nn.Module:
    try:
        return copy.deepcopy(network)
    except Exception as error:  # whatever a network's own __deepcopy__ or its parts raise
        raise ModelError(
            f"model {name!r}: found a network that cannot be copied ({one_line(error)}); "
            "name a function that builds it"
        ) from error


def refuse_network(name: str) -> None:
    """Raise `ModelError` where `name` is a network, which has no fresh weights, and no function."""
    if is_factory(name) and isinstance(imported(name, "model", ModelError), nn.Module):
        raise ModelError(
            f"model {name!r}: found a network, expected a function that builds one: all seeds would start "
            "from the same weights; give it as init.model to start from these"
        )


def call(where: str, function: Callable[..., Any], arguments: Mapping[str, Any]) -> Any:
    """Call `function(**arguments)`; a failure is one `ModelError` line that starts with `where`."""
    parameters = parameters_of(function)
    unknown = [key for key in arguments if key not in parameters]
    if unknown and not takes_any(function):
        known = [key for key in parameters if key not in ("num_classes", "in_channels")]
        raise ModelError(
            f"{where}: unknown option {unknown[0]!r}, expected {', '.join(known) or 'no option'}"
        )
    try:
        return function(**arguments)
    except RobustlensError:
        raise
    except (Exception, SystemExit) as error:  # a factory can do anything
        shown = ", ".join(f"{key}={value!r}" for key, value in arguments.items())
        raise ModelError(f"{where}: cannot be built with ({shown}): {one_line(error)}") from error


def is_named(name: object) -> bool:
    """Whether `name` is "hf:NAME" or "timm:NAME"."""
    return str(name).startswith(("hf:", "timm:"))


def fresh(name: str, *, num_classes: int, in_channels: int, **options: Any) -> nn.Module:
    """The architecture "hf:NAME" or "timm:NAME" with fresh weights, without a normalisation of its own.

    Args:
        name: of transformers, a hub name or a local folder, of which only `config.json` is read; or of timm.
        num_classes: number of logits.
        in_channels: channels of the images.
        options: fields of the configuration of transformers (`image_size=224`), or arguments of timm. A file
            of weights may give them, so none may say where something is fetched, or how. With
            `trust_remote_code=True` transformers runs the code beside the configuration; whoever reads
            options from a file asks for trust first (`config.refuse_code`).

    Raises:
        ModelError: the library is absent, or knows no such network; an option is not of the architecture.
    """
    kind, _, rest = name.partition(":")
    where = f"model {name!r}"
    typed = sorted(_DTYPES & options.keys())
    if typed:
        raise ModelError(
            f"{where}: found option {typed[0]!r}, expected none: networks are trained in float32 "
            "(or bf16-mixed, with precision)"
        )
    if options.get("pretrained") is False:  # as runs of version 0.1 may have it: what is done anyway
        options.pop("pretrained")
    fetching = sorted(_FETCHING & options.keys())
    if fetching:
        raise ModelError(
            f"{where}: found option {fetching[0]!r}, expected options of the architecture alone: its weights "
            "are fresh; start from others with init.model"
        )
    if kind == "timm":
        shape = {"num_classes": num_classes, "in_chans": in_channels}
        library = _library("timm", name, _TIMM)
        return call(
            where, library.create_model, {"model_name": rest, "pretrained": False, **shape, **options}
        )
    transformers = _library("transformers", name, _TRANSFORMERS)
    shape = {"num_labels": num_classes, "num_channels": in_channels}
    asked = {key: options.pop(key) for key in ("trust_remote_code", "code_revision") if key in options}
    code = _NO_CODE | asked
    try:
        config, unused = transformers.AutoConfig.from_pretrained(
            rest, return_unused_kwargs=True, **code, **shape, **options
        )
        # A configuration may hold the type that its weights were saved in.
        network = transformers.AutoModelForImageClassification.from_config(
            config, dtype=torch.float32, **code
        )
    except Exception as error:
        raise ModelError(f"{where}: transformers cannot build it: {one_line(error)}") from error
    unknown = [option for option in options if option in unused]
    if unknown:
        raise ModelError(
            f"{where}: found option {unknown[0]!r}, expected fields of its configuration"
            f"{near_name(unknown[0], config.to_dict())}"
        )
    return Adapter(nn.Identity(), network)


def hugging_face(name: str, **options: Any) -> nn.Module:
    """An image classifier of transformers, by hub name or local folder, normalised as in its training.

    It is in float32, whatever its weights were saved in, unless the options have `dtype`.

    Raises:
        ModelError: transformers is absent; the model or its `preprocessor_config.json` cannot be read, or
            this asks for more than a mean and a std.
    """
    transformers = _library("transformers", f"hf:{name}", _TRANSFORMERS)
    where = f"model 'hf:{name}'"
    try:
        dtype = {} if _DTYPES & options.keys() else {"dtype": torch.float32}
        model = transformers.AutoModelForImageClassification.from_pretrained(
            name, **_NO_CODE | dtype | options
        )
        # The plain dict, because transformers' own image processors may import torchvision.
        processor, _ = transformers.ImageProcessingMixin.get_image_processor_dict(name)
    except Exception as error:
        raise ModelError(f"{where}: transformers cannot load it: {one_line(error)}") from error
    channels = getattr(getattr(model, "config", None), "num_channels", 3)
    pair = image_processors.statistics(where, processor, channels)
    return Adapter(nn.Identity() if pair is None else Normalize(*pair), model)


def timm(name: str, *, pretrained: bool = True, **options: Any) -> nn.Module:
    """A network of timm by name, normalised as in its training.

    Raises:
        ModelError: timm, or the torchvision that it imports, is absent or broken; the name is unknown.
    """
    where = f"model 'timm:{name}'"
    library = _library("timm", f"timm:{name}", _TIMM)
    try:
        model = library.create_model(name, pretrained=pretrained, **options)
    except Exception as error:
        raise ModelError(f"{where}: timm cannot build it: {one_line(error)}") from error
    known = getattr(model, "pretrained_cfg", {})
    mean, std = known.get("mean"), known.get("std")
    if mean is None or std is None:
        raise image_processors.no_statistics(where)
    return Adapter(Normalize(mean, std), model)


def _library(name: str, spec: str, fix: str) -> Any:
    try:
        return importlib.import_module(name)
    except Exception as error:  # a torchvision built for another torch raises RuntimeError, not ImportError
        raise ModelError(f"model {spec!r}: cannot import {name} ({one_line(error)}); {fix}") from error
