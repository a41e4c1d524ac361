"""Evidence in running statistics on the network that they come from.

A state dict names the tensors of a network, not their use: whether its images were normalised, which
activation it has, where its shortcuts start. But the running mean of each BatchNorm is the mean of its input,
and that follows from the layers before it.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from jaxtyping import Float
from torch import Tensor, nn

from robustlens.models.hooks import reading
from robustlens.models.inference import frozen

_SIDE = 32  # of the made-up images, in pixels
_EXAMPLES = 8


def image_mean(model: nn.Module, channels: int) -> tuple[Float[Tensor, " c"], float] | None:
    """Mean of each channel of the images that the first BatchNorm must have seen, by least squares.

    Up to the first BatchNorm most networks are affine, so the mean of its input there is an affine
    function of the mean of the images; its coefficients are read off constant images.

    Args:
        model: takes images (n, channels, h, w).
        channels: channels of the images.

    Returns:
        The means, and the distance of the running means from them: the root mean square distance, in
        running standard deviations. None for a network whose BatchNorms have no statistics, or that has none.
    """
    norms = _norms(model)
    if not norms:
        return None
    constant = torch.cat([torch.zeros(1, channels), torch.eye(channels)])
    with _inputs(norms) as seen, frozen(model), torch.no_grad():
        model(constant[:, :, None, None].expand(-1, -1, _SIDE, _SIDE))
    norm, means = seen[0]
    running, spread = _running(norm)
    slopes = (means[1:] - means[0]).T / spread[:, None]
    target = (running - means[0]) / spread
    solution = torch.linalg.lstsq(slopes, target[:, None]).solution.flatten()
    return solution, (slopes @ solution - target).square().mean().sqrt().item()


def disagreement(model: nn.Module, mean: Float[Tensor, " c"]) -> Float[Tensor, " layers"]:
    """Distance of the running means of each BatchNorm from those that the weights give for noise.

    Noise of this mean runs through the network while each BatchNorm normalises with the batch's own mean and
    variance, so that at each of them the values are on the scale of training again.
    Values at a layer are then roughly normal, as in training; only their means are compared.

    Args:
        model: takes images (n, channels, h, w).
        mean: of the images, as from `image_mean`.

    Returns:
        The root mean square distance of each BatchNorm, in the order in which they run, in running standard
        deviations. After four epochs on CIFAR-10 it was 0.04 to 0.13 in the form that was trained and 0.2 to
        1.0 in another, over the layers where the two differ (6 small networks).
    """
    generator = torch.Generator().manual_seed(0)
    noise = torch.randn(_EXAMPLES, len(mean), _SIDE, _SIDE, generator=generator)
    norms = _norms(model)
    running = {norm: _running(norm) for norm in norms}  # before train mode moves it
    with _inputs(norms) as seen, frozen(model, mode="train"), torch.no_grad():
        model(mean[:, None, None] + noise / 4)
    distances = [(means.mean(0) - running[norm][0]) / running[norm][1] for norm, means in seen]
    return torch.stack([distance.square().mean().sqrt() for distance in distances])


def _norms(model: nn.Module) -> list[nn.BatchNorm2d]:
    """The layers with statistics: before the first step of training every mean is 0."""
    norms = [module for module in model.modules() if isinstance(module, nn.BatchNorm2d)]
    return [norm for norm in norms if norm.running_mean is not None and bool(norm.running_mean.any())]


@contextmanager
def _inputs(norms: list[nn.BatchNorm2d]) -> Iterator[list[tuple[nn.BatchNorm2d, Tensor]]]:
    """A list that fills with each BatchNorm that runs and the mean of its input: (examples, channels)."""
    seen: list[tuple[nn.BatchNorm2d, Tensor]] = []

    def look(norm: nn.BatchNorm2d, x: Tensor) -> None:
        seen.append((norm, x.mean((2, 3))))

    with reading(norms, look):
        yield seen


def _running(norm: nn.BatchNorm2d) -> tuple[Float[Tensor, " c"], Float[Tensor, " c"]]:
    """Mean and standard deviation of each channel in training."""
    mean, variance = norm.get_buffer("running_mean"), norm.get_buffer("running_var")
    return mean.clone(), (variance + norm.eps).sqrt()
