"""Checks of the outputs of a model, and of changes that a pass makes to the model itself."""

import torch
from torch import Tensor

from robustlens import losses
from robustlens.reliability.diagnostics import Diagnostics

_ALONE = 8


def randomised(diagnostics: Diagnostics) -> str | None:
    """Two passes from the same state of the model: a deterministic one gives the same bits."""
    noise = diagnostics.noise
    # The same kernels: only the order of a GPU's additions may differ.
    if noise == 0 or noise <= diagnostics.rounding / 10:
        return None
    return f"two identical passes differ by up to {noise:.2g} of the logits' size"


def softmax(diagnostics: Diagnostics) -> str | None:
    """Rows that sum to one, or whose exponentials do, for every image: no accident."""
    logits = diagnostics.logits[~losses.is_broken(diagnostics.logits)].double()
    rounding = diagnostics.rounding / 25  # 2e-5 in float32: one operation rounds less than a network
    if len(logits) == 0:
        return None
    if bool((logits >= 0).all() and ((logits.sum(1) - 1).abs() < rounding).all()):
        return "the outputs of every image are probabilities, which sum to one"
    if bool((logits <= 0).all() and (logits.logsumexp(1).abs() < rounding).all()):
        return "the outputs of every image are log-probabilities, whose exponentials sum to one"
    return None


def batch_dependent(diagnostics: Diagnostics) -> str | None:
    """The same images beside others: in three batches, in another order, and a few of them alone."""
    if not diagnostics.takes_single_images:
        return "the model refuses an image alone"
    order = torch.arange(len(diagnostics.x), device=diagnostics.x.device).flip(0)
    thirds = [rows for rows in (order[0::3], order[1::3], order[2::3]) if len(rows) > 1]
    gap = max(_gap(diagnostics, rows) for rows in (*thirds, *order[:_ALONE].split(1)))
    if gap <= max(diagnostics.rounding, 3 * diagnostics.noise):
        return None
    return f"an image's logits change by up to {gap:.2g} of their size with the images beside it"


def state_changes(diagnostics: Diagnostics) -> str | None:
    """Parameters, buffers and modes before and after a pass without gradients and one with them."""
    with torch.no_grad():
        diagnostics.model(diagnostics.x)
    with torch.enable_grad():
        diagnostics.model(diagnostics.x.clone().requires_grad_())
    changed = diagnostics.state.changed()
    if not changed:
        return None
    more = f" and {len(changed) - 1} more" if len(changed) > 1 else ""
    return f"passes in eval mode change {changed[0]!r}{more}"


def test_time_optimisation(diagnostics: Diagnostics) -> str | None:
    """Calls of autograd inside a forward pass."""
    return "the forward pass computes gradients of its own" if diagnostics.calls.differentiates else None


def not_finite(diagnostics: Diagnostics) -> str | None:
    """Logits of all images, not of the sample alone."""
    bad = int(losses.is_broken(diagnostics.all_logits).sum())
    return f"{bad} of {len(diagnostics.all_logits)} images get NaN or infinite logits" if bad else None


def _gap(diagnostics: Diagnostics, rows: Tensor) -> float:
    """Relative difference of the logits of `rows`, as a batch of their own, from those in the sample."""
    return diagnostics.distance(diagnostics.run(diagnostics.x[rows]), diagnostics.logits[rows])
