"""BatchNorm over the batch of all ranks, whose shares alone may be too small to normalise by."""

from typing import Any

import torch
import torch.distributed
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from robustlens import processes
from robustlens.errors import ConfigError


class _WholeBatchNorm(_BatchNorm):
    """BatchNorm whose mean and variance in train mode are those of the images of all ranks together.

    All ranks have to run it equally often. torch's `SyncBatchNorm` computes the same, on CUDA alone.
    """

    def forward(self, input: Tensor) -> Tensor:
        """Normalised `input` (n, c) or (n, c, ...), of which every rank has some images."""
        if not self.training or not processes.are_connected():
            return super().forward(input)
        self._check_input_dim(input)
        x = input.to(torch.promote_types(input.dtype, torch.float32))
        everywhere = (-1, *[1] * (x.dim() - 2))
        centred, mean, variance, total = _moments(x)
        self._follow(mean.detach(), variance.detach() * total / (total - 1))
        scale = (variance + self.eps).rsqrt()
        scale, shift = (scale, None) if self.weight is None else (scale * self.weight, self.bias)
        out = centred * scale.view(everywhere)
        return (out if shift is None else out + shift.view(everywhere)).to(input.dtype)

    @torch.no_grad()
    def _follow(self, mean: Tensor, variance: Tensor) -> None:
        """Move the running statistics, as BatchNorm does."""
        if not self.track_running_stats or self.running_mean is None or self.running_var is None:
            return
        assert self.num_batches_tracked is not None
        self.num_batches_tracked.add_(1)
        share = 1 / float(self.num_batches_tracked) if self.momentum is None else self.momentum
        self.running_mean.lerp_(mean, share)
        self.running_var.lerp_(variance, share)


class WholeBatchNorm1d(_WholeBatchNorm, nn.BatchNorm1d):
    """`BatchNorm1d` over the batch of all ranks."""


class WholeBatchNorm2d(_WholeBatchNorm, nn.BatchNorm2d):
    """`BatchNorm2d` over the batch of all ranks."""


class WholeBatchNorm3d(_WholeBatchNorm, nn.BatchNorm3d):
    """`BatchNorm3d` over the batch of all ranks."""


_WHOLE = {
    nn.BatchNorm1d: WholeBatchNorm1d,
    nn.BatchNorm2d: WholeBatchNorm2d,
    nn.BatchNorm3d: WholeBatchNorm3d,
}
_OVER_ALL_RANKS = (_WholeBatchNorm, nn.SyncBatchNorm)


def batch_statistics(norm: nn.Module, x: Tensor) -> tuple[Float[Tensor, " c"], Float[Tensor, " c"]]:
    """Mean and variance by which a BatchNorm normalises x (n, c, ...) in train mode, in float32 or float64.

    Those of the images of all ranks where it is made for that, for which all of them have to ask.
    """
    x = x.to(torch.promote_types(x.dtype, torch.float32))
    if isinstance(norm, _OVER_ALL_RANKS) and processes.are_connected():
        _, mean, variance, _ = _moments(x, getattr(norm, "process_group", None))
        return mean, variance
    places = [0, *range(2, x.dim())]
    return x.mean(places), x.var(places, unbiased=False)


def _moments(x: Tensor, group: Any = None) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Maps less their mean over the ranks of a group; that mean, the variance, the number of values of it."""
    places = [0, *range(2, x.dim())]
    count = x.new_tensor([x.numel() / x.shape[1]])
    sums = _sum_over_ranks(torch.cat([x.sum(places), count]), group)
    mean, total = sums[:-1] / sums[-1], sums[-1].detach()
    centred = x - mean.view(-1, *[1] * (x.dim() - 2))
    return centred, mean, _sum_over_ranks(centred.square().sum(places), group) / total, total


class _SumOverRanks(torch.autograd.Function):
    """Sum of the tensors of all ranks; it enters the loss of each of them, so gradients are summed, too."""

    @staticmethod
    def forward(ctx: Any, tensor: Tensor, group: Any) -> Tensor:
        ctx.group = group
        total = tensor.clone()
        torch.distributed.all_reduce(total, group=group)
        return total

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        return _sum_over_ranks(gradients[0], ctx.group), None


def _sum_over_ranks(tensor: Tensor, group: Any) -> Tensor:
    summed: Tensor = _SumOverRanks.apply(tensor, group)
    return summed


def with_whole_batch_norm(model: nn.Module) -> nn.Module:
    """`model` with its BatchNorms turned into those of the whole batch: same tensors, same names.

    Raises:
        ConfigError: a BatchNorm of a kind of its own, which would go on with its rank's share.
    """
    for name, module in model.named_modules():
        if not isinstance(module, _BatchNorm) or isinstance(module, _OVER_ALL_RANKS):
            continue
        if type(module) not in _WHOLE:
            raise ConfigError(
                f"sync_batch_norm: found {type(module).__name__} at {name!r}, expected nn.BatchNorm1d, 2d or "
                "3d, not one made from them; use one of these, or set sync_batch_norm: false"
            )
        module.__class__ = _WHOLE[type(module)]
    return model
