"""Copies of networks: the same logits and input gradients, BatchNorm folded only where that is right."""

from collections.abc import Callable
from copy import deepcopy
from functools import partial
from typing import Any

import pytest
import torch
import torch.nn.functional as F  # noqa: N812 - the field's name for it
from torch import Tensor, nn
from torch.nn.utils import parametrizations

from helpers.small_models import Snapshot, everything, images
from robustlens import models
from robustlens.errors import ConfigError, StoppedError
from robustlens.models import copies, fast_network, folding
from robustlens.models.flattening import FlattenPixels
from robustlens.models.folding import Observed
from robustlens.models.patches import PatchConvolution
from robustlens.models.small import FlattenMap
from robustlens.models.wide_resnet import wide_resnet

NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)


def trained_like(model: nn.Module, dtype: torch.dtype = torch.float64) -> Any:
    """In eval mode, with BatchNorms that do something: statistics and weights far from the start, some negative."""
    for module in model.modules():
        if isinstance(module, NORMS):
            if module.affine:
                nn.init.uniform_(module.weight, -1.0, 2.0)
                nn.init.normal_(module.bias)
            if module.running_mean is not None:
                nn.init.normal_(module.get_buffer("running_mean"))
                nn.init.uniform_(module.get_buffer("running_var"), 0.2, 3.0)
    return model.to(dtype).eval()


def norms_in(model: nn.Module) -> int:
    return sum(isinstance(module, NORMS) for module in model.modules())


def gradient(model: nn.Module, x: Tensor) -> Tensor:
    leaf = x.clone().requires_grad_()
    (found,) = torch.autograd.grad(model(leaf).square().sum(), leaf)
    return found


def assert_same(copy: nn.Module, model: nn.Module, x: Tensor) -> None:
    """Logits and input gradients agree to 1e-9 of their scale, also on images that the copy was not checked on."""
    for batch in (x, torch.rand(3, *x.shape[1:], dtype=x.dtype)):
        with models.frozen(model):
            wanted, slope = model(batch).detach(), gradient(model, batch)
        assert torch.allclose(copy(batch), wanted, rtol=0, atol=1e-9 * wanted.abs().max().item())
        assert torch.allclose(gradient(copy, batch), slope, rtol=0, atol=1e-9 * slope.abs().max().item())


class Net(nn.Module):
    """Layers by name, and a function of them and x as the forward pass."""

    def __init__(self, forward, **layers: nn.Module) -> None:
        super().__init__()
        self.run = forward
        for name, layer in layers.items():
            self.add_module(name, layer)

    def forward(self, x: Tensor) -> Tensor:
        return self.run(self, x)


def conv(inputs: int = 3, outputs: int = 6, **options) -> nn.Conv2d:
    return nn.Conv2d(inputs, outputs, 3, **{"padding": 1, **options})


def pooled(h: Tensor) -> Tensor:
    return h.flatten(2).mean(2)


class Doubling(nn.Conv2d):
    """A convolution that does more than its weights say."""

    def forward(self, x: Tensor) -> Tensor:
        return 2 * super().forward(x) + 1


def shared(norm: bool) -> nn.Module:
    """A BatchNorm, or a convolution, that works twice."""
    if norm:
        return Net(
            lambda net, x: pooled(net.bn(net.conv2(net.bn(net.conv(x)).relu()))),
            conv=conv(),
            conv2=conv(6, 6),
            bn=nn.BatchNorm2d(6),
        )
    return Net(
        lambda net, x: pooled(net.bn2(net.conv(net.bn(net.conv(x)).relu()))),
        conv=conv(3, 3),
        bn=nn.BatchNorm2d(3),
        bn2=nn.BatchNorm2d(3),
    )


def aliased() -> nn.Module:
    net = Net(lambda net, x: pooled(net.bn(net.conv(x)).relu()), conv=conv(), bn=nn.BatchNorm2d(6))
    net.add_module("other_name", net.get_submodule("bn"))
    return net


def deciding() -> nn.Module:
    """Normalises bright images only."""
    return Net(
        lambda net, x: pooled(net.bn(net.conv(x)) if x.mean() > 0.3 else net.conv(x)),
        conv=conv(),
        bn=nn.BatchNorm2d(6),
    )


def tied() -> nn.Module:
    """A linear layer whose weight is the decoder's too."""
    return Net(
        lambda net, x: net.bn(net.fc(x)).tanh() @ net.fc.weight, fc=nn.Linear(4, 6), bn=nn.BatchNorm1d(6)
    )


def two(forward, norm: Callable[[int], nn.Module] = nn.BatchNorm2d, **options):
    return partial(lambda: Net(forward, conv=conv(**options), bn=norm(6)))


