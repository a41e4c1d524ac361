"""Attacks one after another, each on the images that all before it left standing."""

from dataclasses import dataclass
from time import perf_counter

import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn

from robustlens import losses, models
from robustlens.attacks import Attack
from robustlens.evaluation.adversarial_images import AdversarialImages
from robustlens.evaluation.state import EvaluationState
from robustlens.evaluation.verifier import Verifier, measured, within
from robustlens.progress import Event, Listener
from robustlens.threat import ThreatModel


@dataclass(frozen=True)
class Try:
    """One run of one attack over the images.

    Args:
        name: of the attack that it belongs to.
        label: as progress shows it, e.g. "apgd-t 3/9".
        attack: what is run.
        threat: what the attack was built for. A distance search may have a larger radius than the evaluation.
        everyone: also on images that have fallen, to learn how near the nearest misclassified point is.
    """

    name: str
    label: str
    attack: Attack
    threat: ThreatModel
    everyone: bool = False


@dataclass(frozen=True, eq=False)
class AttackLoop:
    """A model and its images under attack; what happens goes to the ledger.

    Args:
        judge: decides which points count.
        search: the network that attacks search on: the model itself or a faster copy.
        x: images. y: labels. Handed out in full batches on the model's device.
        threat: of the evaluation.
        examples: where adversarial images go, or None to drop them.
    """

    judge: Verifier
    search: nn.Module
    x: Float[Tensor, "n ..."]
    y: Int64[Tensor, " n"]
    threat: ThreatModel
    ledger: EvaluationState
    batch_size: int
    listen: Listener
    examples: AdversarialImages | None = None

    def take(self, rows: Int64[Tensor, " rows"]) -> tuple[Tensor, Tensor]:
        """Images and labels of `rows`."""
        device = models.device_of(self.judge.model)
        return self.x[rows].to(device), self.y[rows].to(device)

    def meet(self, number: int, each: Try) -> None:
        """Run try `number` on every image that is its business and that it has not had yet."""
        rows = self.ledger.rows(number, everyone=each.everyone)
        done = 0
        for batch in rows.split(self.batch_size):
            waiting = self.ledger.waiting(number, batch)
            done += len(batch)
            if len(waiting) == 0:
                continue
            self._batch(number, each, waiting)
            standing = int(self.ledger.robust_after(number).sum())
            self.listen(Event(each.label, done, len(rows), f"{standing} of {len(self.x)} standing"))

    def _batch(self, number: int, each: Try, rows: Tensor) -> None:
        began = perf_counter()
        x, y = self.take(rows)
        x_adv = each.attack(self.search, x, y)
        distance = measured(each.name, x_adv, x, each.threat)
        wrong = self.judge.misclassified(x_adv, y)
        if self.search is not self.judge.model:
            # What only the copy gets wrong was taken out of the search too soon: it goes back, to the model.
            right = torch.nonzero(~wrong).squeeze(1)
            with torch.no_grad():
                again = right[losses.is_wrong(self.search(x_adv[right]), y[right])] if len(right) else right
            if len(again):
                x_adv = x_adv.clone()  # an attack may return x itself
                x_adv[again] = each.attack(self.judge.model, x[again], y[again])
                distance[again] = measured(each.name, x_adv[again], x[again], each.threat)
                wrong[again] = self.judge.misclassified(x_adv[again], y[again])
        broken = wrong & within(distance, self.threat, self.threat.eps)
        if self.examples is not None:
            first = broken.cpu() & (self.ledger.broken_by[rows] < 0)
            self.examples.add(number, rows[first], x_adv[first.to(x_adv.device)])
        found = torch.where(wrong, distance, torch.inf).cpu()
        self.ledger.record(number, rows, broken.cpu(), found, perf_counter() - began)
