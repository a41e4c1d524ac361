"""Networks that are explained for real, on a few tiny images, as claims read what was measured of them."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from robustlens.claims.evidence import RunData, StudyData
from robustlens.config import ExplanationPlan
from robustlens.data import Split, Splits
from robustlens.explain.run import explain_model
from robustlens.results import Run, RunEntry
from robustlens.stats.bootstrap import Bootstrap

IMAGES = 60
SHAPE = (1, 4, 4)
CLASSES = ("a", "b", "c")


def pixels() -> Tensor:
    """The images of every split, as bytes."""
    generator = torch.Generator().manual_seed(0)
    return torch.randint(0, 256, (IMAGES, *SHAPE), dtype=torch.uint8, generator=generator)


def explained(network: nn.Module, folder: Path, measures: Mapping[str, Mapping[str, Any]]) -> RunData:
    """The run of a network of which these measures were taken, each with its options."""
    labels = torch.arange(IMAGES) % len(CLASSES)
    train, test = (Split(pixels(), labels, torch.arange(IMAGES) + start) for start in (0, 100))
    none = Split(pixels()[:0], labels[:0], labels[:0])
    plan = {"measures": list(measures), "examples": IMAGES, "threat": {"norm": "Linf", "eps": 0.1}}
    options = {name: dict(chosen) for name, chosen in measures.items() if chosen}
    explain_model(
        network,
        Splits(train, none, test, CLASSES, "tiny"),
        ExplanationPlan.model_validate(plan | {"options": options}),
        folder,
    )
    study = StudyData([], Bootstrap(50))
    study.runs.append(RunData(Run(folder, RunEntry("a", "a", "a")), study))
    return study.runs[0]