IMAGES = (3, 7, 6)
# How a network is built, the shape of an image, and how many of its BatchNorms must stay.
NETS = {
    "conv, bn": (two(lambda net, x: pooled(net.bn(net.conv(x)).relu())), IMAGES, 0),
    "conv without bias": (two(lambda net, x: pooled(net.bn(net.conv(x))), bias=False), IMAGES, 0),
    "grouped, strided, dilated, reflecting": (
        two(
            lambda net, x: pooled(net.bn(net.conv(x)).tanh()),
            groups=3,
            stride=2,
            dilation=2,
            padding=2,
            padding_mode="reflect",
        ),
        IMAGES,
        0,
    ),
    "by keyword": (two(lambda net, x: pooled(net.bn(input=net.conv(input=x)).relu())), IMAGES, 0),
    "conv1d": (
        lambda: nn.Sequential(nn.Conv1d(3, 4, 3), nn.BatchNorm1d(4), nn.Tanh(), nn.Flatten(), nn.Linear(20, 3)),
        (3, 7),
        0,
    ),
    "conv3d": (
        lambda: nn.Sequential(nn.Conv3d(2, 4, 2), nn.BatchNorm3d(4), nn.ReLU(), nn.Flatten(), nn.Linear(32, 3)),
        (2, 3, 3, 3),
        0,
    ),
    "linear, bn": (
        lambda: nn.Sequential(nn.Linear(4, 6), nn.BatchNorm1d(6), nn.ReLU(), nn.Linear(6, 3)),
        (4,),
        0,
    ),
    "linear on sequences": (
        lambda: nn.Sequential(nn.Linear(4, 5), nn.BatchNorm1d(5), nn.Flatten(), nn.Linear(25, 3)),
        (5, 4),
        1,
    ),
    "bn without affine": (
        two(lambda net, x: pooled(net.bn(net.conv(x)).relu()), partial(nn.BatchNorm2d, affine=False)),
        IMAGES,
        0,
    ),
    "bn first": (two(lambda net, x: pooled(net.bn(net.conv(x).relu()))), IMAGES, 1),
    "bn on its own": (
        lambda: nn.Sequential(nn.BatchNorm2d(3), nn.ReLU(), conv(), nn.Flatten(), nn.Linear(6 * 42, 3)),
        IMAGES,
        1,
    ),
    "skips the bn": (two(lambda net, x: pooled(net.bn(h := net.conv(x)).relu() + h)), IMAGES, 1),
    "written to before the bn": (two(lambda net, x: pooled(net.bn(F.relu_(net.conv(x))))), IMAGES, 1),
    "in a list": (two(lambda net, x: pooled(torch.cat([net.bn(h := net.conv(x)), h], dim=1))), IMAGES, 1),
    "two layers in a row": (
        lambda: nn.Sequential(conv(), nn.BatchNorm2d(6), conv(6, 4), nn.BatchNorm2d(4), nn.Flatten()),
        IMAGES,
        0,
    ),
    "before the bn and another layer": (
        lambda: Net(
            lambda net, x: pooled(net.bn(h := net.conv(x)).relu()) + pooled(net.conv2(h)),
            conv=conv(),
            bn=nn.BatchNorm2d(6),
            conv2=conv(6, 6),
        ),
        IMAGES,
        1,
    ),
    "bn for nothing": (
        lambda: Net(
            lambda net, x: (h := net.fc(x), net.bn(h))[0], fc=nn.Linear(4, 3), bn=nn.BatchNorm1d(3)
        ),
        (4,),
        1,
    ),
    "bn used twice": (partial(shared, norm=True), IMAGES, 1),
    "conv used twice": (partial(shared, norm=False), IMAGES, 2),
    "bn with two names": (aliased, IMAGES, 0),
    "a weight used elsewhere": (tied, (4,), 1),
    "a value decides": (deciding, IMAGES, 1),
    "a layer of another kind": (
        lambda: nn.Sequential(Doubling(3, 6, 3), nn.BatchNorm2d(6), nn.Flatten()),
        IMAGES,
        1,
    ),
    "parametrized": (
        lambda: nn.Sequential(parametrizations.weight_norm(conv()), nn.BatchNorm2d(6), nn.Flatten()),
        IMAGES,
        1,
    ),
    "dropout": (
        lambda: nn.Sequential(conv(), nn.Dropout(0.5), nn.BatchNorm2d(6), nn.Dropout(0.5), nn.Flatten()),
        IMAGES,
        1,
    ),
    "asks for sizes": (
        two(lambda net, x: net.bn(h := net.conv(x)).relu().reshape(h.size(0), h.shape[1], -1).sum(2)),
        IMAGES,
        0,
    ),
    "a map with a view": (
        two(lambda net, x: net.bn(net.conv(x)).relu().view(-1, 6 * 42)),
        IMAGES,
        0,
    ),
    "no layer": (lambda: Net(lambda net, x: x.flatten(1) ** 2), IMAGES, 0),
}  # fmt: skip


