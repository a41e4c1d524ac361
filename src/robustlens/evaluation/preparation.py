"""The attack loop of an evaluation, made ready from what the caller gives."""

import contextlib
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from robustlens import attacks as attack_room
from robustlens import models, reliability
from robustlens.attacks import AdaptiveMinimumNorm, Attack, MinimumNorm
from robustlens.config import widest_radius
from robustlens.data.sizes import check_size
from robustlens.errors import ConfigError
from robustlens.evaluation.adversarial_images import AdversarialImages
from robustlens.evaluation.attack_loop import AttackLoop, Try
from robustlens.evaluation.clean import clean_logits, clean_verdict
from robustlens.evaluation.identity import identity
from robustlens.evaluation.shards import Shard
from robustlens.evaluation.state import EvaluationState
from robustlens.evaluation.verifier import CleanVerdict, RandomVerifier, Verifier
from robustlens.machine import float32_products, kept_memory, repeatable
from robustlens.models import inputs
from robustlens.models.inputs import Batches, Images, Labels, Readable, Reader
from robustlens.progress import Listener, silent
from robustlens.reliability import AdaptiveCopy
from robustlens.threat import ThreatModel, checked_threat

SAMPLE = 64
"""Images on which a model is tried out."""
_CURVE = "min-norm"
_SEARCHES = {"plain": MinimumNorm, "adaptive": AdaptiveMinimumNorm}  # four walks, as in every older curve


@dataclass(frozen=True, eq=False)
class PreparedAttacks:
    """A loop that can run, and what is known before it does.

    Attributes:
        loop: of the attacks. chosen: these, by name.
        folder: where progress is kept, or None.
        logits, clean: of the shard's images without an attack.
        adaptive: layers that attacks go round, none unless asked for.
    """

    loop: AttackLoop
    chosen: Mapping[str, Attack]
    folder: Path | None
    logits: Tensor
    clean: CleanVerdict
    adaptive: AdaptiveCopy


@contextlib.contextmanager
def prepared(
    model: nn.Module,
    x: Images | Batches | Reader,
    y: Labels | None,
    threat: ThreatModel,
    attacks: str | Sequence[str | Attack] = "fast",
    *,
    shard: Shard,
    restarts: int = 1,
    curve: Sequence[float] = (),
    curve_search: str = "adaptive",
    batch_size: int = 256,
    precision: str = "32-true",
    compile: bool = False,
    adaptive: bool = False,
    seed: int = 0,
    state: Path | str | None = None,
    save_adversarial: bool = False,
    progress: Listener = silent,
) -> Iterator[PreparedAttacks]:
    """Everything of an evaluation up to its first attack; arguments and errors as those of `evaluate`.

    The model is frozen, and float32 is IEEE, while the context is open.
    """
    if precision not in ("32-true", "bf16-mixed"):
        raise ConfigError(f"evaluate.precision: found {precision!r}, expected '32-true' or 'bf16-mixed'")
    if batch_size < 1:
        raise ConfigError(f"evaluate.batch_size: found {batch_size}, expected >= 1")
    checked_threat(threat, "evaluate").require_box()
    chosen = attack_room.chosen(attacks, threat, restarts=restarts, seed=seed)
    tries = _tries(chosen, threat) + _curve_tries(threat, curve, curve_search, seed)
    x, y = inputs.checked(model, x, y, threat.bounds, where="evaluate")
    y = y.cpu()
    if save_adversarial:  # they are put together in memory
        check_size(4 * math.prod(x.shape), "evaluate.save_adversarial")
    rows = shard.rows(len(x), batch_size)
    own_x, own_y = (x, y) if shard.of == 1 else (_chosen(x, rows), y[rows])
    repeats = repeatable(models.device_of(model))
    graphs = models.repeated_gradients() if compile else contextlib.nullcontext()
    with models.frozen(model), float32_products(), kept_memory(), repeats, graphs, attack_room.trusted():
        logits = clean_logits(model, own_x, batch_size)
        compiled_batch = batch_size if compile else None
        verifier, search, changed = _networks(model, x, precision, seed, compiled_batch, adaptive=adaptive)
        clean = clean_verdict(verifier, own_x, own_y, logits, batch_size)
        folder = None if state is None else Path(state)
        attacked = [(each.label, each.attack) for each in tries]
        way = ", ".join([precision, *["compiled"][:compile], *["adaptive"][:adaptive]])
        bound_to = identity(model, x, y, threat, attacked, way) if folder else {}
        right = torch.zeros(len(x), dtype=torch.bool)
        right[rows] = clean.right
        saved = EvaluationState.open(folder, bound_to, right, len(tries), shard, rows)
        kept = AdversarialImages(folder) if save_adversarial else None
        if kept is not None:
            kept.require(saved.broken_by >= 0)
        loop = AttackLoop(verifier, search, x, y, threat, tries, saved, batch_size, progress, kept, shard)
        yield PreparedAttacks(loop, chosen, folder, logits, clean, changed)


def _chosen(x: Readable, rows: Tensor) -> Readable:
    """The images at `rows`; those that are read later stay unread."""
    return x.select(rows) if isinstance(x, Reader) else x[rows]


def _networks(
    model: nn.Module,
    x: Readable,
    precision: str,
    seed: int,
    compiled_batch: int | None,
    *,
    adaptive: bool,
) -> tuple[Verifier | RandomVerifier, nn.Module, AdaptiveCopy]:
    """The verifier of a model, and the network that attacks search on, compiled for batches of this size."""
    few = x[:SAMPLE].to(models.device_of(model))
    changed = reliability.adaptive_copy(model, few) if adaptive else AdaptiveCopy(model, ())
    if reliability.is_randomised(model, few):
        return RandomVerifier(model, seed), changed.network, changed
    verifier = Verifier(model, models.float64_copy(model, few[:8]))
    search = models.fast_copy(changed.network, few[:32], precision=precision)
    if compiled_batch is None or changed.replaced or search is model:  # what cannot be copied has hooks ...
        return verifier, search, changed
    if not models.has_input_gradient(search, few[:8]):  # torch has no backward pass to compile
        return verifier, search, changed
    return verifier, models.compiled_copy(search, few[:32], compiled_batch), changed


def _tries(chosen: Mapping[str, Attack], threat: ThreatModel) -> list[Try]:
    """The tries of all attacks, in order."""
    tries = []
    for name, attack in chosen.items():
        parts = attack_room.tries_of(attack)
        for number, part in enumerate(parts, start=1):
            label = name if len(parts) == 1 else f"{name} {number}/{len(parts)}"
            tries.append(Try(name, label, part, threat))
    return tries


def _curve_tries(threat: ThreatModel, multiples: Sequence[float], search: str, seed: int) -> list[Try]:
    """The search behind a curve: every image, as far as its largest radius."""
    if not multiples:
        return []
    if not all(isinstance(multiple, int | float) and 0 <= multiple < math.inf for multiple in multiples):
        raise ConfigError(f"evaluate.curve: found {list(multiples)}, expected finite multiples of eps >= 0")
    if search not in _SEARCHES:
        raise ConfigError(f"evaluate.curve_search: found {search!r}, expected 'adaptive' or 'plain'")
    wide = threat.at(_radius(threat, max(1.0, *multiples)))
    attack = _SEARCHES[search if threat.norm == "Linf" else "plain"](wide, seed=seed, walks=4)
    return [Try(_CURVE, _CURVE, attack, wide, include_broken=True)]


def _radius(threat: ThreatModel, multiple: float) -> float:
    """The radius, but no more than reaches any image."""
    return min(multiple * threat.eps, widest_radius(threat.norm, threat.bounds))
