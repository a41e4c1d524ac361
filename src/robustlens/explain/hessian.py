"""The Hessian of the loss of a network by its weights, known by its products with vectors."""

from collections.abc import Iterator, Mapping, Sequence

import torch
import torch.nn.functional as F  # noqa: N812 - the field's name for it
from jaxtyping import Float, Int64
from torch import Tensor, nn

from robustlens.errors import ConfigError
from robustlens.explain.derivatives import unfused_attention
from robustlens.models import frozen
from robustlens.models.inference import tracking
from robustlens.weights import named_matrix_parameters


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
        named = named_matrix_parameters(model)
        if not named or not len(x):
            raise ConfigError(
                f"curvature: found {len(x)} images and {len(named)} weights with two or more dimensions, "
                "expected at least 1 of each"
            )
        self.model, self.x, self.y = model, x, y
        self.names, self.weights = list(named), list(named.values())
        self.temperature, self.batch_size = temperature, batch_size
        self.size = sum(weight.numel() for weight in self.weights)
        self.dtype, self.device = self.weights[0].dtype, self.weights[0].device
        self.units = None if units is None else torch.cat([units[name].flatten() for name in named])

    def matvec(self, vector: Float[Tensor, " p"]) -> Float[Tensor, " p"]:
        """D H D times `vector`."""
        steps = self._steps(vector)
        product = torch.zeros_like(vector)
        with frozen(self.model), unfused_attention(), tracking(self.weights):
            for images, labels in self._batches(self.batch_size):
                product += self._of_batch(images, labels, steps)
        product = product / len(self.x)
        return product if self.units is None else product * self.units

    def by_image(self, vector: Float[Tensor, " p"]) -> Float[Tensor, " n"]:
        """`vector` times the D H_i D of each image's own loss times `vector`: their mean is that of D H D.

        Second derivatives along a line, by forward differentiation twice, all images at a time; image by
        image with `matvec`'s products where an operation of the network has no forward derivative.
        """
        steps = self._steps(vector)
        batches = list(self._batches(self.batch_size))
        with frozen(self.model), unfused_attention():
            try:
                return torch.cat(
                    [self._second_derivatives(images, labels, steps) for images, labels in batches]
                )
            except (NotImplementedError, RuntimeError):
                with tracking(self.weights):
                    return self._products_by_image(steps)

    def _second_derivatives(
        self, images: Tensor, labels: Tensor, steps: Sequence[Tensor]
    ) -> Float[Tensor, " n"]:
        """Second derivative of each image's loss at w + t steps, by t, at 0."""

        def losses_at(t: Tensor) -> Tensor:
            moved = {
                name: weight.detach() + t * step
                for name, weight, step in zip(self.names, self.weights, steps, strict=True)
            }
            logits = torch.func.functional_call(self.model, moved, (images,))
            return F.cross_entropy(logits / self.temperature, labels, reduction="none")

        def slopes_at(t: Tensor) -> Tensor:
            return torch.func.jvp(losses_at, (t,), (torch.ones_like(t),))[1]

        start = torch.zeros((), dtype=self.dtype, device=self.device)
        return torch.func.jvp(slopes_at, (start,), (torch.ones_like(start),))[1].detach()

    def _products_by_image(self, steps: Sequence[Tensor]) -> Float[Tensor, " n"]:
        flat = torch.cat([step.flatten() for step in steps])
        pairs = self._batches(1)
        return torch.stack([flat @ self._of_batch(image, label, steps) for image, label in pairs])

    def _steps(self, vector: Float[Tensor, " p"]) -> list[Tensor]:
        """`D vector`, in the shapes of the weights."""
        scaled = vector if self.units is None else vector * self.units
        parts = scaled.split([weight.numel() for weight in self.weights])
        return [part.view_as(weight) for part, weight in zip(parts, self.weights, strict=True)]

    def _batches(self, size: int) -> Iterator[tuple[Tensor, Tensor]]:
        return zip(self.x.split(size), self.y.split(size), strict=True)

    def _of_batch(self, images: Tensor, labels: Tensor, steps: Sequence[Tensor]) -> Tensor:
        """The Hessian of the summed loss of a batch, times the vector `steps`."""
        with torch.enable_grad():
            loss = F.cross_entropy(self.model(images) / self.temperature, labels, reduction="sum")
            slopes = torch.autograd.grad(loss, self.weights, create_graph=True, materialize_grads=True)
            slope = torch.stack([(s * v).sum() for s, v in zip(slopes, steps, strict=True)]).sum()
            products = torch.autograd.grad(slope, self.weights, materialize_grads=True)
        return torch.cat([product.flatten() for product in products]).detach()


def filter_units(model: nn.Module) -> dict[str, Tensor]:
    """The root mean square of each filter, in the place of each of its weights, by parameter name."""
    return {
        name: weight.detach().flatten(1).square().mean(1).sqrt().view(-1, *[1] * (weight.ndim - 1))
        * torch.ones_like(weight)
        for name, weight in named_matrix_parameters(model).items()
    }