@pytest.mark.parametrize("name", NETS)
def test_a_copy_gives_the_same_logits_and_gradients_and_folds_what_can_be(name: str) -> None:
    build, shape, left = NETS[name]
    model = trained_like(build())
    x = torch.rand(6, *shape, dtype=torch.float64)
    before = Snapshot(model)
    copy = models.fast_copy(model, x)
    before.assert_unchanged()
    assert copy is not model
    assert norms_in(copy) == left
    assert not any(parameter.requires_grad for parameter in copy.parameters())
    assert not any(module.training for module in copy.modules())
    assert_same(copy, model, x)


@pytest.mark.parametrize("name", NETS)
def test_what_can_be_folded_is_seen_without_trying(name: str) -> None:
    build, shape, left = NETS[name]
    model = trained_like(build())
    seen = folding.observe(model, torch.rand(6, *shape, dtype=torch.float64))
    assert len(seen.pairs) == norms_in(model) - left
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())


def test_a_fold_is_computed_in_float64() -> None:
    model = trained_like(nn.Sequential(nn.Linear(30, 20), nn.BatchNorm1d(20)), torch.float32)
    fc, bn = deepcopy(model).double()
    scale = bn.weight / (bn.running_var + bn.eps).sqrt()
    copy: Any = models.fast_copy(model, torch.rand(4, 30))
    folded = copy[0]
    assert torch.equal(folded.weight, (fc.weight * scale[:, None]).float())
    assert torch.equal(folded.bias, (fc.bias * scale + (bn.bias - bn.running_mean * scale)).float())


def test_a_fold_is_what_it_is_by_hand() -> None:
    model = nn.Sequential(nn.Linear(1, 2), nn.BatchNorm1d(2, eps=0.0)).eval()
    values = {
        "0.weight": [[3.0], [5.0]],
        "0.bias": [1.0, -1.0],
        "1.running_mean": [7.0, 2.0],
        "1.running_var": [4.0, 0.25],
        "1.weight": [10.0, -1.0],
        "1.bias": [0.5, 0.0],
    }
    model.load_state_dict({name: torch.tensor(value) for name, value in values.items()}, strict=False)
    copy: Any = models.fast_copy(model, torch.tensor([[0.0], [1.0]]))
    # scale 10 / 2 and -1 / 0.5: 5 (3 x + 1 - 7) + 0.5 and -2 (5 x - 1 - 2)
    assert copy[0].weight.tolist() == [[15.0], [-10.0]]
    assert copy[0].bias.tolist() == [-29.5, 6.0]
    assert isinstance(copy[1], nn.Identity)


def wide(widen: int):
    return lambda: nn.Sequential(*wide_resnet(10, widen, num_classes=4, in_channels=3).values())


def small(name: str, **options):
    return lambda: models.get(name, num_classes=4, mean=[0.5, 0.4, 0.3], std=[0.2, 0.3, 0.2], **options)


ARCHITECTURES = {
    "small-cnn": (small("small-cnn", width=4), 0),
    "small-cnn-bn": (small("small-cnn-bn", width=4), 0),
    "resnet8": (small("resnet8", width=4), 0),
    "resnet20": (small("resnet20", width=4), 0),
    "resnet56": (small("resnet56", width=2), 0),
    "resnet110": (small("resnet110", width=2), 0),
    "preactresnet18": (small("preactresnet18"), 8),
    "wrn-28-10": (wide(1), 4),  # the first of each block, and the last of all
    "wrn-34-10": (wide(2), 3),  # its first block has no identity shortcut, so the first BatchNorm goes too
}


def test_every_architecture_has_a_row() -> None:
    assert set(ARCHITECTURES) == set(models.MODELS)


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_architectures_are_folded(name: str) -> None:
    build, left = ARCHITECTURES[name]
    model, x = trained_like(build()), torch.rand(2, 3, 8, 8, dtype=torch.float64)
    copy = models.fast_copy(model, x)
    assert norms_in(copy) == left
    assert_same(copy, model, x)


def test_a_copy_in_float32_agrees_to_rounding_and_keeps_images_channels_last() -> None:
    model, x = trained_like(small("resnet8", width=8)(), torch.float32), torch.rand(8, 3, 16, 16)
    copy: Any = models.fast_copy(model, x)
    assert copy.conv1.weight.is_contiguous(memory_format=torch.channels_last)
    logits = model(x)
    assert (copy(x) - logits).abs().max() < 1e-5 * logits.abs().max()
    assert copy(x).dtype == torch.float32


