"""Identity of an evaluation: hashes of everything that decides its masks, to which its progress is bound."""

import hashlib
from collections.abc import Sequence
from dataclasses import fields, is_dataclass

from torch import Tensor, nn

from robustlens import models
from robustlens.attacks import Attack
from robustlens.models.inputs import Readable, Reader
from robustlens.threat import ThreatModel
from robustlens.version import __version__

_SETTINGS = (
    "threat", "steps", "queries", "gamma", "step_size", "restarts", "random_start", "share", "loss",
    "targeted", "targets", "model_mode", "keep", "eot", "rho", "alpha_max", "eta", "beta", "stop_at_success",
    "seed", "restart", "target_rank",
)  # fmt: skip
_ORDER = {name: place for place, name in enumerate(_SETTINGS)}
"""Order of an attack's settings in its hash: keep it."""

_AS_BEFORE = (("targets", None), ("walks", 4))
"""Settings that came later, with what an attack did before it had them: its hash is then the one before."""

_WITHOUT_EFFECT = ("at_once",)
"""Settings that change how long an attack takes, but not its result."""


def identity(
    model: nn.Module,
    x: Readable,
    y: Tensor,
    threat: ThreatModel,
    tries: Sequence[tuple[str, Attack]],
    precision: str,
) -> dict[str, str]:
    """Hashes of everything that decides the masks, by the names that a user knows.

    `tries` have labels; `precision` is that of the search, and how else the network is changed for it.
    """
    data, suite = hashlib.sha256(), hashlib.sha256()
    for values in (x, y):
        if isinstance(values, Reader):
            data.update(values.digest())
        else:
            data.update(values.detach().cpu().contiguous().numpy().data)
    for label, attack in tries:
        suite.update(f"{label}: {_settings(attack)}; ".encode())
    return {
        "model": models.fingerprint(model),
        "selection of images": data.hexdigest()[:16],
        "threat": repr(threat),
        "suite of attacks": suite.hexdigest()[:16],
        "precision": precision,
        "version of robustlens": __version__,
    }


def _settings(attack: Attack) -> str:
    """An attack and all its settings; one that is not a dataclass is known by its attributes."""
    kind = type(attack)
    if not is_dataclass(attack):
        return f"{kind.__module__}.{kind.__qualname__}({vars(attack)})"
    names = [field.name for field in fields(attack) if field.name not in _WITHOUT_EFFECT]
    settings = {name: getattr(attack, name) for name in names}
    given = [item for item in settings.items() if item not in _AS_BEFORE]
    given.sort(key=lambda item: _ORDER.get(item[0], len(_ORDER)))
    return f"{kind.__qualname__}({', '.join(f'{name}={value!r}' for name, value in given)})"
