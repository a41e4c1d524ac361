"""Clean logits and verdicts of an evaluation, and notes on them."""

from collections.abc import Iterator

import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn

from robustlens import losses, models
from robustlens.evaluation.verifier import DRAWS, CleanVerdict, RandomVerifier, Verifier
from robustlens.models.inputs import Readable


@torch.no_grad()
def clean_logits(model: nn.Module, x: Readable, batch_size: int) -> Float[Tensor, "n c"]:
    """Logits of all images on the CPU, by one pass. NaN is left to the flags, which look at all images."""
    device = models.device_of(model)
    return torch.cat([model(part.to(device)).float().cpu() for part in x.split(batch_size)])


def clean_verdict(
    verifier: Verifier | RandomVerifier,
    x: Readable,
    y: Int64[Tensor, " n"],
    logits: Float[Tensor, "n c"],
    batch_size: int,
) -> CleanVerdict:
    """The verdict on all images without an attack, on the CPU; of one pass, unless the model is random."""
    if isinstance(verifier, Verifier):
        return CleanVerdict(~losses.is_wrong(logits, y), logits.argmax(1), losses.cross_entropy(logits, y))
    device = models.device_of(verifier.model)
    batches = zip(x.split(batch_size), y.split(batch_size), strict=True)
    verdicts = [verifier.clean(images.to(device), labels.to(device)) for images, labels in batches]
    return CleanVerdict(*(torch.cat(column).cpu() for column in zip(*verdicts, strict=True)))


def notes_on(
    verifier: Verifier | RandomVerifier, y: Int64[Tensor, " n"], classes: int, *, has_gradient: bool
) -> Iterator[str]:
    """Sentences on the model that a reader of its verdicts should know."""
    if not has_gradient:
        yield (
            "the logits carry no gradient with respect to the input, so that gradient attacks cannot search; "
            "attack around that (--adaptive, adaptive=True), and without gradients (square)"
        )
    if isinstance(verifier, RandomVerifier):
        yield (
            f"the model draws random numbers: every verdict is over {DRAWS} draws, and accuracies are means "
            "over draws"
        )
    elif verifier.exact is None:
        yield (
            "verdicts are of float32 alone: no float64 copy gives the model's logits, as of one that has "
            "hooks, changes its own tensors, calls layers that it does not own or names a dtype"
        )
    seen = len(y.unique())
    if classes > seen:
        yield f"the model has {classes} outputs, and the labels show {seen} of these classes"
