"""robustlens: train robust networks, attack them honestly, and see what robustness did to them.

The public names load on first use, so that `import robustlens`, the command line's help and the report
do not pay for torch.
"""

import importlib
import sys
from types import ModuleType
from typing import TYPE_CHECKING, Any

from robustlens.version import __version__

if TYPE_CHECKING:
    from robustlens import attacks, data, explain, losses, models, objectives
    from robustlens.evaluation import Evaluation, evaluate
    from robustlens.config import Recipe
    from robustlens.results.folders import Run
    from robustlens.threat import ThreatModel
    from robustlens.training.trainer import train
    from robustlens.weights import AdversarialWeightPerturbation, ExponentialMovingAverage

_HOME = {
    "AdversarialWeightPerturbation": "weights",
    "Evaluation": "evaluate",
    "ExponentialMovingAverage": "weights",
    "Recipe": "recipe",
    "Run": "runs",
    "ThreatModel": "threat",
}
_ROOMS = {"attacks", "data", "explain", "losses", "models", "objectives"}

__all__ = [
    "AdversarialWeightPerturbation",
    "Evaluation",
    "ExponentialMovingAverage",
    "Recipe",
    "Run",
    "ThreatModel",
    "__version__",
    "attacks",
    "data",
    "evaluate",
    "explain",
    "losses",
    "models",
    "objectives",
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


def _exported(name: str) -> property:
    """The function `name` of the room `name`; the import system's assignment of the room has no effect."""

    def get(package: ModuleType) -> Any:
        return getattr(importlib.import_module(f"{__name__}.{name}"), name)

    return property(get, lambda package, room: None)


class _Package(ModuleType):
    """Lets `rl.train` and `rl.evaluate` be the functions although rooms of the same names exist.

    Importing the room `robustlens.train` would otherwise put the module in the function's place.
    `from robustlens.train import ...` reaches the room as usual.
    """

    train = _exported("train")
    evaluate = _exported("evaluate")


sys.modules[__name__].__class__ = _Package
