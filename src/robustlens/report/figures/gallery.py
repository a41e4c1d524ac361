"""Figure of a few test images: what the attack made of them, and what the gradient of the loss sees."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from robustlens.config import eps_text
from robustlens.report.data import Network, ReportData, RunReport
from robustlens.report.drawing.gallery import (
    Answer,
    Curves,
    Drawing,
    Gallery,
    GalleryCell,
    GalleryRow,
    Picture,
    reduced,
)
from robustlens.report.drawing.spec import Axis, Figure, Panel, View, floats, thinned
from robustlens.report.text.wording import names
from robustlens.results import ThreatRecord

COLUMNS = 6
"""The most networks that are shown."""
_SCALES = (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000)
_ENDS = 3.0
"""Root mean squares of a gradient at which its picture is black or white, as in Tsipras et al. 2019."""
_CHANNELS = 16
"""The most channels of a signal whose curves can be told apart."""
_LEVELS = 32
"""Levels of a signed picture: more cannot be seen, and noise of many weighs a page down."""
_ARRAYS = ("x", "x_adv", "gradient", "label", "prediction", "adversarial_prediction", "index")
_SHARES = ("confidence", "adversarial_confidence")
_NAMES = ("labels", "predictions", "adversarial_predictions")


@dataclass(frozen=True, eq=False)
class _Images:
    """A network's images, from the first of its runs that has them.

    `arrays` and `names` are those of the measure, one entry an image; x and x_adv are in [0, 1].
    """

    network: Network
    arrays: dict[str, np.ndarray]
    names: dict[str, list[str]]
    threat: ThreatRecord
    steps: int

    @property
    def shape(self) -> tuple[int, ...]:
        return self.arrays["x"].shape[1:]

    def compares_with(self, other: "_Images") -> bool:
        """Whether both are of the same images under the same attack."""
        attack = (self.threat, self.steps) == (other.threat, other.steps)
        return attack and np.array_equal(self.arrays["x"], other.arrays["x"])

    def answer(self, prefix: str, place: int) -> Answer:
        """The prediction, "" without attack or "adversarial_" under it, on the image at `place`."""
        prediction = self.arrays[f"{prefix}prediction"][place]
        name, confidence = (
            self.names[f"{prefix}predictions"][place],
            self.arrays[f"{prefix}confidence"][place],
        )
        return Answer(name, float(confidence), bool(prediction == self.arrays["label"][place]))


def gallery(data: ReportData) -> Figure:
    """The same test images for every network: adversarial image, perturbation and input gradient."""
    every = [one for network in data.networks if (one := _of_network(network))]
    shared = [one for one in every if one.compares_with(every[0])]
    views: tuple[View, ...] = ()
    note, missing = "", "Not measured in these runs."
    if shared and not _is_drawable(shared[0].shape):
        size = " x ".join(map(str, shared[0].shape))
        missing = f"Inputs of shape {size} cannot be drawn: an image has 1 or 3 channels, a signal one side."
    elif shared:
        shown = _spread(shared)
        scale = _scale(shown)
        panel = Panel("Adversarial images", Axis(""), Axis(""), gallery=_gallery(shown, scale))
        views = (View("Images", (panel,)),)
        note = " ".join(_notes(shown, shared, every, scale))
    return Figure(
        "gallery",
        "Images",
        "Adversarial images",
        "What fools a standard network looks like noise; what fools a robust one changes what the image "
        "shows, and the gradient of its loss has the shape of the object.",
        views,
        note=note,
        missing=missing,
    )


def _of_network(network: Network) -> _Images | None:
    return next((images for run in network.runs if (images := _of_run(network, run))), None)


def _of_run(network: Network, run: RunReport) -> _Images | None:
    """The images of a run; None where it lacks an array, or they do not fit one another."""
    stored = {name: run.array("gallery", f"test_{name}") for name in (*_ARRAYS, *_SHARES)}
    arrays = {name: array for name, array in stored.items() if array is not None}
    texts = {name: run.at("gallery", name) for name in _NAMES}
    if len(arrays) < len(stored) or run.explanation is None:
        return None
    n, shape = len(arrays["x"]), arrays["x"].shape
    images = all(arrays[name].shape == shape for name in ("x_adv", "gradient"))
    flat = all(arrays[name].shape == (n,) for name in (*_ARRAYS[3:], *_SHARES))
    listed = all(isinstance(text, list | tuple) and len(text) == n for text in texts.values())
    if not (images and flat and listed):
        return None
    threat = run.explanation.threat
    low, high = threat.bounds
    for name in ("x", "x_adv"):
        arrays[name] = (arrays[name].astype(np.float32) - low) / ((high - low) or 1)
    arrays["gradient"] = arrays["gradient"].astype(np.float32)
    words = {name: [str(word) for word in text] for name, text in texts.items()}
    steps = run.explanation.measures["gallery"].conditions.get("steps")
    return _Images(network, arrays, words, threat, steps if isinstance(steps, int) else 0)


def _spread(images: Sequence[_Images]) -> list[_Images]:
    """At most six networks: from standard to the strongest, and the strongest with perturbed weights."""
    if len(images) <= COLUMNS:
        return list(images)
    ordered = sorted(images, key=lambda one: one.network.eps)
    plain = [one for one in ordered if not _moves_weights(one.network)]
    moved = [one for one in reversed(ordered) if _moves_weights(one.network)]
    kept = [plain[place] for place in thinned(len(plain), COLUMNS - bool(moved))]
    kept += [moved[place] for place in thinned(len(moved), COLUMNS - len(kept))]
    return [one for one in images if one in kept]


def _moves_weights(network: Network) -> bool:
    recipe = network.runs[0].recipe
    return bool(recipe and recipe.perturbations)


def _scale(shown: Sequence[_Images]) -> int:
    """Factor by which every perturbation is enlarged: the largest at which none is cut."""
    largest = max(float(np.abs(one.arrays["x_adv"] - one.arrays["x"]).max()) for one in shown)
    room = 0.5 / largest * 1.001 if largest > 0 else 1.0  # an eps of 0.1 is a little more in float32
    return max((scale for scale in _SCALES if scale <= room), default=1)


def _notes(
    shown: Sequence[_Images], shared: Sequence[_Images], every: Sequence[_Images], scale: int
) -> list[str]:
    first = shown[0]
    attack = f"PGD-{first.steps} on cross entropy, {first.threat.norm} eps {eps_text(first.threat.eps)}."
    drawn = (
        f"Perturbations are enlarged {scale} times; gradients, of the loss at the test images themselves, "
        "are scaled one by one; 0 is in the middle of the range."
    )
    notes = [attack, drawn, "Red: a wrong answer, with its confidence."]
    if max(first.shape[-2:]) > 64 and _is_image(first.shape):
        notes.append("Large images are drawn smaller, of perturbations and gradients every k-th pixel.")
    if any(len(one.network.runs) > 1 for one in shown):
        notes.append("Of several runs of a network, the first.")
    if len(shown) < len(shared):
        notes.append(f"{len(shown)} of {len(shared)} networks, from the weakest training to the strongest.")
    if len(shared) < len(every):
        labels = names(one.network.label for one in every if one not in shared)
        notes.append(f"Measured on other images, or under another attack, and not shown: {labels}.")
    return notes


def _gallery(shown: Sequence[_Images], scale: int) -> Gallery:
    noun = "image" if _is_image(shown[0].shape) else "signal"
    kinds = f"adversarial {noun}", f"perturbation \N{MULTIPLICATION SIGN} {scale}", "gradient"
    rows = []
    for place, name in enumerate(shown[0].names["labels"]):
        x, index = shown[0].arrays["x"][place], int(shown[0].arrays["index"][place])
        cells = tuple(_cell(one, place, scale, kinds) for one in shown)
        rows.append(GalleryRow(index, name, _drawing(x, f"{name}, as it is"), cells))
    return Gallery(tuple(one.network.label for one in shown), kinds, tuple(rows), noun)


def _cell(one: _Images, place: int, scale: int, kinds: tuple[str, str, str]) -> GalleryCell:
    label = one.network.label
    clean, attacked = one.answer("", place), one.answer("adversarial_", place)
    x, x_adv, gradient = (one.arrays[name][place] for name in ("x", "x_adv", "gradient"))
    seen = f"{label}: {kinds[0]}, taken for {attacked.name}"
    drawings = (
        _drawing(x_adv, seen, behind=x),
        _drawing(0.5 + scale * (x_adv - x), f"{label}: {kinds[1]}", signed=True),
        _drawing(0.5 + 0.5 * _in_ends(gradient), f"{label}: {kinds[2]}", signed=True),
    )
    return GalleryCell(label, clean, attacked, drawings)


def _in_ends(gradient: np.ndarray) -> np.ndarray:
    """The gradient over three of its root mean squares; 0 where it is 0 everywhere."""
    size = float(np.sqrt(np.mean(np.square(gradient, dtype=np.float64))))
    return gradient / (_ENDS * size) if size > 0 else np.zeros_like(gradient)


def _drawing(
    values: np.ndarray, text: str, *, signed: bool = False, behind: np.ndarray | None = None
) -> Drawing:
    """Values in [0, 1] of one input, as a picture or as curves; what is outside is cut."""
    values = np.nan_to_num(values, nan=0.5).clip(0, 1)
    if not _is_image(values.shape):
        return Curves(_lines(values), text, () if behind is None else _lines(behind.clip(0, 1)))
    image = reduced(values.transpose(1, 2, 0), signed=signed)
    if signed:
        image = np.round(image * _LEVELS) / _LEVELS
    pixels = np.round(255 * image).astype(np.uint8)
    return Picture(pixels[..., 0] if pixels.shape[2] == 1 else pixels, text)


def _lines(values: np.ndarray) -> tuple[tuple[float, ...], ...]:
    channels = values.reshape(*_signal(values.shape))
    kept = thinned(channels.shape[1])
    return tuple(floats(channel[kept]) for channel in channels)


def _is_drawable(shape: tuple[int, ...]) -> bool:
    channels, length = _signal(shape)
    return _is_image(shape) or (0 < channels <= _CHANNELS and length > 1)


def _is_image(shape: tuple[int, ...]) -> bool:
    return len(shape) == 3 and shape[0] in (1, 3) and min(shape[1:]) > 1


def _signal(shape: tuple[int, ...]) -> tuple[int, int]:
    """Channels and length of a signal (length), (channels, length) or (channels, 1, length); else zeros."""
    sides = shape if len(shape) < 3 else (shape[0], *(side for side in shape[1:] if side != 1))
    if len(sides) == 1:
        return (1, sides[0]) if len(shape) == 1 else (sides[0], 1)
    return (sides[0], sides[1]) if len(sides) == 2 else (0, 0)