def test_a_model_in_train_mode_is_copied_as_it_is_in_eval_mode_and_left_alone() -> None:
    model, (x, _) = everything(torch.float64), images(dtype=torch.float64)
    model(x).sum().backward()
    before = Snapshot(model)
    copy, exact = models.fast_copy(model, x), models.float64_copy(model, x)
    before.assert_unchanged()
    assert norms_in(copy) == 0
    assert_same(copy, model, x)
    assert exact is not None
    assert_same(exact, model, x)


def test_batch_statistics_are_no_constant_and_stay() -> None:
    model = nn.Sequential(conv(), nn.BatchNorm2d(6, track_running_stats=False), nn.Flatten()).double().eval()
    x = torch.rand(6, 3, 4, 4, dtype=torch.float64)
    assert folding.observe(model, x).pairs == ()
    copy = models.fast_copy(model, x)
    assert norms_in(copy) == 1
    assert_same(copy, model, x)


# -- models of which no copy can be trusted -------------------------------------------------------------


class Counting(nn.Module):
    """Counts its calls in a buffer."""

    calls: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(4, 3)
        self.register_buffer("calls", torch.tensor(0))

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        return self.fc(x)


class Adapting(nn.Module):
    """Moves a weight in every pass, at test time too; what it returns does not depend on it yet."""

    drift: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(4, 3)
        self.drift = nn.Parameter(torch.zeros(1))

    def forward(self, x: Tensor) -> Tensor:
        with torch.no_grad():
            self.drift += 1
        return self.fc(x)


class Holding(nn.Module):
    """Calls its BatchNorm through a function that a copy shares with the original."""

    def __init__(self) -> None:
        super().__init__()
        self.fc, self.bn = nn.Linear(4, 3), nn.BatchNorm1d(3)
        self.last = lambda h: self.bn(h)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.fc(x))


class Uncopied(nn.Module):
    """Cannot be copied."""

    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(x)

    def __deepcopy__(self, memo: dict) -> nn.Module:
        raise TypeError("on purpose")


UNTRUSTED = {
    "counts": Counting,
    "adapts": Adapting,
    "holds on to itself": Holding,
    "cannot be copied": Uncopied,
    "dropout in eval mode": lambda: Net(lambda net, x: F.dropout(net.fc(x), 0.5, True), fc=nn.Linear(4, 3)),
    "a little noise": lambda: Net(
        lambda net, x: net.fc(x) + 1e-5 * torch.rand(len(x), 3), fc=nn.Linear(4, 3)
    ),
    "no logits": lambda: Net(lambda net, x: (net.fc(x),), fc=nn.Linear(4, 3)),
    "fails": lambda: Net(lambda net, x: net.fc(x[:, :2]), fc=nn.Linear(4, 3)),
    "writes to its images": lambda: Net(lambda net, x: net.fc(x.mul_(0.5)), fc=nn.Linear(4, 3)),
}


@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed"])
@pytest.mark.parametrize("name", UNTRUSTED)
def test_other_models_are_returned_themselves_and_left_alone(name: str, precision: str) -> None:
    model, x = UNTRUSTED[name](), torch.rand(6, 4)
    before, kept = Snapshot(model), x.clone()
    assert models.fast_copy(model, x, precision=precision) is model
    assert models.float64_copy(model, x) is None
    before.assert_unchanged()
    assert torch.equal(x, kept)


@pytest.mark.parametrize(
    "listen", ["register_forward_hook", "register_forward_pre_hook", "register_full_backward_hook"]
)
def test_whoever_listens_to_a_model_hears_nothing_of_copies(listen: str) -> None:
    heard = []
    model, x = nn.Sequential(nn.Linear(4, 3)), torch.rand(6, 4)
    getattr(model[0], listen)(lambda *_: heard.append(1))
    assert models.fast_copy(model, x) is model
    assert models.float64_copy(model, x) is None
    assert heard == []


def test_without_images_there_is_no_copy() -> None:
    model = nn.Linear(4, 3)
    assert models.fast_copy(model, torch.rand(0, 4)) is model
    assert models.float64_copy(model, torch.rand(0, 4)) is None


def test_a_signal_to_stop_is_heard() -> None:
    def stop(net: nn.Module, x: Tensor) -> Tensor:
        raise StoppedError("stopped")

    with pytest.raises(StoppedError):
        models.fast_copy(Net(stop), torch.rand(2, 4))


def test_an_unknown_precision_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"'16-true'.*expected '32-true' or 'bf16-mixed'"):
        models.fast_copy(nn.Linear(4, 3), torch.rand(2, 4), precision="16-true")


