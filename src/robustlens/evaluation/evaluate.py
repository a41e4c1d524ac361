"""The evaluation of a model on images that the caller holds."""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import is_dataclass
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
from robustlens.evaluation.verifier import Verifier, measured, within
from robustlens.progress import Listener, silent
from robustlens.reliability import Flag
from robustlens.threat import ThreatModel
from robustlens.version import __version__

_SAMPLE = 64
_CURVE = "min-norm"


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
    """Attack a model and say what stood.

    Attacks search on a faster copy of the model where one gives the same logits (see `models.fast_copy`); what
    they find counts only where the model itself, in float32 and in float64, is wrong there.

    Args:
        model: returns logits (n, classes); evaluated in eval mode, on the device of its parameters.
        x: images in the threat's bounds.
        y: labels.
        threat: what the attacker may do.
        attacks: a suite ("fast": FGSM, PGD-20, PGD-20 on the margin; "standard", "plus", "rand": those of
            AutoAttack), names such as "pgd-50", or attacks that you have built; run in this order, each on
            the images that all before it left standing.
        restarts: random restarts of each attack that has them, each on survivors. Suites with a published
            budget keep it.
        curve: radii, as multiples of eps, of a robust-accuracy curve. All come from one minimum-norm search,
            which counts as one more attack, "min-norm", where it finds something within eps.
        batch_size: changes speed, not verdicts.
        precision: "bf16-mixed" lets attacks search in bfloat16; what counts is decided as always.
        seed: base of the random starts.
        flags: whether to look for reasons not to believe the numbers (some further attacks on few images).
        state: a folder in which progress is kept after every batch: a call that was stopped, repeated,
            goes on there. None keeps nothing.
        save_adversarial: keep the images that broke the model, in `Evaluation.x_adv`.
        progress: hears an event after every batch.

    Raises:
        ConfigError: unknown attack. DataError: shapes, labels or pixel range do not fit.
        ModelError: the model does not return logits (n, classes).
        NumericsError: an attack left the threat model.
        StateError: what is in `state` belongs to another model, data, threat or suite, or is damaged.
    """
    if precision not in ("32-true", "bf16-mixed"):
        raise ConfigError(f"evaluate.precision: found {precision!r}, expected '32-true' or 'bf16-mixed'")
    chosen = attack_room.chosen(attacks, threat, restarts=restarts, seed=seed)
    _check_images(x, y, threat, batch_size)
    y = y.cpu()
    tries = _tries(chosen, threat) + _curve_tries(chosen, threat, curve, seed)
    with models.frozen(model):
        logits = _clean_logits(model, x, y, batch_size)
        clean = ~losses.is_wrong(logits, y)
        device = models.device_of(model)
        few = x[: min(32, len(x))].to(device)
        folder = None if state is None else Path(state)
        bound_to = _bound_to(model, x, y, threat, tries, precision) if folder else {}
        survivors = AttackLoop(
            judge=Verifier(model, models.float64_copy(model, few[:8])),
            search=models.fast_copy(model, few, precision=precision),
            x=x,
            y=y,
            threat=threat,
            ledger=EvaluationState.open(folder, bound_to, clean, len(tries)),
            batch_size=batch_size,
            listen=progress,
            examples=AdversarialImages(folder) if save_adversarial else None,
        )
        for number, each in enumerate(tries):
            survivors.meet(number, each)
        by_attack, seconds = _by_attack(survivors.ledger, tries)
        x_adv = _checked_again(survivors)
        raised = _flags(survivors, logits, by_attack, chosen) if flags else ()
    notes = (attack_room.note(attack, logits.shape[1]) for attack in chosen.values())
    return Evaluation(
        threat=threat,
        labels=y,
        predictions=logits.argmax(1),
        loss=losses.cross_entropy(logits.float(), y),
        clean=clean,
        by_attack=by_attack,
        distance=survivors.ledger.distance,
        curve=_curve(survivors.ledger.distance, threat, curve),
        flags=raised,
        notes=tuple(dict.fromkeys(note for note in notes if note)),
        suites=attack_room.suites_in(attacks, threat),
        seconds=seconds,
        x_adv=x_adv,
    )


@torch.no_grad()
def _clean_logits(model: nn.Module, x: Tensor, y: Tensor, batch_size: int) -> Tensor:
    """Logits of all images on the CPU; the first two images tell whether they are logits at all."""
    device = models.device_of(model)
    two = x[:2].to(device)
    # Only the shape: NaN is for the flags to say, of all images.
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
    if _CURVE in chosen:
        raise ConfigError(f"evaluate.curve: makes its own {_CURVE!r}; leave that out of the attacks")
    reach = threat.at(_radius(threat, max(1.0, *multiples)))
    return [Try(_CURVE, _CURVE, attack_room.get(_CURVE, reach, seed=seed), reach, everyone=True)]


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


def _by_attack(ledger: EvaluationState, tries: Sequence[Try]) -> tuple[dict[str, Tensor], dict[str, float]]:
    """What stood after each attack, and how long it took."""
    last = {each.name: number for number, each in enumerate(tries)}
    seconds = dict.fromkeys(last, 0.0)
    for each, spent in zip(tries, ledger.seconds.tolist(), strict=True):
        seconds[each.name] += spent
    return {name: ledger.robust_after(number) for name, number in last.items()}, seconds


def _checked_again(survivors: AttackLoop) -> Tensor | None:
    """The adversarial images, read back and judged anew; None where they are not kept.

    Raises:
        NumericsError: one of them is infeasible, or does not break the model.
    """
    if survivors.examples is None:
        return None
    fallen = survivors.ledger.broken_by >= 0
    x_adv = survivors.examples.assemble(survivors.x, fallen)
    for rows in torch.nonzero(fallen).squeeze(1).split(survivors.batch_size):
        x, y = survivors.take(rows)
        here = x_adv[rows].to(x.device)
        measured("saved images", here, x, survivors.threat)
        right = rows[~survivors.judge.misclassified(here, y).cpu()]
        if len(right):
            raise NumericsError(
                f"saved adversarial images: found {len(right)} that do not break the model, image "
                f"{int(right[0])} first, expected none; the model is not deterministic, or a file was changed"
            )
    return x_adv


def _flags(
    survivors: AttackLoop, logits: Tensor, by_attack: Mapping[str, Tensor], chosen: Mapping[str, Attack]
) -> tuple[Flag, ...]:
    """The reliability flags, looked for on a few images, survivors among them."""
    standing = list(by_attack.values())[-1]
    everyone = torch.arange(len(standing))
    rows = torch.cat([everyone[:_SAMPLE], everyone[standing][:_SAMPLE]]).unique()
    broken_by, before = {}, survivors.ledger.broken_by != WRONG
    for name, after in by_attack.items():
        uses_gradients = bool(getattr(chosen.get(name), "uses_gradients", True))
        broken_by[name] = (int((before & ~after).sum()), uses_gradients)
        before = after
    x, y = survivors.take(rows)
    return reliability.check(
        survivors.judge.model,
        x,
        y,
        logits,
        threat=survivors.threat,
        standing=standing[rows],
        accuracy=float(standing.float().mean()),
        broken_by=broken_by,
    )


def _bound_to(
    model: nn.Module, x: Tensor, y: Tensor, threat: ThreatModel, tries: Sequence[Try], precision: str
) -> dict[str, str]:
    """Everything that decides the masks, as hashes, by what a user calls it."""
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
    return repr(attack) if is_dataclass(attack) else f"{kind.__module__}.{kind.__qualname__}({vars(attack)})"


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
