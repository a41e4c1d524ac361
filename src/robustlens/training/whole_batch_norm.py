"""BatchNorm over the batch of all ranks, whose shares alone may be too small to normalise by."""

from typing import Any

import torch
import torch.distributed
from torch import Tensor, nn

from robustlens import processes


class WholeBatchNorm2d(nn.BatchNorm2d):
    """BatchNorm whose mean and variance in train mode are those of the images of all ranks together.

    All ranks have to run it equally often. torch's `SyncBatchNorm` computes the same, on CUDA alone.
    """

    def forward(self, input: Tensor) -> Tensor:
        """Normalised `input` (n, c, h, w), of which every rank has some images."""
        if not self.training or not processes.are_connected():
            return super().forward(input)
        x = input.to(torch.promote_types(input.dtype, torch.float32))
        count = x.new_tensor([x.numel() / x.shape[1]])
        sums = _sum_over_ranks(torch.cat([x.sum((0, 2, 3)), count]))
        mean, total = sums[:-1] / sums[-1], sums[-1].detach()
        centred = x - mean[:, None, None]
        variance = _sum_over_ranks(centred.square().sum((0, 2, 3))) / total
        self._follow(mean.detach(), variance.detach() * total / (total - 1))
        scale = (variance + self.eps).rsqrt()
        scale, shift = (scale, None) if self.weight is None else (scale * self.weight, self.bias)
        out = centred * scale[:, None, None]
        return (out if shift is None else out + shift[:, None, None]).to(input.dtype)

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


class _SumOverRanks(torch.autograd.Function):
    """Sum of the tensors of all ranks; it enters the loss of each of them, so gradients are summed, too."""

    @staticmethod
    def forward(ctx: Any, tensor: Tensor) -> Tensor:
        total = tensor.clone()
        torch.distributed.all_reduce(total)
        return total

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        return _sum_over_ranks(gradients[0])


def _sum_over_ranks(tensor: Tensor) -> Tensor:
    summed: Tensor = _SumOverRanks.apply(tensor)
    return summed


def with_whole_batch_norm(model: nn.Module) -> nn.Module:
    """`model` with its BatchNorms of images turned into `WholeBatchNorm2d`: same tensors, same names."""
    for module in model.modules():
        if type(module) is nn.BatchNorm2d:
            module.__class__ = WholeBatchNorm2d
    return model
