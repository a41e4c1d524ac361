"""The evaluation of a model on images that the caller gives."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from robustlens import attacks as attack_room
from robustlens import models, reliability
from robustlens.attacks import Attack
from robustlens.config import widest_radius
from robustlens.errors import ConfigError, NumericsError
from robustlens.evaluation.adversarial_images import AdversarialImages
from robustlens.evaluation.attack_loop import AttackLoop, Try
from robustlens.evaluation.clean import clean_logits, clean_verdict, notes_on
from robustlens.evaluation.evaluation import Evaluation
from robustlens.evaluation.identity import identity
from robustlens.evaluation.state import WRONG, EvaluationState
from robustlens.evaluation.verifier import DRAWS, RandomVerifier, Verifier, checked_distance, within
from robustlens.machine import float32_products
from robustlens.models import inputs
from robustlens.models.inputs import Batches, Images, Labels
from robustlens.progress import Listener, silent
from robustlens.results import Flag
from robustlens.threat import ThreatModel

_SAMPLE = 64
_CHANGING = frozenset({"randomised", "batch-dependent", "state-changes"})
"""Flags of models that may answer the same image otherwise."""
_CURVE = "min-norm"


def evaluate(
    model: nn.Module,
    x: Images | Batches,
    y: Labels | None,
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
    point counts only where the model itself, in IEEE float32 and in float64, is wrong. A model that draws
    random numbers is judged on its mean over draws (`verifier.RandomVerifier`).

    Args:
        model: returns logits (n, classes); evaluated in eval mode, on the device of its parameters.
        x: images (n, ...) in the threat's bounds, a tensor or a NumPy array; or batches (images, labels), as
            a DataLoader gives them, which are held in memory together.
        y: labels (n,) of any integer type; None with batches.
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
        ConfigError: unknown attack. DataError: shapes, types, labels or pixel range do not fit.
        ModelError: the model does not return logits (n, classes).
        NumericsError: an attack left the threat model.
        StateError: the progress in `state` belongs to another model, data, threat or suite, or is damaged.
    """
    if precision not in ("32-true", "bf16-mixed"):
        raise ConfigError(f"evaluate.precision: found {precision!r}, expected '32-true' or 'bf16-mixed'")
    if batch_size < 1:
        raise ConfigError(f"evaluate.batch_size: found {batch_size}, expected >= 1")
    threat.require_box()
    chosen = attack_room.chosen(attacks, threat, restarts=restarts, seed=seed)
    tries = _tries(chosen, threat) + _curve_tries(chosen, threat, curve, seed)
    x, y = inputs.checked(model, x, y, threat.bounds, where="evaluate")
    y = y.cpu()
    with models.frozen(model), float32_products(), attack_room.trusted():
        logits = clean_logits(model, x, batch_size)
        verifier, search = _networks(model, x, precision, seed)
        clean = clean_verdict(verifier, x, y, logits, batch_size)
        folder = None if state is None else Path(state)
        attacked = [(each.label, each.attack) for each in tries]
        bound_to = identity(model, x, y, threat, attacked, precision) if folder else {}
        progress_state = EvaluationState.open(folder, bound_to, clean.right, len(tries))
        adversarial = AdversarialImages(folder) if save_adversarial else None
        loop = AttackLoop(
            verifier, search, x, y, threat, tries, progress_state, batch_size, progress, adversarial
        )
        loop.run()
        x_adv, failures = _checked_images(loop)
        raised = _flags(loop, logits, chosen) if flags else ()
    of_attacks = (attack_room.note(attack, logits.shape[1]) for attack in chosen.values())
    notes = (*notes_on(verifier, y, logits.shape[1]), *of_attacks, *failures)
    return Evaluation(
        threat=threat,
        labels=y,
        predictions=clean.predictions,
        loss=clean.loss,
        clean=loop.state.broken_by != WRONG,
        by_attack=loop.by_attack(),
        attacked=loop.attacked(),
        distance=loop.state.distance,
        curve=_curve(loop.state.distance, threat, curve),
        flags=raised,
        notes=tuple(dict.fromkeys(note for note in notes if note)),
        suites=attack_room.suites_in(attacks),
        seconds=loop.seconds(),
        x_adv=x_adv,
    )


