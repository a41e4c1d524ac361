"""Networks whose recording or linear bounds once said something false, and operations that once failed."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

import robustlens as rl
from robustlens.certification import bounded
from robustlens.certification.graph import record
from robustlens.errors import ModelError

METHODS = ("ibp", "crown-ibp", "crown")
NEAR = rl.ThreatModel("Linf", 0.1)
ZERO = torch.tensor([0])


def linear(weight: list[list[float]], bias: list[float]) -> nn.Linear:
    layer = nn.Linear(len(weight[0]), len(weight))
    layer.weight.data, layer.bias.data = torch.tensor(weight), torch.tensor(bias)
    return layer


@pytest.mark.parametrize("method", METHODS)
def test_a_slope_is_no_float32(method: str) -> None:
    """Margin at x - 0.1: steep * (-0.01 * 0.6 + 0.006 - 1e-10) = -1, which a slope of 0.00999999978 hides."""
    steep = 1e10
    model = nn.Sequential(linear([[1.0]], [-1.0]), nn.LeakyReLU(0.01), nn.Linear(1, 2)).double()
    model[2].weight.data = torch.tensor([[steep], [0.0]], dtype=torch.float64)
    model[2].bias.data = torch.tensor([steep * (0.006 - 1e-10), 0.0], dtype=torch.float64)
    x = torch.tensor([[0.5]], dtype=torch.float64)
    assert model(x - 0.1).argmax(1).item() == 1
    assert not rl.certify(model, x, ZERO, NEAR, method).certified.any()


class Scaled(nn.Module):
    """Reads a weight as a Python number."""

    def __init__(self) -> None:
        super().__init__()
        self.layer, self.scale = (
            linear([[-1.0, -1.0], [1.0, 1.0]], [1.0, 0.0]),
            nn.Parameter(torch.tensor(10.0)),
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x * float(self.scale.detach()))


class Chunked(nn.Module):
    """Takes its weight in two pieces, of which the second counts."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.tensor([[0.0, 0.0], [0.0, 0.0], [-10.0, -10.0], [10.0, 10.0]]))
        self.bias = nn.Parameter(torch.tensor([1.0, 0.0]))

    def forward(self, x: Tensor) -> Tensor:
        first, second = self.weight.chunk(2)
        return x @ first.T + x @ second.T + self.bias


@pytest.mark.parametrize("method", METHODS)
def test_weights_are_not_what_they_were_recorded_as(method: str) -> None:
    x = torch.zeros(1, 2)
    for model in (Scaled(), Chunked()):
        assert model(x).argmax(1).item() == 0
        assert model(x + 0.1).argmax(1).item() == 1
    with pytest.raises(ModelError, match="reads values of its weights as Python numbers"):
        rl.certify(Scaled(), x, ZERO, NEAR, method)
    assert rl.certify(Chunked(), x, ZERO, NEAR, method).lower.item() == pytest.approx(-3.0)


class Branching(nn.Module):
    """Another network above a brightness, which no dispatcher sees."""

    def forward(self, x: Tensor) -> Tensor:
        bright = float(x.detach().numpy().max()) if len(x) else 0.0
        logits = torch.cat([x.sum(1, keepdim=True), 1 - x.sum(1, keepdim=True)], 1)
        return -logits if 0.55 < bright < 0.65 else logits


def test_a_branch_within_the_ball_is_seen_at_its_corners() -> None:
    x = torch.full((1, 8), 0.5)
    with pytest.raises(ModelError, match="do not give the model's logits"):
        rl.certify(Branching(), x, ZERO, NEAR, "crown")


def test_an_image_with_infinite_logits_hides_no_other() -> None:
    model, x = linear([[1.0], [-1.0]], [0.0, 0.0]), torch.tensor([[0.5], [1e6]])
    network = bounded.BoundedNetwork.of(model, (1,), rl.ThreatModel("Linf", 0.1, bounds=(0, 1e7)), "crown")
    other = linear([[1.0], [1.0]], [0.0, 0.0])

    def partly(images: Tensor) -> Tensor:
        """Another network for small numbers, endless for large ones."""
        return torch.where(images > 1e5, torch.inf, other(images))

    with pytest.raises(ModelError, match="do not give the model's logits"):
        network.checked_logits(_wrapped(partly), x)
    endless = network.checked_logits(
        _wrapped(lambda images: torch.where(images > 1e5, torch.inf, model(images))), x
    )
    assert endless.isnan().any(1).tolist() == [False, True]


def _wrapped(function: Callable[[Tensor], Tensor]) -> nn.Module:
    class Wrapped(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.zeros(1))

        def forward(self, x: Tensor) -> Tensor:
            return function(x)

    return Wrapped()


def test_draws_without_finite_logits_are_no_votes() -> None:
    model = _wrapped(lambda x: x[:, :3] * torch.nan)
    result = rl.certify(
        model, torch.rand(2, 4), torch.tensor([0, 1]), rl.ThreatModel("L2", 0.25), "smoothing", n=100
    )
    assert not result.certified.any()
    assert result.radius is not None
    assert result.radius.tolist() == [0.0, 0.0]


class Shaped(nn.Module):
    """A network with one operation that has no matrix of its own."""

    def __init__(self, change: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first, self.last, self.change = nn.Linear(4, 4), nn.Linear(4, 3), change

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.change(self.first(x)).relu())


@pytest.mark.parametrize(
    "change",
    [
        lambda x: x.detach(),
        lambda x: x.unsqueeze_(2).squeeze_(2),
        lambda x: x[:, :1] + torch.arange(4.0, dtype=x.dtype),
        lambda x: x.clone(),
    ],
    ids=["detach", "in-place", "broadcast", "clone"],
)
@pytest.mark.parametrize("method", METHODS)
def test_operations_of_shapes_hold_their_bounds(change: Callable[[Tensor], Tensor], method: str) -> None:
    model, generator = Shaped(change).eval(), torch.Generator().manual_seed(1)
    x, y = torch.rand(4, 4, generator=generator), torch.tensor([0, 1, 2, 0])
    lower = rl.certify(model, x, y, NEAR, method).lower
    for _ in range(20):
        points = (x + 0.1 * (2 * torch.rand(x.shape, generator=generator) - 1)).clamp(0, 1)
        logits = model(points).detach().double()
        others = logits.scatter(1, y[:, None], -torch.inf).amax(1)
        assert (lower <= logits.gather(1, y[:, None]).squeeze(1) - others + 1e-6).all()


def test_a_mean_over_the_images_and_torchscript_are_refused_in_a_line() -> None:
    model = Shaped(lambda x: x - x.mean(dim=()))
    with pytest.raises(ModelError, match="across images"):
        rl.certify(model, torch.rand(2, 4), torch.tensor([0, 1]), NEAR)
    with pytest.raises(ModelError, match="TorchScript"):
        rl.certify(
            torch.jit.trace(nn.Linear(4, 3), torch.rand(1, 4)), torch.rand(2, 4), torch.tensor([0, 1]), NEAR
        )


def test_what_a_forward_pass_makes_is_made_where_the_weights_are() -> None:
    """The recording is made on the CPU; the bounds are computed on the device of the network."""

    class Made(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(16, 3)

        def forward(self, x: Tensor) -> Tensor:
            x = x.flatten(1)
            return self.layer(x * torch.linspace(0.5, 1.0, 16, device=x.device) + torch.ones(16).to(x.device))

    graph = record(Made(), (1, 4, 4))
    elsewhere = {name: tensor.to("meta") for name, tensor in Made().double().named_parameters()}
    assert {constant.device.type for constant in graph.constants(elsewhere).values()} == {"meta"}
