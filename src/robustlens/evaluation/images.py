"""The evaluation of a model on images that the caller gives."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from robustlens import attacks as attack_room
from robustlens import models, reliability
from robustlens.attacks import Attack
from robustlens.errors import NumericsError
from robustlens.evaluation.attack_loop import AttackLoop
from robustlens.evaluation.certificates import Certificates, check_method
from robustlens.evaluation.clean import notes_on
from robustlens.evaluation.evaluation import Evaluation
from robustlens.evaluation.preparation import SAMPLE, prepared
from robustlens.evaluation.shards import Shard
from robustlens.evaluation.state import WRONG
from robustlens.evaluation.verifier import DRAWS, checked_distance, within
from robustlens.models.inputs import Batches, Images, Labels, Reader
from robustlens.progress import Listener, silent
from robustlens.results import Flag
from robustlens.threat import ThreatModel

_CHANGING = frozenset({"randomised", "batch-dependent", "state-changes"})
"""Flags of models that may answer the same image otherwise."""


def evaluate(
    model: nn.Module,
    x: Images | Batches | Reader,
    y: Labels | None,
    threat: ThreatModel,
    attacks: str | Sequence[str | Attack] = "fast",
    *,
    restarts: int = 1,
    curve: Sequence[float] = (),
    curve_search: str = "adaptive",
    batch_size: int = 256,
    precision: str = "32-true",
    compile: bool = False,
    adaptive: bool = False,
    seed: int = 0,
    flags: bool = True,
    certify: str | None = None,
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
            a DataLoader gives them, which are held in memory together; or `data.readable(split)`, of which
            packed images are read batch by batch.
        y: labels (n,) of any integer type; None with batches.
        threat: what the attacker may do.
        attacks: a suite ("fast": FGSM, PGD-20, PGD-20 on the margin; "standard", "plus", "rand": those of
            AutoAttack), names such as "pgd-50", or attacks that you have built; run in this order, each on
            the images that survived all before it.
        restarts: random restarts of each attack that has them, each on survivors. Suites with a published
            budget keep it.
        curve: radii, as multiples of eps, of a robust-accuracy curve. All come from one minimum-norm search,
            which counts as one more attack, "min-norm", where it reaches something within eps.
        curve_search: "adaptive", a third of the cost for Linf (`AdaptiveMinimumNorm`), or "plain"
            (`MinimumNorm`), which is what L2 and L1 always take.
        batch_size: changes speed, not verdicts.
        precision: "bf16-mixed" lets attacks search in bfloat16; success is decided as always.
        compile: let attacks search on a network that torch compiles, which pays on a GPU and takes a minute;
            success is decided as always.
        adaptive: let attacks search through a copy in which layers with a useless gradient have another one
            in the backward pass (`reliability.adaptive_copy`); success is decided as always. Where no layer
            is found, nothing changes.
        seed: base of the random starts.
        flags: whether to look for reasons to doubt the numbers (some further attacks on few images).
        certify: also prove images robust, by a method of `certify` that bounds the network's own margins:
            "ibp", "crown-ibp" or "crown"; `Evaluation.certified`. None proves nothing.
        state: a folder in which progress is kept after every batch: a call that was stopped, repeated,
            goes on there. None keeps nothing.
        save_adversarial: keep the images that broke the model, in `Evaluation.x_adv`.
        progress: hears an event after every batch.

    Raises:
        ConfigError: unknown attack or method of certification; torch cannot compile the network.
        DataError: shapes, types, labels or pixel range do not fit.
        ModelError: the model does not return logits (n, classes), or has an operation that `certify` has no
            rule for.
        NumericsError: an attack left the threat model; an image is certified and broken.
        StateError: the progress in `state` belongs to another model, data, threat or suite, or is damaged.
    """
    if certify is not None:
        check_method(certify, "evaluate.certify")
    with prepared(
        model,
        x,
        y,
        threat,
        attacks,
        restarts=restarts,
        curve=curve,
        curve_search=curve_search,
        batch_size=batch_size,
        precision=precision,
        compile=compile,
        adaptive=adaptive,
        seed=seed,
        state=state,
        save_adversarial=save_adversarial,
        progress=progress,
        shard=Shard(),
    ) as ready:
        loop, logits, clean, chosen = ready.loop, ready.logits, ready.clean, ready.chosen
        certificates = None if certify is None else Certificates.of(loop, certify, ready.folder)
        loop.run()
        if certificates is not None:
            certificates.run()
            certificates.check()
        x_adv, failures = _checked_images(loop)
        raised = _flags(loop, logits, chosen) if flags else ()
        few, _ = loop.batch(torch.arange(min(8, len(loop.x))))
        has_gradient = models.has_input_gradient(ready.adaptive.network, few)
    of_attacks = (attack_room.note(attack, logits.shape[1]) for attack in chosen.values())
    notes = (
        *notes_on(loop.verifier, loop.y, logits.shape[1], has_gradient=has_gradient),
        ready.adaptive.note,
        *of_attacks,
        *failures,
    )
    return Evaluation(
        threat=threat,
        labels=loop.y,
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
        replaced=ready.adaptive.replaced,
        certifier=certify,
        lower=None if certificates is None else certificates.lower,
        certified=None if certificates is None else certificates.certified,
    )


def attack_shard(
    model: nn.Module,
    x: Images | Batches | Reader,
    y: Labels | None,
    threat: ThreatModel,
    attacks: str | Sequence[str | Attack] = "fast",
    *,
    shard: Shard,
    state: Path | str,
    **settings: Any,
) -> None:
    """Attack one shard of the images; the outcome goes to the folder `state`, as `evaluate` keeps progress.

    When all shards are done, in whatever processes, `evaluate` with the same arguments and the same folder
    finds nothing left to attack, and returns what it would have returned without them, bit for bit: attacks
    run on the same batches. Where work was stopped, another number of shards may go on.

    Args:
        model: as for `evaluate`, and so are the next four.
        x: all images, not the shard's alone.
        y: their labels.
        threat: what the attacker may do.
        attacks: in order.
        shard: which of them are attacked.
        state: the folder, the same for all shards.
        settings: `restarts`, `curve`, `curve_search`, `batch_size`, `precision`, `compile`, `adaptive`,
            `seed`, `save_adversarial` and `progress`, as for `evaluate`.

    Raises:
        As `evaluate`.
    """
    with prepared(model, x, y, threat, attacks, shard=shard, state=state, **settings) as ready:
        ready.loop.run()


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
    few = torch.arange(min(SAMPLE, len(x_adv)))
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
    rows = torch.cat([images[:SAMPLE], images[robust][:SAMPLE]]).unique()
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