# -- what is wrong is not given out ---------------------------------------------------------------------


def test_a_wrong_fold_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    model, x = trained_like(NETS["bn first"][0]()), torch.rand(6, *IMAGES, dtype=torch.float64)
    monkeypatch.setattr(
        fast_network, "observe", lambda copy, x: Observed(((copy.bn, copy.conv),), (copy.conv,))
    )
    copy = models.fast_copy(model, x)
    assert copy is not model
    assert norms_in(copy) == 1
    assert_same(copy, model, x)


@pytest.mark.parametrize("offset", [0.0, 1000.0])  # of all logits: no part of their scale
@pytest.mark.parametrize(("error", "left"), [(2e-5, 0), (1e-3, 1)])
def test_logits_must_agree_to_1e_4_of_their_scale(
    error: float, left: int, offset: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    true = folding.scale_and_shift
    monkeypatch.setattr(
        folding, "scale_and_shift", lambda norm, how: (true(norm)[0] * (1 + error), true(norm)[1])
    )
    model = trained_like(NETS["linear, bn"][0]())
    model[3].bias.data += offset
    assert norms_in(models.fast_copy(model, torch.rand(6, 4, dtype=torch.float64))) == left


def test_a_copy_that_is_wrong_on_another_batch_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    def spoil(model: Any, pairs: object) -> None:
        model.run = lambda net, x: net.fc(x) + (len(x) != 6)

    monkeypatch.setattr(fast_network, "fold", spoil)
    model, x = Net(lambda net, x: net.fc(x), fc=nn.Linear(4, 3)), torch.rand(6, 4)
    copy = models.fast_copy(model, x)
    assert copy is not model
    assert torch.equal(copy(x[:3]), model(x[:3]))


def test_the_second_batch_is_another_one_within_the_range_of_the_first() -> None:
    x = torch.rand(4, 3, 5, 5)
    first, other = copies._batches(x)
    assert torch.equal(first, x)
    assert len(other) == 5
    assert other.min() >= x.min()
    assert other.max() <= x.max()
    assert 0 < (other[:4].flip(-1) - x).abs().max() <= 0.011


# -- bfloat16 -------------------------------------------------------------------------------------------


def test_in_bfloat16_weights_are_cast_once_and_logits_are_float32() -> None:
    model, x = trained_like(small("resnet8", width=8)(), torch.float32), torch.rand(32, 3, 16, 16)
    copy: Any = models.fast_copy(model, x, precision="bf16-mixed")
    exact = models.fast_copy(model, x)
    assert norms_in(copy) == 0
    assert {p.dtype for p in copy.conv1.parameters()} == {torch.bfloat16}
    assert {p.dtype for p in copy.linear.parameters()} == {torch.float32}
    assert copy.conv1.layer.weight.is_contiguous(memory_format=torch.channels_last)
    logits = model(x)
    error = (copy(x) - logits).abs().max() / (logits - logits.mean(1, keepdim=True)).abs().max()
    assert 1e-5 < error < 0.05
    assert copy(x).dtype == torch.float32
    assert copy.bn1(copy.conv1(x)).dtype == torch.bfloat16  # and so on: no cast back in between
    slope = gradient(copy, x)
    assert slope.dtype == torch.float32
    assert F.cosine_similarity(slope.flatten(), gradient(exact, x).flatten(), dim=0) > 0.95


def test_a_model_that_bfloat16_distorts_stays_in_float32() -> None:
    class Difference(nn.Module):
        """Logits are a small difference of large numbers."""

        def __init__(self) -> None:
            super().__init__()
            self.one, self.two = nn.Linear(4, 8), nn.Linear(8, 3)
            nn.init.constant_(self.one.bias, 1000.0)

        def forward(self, x: Tensor) -> Tensor:
            return self.two(self.one(x) - 1000.0)

    model, x = Difference(), torch.rand(16, 4)
    copy = models.fast_copy(model, x, precision="bf16-mixed")
    assert {p.dtype for p in copy.parameters()} == {torch.float32}
    assert torch.allclose(copy(x), model(x))


def test_a_model_whose_predictions_bfloat16_changes_stays_in_float32() -> None:
    def close_calls(net: Any, x: Tensor) -> Tensor:
        two = net.two(0.01 * torch.sin(1e5 * net.one(x)))
        return torch.cat([two, torch.ones_like(two[:, :1])], dim=1)

    model, x = Net(close_calls, one=nn.Linear(4, 1), two=nn.Linear(1, 2)), torch.rand(16, 4)
    with torch.no_grad():
        model.get_parameter("two.weight").copy_(torch.tensor([[1.0], [0.0]]))
        model.get_parameter("two.bias").copy_(torch.tensor([1.0, 0.0]))
    copy = models.fast_copy(model, x, precision="bf16-mixed")
    assert {p.dtype for p in copy.parameters()} == {torch.float32}
    assert torch.equal(copy(x), model(x))


def test_a_model_in_float64_or_without_layers_has_no_copy_in_bfloat16() -> None:
    model, x = nn.Linear(4, 3).double(), torch.rand(6, 4, dtype=torch.float64)
    assert models.fast_copy(model, x, precision="bf16-mixed")(x).dtype == torch.float64
    bare = Net(lambda net, x: x.flatten(1))
    assert torch.equal(models.fast_copy(bare, x.float(), precision="bf16-mixed")(x), x)


# -- float64 --------------------------------------------------------------------------------------------


def test_a_doubled_model_computes_in_float64() -> None:
    model, x = trained_like(small("resnet8", width=4)(), torch.float32), torch.rand(4, 3, 8, 8)
    before = Snapshot(model)
    exact = models.float64_copy(model, x)
    before.assert_unchanged()
    assert exact is not None
    assert not any(parameter.requires_grad for parameter in exact.parameters())
    logits = exact(x.double())
    assert torch.equal(logits, model.double()(x.double()))
    assert logits.dtype == torch.float64


CAST = {
    "float32 inside": lambda net, x: net.fc(x.float()),
    "float32 logits": lambda net, x: net.fc(x).float(),
    "another function in float64": lambda net, x: net.fc(x) * (1.01 if x.dtype == torch.float64 else 1.0),
}


@pytest.mark.parametrize("name", CAST)
def test_a_model_that_names_a_dtype_cannot_be_doubled(name: str) -> None:
    model, x = Net(CAST[name], fc=nn.Linear(4, 3)), torch.rand(6, 4)
    assert models.float64_copy(model, x) is None
    assert models.fast_copy(model, x) is not model


@pytest.mark.parametrize("side", [28, 29, (27, 30)])
@pytest.mark.parametrize(
    ("kernel", "stride", "padding", "channels"),
    [
        (4, 2, 1, 1),
        (4, 2, 1, 3),
        (2, 2, 0, 3),
        (4, 4, 0, 3),
        (6, 3, 2, 2),
        (4, 2, (1, 0), 1),
        (4, 2, (0, 3), 4),
    ],
)
def test_convolutions_on_patches_give_the_same_sums(kernel, stride, padding, channels, side) -> None:
    size = side if isinstance(side, tuple) else (side, side)
    layer = nn.Conv2d(channels, 5, kernel, stride, padding=padding).double()
    assert PatchConvolution.fits(layer)
    x = torch.rand(2, channels, *size, dtype=torch.float64)
    patches = PatchConvolution(layer)
    assert torch.allclose(patches(x), layer(x), rtol=0, atol=1e-14)
    assert torch.allclose(gradient(patches, x), gradient(layer, x), rtol=0, atol=1e-13)


@pytest.mark.parametrize(
    "layer",
    [
        nn.Conv2d(1, 4, 3, 1),
        nn.Conv2d(1, 4, 3, 2),
        nn.Conv2d(5, 4, 4, 2),
        nn.Conv2d(2, 4, 4, 2, groups=2),
        nn.Conv2d(1, 4, 4, 2, dilation=2),
        nn.Conv2d(1, 4, (4, 2), 2),
        nn.Conv2d(1, 4, 4, (2, 4)),
        nn.Conv2d(1, 4, 4, 2, padding=1, padding_mode="reflect"),
        Doubling(1, 4, 4, 2),
        nn.ConvTranspose2d(1, 4, 4, 2),
    ],
    ids=str,
)
def test_other_layers_do_not_work_on_patches(layer: nn.Module) -> None:
    assert not PatchConvolution.fits(layer)


def flattening(forward, flatten: nn.Module | None = None, **layers: nn.Module):
    return Net(forward, conv=conv(), flatten=flatten or nn.Flatten(), fc=nn.Linear(6 * 5 * 4, 7), **layers)


def in_a_row(net, x: Tensor) -> Tensor:
    return net.fc(net.flatten(net.conv(x).relu()))


# A network, and how many of its layers that flatten may do it pixel by pixel.
FLATTENING: dict[str, tuple[Callable[[], nn.Module], int]] = {
    "nn.Flatten": (lambda: flattening(in_a_row), 1),
    "up to the last place by number": (lambda: flattening(in_a_row, nn.Flatten(1, 3)), 1),
    "averaged": (lambda: Net(in_a_row, conv=conv(), flatten=FlattenMap(3), fc=nn.Linear(54, 7)), 1),
    "a BatchNorm after the linear layer": (
        lambda: flattening(lambda net, x: net.bn(in_a_row(net, x)), bn=nn.BatchNorm1d(7)),
        1,
    ),
    "two readers": (
        lambda: flattening(
            lambda net, x: net.fc(h := net.flatten(net.conv(x))) + net.other(h), other=nn.Linear(120, 7)
        ),
        0,
    ),
    "features named by their place": (
        lambda: flattening(lambda net, x: net.fc(h := net.flatten(net.conv(x))) + h[:, :7]),
        0,
    ),
    "a linear layer that works twice": (
        lambda: flattening(lambda net, x: net.fc(net.flatten(net.conv(x))) + net.fc(net.conv(x).flatten(1))),
        0,
    ),
    "a weight read beside its layer": (
        lambda: flattening(lambda net, x: in_a_row(net, x) @ net.fc.weight @ net.fc.weight.T),
        0,
    ),
    "something between": (
        lambda: flattening(lambda net, x: net.fc(net.flatten(net.conv(x)).cumsum(1))),
        0,
    ),
    "rows of a map": (
        lambda: flattening(lambda net, x: net.fc(net.flatten(net.conv(x)).flatten(1)), nn.Flatten(2)),
        0,
    ),
    "sequences": (
        lambda: flattening(lambda net, x: net.fc(net.flatten(net.conv(x).flatten(2))), nn.Flatten()),
        0,
    ),
    "flat already": (
        lambda: flattening(lambda net, x: net.fc(net.flatten(net.conv(x).flatten(1)))),
        0,
    ),
}


@pytest.mark.parametrize("name", FLATTENING)
def test_maps_are_flattened_as_they_lie_in_memory_where_one_linear_layer_alone_reads_them(name: str) -> None:
    build, changed = FLATTENING[name]
    model, x = trained_like(build()), torch.rand(6, 3, 5, 4, dtype=torch.float64)
    before = Snapshot(model)
    copy = models.fast_copy(model, x)
    before.assert_unchanged()
    assert sum(isinstance(module, FlattenPixels) for module in copy.modules()) == changed
    assert norms_in(copy) == 0
    assert_same(copy, model, x)


def test_a_flattened_map_is_not_copied() -> None:
    x = torch.rand(2, 3, 4, 5).contiguous(memory_format=torch.channels_last)
    assert FlattenPixels(nn.Flatten())(x).data_ptr() == x.data_ptr()


def test_weights_of_flattened_pixels_are_what_they_are_by_hand() -> None:
    """Two channels of three pixels: a1 a2 a3 b1 b2 b3 becomes a1 b1 a2 b2 a3 b3."""
    weight = torch.arange(12.0).view(2, 6)
    assert FlattenPixels.reordered(weight, 2).tolist() == [[0, 3, 1, 4, 2, 5], [6, 9, 7, 10, 8, 11]]


TRAINABLE = {
    "small-cnn": 1,
    "small-cnn-bn": 1,
    "resnet8": 3,
    "a BatchNorm after the linear layer": 3,
}


@pytest.mark.parametrize("name", TRAINABLE)
@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed"])
def test_a_training_copy_follows_the_network(name: str, precision: str) -> None:
    """After steps that move weights and running statistics, it gives the logits of a copy that is made anew."""
    torch.manual_seed(0)
    channels = TRAINABLE[name]
    model: Any = (
        FLATTENING[name][0]() if name in FLATTENING else models.get(name, num_classes=5, in_channels=channels)
    )
    x = torch.rand(8, channels, *((5, 4) if name in FLATTENING else (28, 28)))
    fast = models.training_copy(model, x, precision=precision)
    assert fast is not None
    before = fast.network(x)
    trained_like(model, torch.float32).train()
    with torch.no_grad():
        for weight in model.parameters():
            weight.add_(0.05 * torch.randn_like(weight))
    found, wanted = fast.refreshed()(x), models.fast_copy(model, x, precision=precision)(x)
    scale = wanted.abs().max().item()
    assert torch.allclose(found, wanted, rtol=0, atol=(1e-5 if precision == "32-true" else 0.05) * scale)
    assert not torch.allclose(found, before, rtol=0, atol=0.1 * scale)
    assert model.training
    assert all(weight.requires_grad for weight in model.parameters())


class Stated(nn.Module):
    """Runs a function that keeps what it likes in `state`, or in the module."""

    def __init__(self, function: Callable[..., Tensor], **parts: Any) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8)
        self.after, self.last = nn.Conv2d(8, 8, 3, padding=1), nn.Linear(8, 4)
        self.function, self.state = function, dict[str, Any]()
        for name, part in parts.items():
            setattr(self, name, part)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.function(self, x).mean((2, 3)))


