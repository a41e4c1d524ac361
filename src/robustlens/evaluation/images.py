"""The evaluation of a model on images that the caller gives."""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import fields, is_dataclass
from pathlib import Path

import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn

from robustlens import attacks as attack_room
from robustlens import losses, models, reliability
from robustlens.attacks import Attack
from robustlens.errors import ConfigError, DataError, NumericsError
from robustlens.evaluation.adversarial_images import AdversarialImages
from robustlens.evaluation.attack_loop import AttackLoop, Try
from robustlens.evaluation.evaluation import Evaluation
from robustlens.evaluation.state import WRONG, EvaluationState
from robustlens.evaluation.verifier import Verifier, checked_distance, within
from robustlens.progress import Listener, silent
from robustlens.results import Flag
from robustlens.threat import ThreatModel
from robustlens.version import __version__

_SAMPLE = 64
_CURVE = "min-norm"
_SETTINGS = (
    "threat", "steps", "queries", "gamma", "step_size", "restarts", "random_start", "share", "loss",
    "targeted", "targets", "model_mode", "keep", "eot", "rho", "alpha_max", "eta", "beta", "stop_at_success",
    "seed", "restart", "target_rank",
)  # fmt: skip
_ORDER = {name: place for place, name in enumerate(_SETTINGS)}
"""Order of an attack's settings in its hash, to which a stopped evaluation is bound: keep it."""


def evaluate(
    model: nn.Module,
    x: Float[Tensor, "n ..."],
    y: Int64[Tensor, " n"],
    threat: ThreatModel,
    attacks: str | Sequence[str | Attack] = "fast",
    *,
    restarts: int = 1,
    curve: Sequence[float] = (),
    batch_size: int = 256,
    precision: str = "32-true",
    seed: int = 0,
    flags: bool = True,
    state: Path | str | None = None,
    save_adversarial: bool = False,
    progress: Listener = silent,
) -> Evaluation:
    """Attack a model and count the images that survive.

    Attacks search on a faster copy of the model where one gives the same logits (see `models.fast_copy`); a
    point counts only where the model itself, in float32 and in float64, is wrong.

    Args:
        model: returns logits (n, classes); evaluated in eval mode, on the device of its parameters.
        x: images in the threat's bounds.
        y: labels.
        threat: what the attacker may do.
        attacks: a suite ("fast": FGSM, PGD-20, PGD-20 on the margin; "standard", "plus", "rand": those of
            AutoAttack), names such as "pgd-50", or attacks that you have built; run in this order, each on
            the images that survived all before it.
        restarts: random restarts of each attack that has them, each on survivors. Suites with a published
            budget keep it.
        curve: radii, as multiples of eps, of a robust-accuracy curve. All come from one minimum-norm search,
            which counts as one more attack, "min-norm", where it reaches something within eps.
        batch_size: changes speed, not verdicts.
        precision: "bf16-mixed" lets attacks search in bfloat16; success is decided as always.
        seed: base of the random starts.
        flags: whether to look for reasons to doubt the numbers (some further attacks on few images).
        state: a folder in which progress is kept after every batch: a call that was stopped, repeated,
            goes on there. None keeps nothing.
        save_adversarial: keep the images that broke the model, in `Evaluation.x_adv`.
        progress: hears an event after every batch.

    Raises:
        ConfigError: unknown attack. DataError: shapes, labels or pixel range do not fit.
        ModelError: the model does not return logits (n, classes).
        NumericsError: an attack left the threat model.
        StateError: the progress in `state` belongs to another model, data, threat or suite, or is damaged.
    """
    if precision not in ("32-true", "bf16-mixed"):
        raise ConfigError(f"evaluate.precision: found {precision!r}, expected '32-true' or 'bf16-mixed'")
    chosen = attack_room.chosen(attacks, threat, restarts=restarts, seed=seed)
    if curve:
        chosen.pop(_CURVE, None)  # the search behind the curve is that attack
    _check_images(x, y, threat, batch_size)
    y = y.cpu()
    tries = _tries(chosen, threat) + _curve_tries(chosen, threat, curve, seed)
    with models.frozen(model):
        logits = _clean_logits(model, x, y, batch_size)
        clean = ~losses.is_wrong(logits, y)
        few = x[: min(32, len(x))].to(models.device_of(model))
        folder = None if state is None else Path(state)
        bound_to = _bound_to(model, x, y, threat, tries, precision) if folder else {}
        loop = AttackLoop(
            verifier=Verifier(model, models.float64_copy(model, few[:8])),
            search=models.fast_copy(model, few, precision=precision),
            x=x,
            y=y,
            threat=threat,
            state=EvaluationState.open(folder, bound_to, clean, len(tries)),
            batch_size=batch_size,
            listen=progress,
            adversarial=AdversarialImages(folder) if save_adversarial else None,
        )
        loop.run(tries)
        by_attack = _by_attack(loop.state, tries)
        x_adv = _checked_images(loop)
        raised = _flags(loop, logits, by_attack, chosen) if flags else ()
    notes = (attack_room.note(attack, logits.shape[1]) for attack in chosen.values())
    return Evaluation(
        threat=threat,
        labels=y,
        predictions=logits.argmax(1),
        loss=losses.cross_entropy(logits.float(), y),
        clean=clean,
        by_attack=by_attack,
        attacked=_attacked(loop.state, tries),
        distance=loop.state.distance,
        curve=_curve(loop.state.distance, threat, curve),
        flags=raised,
        notes=tuple(dict.fromkeys(note for note in notes if note)),
        suites=attack_room.suites_in(attacks),
        seconds=_seconds(loop.state, tries),
        x_adv=x_adv,
    )


