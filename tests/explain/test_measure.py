"""The subject that every measure gets."""

from dataclasses import dataclass

import pytest
import torch
from torch import Tensor, nn

import robustlens as rl
from robustlens.data import Split
from robustlens.explain import Subject


@dataclass(frozen=True, eq=False)
class Counting(Split):
    """A split that notes how many images are converted."""

    def x(self, rows: Tensor | slice | None = None) -> Tensor:
        converted.append(len(super().x(rows)))
        return super().x(rows)


converted: list[int] = []


def subject() -> Subject:
    pixels = torch.randint(0, 256, (30, 1, 3, 3), dtype=torch.uint8)
    train, test = (Counting(pixels, torch.arange(30) % 3, torch.arange(30) + base) for base in (100, 200))
    return Subject(nn.Flatten(), train, test, rl.ThreatModel("Linf", 0.1))


@pytest.mark.parametrize("examples", [2, 30, 1000, None])
def test_only_the_images_that_are_asked_for_are_converted(examples: int | None) -> None:
    given = subject()
    converted.clear()
    x, y = given.images("test", examples)
    wanted = min(examples or 30, 30)
    assert converted == [wanted]
    assert torch.equal(x, given.test.images[:wanted].float() / 255)
    assert torch.equal(y, given.test.labels[:wanted])
    assert given.index("test", examples).tolist() == list(range(200, 200 + wanted))
    assert given.index("train", examples)[0] == 100
