"""What transformers does to the pixels of an image before a network sees them, as a mean and a std."""

from collections.abc import Mapping
from typing import Any

from robustlens.errors import ModelError
from robustlens.registry import one_line

_SAME = 1e-6  # rescale factors that are nearer to 1/255 are 1/255
_GEOMETRY = {"do_resize", "do_center_crop", "do_pad", "do_thumbnail", "do_align_long_axis", "do_crop_margin"}
_UNDERSTOOD = {"do_rescale", "do_normalize"}
_OF_NO_MATTER = {"do_convert_rgb", "do_reduce_labels"}
_DEFAULTS = {"EfficientNet": {"include_top": True}, "MobileViT": {"do_flip_channel_order": True}}
"""Steps that image processors take unless their file says otherwise, where that is not what most do."""


def statistics(
    where: str, processor: Mapping[str, Any], channels: int
) -> tuple[list[float], list[float]] | None:
    """Mean and std, one each a channel, by which an image processor normalises pixels in [0, 1].

    Args:
        where: for messages.
        processor: the content of `preprocessor_config.json`. Sizes and crops in it are passed over: images
            are given in the size that the network was trained on.
        channels: of the images; the network's.

    Returns:
        None where the network sees pixels in [0, 1] as they are.

    Raises:
        ModelError: the file has no mean or std where it asks for them, values that are no numbers, or a step
            that no mean and std express (another order of the channels, say); it is named.
    """
    steps = _with_defaults(processor)
    _refuse_other_steps(where, steps)
    try:
        return _statistics(where, steps, channels)
    except (TypeError, ValueError, ZeroDivisionError) as error:
        raise ModelError(
            f"{where}: its preprocessor_config.json holds values that are no numbers ({one_line(error)}); "
            "take another copy"
        ) from error


def _statistics(
    where: str, steps: Mapping[str, Any], channels: int
) -> tuple[list[float], list[float]] | None:
    """The steps are (factor * x - offset - mean) / std, and once more / std for EfficientNet's head."""
    factor = 255 * float(steps.get("rescale_factor", 1 / 255)) if steps["do_rescale"] else 255.0
    factor = 1.0 if abs(factor - 1) < _SAME else factor
    offset = 1.0 if steps["do_rescale"] and steps.get("rescale_offset") else 0.0
    mean, std = [0.0] * channels, [1.0] * channels
    if steps["do_normalize"]:
        mean, std = (
            _numbers(where, steps, "image_mean", channels),
            _numbers(where, steps, "image_std", channels),
        )
    if steps.get("include_top"):
        std = [a * b for a, b in zip(std, _numbers(where, steps, "image_std", channels), strict=True)]
    mean, std = [(value + offset) / factor for value in mean], [value / factor for value in std]
    return None if set(mean) == {0.0} and set(std) == {1.0} else (mean, std)


def _with_defaults(processor: Mapping[str, Any]) -> dict[str, Any]:
    """The steps of an image processor, with those that its kind takes where the file leaves them open."""
    kind = str(processor.get("image_processor_type") or processor.get("feature_extractor_type"))
    own = next((steps for start, steps in _DEFAULTS.items() if kind.startswith(start)), {})
    given = {key: value for key, value in processor.items() if value is not None}
    return {"do_rescale": True, "do_normalize": True} | own | given


def _refuse_other_steps(where: str, steps: Mapping[str, Any]) -> None:
    known = _GEOMETRY | _UNDERSTOOD | _OF_NO_MATTER
    other = [key for key, value in steps.items() if value and key.startswith("do_") and key not in known]
    if other or steps.get("offset"):
        raise ModelError(
            f"{where}: its images are changed by {(other or ['offset'])[0]}, which no mean and std express; "
            "load it in a function of yours that does so, and name that as package.module:factory"
        )


def _numbers(where: str, steps: Mapping[str, Any], key: str, channels: int) -> list[float]:
    """One number a channel; a single one is for all."""
    values = steps.get(key)
    if values is None:
        raise no_statistics(where)
    if isinstance(values, int | float):
        return [float(values)] * channels
    return [float(value) for value in values]


def no_statistics(where: str) -> ModelError:
    """The error of a network that does not say how its images were normalised."""
    return ModelError(
        f"{where}: found no mean and std for the images; load it in a function of yours that normalises, "
        "and name that as package.module:factory"
    )
