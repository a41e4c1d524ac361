"""robustlens: train robust networks, attack them honestly, and see what robustness did to them.

The public names load on first use, so that `import robustlens`, the command line's help and the report
do not pay for torch.
"""

import importlib
from typing import TYPE_CHECKING, Any

from robustlens.version import __version__

if TYPE_CHECKING:
    from robustlens import (
        attacks,
        compat,
        data,
        explain,
        losses,
        models,
        objectives,
        reliability,
        report,
        study,
    )
    from robustlens.certification import Certification, certify
    from robustlens.config import Recipe
    from robustlens.evaluation import Evaluation, evaluate
    from robustlens.progress import Event, Listener
    from robustlens.results import Run
    from robustlens.threat import ThreatModel
    from robustlens.training import train
    from robustlens.weights import AdversarialWeightPerturbation, ExponentialMovingAverage

_HOME = {
    "AdversarialWeightPerturbation": "weights",
    "Certification": "certification",
    "Evaluation": "evaluation",
    "Event": "progress",
    "ExponentialMovingAverage": "weights",
    "Listener": "progress",
    "Recipe": "config",
    "Run": "results",
    "ThreatModel": "threat",
    "certify": "certification",
    "evaluate": "evaluation",
    "train": "training",
}
"""Public names and the room that each comes from."""
_ROOMS = {
    "attacks",
    "compat",
    "data",
    "explain",
    "losses",
    "models",
    "objectives",
    "reliability",
    "report",
    "sharing",
    "study",
}

__all__ = [
    "AdversarialWeightPerturbation",
    "Certification",
    "Evaluation",
    "Event",
    "ExponentialMovingAverage",
    "Listener",
    "Recipe",
    "Run",
    "ThreatModel",
    "__version__",
    "attacks",
    "certify",
    "compat",
    "data",
    "evaluate",
    "explain",
    "losses",
    "models",
    "objectives",
    "reliability",
    "report",
    "study",
    "train",
]


def __getattr__(name: str) -> Any:
    if name in _ROOMS:
        return importlib.import_module(f"{__name__}.{name}")
    if name in _HOME:
        return getattr(importlib.import_module(f"{__name__}.{_HOME[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
