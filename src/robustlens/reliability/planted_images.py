"""A test of attacks on the user's network: do they find adversarial images that are there for certain?"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch
from jaxtyping import Bool
from torch import Tensor, nn

from robustlens import attacks as attack_room
from robustlens import losses
from robustlens.attacks import Attack
from robustlens.errors import ConfigError, DataError, ModelError, NumericsError
from robustlens.machine import float32_products
from robustlens.models import device_of, frozen, inputs
from robustlens.models.inputs import Images
from robustlens.models.last_layer import last_linear
from robustlens.progress import Event, Listener, silent
from robustlens.registry import named
from robustlens.reliability.planting import PlantedImage, features_of, guesses, plant, read_by
from robustlens.stats.intervals import Interval, wilson
from robustlens.threat import ThreatModel, checked_threat

EXPECTED = 0.95
"""Share of the planted images that attacks must find to be believed, as in the paper."""
EASY = 0.5
"""Share found by random guesses from which on the test says nothing about attacks."""
LEAST = 10
"""Planted images without which nothing is said."""
GUESSES = 1000
"""Random guesses at each image."""


@dataclass(frozen=True, eq=False)
class PlantedTest:
    """Planted images that attacks found.

    Attributes:
        images: number of images with a planted one. skipped: images in which none could be planted.
        by_attack: for each attack, in order, which of the planted images it found; all masks are (images,).
        suites: the attacks of each suite that was asked for by name, which together are one suite.
        guessed: which of the images 1,000 random guesses found.
    """

    images: int
    skipped: int
    by_attack: Mapping[str, Bool[Tensor, " images"]]
    guessed: Bool[Tensor, " images"]
    suites: Mapping[str, tuple[str, ...]] = field(default_factory=dict)

    @property
    def together(self) -> dict[str, Bool[Tensor, " images"]]:
        """Masks of the attacks, then of the suites, then of everything under "all" if there is more."""
        masks = dict(self.by_attack)
        for name, parts in self.suites.items():
            masks[name] = _any([self.by_attack[part] for part in parts])
        if len(self.by_attack) > 1 and not any(
            set(parts) == set(self.by_attack) for parts in self.suites.values()
        ):
            masks["all"] = _any(list(self.by_attack.values()))
        return masks

    def interval(self, name: str) -> Interval:
        """Share of the planted images that an attack or a suite found, with its Wilson interval.

        Random guesses are called "random". Of no planted image the share is NaN.

        Raises:
            ConfigError: there is nothing of this name.
        """
        if self.images == 0:
            return Interval(math.nan)
        masks = {**self.together, "random": self.guessed}
        return wilson(int(named(masks, name, "planted.interval").sum()), self.images)

    @property
    def is_decided(self) -> bool:
        """Whether there are planted images enough, and guessing finds few of them."""
        return self.images >= LEAST and self.interval("random").value <= EASY

    def is_believed(self, name: str) -> bool:
        """Whether the test is decided, and the attack or suite found at least 95 % of the planted images."""
        return self.is_decided and self.interval(name).value >= EXPECTED

    def sentence(self, name: str) -> str:
        """The verdict on an attack or a suite, or on "all" of them, in one sentence."""
        whom = "all attacks together" if name == "all" else name
        if self.images < LEAST:
            lacking = f"found {self.images} images with a planted one, expected {LEAST} or more"
            return f"nothing is said of {whom}: {lacking}"
        count, guessed = int(self.together[name].sum()), int(self.guessed.sum())
        if not self.is_decided:
            return f"nothing is said of {whom}: random guesses alone find {guessed} of {self.images}"
        verb = "can" if self.is_believed(name) else "cannot"
        return (
            f"{whom} {verb} be believed on this network: found are {count} of {self.images} planted images "
            f"(expected {EXPECTED:.0%}; random guesses find {guessed})"
        )


def planted(
    model: nn.Module,
    x: Images,
    threat: ThreatModel,
    attacks: str | Sequence[str | Attack] = "standard",
    *,
    seed: int = 0,
    progress: Listener = silent,
) -> PlantedTest:
    """Plant an adversarial image near each of some images, and count those that attacks find.

    The network's last linear layer is answered for by another readout, an own one for each image, by which
    one known point of the ball has another label (`planting.plant`). Attacks that miss such points on this
    network miss others there too: its robust accuracy cannot be believed. That they find them proves nothing
    about points of another kind. The binarisation test of Zimmermann, Brendel, Tramer and Carlini 2022,
    "Increasing confidence in adversarial robustness evaluations". Where we differ: the readout of widest
    margin (they take logistic regression), and inner points at 0.9 eps.

    Args:
        model: ends in a linear layer; used in eval mode, and left as it was.
        x: some images; fifty are enough. Each is attacked alone. Labels play no part.
        threat: of the attacks.
        attacks: as for `rl.evaluate`.
        seed: of the planted points, the guesses and the attacks.
        progress: hears an event after every image.

    Raises:
        ConfigError: unknown attack; eps is 0. DataError: no image, or one that does not fit.
        ModelError: the network fails on the images, draws random numbers, or does not end in a linear layer.
        NumericsError: an attack left the threat model.
    """
    checked_threat(threat, "planted").require_box()
    if not threat.eps > 0:
        raise ConfigError("planted: found eps 0, expected a radius in which something can be planted")
    chosen = attack_room.chosen(attacks, threat, seed=seed)
    images = inputs.checked_images(x, threat.bounds, model, where="planted")[:].to(device_of(model))
    if len(images) == 0:
        raise DataError("planted: found 0 images, expected at least 1")
    hits: dict[str, list[bool]] = {name: [] for name in (*chosen, "random")}
    layer = _last_layer(model, images)
    with frozen(model), float32_products(), attack_room.trusted():
        for number in range(len(images)):
            image = plant(model, layer, images[number : number + 1], threat, seed)
            if image is not None:
                with read_by(image.readout, layer):
                    for name, attack in chosen.items():
                        hits[name].append(_finds(name, attack, model, image, threat))
                    hits["random"].append(_is_guessed(model, image, threat, seed))
            progress(Event("planted", number + 1, len(images), f"{len(hits['random'])} planted"))
    masks = {name: torch.tensor(each, dtype=torch.bool) for name, each in hits.items()}
    guessed = masks.pop("random")
    return PlantedTest(
        len(guessed), len(images) - len(guessed), masks, guessed, attack_room.suites_in(attacks)
    )


def _last_layer(model: nn.Module, x: Tensor) -> nn.Linear:
    """The last linear layer of a network whose features are the same in every pass.

    Raises:
        ModelError: there is none, or the features are not the same.
    """
    layer = model.get_submodule(last_linear(model, x, where="planted"))
    assert isinstance(layer, nn.Linear)
    with frozen(model):
        first, again = (features_of(model, layer, x[:2]) for _ in range(2))
    if not torch.equal(first, again):
        raise ModelError(
            "planted: the model draws random numbers, so no point has one label; expected a deterministic "
            "network: take the randomness out for this test"
        )
    return layer


def _finds(name: str, attack: Attack, model: nn.Module, image: PlantedImage, threat: ThreatModel) -> bool:
    """Whether an attack finds an image of the other label inside the threat model."""
    try:
        x_adv = attack(model, image.x, torch.zeros(1, dtype=torch.int64, device=image.x.device))
    except ModelError:  # no gradient at all: nothing to follow
        return False
    low, high = threat.bounds
    distance = float(threat.distance(x_adv.double(), image.x.double()))
    if not (distance <= threat.eps + 1e-6 * (high - low) and bool(((x_adv >= low) & (x_adv <= high)).all())):
        raise NumericsError(
            f"attack {name!r}: found an image at {threat.norm} distance {distance:g}, expected at most "
            f"{threat.eps:g} and pixels in [{low:g}, {high:g}]; build the attack with the test's threat"
        )
    return _is_other(model, x_adv)


def _is_guessed(model: nn.Module, image: PlantedImage, threat: ThreatModel, seed: int) -> bool:
    return _is_other(model, guesses(threat, image.x, GUESSES, seed))


@torch.no_grad()
def _is_other(model: nn.Module, x: Tensor) -> bool:
    """Whether a point has the planted label; one without finite logits counts as found."""
    return bool(losses.is_wrong(model(x), torch.zeros(len(x), dtype=torch.int64, device=x.device)).any())


def _any(masks: Sequence[Tensor]) -> Tensor:
    return torch.stack(list(masks)).any(0)