@torch.no_grad()
def _clean_logits(model: nn.Module, x: Tensor, y: Tensor, batch_size: int) -> Tensor:
    """Logits of all images on the CPU; the first two images show whether they are logits at all."""
    device = models.device_of(model)
    two = x[:2].to(device)
    # Only the shape: NaN is left to the flags, which look at all images.
    models.as_logits(models.forward(model, two), len(two), at_least=max(2, int(y.max()) + 1))
    return torch.cat([model(part.to(device)).float().cpu() for part in x.split(batch_size)])


def _tries(chosen: Mapping[str, Attack], threat: ThreatModel) -> list[Try]:
    """The tries of all attacks, in order."""
    tries = []
    for name, attack in chosen.items():
        parts = attack_room.tries_of(attack)
        for number, part in enumerate(parts, start=1):
            label = name if len(parts) == 1 else f"{name} {number}/{len(parts)}"
            tries.append(Try(name, label, part, threat))
    return tries


def _curve_tries(
    chosen: Mapping[str, Attack], threat: ThreatModel, multiples: Sequence[float], seed: int
) -> list[Try]:
    """The search behind a curve: every image, as far as its largest radius."""
    if not multiples:
        return []
    if any(multiple < 0 for multiple in multiples):
        raise ConfigError(f"evaluate.curve: found {list(multiples)}, expected multiples of eps >= 0")
    wide = threat.at(_radius(threat, max(1.0, *multiples)))
    return [Try(_CURVE, _CURVE, attack_room.get(_CURVE, wide, seed=seed), wide, include_broken=True)]


def _radius(threat: ThreatModel, multiple: float) -> float:
    """The radius, but for Linf no more than the whole box, the largest ball there is."""
    eps = multiple * threat.eps
    return min(eps, threat.bounds[1] - threat.bounds[0]) if threat.norm == "Linf" else eps


def _curve(distance: Tensor, threat: ThreatModel, multiples: Sequence[float]) -> dict[float, Tensor]:
    """Masks of images without a misclassified point within each radius."""
    if not multiples:
        return {}
    radii = [multiple * threat.eps for multiple in sorted({0.0, 1.0, *multiples})]
    clean = distance > 0
    return {eps: clean & ~within(distance, threat, eps) if eps else clean for eps in radii}


def _by_attack(state: EvaluationState, tries: Sequence[Try]) -> dict[str, Tensor]:
    """Masks of the images that survive each attack and all before it."""
    last = {each.name: number for number, each in enumerate(tries)}
    return {name: state.robust_after(number) for name, number in last.items()}


def _attacked(state: EvaluationState, tries: Sequence[Try]) -> dict[str, int]:
    """Number of images that each attack was run on: those of its first try."""
    attacked: dict[str, int] = {}
    for number, each in enumerate(tries):
        attacked.setdefault(each.name, len(state.rows(number, include_broken=each.include_broken)))
    return attacked


