"""Curvature of the adversarial loss in weight space: largest eigenvalues, trace and density of its Hessian.

An operator knows a symmetric matrix by its products with vectors only; the algorithms take any operator. The
Hessian is that of the mean loss at fixed adversarial images, made once at w: where the inner maximum is
unique, the gradient of the adversarial loss is the gradient there (Danskin), and the Hessian leaves out that
the images would move with the weights; a landscape, which attacks anew, bends at least as much upwards.

The weights' scale is arbitrary wherever a ReLU or a BatchNorm follows (Dinh et al. 2017), and with it every
number of the Hessian. So there is a *relative* one beside it, in which a weight is counted in units of the
root mean square of its filter. Its trace is the expected second derivative of the loss along the random
directions of a landscape (`landscape.filter_normalised`).
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812 - the field's name for it
from jaxtyping import Float, Int64
from scipy.linalg import eigh_tridiagonal
from torch import Tensor, nn

from robustlens import noise
from robustlens.attacks import PGD
from robustlens.errors import ConfigError, NumericsError
from robustlens.explain.landscape.points import AdversarialLoss, asking_for_gradients
from robustlens.explain.measure import Measurement, Subject
from robustlens.models import frozen
from robustlens.threat import ThreatModel


@runtime_checkable
class Operator(Protocol):
    """A symmetric matrix, known by its products with vectors."""

    size: int
    dtype: torch.dtype
    device: torch.device

    def matvec(self, vector: Float[Tensor, " p"]) -> Float[Tensor, " p"]:
        """The matrix times `vector`."""


class Dense:
    """An operator whose matrix is at hand."""

    def __init__(self, matrix: Float[Tensor, "p p"]) -> None:
        self.matrix = matrix
        self.size, self.dtype, self.device = len(matrix), matrix.dtype, matrix.device

    def matvec(self, vector: Float[Tensor, " p"]) -> Float[Tensor, " p"]:
        """The matrix times `vector`."""
        return self.matrix @ vector


class Hessian:
    """Second derivatives of the mean cross entropy on fixed images, by the weights of a network.

    Hessian-vector products by double backward (Pearlmutter 1994), batch after batch. The network is in eval
    mode, so BatchNorm uses its running statistics, and is left as it was.

    Args:
        model: every weight with two or more dimensions is a variable, as in a landscape and in AWP; biases
            and normalisation layers are constants.
        x, y: images (at least one) and labels.
        units: factor of each variable, by parameter name and of its shape; the operator is D H D, D the
            diagonal matrix of these. None for H itself.
        temperature: by which logits are divided.
        batch_size: changes speed and memory, not results.

    Raises:
        ConfigError: no image, or no weight with two dimensions.
    """

    def __init__(
        self,
        model: nn.Module,
        x: Float[Tensor, "n ..."],
        y: Int64[Tensor, " n"],
        *,
        units: Mapping[str, Tensor] | None = None,
        temperature: float = 1.0,
        batch_size: int = 256,
    ) -> None:
        named = {name: weight for name, weight in model.named_parameters() if weight.ndim > 1}
        if not named or not len(x):
            raise ConfigError(
                f"curvature: found {len(x)} images and {len(named)} weights with two or more dimensions, "
                "expected at least 1 of each"
            )
        self.model, self.x, self.y = model, x, y
        self.weights = list(named.values())
        self.temperature, self.batch_size = temperature, batch_size
        self.size = sum(weight.numel() for weight in self.weights)
        self.dtype, self.device = self.weights[0].dtype, self.weights[0].device
        self.units = None if units is None else torch.cat([units[name].flatten() for name in named])

    def matvec(self, vector: Float[Tensor, " p"]) -> Float[Tensor, " p"]:
        """D H D times `vector`."""
        scaled = vector if self.units is None else vector * self.units
        parts = scaled.split([weight.numel() for weight in self.weights])
        along = [part.view_as(weight) for part, weight in zip(parts, self.weights, strict=True)]
        product = torch.zeros_like(vector)
        with frozen(self.model), asking_for_gradients(self.weights):
            for images, labels in zip(
                self.x.split(self.batch_size), self.y.split(self.batch_size), strict=True
            ):
                product += self._of_batch(images, labels, along)
        product = product / len(self.x)
        return product if self.units is None else product * self.units

    def _of_batch(self, images: Tensor, labels: Tensor, along: Sequence[Tensor]) -> Tensor:
        """The Hessian of the summed loss of a batch, times the vector `along`."""
        with torch.enable_grad():
            loss = F.cross_entropy(self.model(images) / self.temperature, labels, reduction="sum")
            slopes = torch.autograd.grad(loss, self.weights, create_graph=True, materialize_grads=True)
            slope = torch.stack([(s * v).sum() for s, v in zip(slopes, along, strict=True)]).sum()
            found = torch.autograd.grad(slope, self.weights, materialize_grads=True)
        return torch.cat([part.flatten() for part in found]).detach()


def filter_units(model: nn.Module) -> dict[str, Tensor]:
    """The root mean square of each filter, in the place of each of its weights, by parameter name."""
    return {
        name: weight.detach().flatten(1).square().mean(1).sqrt().view(-1, *[1] * (weight.ndim - 1))
        * torch.ones_like(weight)
        for name, weight in model.named_parameters()
        if weight.ndim > 1
    }


# -- algorithms, for any operator ----------------------------------------------------------------------


@dataclass(frozen=True)
class Ritz:
    """What Lanczos knows of a matrix from one start vector, largest value first.

    Attributes:
        values: (m,) Ritz values. weights: (m,) squared first components of their vectors, which sum to 1: a
            Gauss quadrature of the matrix's spectrum as the start vector sees it. residuals: (m,), each
            value is this near to an eigenvalue.
    """

    values: np.ndarray
    weights: np.ndarray
    residuals: np.ndarray


def lanczos(operator: Operator, start: Float[Tensor, " p"], steps: int) -> Ritz:
    """Lanczos with full reorthogonalisation, twice in each step (Golub and Van Loan 2013, section 10.3).

    It ends before `steps` where the start vector's Krylov space is exhausted; the values are then exact.

    Raises:
        ConfigError: fewer than one step. NumericsError: a product is not finite.
    """
    if steps < 1:
        raise ConfigError(f"curvature.lanczos_steps: found {steps}, expected at least 1")
    count = min(steps, operator.size)
    basis = torch.zeros(count, operator.size, dtype=operator.dtype, device=operator.device)
    basis[0] = start / start.norm()
    diagonal: list[float] = []
    beside: list[float] = []
    for step in range(count):
        product = operator.matvec(basis[step])
        diagonal.append(float(basis[step] @ product))
        for _ in range(2):
            product = product - basis[: step + 1].T @ (basis[: step + 1] @ product)
        beside.append(float(product.norm()))
        if not math.isfinite(beside[-1]) or not math.isfinite(diagonal[-1]):
            raise NumericsError("curvature: a product with the Hessian is NaN or infinite; check the weights")
        if beside[-1] <= 10 * torch.finfo(operator.dtype).eps * max(map(abs, diagonal + beside)):
            break
        if step + 1 < count:
            basis[step + 1] = product / beside[-1]
    values, vectors = eigh_tridiagonal(diagonal, beside[:-1])
    order = values.argsort()[::-1]
    residuals = np.abs(beside[-1] * vectors[-1])
    return Ritz(values[order], np.square(vectors[0])[order], residuals[order])


def hutchinson(operator: Operator, draws: int, generator: torch.Generator) -> np.ndarray:
    """Unbiased estimates of the trace, z' A z with z of random signs (Hutchinson 1990); (draws,).

    Raises:
        ConfigError: fewer than one draw.
    """
    if draws < 1:
        raise ConfigError(f"curvature.draws: found {draws}, expected at least 1")
    found = []
    for _ in range(draws):
        z = _signs(operator, generator)
        found.append(float((z.double() @ operator.matvec(z).double()).item()))
    return np.array(found)


def spectral_density(
    operator: Operator, draws: int, steps: int, generator: torch.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """The density of eigenvalues by stochastic Lanczos quadrature (Ubaru, Chen and Saad 2017).

    Returns:
        Nodes and weights, (draws, steps) each: the mean of f over all eigenvalues is about the sum of
        weights * f(nodes); exactly for f(t) = 1, and without bias for polynomials of degree below 2 `steps`.
        Places that an early end of Lanczos leaves have weight 0.
    """
    nodes, weights = np.zeros((draws, steps)), np.zeros((draws, steps))
    for draw in range(draws):
        found = lanczos(operator, _signs(operator, generator), steps)
        nodes[draw, : len(found.values)] = found.values
        weights[draw, : len(found.values)] = found.weights / draws
    return nodes, weights


def _signs(operator: Operator, generator: torch.Generator) -> Tensor:
    signs = torch.randint(0, 2, (operator.size,), generator=generator) * 2 - 1
    return signs.to(operator.device, operator.dtype)


# -- the measure ---------------------------------------------------------------------------------------


def curvature(
    model: nn.Module,
    x: Float[Tensor, "n ..."],
    y: Int64[Tensor, " n"],
    threat: ThreatModel,
    *,
    eigenvalues: int = 5,
    lanczos_steps: int = 20,
    draws: int = 20,
    steps: int = 10,
    batch_size: int = 256,
    seed: int = 0,
) -> dict[str, np.ndarray]:
    """Hessian of the adversarial loss at w, at the images that PGD makes there, in the model's precision.

    Args:
        model: in any mode; evaluated in eval mode and left as it is.
        x: images.
        y: labels.
        threat: of the attack.
        eigenvalues: how many of the largest.
        lanczos_steps: products with the Hessian for these, and as many again for the density.
        draws: products for the trace.
        steps: of the PGD.
        batch_size: changes speed, not results.
        seed: of the random vectors, the same for networks of one architecture, and of the attack's starts.

    Returns:
        eigenvalues: (eigenvalues,) the largest, from above. residuals: (eigenvalues,), each is this near to
        an eigenvalue. trace: (draws,) estimates. nodes, weights: of the density, as `spectral_density`, of
        one start vector. The same with "relative_" before it: each weight in units of the root mean square
        of its filter, and the loss at the temperature that fits the clean logits best: no scale is left.

    Raises:
        ConfigError: no image, no weight with two dimensions, or a count below 1.
        NumericsError: a product with the Hessian is not finite.
    """
    attacked = AdversarialLoss.of(model, x, y, PGD(threat, steps=steps, seed=seed), batch_size)
    x_adv = attacked.images()
    plain = Hessian(model, x_adv, y, batch_size=batch_size)
    relative = Hessian(
        model,
        x_adv,
        y,
        units=filter_units(model),
        temperature=attacked.temperature,
        batch_size=batch_size,
    )
    found: dict[str, np.ndarray] = {}
    for prefix, operator in (("", plain), ("relative_", relative)):
        spectrum = _spectrum_of(operator, eigenvalues, lanczos_steps, draws, seed)
        found |= {f"{prefix}{name}": array for name, array in spectrum.items()}
    return found


def measure_curvature(
    subject: Subject,
    *,
    examples: int = 64,
    split: str = "test",
    eigenvalues: int = 5,
    lanczos_steps: int = 20,
    draws: int = 20,
    steps: int = 10,
) -> Measurement:
    """Largest eigenvalues, trace and density of the Hessian, as it is and free of scale."""
    x, y = subject.images(split, examples)
    found = curvature(
        subject.model,
        x,
        y,
        subject.threat,
        eigenvalues=eigenvalues,
        lanczos_steps=lanczos_steps,
        draws=draws,
        steps=steps,
        batch_size=subject.batch_size,
        seed=subject.seed,
    )
    value = {"split": split, "examples": len(x), "eps": subject.threat.eps, "steps": steps}
    for prefix in ("", "relative_"):
        value |= {
            f"{prefix}top_eigenvalue": float(found[f"{prefix}eigenvalues"][0]),
            f"{prefix}top_residual": float(found[f"{prefix}residuals"][0]),
            f"{prefix}trace": float(found[f"{prefix}trace"].mean()),
            f"{prefix}trace_error": _error_of_mean(found[f"{prefix}trace"]),
        }
    return Measurement(
        value,
        unit="nats per squared weight (relative: per squared root mean square of a filter)",
        what="How the adversarial loss curves in weight space, at the adversarial images of w.",
        source="Ghorbani, Krishnan and Xiao 2019; Yao et al. 2018; the relative units are ours",
        arrays={
            f"{split}_index": getattr(subject, split).index[: len(x)].numpy(),
            **{f"{split}_{name}": array for name, array in found.items()},
        },
    )


def _spectrum_of(
    operator: Operator, eigenvalues: int, lanczos_steps: int, draws: int, seed: int
) -> dict[str, np.ndarray]:
    """What `curvature` returns of one operator."""
    start = torch.randn(operator.size, generator=noise.generator_for(seed, 0))
    top = lanczos(operator, start.to(operator.device, operator.dtype), lanczos_steps)
    nodes, weights = spectral_density(operator, 1, lanczos_steps, noise.generator_for(seed, 2))
    return {
        "eigenvalues": top.values[:eigenvalues],
        "residuals": top.residuals[:eigenvalues],
        "trace": hutchinson(operator, draws, noise.generator_for(seed, 1)),
        "nodes": nodes,
        "weights": weights,
    }


def _error_of_mean(draws: np.ndarray) -> float:
    """Standard error of the mean; of one draw none is known, and it is 0."""
    return float(draws.std(ddof=1) / math.sqrt(len(draws))) if len(draws) > 1 else 0.0