def _networks(
    model: nn.Module, x: Tensor, precision: str, seed: int
) -> tuple[Verifier | RandomVerifier, nn.Module]:
    """The verifier of a model, and the network that attacks search on."""
    few = x[:_SAMPLE].to(models.device_of(model))
    if reliability.is_randomised(model, few):
        return RandomVerifier(model, seed), model
    verifier = Verifier(model, models.float64_copy(model, few[:8]))
    return verifier, models.fast_copy(model, few[:32], precision=precision)


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
    if not all(isinstance(multiple, int | float) and 0 <= multiple < math.inf for multiple in multiples):
        raise ConfigError(f"evaluate.curve: found {list(multiples)}, expected finite multiples of eps >= 0")
    wide = threat.at(_radius(threat, max(1.0, *multiples)))
    return [Try(_CURVE, _CURVE, attack_room.get(_CURVE, wide, seed=seed), wide, include_broken=True)]


def _radius(threat: ThreatModel, multiple: float) -> float:
    """The radius, but no more than reaches any image."""
    return min(multiple * threat.eps, widest_radius(threat.norm, threat.bounds))


def _curve(distance: Tensor, threat: ThreatModel, multiples: Sequence[float]) -> dict[float, Tensor]:
    """Masks of images without a misclassified point within each radius."""
    if not multiples:
        return {}
    radii = [multiple * threat.eps for multiple in sorted({0.0, 1.0, *multiples})]
    clean = distance > 0
    return {eps: clean & ~within(distance, threat, eps) if eps else clean for eps in radii}


def _checked_images(loop: AttackLoop) -> tuple[Tensor | None, list[str]]:
    """The adversarial images, read back and verified again, and a note on those that fail now.

    A model whose answers change from batch to batch or by chance may fail. None where no images are kept.

    Raises:
        NumericsError: one of them is infeasible, or does not break a model that gives the same answers.
    """
    if loop.adversarial is None:
        return None, []
    broken = loop.state.broken_by >= 0
    x_adv, right = loop.adversarial.assemble(loop.x, broken), []
    for rows in torch.nonzero(broken).squeeze(1).split(loop.batch_size):
        if len(rows) == 0:
            break
        x, y = loop.batch(rows)
        images = x_adv[rows].to(x.device)
        checked_distance("saved images", images, x, loop.threat)
        right += rows[~loop.verifier.misclassified(images, y, x).cpu()].tolist()
    if not right:
        return x_adv, []
    few = torch.arange(min(_SAMPLE, len(x_adv)))
    flags = reliability.check(loop.verifier.model, *loop.batch(few))
    reason = next((flag.name for flag in flags if flag.name in _CHANGING), None)
    if reason is None and _breaks_by_chance(loop, x_adv, right):
        reason = "randomised"
    if reason is None:
        raise NumericsError(
            f"saved adversarial images: found {len(right)} that do not break the model, image "
            f"{right[0]} first, expected none; a file was changed"
        )
    count = f"{len(right)} of {int(broken.sum())} saved adversarial images"
    return x_adv, [f"{count} do not break the model when it is asked again: its answers change ({reason})"]


def _breaks_by_chance(loop: AttackLoop, x_adv: Tensor, rows: list[int]) -> bool:
    """Whether the model gets one of these images wrong after all, asked as often as a random one is."""
    few = torch.tensor(rows[: loop.batch_size])
    x, y = loop.batch(few)
    images = x_adv[few].to(x.device)
    return any(bool(loop.verifier.misclassified(images, y, x).any()) for _ in range(DRAWS))


def _flags(loop: AttackLoop, logits: Tensor, chosen: Mapping[str, Attack]) -> tuple[Flag, ...]:
    """The reliability flags, looked for on a few images, survivors among them."""
    by_attack = loop.by_attack()
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
