"""Attacks one after another, each on the images that survived all before it."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from time import perf_counter

import torch
from jaxtyping import Bool, Int64
from torch import Tensor, nn

from robustlens import losses, models
from robustlens.attacks import Attack, Filling, NoInputGradientError
from robustlens.evaluation.adversarial_images import AdversarialImages
from robustlens.evaluation.shards import Shard
from robustlens.evaluation.state import ROBUST, EvaluationState
from robustlens.evaluation.verifier import RandomVerifier, Verifier, checked_distance, within
from robustlens.models.inputs import Readable
from robustlens.progress import Event, Listener
from robustlens.threat import ThreatModel


@dataclass(frozen=True)
class Try:
    """One run of one attack over the images.

    Args:
        name: of the attack that it belongs to.
        label: as progress shows it, e.g. "apgd-t 3/9".
        attack: the attack of this try alone.
        threat: that the attack was built for. A distance search may have a larger radius than the evaluation.
        include_broken: also on broken images, to learn how near the nearest misclassified point is.
    """

    name: str
    label: str
    attack: Attack
    threat: ThreatModel
    include_broken: bool = False


@dataclass(frozen=True, eq=False)
class AttackLoop:
    """A model and its images under attack; the outcome goes to `state`.

    Args:
        verifier: decides which points count.
        search: the network that attacks search on: the model itself or a faster copy.
        x: images. y: labels. Handed out in batches on the model's device.
        threat: of the evaluation.
        tries: of all attacks, in order.
        adversarial: where adversarial images go, or None to drop them.
        shard: images that are attacked here.
    """

    verifier: Verifier | RandomVerifier
    search: nn.Module
    x: Readable
    y: Int64[Tensor, " n"]
    threat: ThreatModel
    tries: Sequence[Try]
    state: EvaluationState
    batch_size: int
    listen: Listener
    adversarial: AdversarialImages | None = None
    shard: Shard = field(default_factory=Shard)

    def batch(self, rows: Int64[Tensor, " rows"]) -> tuple[Tensor, Tensor]:
        """Images and labels of `rows`, on the model's device."""
        device = models.device_of(self.verifier.model)
        return self.x[rows].to(device), self.y[rows].to(device)

    def run(self) -> None:
        """Run every try on the images of the shard, less those that it was run on before a stop."""
        own = self.shard.rows(len(self.x), self.batch_size)
        for number, attempt in enumerate(self.tries):
            batches = self._batches(self._rows(number))
            done, total = 0, sum(len(batch) for batch in batches)
            for batch in batches:
                untried = self.state.untried(number, batch)
                done += len(batch)
                if len(untried) == 0:
                    continue
                self._run_batch(number, attempt, untried)
                robust = int(self.state.robust_after(number)[own].sum())
                self.listen(Event(attempt.label, done, total, f"{robust} of {len(own)} robust"))

    def by_attack(self) -> dict[str, Bool[Tensor, " n"]]:
        """Masks of the images that survive each attack and all before it."""
        last = {attempt.name: number for number, attempt in enumerate(self.tries)}
        return {name: self.state.robust_after(number) for name, number in last.items()}

    def attacked(self) -> dict[str, int]:
        """Number of images that each attack was run on: those of its first try."""
        first = {attempt.name: number for number, attempt in reversed(list(enumerate(self.tries)))}
        return {name: len(self._rows(first[name])) for name in self.seconds()}

    def seconds(self) -> dict[str, float]:
        """Time spent on each attack, over all its tries."""
        seconds = {attempt.name: 0.0 for attempt in self.tries}
        for attempt, spent in zip(self.tries, self.state.seconds.tolist(), strict=True):
            seconds[attempt.name] += spent
        return seconds

    def _rows(self, number: int) -> Int64[Tensor, " rows"]:
        return self.state.rows(number, include_broken=self.tries[number].include_broken)

    def _batches(self, rows: Int64[Tensor, " rows"]) -> list[Int64[Tensor, " batch"]]:
        """Those of `rows` that the shard attacks, in batches within its blocks."""
        batches: list[Tensor] = []
        for first, end in self.shard.blocks(len(self.x), self.batch_size):
            batches += rows[(rows >= first) & (rows < end)].split(self.batch_size)
        return batches

    def _run_batch(self, number: int, attempt: Try, rows: Tensor) -> None:
        began = perf_counter()
        x, y = self.batch(rows)
        x_adv, distance, wrong = self._attack(attempt, self.search, x, y)
        missed = self._missed(x_adv, y, wrong)
        if len(missed):
            x_adv = x_adv.clone()  # an attack may return x itself
            again = self._attack(attempt, self.verifier.model, x[missed], y[missed])
            x_adv[missed], distance[missed], wrong[missed] = again
        broken = wrong & within(distance, self.threat, self.threat.eps)
        if self.adversarial is not None:
            first = broken.cpu() & (self.state.broken_by[rows] == ROBUST)
            self.adversarial.add(number, rows[first], x_adv[first.to(x_adv.device)])
        nearest = torch.where(wrong, distance, torch.inf).cpu()
        self.state.record(number, rows, broken.cpu(), nearest, perf_counter() - began)

    def _attack(
        self, attempt: Try, network: nn.Module, x: Tensor, y: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Adversarial images from a search on `network`, their distances, and whether the model is wrong."""
        attack = attempt.attack
        if x.device.type != "cpu" and isinstance(attack, Filling):  # x are those that are left of a batch
            attack = attack.filling(self.batch_size)
        try:
            x_adv = attack(network, x, y)
        except NoInputGradientError:  # other attacks, and the flags, are to tell of such a model
            x_adv = attack(models.ZeroGradient(network), x, y)
        return (
            x_adv,
            checked_distance(attempt.name, x_adv, x, attempt.threat),
            self.verifier.misclassified(x_adv, y, x),
        )

    def _missed(self, x_adv: Tensor, y: Tensor, wrong: Bool[Tensor, " n"]) -> Int64[Tensor, " missed"]:
        """Points that only the copy gets wrong: their search ended too soon, and goes on on the model."""
        right = torch.nonzero(~wrong).squeeze(1)
        is_same = self.search is self.verifier.model or isinstance(self.verifier, RandomVerifier)
        if is_same or len(right) == 0:  # a random model's copy differs by chance
            return right[:0]
        with torch.no_grad():
            return right[losses.is_wrong(self.search(x_adv[right]), y[right])]