class Sum(nn.Module):
    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        return a + b


class Listed(nn.Module):
    """Layers that it has by name, and calls through a list; its last BatchNorm starts with zeros."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = []
        for number in range(2):
            layer, norm = nn.Conv2d(8, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8)
            self.add_module(f"conv{number}", layer)
            self.add_module(f"norm{number}", norm)
            self.layers.append((layer, norm))
        nn.init.zeros_(norm.weight)

    def forward(self, x: Tensor) -> Tensor:
        (first, before), (second, after) = self.layers
        return (x + after(second(before(first(x)).relu()))).relu()


def generated(net: Any, x: Tensor) -> Tensor:
    """The weight of the convolution is computed."""
    weight = net.conv.weight - net.conv.weight.mean((1, 2, 3), keepdim=True)
    both = nn.Sequential(net.conv, net.norm)
    return torch.func.functional_call(both, {"0.weight": weight}, (x,)).relu()


def residual(net: Any, x: Tensor) -> Tensor:
    h = net.conv(x)
    return net.add(net.after(net.norm(h).relu()), h)


def annealed(net: Any, x: Tensor) -> Tensor:
    if net.training:
        net.share = min(1.0, net.share + 0.1)
    h = net.norm(net.conv(x))
    return (1 - net.share) * h.relu() + net.share * h.sin()


def scaled(net: Any, x: Tensor) -> Tensor:
    if net.training:
        net.state["scale"] = net.state.get("scale", torch.ones(())) * 1.1
    return net.norm(net.conv(x)).relu() * net.state.get("scale", 1.0)


def counted(net: Any, x: Tensor) -> Tensor:
    """It changes after a few steps alone."""
    net.steps += net.training
    return net.norm(net.conv(x)).relu() if net.steps < 5 else net.conv(x)


def centred(net: Any, x: Tensor) -> Tensor:
    """A buffer is there from the first step on."""
    h = net.norm(net.conv(x))
    if net.training:
        net.centre = h.detach().mean(0, keepdim=True)
    return h if net.centre is None else h - net.centre


def with_a_late_buffer() -> nn.Module:
    net = Stated(centred)
    net.register_buffer("centre", None)
    return net


CHANGING: dict[str, Callable[[], nn.Module]] = {
    "a scripted sum": lambda: Stated(residual, add=torch.jit.script(Sum())),
    "a traced sum": lambda: Stated(residual, add=torch.jit.trace(Sum(), (torch.rand(2, 8, 8, 8),) * 2)),
    "vmap": lambda: Stated(residual, add=torch.vmap(torch.add)),
    "a computed weight": lambda: Stated(generated),
    "layers in a list": lambda: Stated(lambda net, x: net.block(net.conv(x)), block=Listed()),
    "a number": lambda: Stated(annealed, share=0.0),
    "a counter": lambda: Stated(counted, steps=0),
    "a tensor in a dictionary": lambda: Stated(scaled),
    "a late buffer": with_a_late_buffer,
}


@pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning")
@pytest.mark.parametrize("name", CHANGING)
@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed"])
def test_a_copy_that_would_not_follow_a_network_in_training_is_not_given_out(
    name: str, precision: str
) -> None:
    torch.manual_seed(0)
    model, x = CHANGING[name](), torch.rand(8, 3, 8, 8)
    before = Snapshot(model)
    fast = models.training_copy(model, x, precision=precision)
    before.assert_unchanged()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    model.train()
    for _ in range(20):
        images = torch.rand(16, 3, 8, 8)
        classes = (40 * images.mean((1, 2, 3))).long() % 4
        optimizer.zero_grad()
        F.cross_entropy(model(images), classes).backward()
        optimizer.step()
    model.eval()
    if fast is not None:
        with torch.no_grad():
            wanted = model(x)
            share = 1e-4 if precision == "32-true" else 0.05
            close = torch.allclose(
                fast.refreshed()(x), wanted, rtol=0, atol=share * wanted.abs().max().item()
            )
        assert close, f"{len(fast._pairs)} folded"


class Remembering(nn.Module):
    """Keeps a tensor that is no buffer."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.scale = conv(), torch.ones(())

    def forward(self, x: Tensor) -> Tensor:
        return pooled(self.conv(x)) * self.scale


def test_no_training_copy_where_none_would_be_faster_or_could_follow() -> None:
    x = torch.rand(4, 3, 8, 8)
    plain = Net(lambda net, x: pooled(net.conv(x)), conv=conv())
    assert models.training_copy(plain, x) is None
    assert models.training_copy(plain, x, precision="bf16-mixed") is not None
    assert models.training_copy(Remembering(), x, precision="bf16-mixed") is None