def _seconds(state: EvaluationState, tries: Sequence[Try]) -> dict[str, float]:
    """Time spent on each attack, over all its tries."""
    seconds = {each.name: 0.0 for each in tries}
    for each, spent in zip(tries, state.seconds.tolist(), strict=True):
        seconds[each.name] += spent
    return seconds


def _checked_images(loop: AttackLoop) -> Tensor | None:
    """The adversarial images, read back and verified again; None where they are not kept.

    Raises:
        NumericsError: one of them is infeasible, or does not break the model.
    """
    if loop.adversarial is None:
        return None
    broken = loop.state.broken_by >= 0
    x_adv = loop.adversarial.assemble(loop.x, broken)
    for rows in torch.nonzero(broken).squeeze(1).split(loop.batch_size):
        x, y = loop.batch(rows)
        images = x_adv[rows].to(x.device)
        checked_distance("saved images", images, x, loop.threat)
        right = rows[~loop.verifier.misclassified(images, y).cpu()]
        if len(right):
            raise NumericsError(
                f"saved adversarial images: found {len(right)} that do not break the model, image "
                f"{int(right[0])} first, expected none; the model is not deterministic, or a file was changed"
            )
    return x_adv


def _flags(
    loop: AttackLoop, logits: Tensor, by_attack: Mapping[str, Tensor], chosen: Mapping[str, Attack]
) -> tuple[Flag, ...]:
    """The reliability flags, looked for on a few images, survivors among them."""
    robust = list(by_attack.values())[-1]
    images = torch.arange(len(robust))
    rows = torch.cat([images[:_SAMPLE], images[robust][:_SAMPLE]]).unique()
    broken_by, before = {}, loop.state.broken_by != WRONG
    for name, after in by_attack.items():
        uses_gradients = bool(getattr(chosen.get(name), "uses_gradients", True))
        broken_by[name] = (int((before & ~after).sum()), uses_gradients)
        before = after
    x, y = loop.batch(rows)
    return reliability.check(
        loop.verifier.model,
        x,
        y,
        logits,
        threat=loop.threat,
        robust=robust[rows],
        accuracy=float(robust.float().mean()),
        broken_by=broken_by,
    )


def _bound_to(
    model: nn.Module, x: Tensor, y: Tensor, threat: ThreatModel, tries: Sequence[Try], precision: str
) -> dict[str, str]:
    """Everything that decides the masks, as hashes, by the name that a user knows it by."""
    data, suite = hashlib.sha256(), hashlib.sha256()
    for tensor in (x, y):
        data.update(tensor.detach().cpu().contiguous().numpy().data)
    for each in tries:
        suite.update(f"{each.label}: {_identity(each.attack)}; ".encode())
    return {
        "model": models.fingerprint(model),
        "selection of images": data.hexdigest()[:16],
        "threat": repr(threat),
        "suite of attacks": suite.hexdigest()[:16],
        "precision": precision,
        "version of robustlens": __version__,
    }


def _identity(attack: Attack) -> str:
    """An attack and all its settings; one that is not a dataclass is known by its attributes."""
    kind = type(attack)
    if not is_dataclass(attack):
        return f"{kind.__module__}.{kind.__qualname__}({vars(attack)})"
    names = sorted((field.name for field in fields(attack)), key=lambda name: _ORDER.get(name, len(_ORDER)))
    return f"{kind.__qualname__}({', '.join(f'{name}={getattr(attack, name)!r}' for name in names)})"


def _check_images(x: Tensor, y: Tensor, threat: ThreatModel, batch_size: int) -> None:
    if batch_size < 1:
        raise ConfigError(f"evaluate.batch_size: found {batch_size}, expected >= 1")
    if y.ndim != 1 or y.is_floating_point():
        raise DataError(f"evaluate: found labels {y.dtype} of shape {tuple(y.shape)}, expected integers (n,)")
    if len(x) == 0 or len(x) != len(y):
        raise DataError(
            f"evaluate: found {len(x)} images and {len(y)} labels, expected the same number, at least 1"
        )
    if int(y.min()) < 0:
        raise DataError(f"evaluate: found label {int(y.min())}, expected 0 to classes - 1")
    low, high = float(x.min()), float(x.max())
    if not (low >= threat.bounds[0] and high <= threat.bounds[1]):
        raise DataError(
            f"evaluate: found pixels in [{low:g}, {high:g}], expected {list(threat.bounds)}; divide by 255, "
            "keep normalisation inside the model, or set the threat's bounds"
        )
