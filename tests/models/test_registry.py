"""Networks: published sizes, logits for any input size, weights that come back, and clear refusals."""

import importlib
import json
import math
import sys
import threading
import types
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F  # noqa: N812 - the field's name for it
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from robustlens import models
from robustlens.errors import ModelError, NumericsError, RobustlensError, StateError
from robustlens.models.preact_resnet import PreActBlock
from robustlens.models.resnet import BasicBlock
from robustlens.models.wide_resnet import WideBlock, wide_resnet
from robustlens.registry import imported


def size_of(model: nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


def channels_last(model: Any) -> Any:
    # nn.Module.to takes a memory format, although its type stubs leave it out
    return model.to(memory_format=torch.channels_last)


def spoil(model: nn.Module) -> nn.Module:
    """Every tensor, buffers too, gets a value of its own."""
    for place, tensor in enumerate(model.state_dict().values()):
        tensor.copy_(torch.rand(tensor.shape) + place if tensor.is_floating_point() else torch.tensor(place))
    return model


# -- architectures --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "options", "parameters"),
    [
        ("resnet20", {}, 269_722),
        ("resnet56", {}, 853_018),
        ("resnet110", {}, 1_727_962),
        ("preactresnet18", {}, 11_171_146),
        ("preactresnet18", {"final_norm": True}, 11_172_170),
        ("preactresnet18", {"raw_shortcut": True}, 11_171_146),
        ("wrn-28-10", {}, 36_479_194),
        ("wrn-28-10", {"activation": "silu", "same_padding": True}, 36_479_194),
        ("wrn-34-10", {}, 46_160_474),
    ],
)
def test_architectures_have_their_published_number_of_parameters(
    name: str, options: dict[str, Any], parameters: int
) -> None:
    with torch.device("meta"):  # counts need no memory
        layers = models.MODELS[name](num_classes=10, in_channels=3, **options)
    assert size_of(nn.Sequential(*layers.values())) == parameters


@pytest.mark.parametrize("name", ["small-cnn", "small-cnn-bn", "resnet8", "resnet20"])
@pytest.mark.parametrize(("channels", "height", "width"), [(1, 28, 28), (3, 32, 32), (2, 8, 11)])
def test_small_architectures_take_any_image_from_8x8(
    name: str, channels: int, height: int, width: int
) -> None:
    model = models.get(name, num_classes=7, in_channels=channels).eval()
    with torch.no_grad():
        assert model(torch.rand(2, channels, height, width)).shape == (2, 7)


def test_large_architectures_return_logits_too() -> None:
    for name in ("preactresnet18", "wrn-28-10"):
        model = models.get(name, num_classes=10).eval()
        assert models.check_logits(model, torch.rand(1, 3, 16, 16), 10).shape == (1, 10)


def test_a_resnet_without_batch_norm_starts_as_its_shortcuts() -> None:
    model: Any = models.get("resnet8", num_classes=10, batch_norm=False).eval()
    assert not any(isinstance(module, nn.BatchNorm2d) for module in model.modules())
    # 74,810 parameters of convolutions and classifier, and a bias for each of the 16 + 2 * (16 + 32 + 64) maps.
    assert size_of(model) == 74_810 + 240
    x = torch.rand(2, 3, 32, 32)
    with torch.no_grad():
        kept = model[:4](x)  # normalize, conv1, bn1, relu
        for channels in (32, 64):
            kept = F.pad(kept[:, :, ::2, ::2], (0, 0, 0, 0, 0, channels - kept.shape[1]))
        expected = model.linear(kept.mean((2, 3)))
        assert torch.allclose(model(x), expected, atol=1e-6)


def test_the_small_network_has_no_batch_norm_and_its_variant_has_one_per_convolution() -> None:
    def count(name: str, kind: type[nn.Module]) -> int:
        network = models.get(name, num_classes=10, in_channels=1)
        return sum(isinstance(module, kind) for module in network.modules())

    assert (count("small-cnn", nn.Conv2d), count("small-cnn", nn.BatchNorm2d)) == (4, 0)
    assert (count("small-cnn-bn", nn.Conv2d), count("small-cnn-bn", nn.BatchNorm2d)) == (4, 4)


def test_the_flattened_map_is_averaged_only_where_its_size_is_another() -> None:
    flatten = models.get("small-cnn", num_classes=2, in_channels=1).get_submodule("flatten")
    x = torch.rand(2, 3, 7, 7)
    assert torch.equal(flatten(x), x.flatten(1))
    doubled = x.repeat_interleave(2, dim=2).repeat_interleave(2, dim=3)
    torch.testing.assert_close(flatten(doubled), x.flatten(1))


def test_a_resnet_shortcut_takes_every_second_pixel_and_fills_new_channels_with_zeros() -> None:
    block = BasicBlock(2, 4, 2).eval()
    nn.init.zeros_(block.conv2.weight)  # the residual is then 0, so the block is its shortcut
    x = torch.rand(1, 2, 5, 6)
    expected = torch.cat([x[:, :, ::2, ::2], torch.zeros(1, 2, 3, 3)], dim=1)
    torch.testing.assert_close(block(x), expected)


def test_a_centred_resnet_shortcut_puts_half_of_the_zeros_before_the_old_channels() -> None:
    block = BasicBlock(2, 4, 2, centred=True).eval()
    nn.init.zeros_(block.conv2.weight)
    x = torch.rand(1, 2, 4, 4)
    zeros = torch.zeros(1, 1, 2, 2)
    torch.testing.assert_close(block(x), torch.cat([zeros, x[:, :, ::2, ::2], zeros], dim=1))


@pytest.mark.parametrize(("inputs", "stride"), [(3, 2), (4, 1)])
def test_a_preact_block_projects_its_activated_input_but_passes_on_the_raw_one(
    inputs: int, stride: int
) -> None:
    block = PreActBlock(inputs, 4, stride).eval()
    nn.init.zeros_(block.conv2.weight)
    x = torch.randn(2, inputs, 6, 6)
    activated = block.bn1(x).relu()
    expected = x if block.shortcut is None else block.shortcut(activated)
    assert (block.shortcut is None) == (stride == 1)
    torch.testing.assert_close(block(x), expected)


def test_a_raw_shortcut_projects_the_input_itself() -> None:
    block = PreActBlock(3, 4, 2, raw_shortcut=True).eval()
    nn.init.zeros_(block.conv2.weight)
    x = torch.randn(2, 3, 6, 6)
    assert block.shortcut is not None
    torch.testing.assert_close(block(x), block.shortcut(x))


def test_padding_same_is_at_the_right_and_the_bottom_where_the_convolution_strides() -> None:
    block: Any = WideBlock(1, 1, 2, 0.0, nn.SiLU, same_padding=True).eval()
    x = torch.randn(1, 1, 4, 4)
    activated = F.silu(block.bn1(x))
    first = (activated[:, :, :3, :3] * block.conv1.conv.weight[0, 0]).sum()  # no padding at the upper left
    padded = F.conv2d(F.pad(activated, (0, 1, 0, 1)), block.conv1.conv.weight, stride=2)
    torch.testing.assert_close(block.conv1(activated), padded)
    torch.testing.assert_close(padded[0, 0, 0, 0], first)


def test_what_changes_the_forward_pass_shows_where_layers_do_not() -> None:
    def shown(name: str, **options: Any) -> str:
        return models.fingerprint(models.get(name, num_classes=2, **options))

    for name, option in {"preactresnet18": "raw_shortcut", "resnet8": "centred"}.items():
        torch.manual_seed(0)
        first = shown(name, width=4)
        torch.manual_seed(0)
        assert shown(name, width=4, **{option: True}) != first


@pytest.mark.parametrize(
    ("make", "own"),
    [
        (models.MODELS["small-cnn"], {"small.FlattenMap"}),
        (models.MODELS["resnet8"], {"resnet.Block"}),
        (partial(models.MODELS["preactresnet18"], width=4), {"preact_resnet.Block"}),
        (partial(wide_resnet, 10, 1), {"wide_resnet.Block"}),
    ],
)
def test_fingerprints_outlive_moves_of_our_layers(
    make: Callable[..., dict[str, nn.Module]], own: set[str]
) -> None:
    """Names of classes enter fingerprints: with another one, no stopped evaluation would go on."""
    layers = make(num_classes=2, in_channels=1)
    modules = [module for layer in layers.values() for module in layer.modules()]
    names = {f"{type(module).__module__}.{type(module).__qualname__}" for module in modules}
    assert {name for name in names if "robustlens" in name} == {f"robustlens.models.{each}" for each in own}


def test_an_unknown_activation_is_refused() -> None:
    with pytest.raises(ModelError, match="found activation 'gelu', expected one of relu, silu"):
        wide_resnet(10, 1, num_classes=2, in_channels=3, activation="gelu")


@pytest.mark.parametrize(
    ("name", "options", "layer", "fan"),
    [
        ("small-cnn", {"width": 64}, "conv3", 64 * 16),  # inputs
        ("resnet8", {"width": 64}, "layer3.0.conv1", 256 * 9),  # outputs
        ("preactresnet18", {}, "layer4.0.conv1", 512 * 9),
        ("wrn-28-10", {}, "block2.0.conv1", 320 * 9),
    ],
)
def test_convolutions_start_with_the_variance_of_he_et_al(
    name: str, options: dict[str, Any], layer: str, fan: int
) -> None:
    weight = models.get(name, num_classes=10, **options).get_parameter(f"{layer}.weight")
    assert weight.shape[0] != weight.shape[1]
    assert weight.std().item() == pytest.approx(math.sqrt(2 / fan), rel=0.02)


def test_activations_keep_their_scale_through_the_small_network_but_its_first_logits_are_small() -> None:
    model = models.get("small-cnn", num_classes=10, in_channels=1, width=64, hidden=512)
    before = nn.Sequential(*list(model.children())[:-1])
    x = torch.randn(64, 1, 28, 28)
    with torch.no_grad():
        features = before(x)
    assert 0.4 < features.square().mean().item() < 1.2  # each ReLU halves what He et al. double; borders lose
    assert model.get_parameter("linear2.weight").std().item() == pytest.approx(
        0.1 * math.sqrt(2 / 512), rel=0.05
    )


def test_gradients_of_a_batch_reach_every_parameter_whatever_the_memory_format() -> None:
    x = torch.rand(4, 3, 16, 16)
    for name in ("small-cnn-bn", "resnet8", "preactresnet18"):
        model = channels_last(models.get(name, num_classes=5))
        model(x.contiguous(memory_format=torch.channels_last)).square().sum().backward()
        assert all(parameter.grad is not None and parameter.grad.any() for parameter in model.parameters())


# -- normalisation --------------------------------------------------------------------------------------


def test_normalisation_is_the_first_layer_and_its_statistics_are_buffers() -> None:
    model = models.get("resnet8", num_classes=3, mean=(0.1, 0.2, 0.3), std=(0.5, 0.25, 1.0))
    first = next(iter(model.children()))
    assert isinstance(first, models.Normalize)
    assert {"normalize.mean", "normalize.std"} <= set(model.state_dict())
    assert not any(name.startswith("normalize") for name, _ in model.named_parameters())
    x = torch.tensor([0.6, 0.7, 0.3]).view(1, 3, 1, 1)
    torch.testing.assert_close(first(x).flatten(), torch.tensor([1.0, 2.0, 0.0]))


def test_without_statistics_the_normalisation_changes_nothing() -> None:
    model = models.get("small-cnn", num_classes=3, in_channels=2)
    x = torch.rand(3, 2, 9, 9)
    assert torch.equal(model.get_submodule("normalize")(x), x)


@pytest.mark.parametrize(
    ("mean", "std", "words"),
    [
        ([0.5], [0.5, 0.5], "1 means and 2 stds"),
        ([0.5], [0.0], "std > 0"),
        ([float("nan")], [1.0], "finite"),
    ],
)
def test_wrong_statistics_are_refused(mean: list[float], std: list[float], words: str) -> None:
    with pytest.raises(ModelError, match=words):
        models.Normalize(mean, std)


def test_grey_images_do_not_broadcast_through_a_colour_network() -> None:
    model = models.get("resnet8", num_classes=3)
    with pytest.raises(ModelError, match="found images with 1 channels, expected 3"):
        model(torch.rand(2, 1, 8, 8))


# -- names, options, factories --------------------------------------------------------------------------


@pytest.fixture
def factories(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A module of the user's in the working directory; returns its name."""
    (tmp_path / "my_nets.py").write_text(
        "import torch\n"
        "from torch import nn\n"
        "def linear(num_classes, side=4):\n"
        "    return nn.Sequential(nn.Flatten(), nn.Linear(side * side, num_classes))\n"
        "def fixed():\n"
        "    return nn.Sequential(nn.Flatten(), nn.Linear(16, 3))\n"
        "def any_options(**options):\n"
        "    return linear(**options)\n"
        "def broken(num_classes):\n"
        "    raise ValueError('first line\\nsecond line')\n"
        "def no_module():\n"
        "    return 3\n"
        "class zoo:\n"
        "    linear = staticmethod(linear)\n"
        "ready = fixed()\n"
        "number = 3\n"
    )
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [entry for entry in sys.path if entry])
    monkeypatch.delitem(sys.modules, "my_nets", raising=False)
    importlib.invalidate_caches()
    return "my_nets"


@pytest.mark.parametrize("factory", ["linear", "any_options", "zoo.linear"])
def test_a_factory_gets_the_options_and_the_classes_that_it_takes(factories: str, factory: str) -> None:
    model = models.get(f"{factories}:{factory}", num_classes=5, in_channels=1, side=3)
    assert model(torch.rand(2, 1, 3, 3)).shape == (2, 5)


def test_a_factory_without_parameters_is_called_without_any(factories: str) -> None:
    assert models.get(f"{factories}:fixed", num_classes=5)(torch.rand(2, 1, 4, 4)).shape == (2, 3)


def test_statistics_put_a_normalisation_before_the_network_of_a_factory(factories: str) -> None:
    models.get(f"{factories}:linear", num_classes=2)  # the import draws random numbers
    torch.manual_seed(1)
    plain = models.get(f"{factories}:linear", num_classes=2, in_channels=1)
    torch.manual_seed(1)
    normalised = models.get(f"{factories}:linear", num_classes=2, in_channels=1, mean=[0.5], std=[0.25])
    x = torch.rand(3, 1, 4, 4)
    torch.testing.assert_close(normalised(x), plain((x - 0.5) / 0.25))


@pytest.mark.parametrize(
    ("name", "options", "words"),
    [
        ("my_nets:linear", {"sides": 3}, "unknown option 'sides', expected side"),
        ("my_nets:broken", {}, "cannot be built with .num_classes=5.: ValueError: first line"),
        ("my_nets:no_module", {}, "returned int, expected an nn.Module"),
        ("my_nets:number", {}, "found int, expected a function"),
        ("my_nets:absent", {}, "has no 'absent'"),
        ("no_such_module_here:f", {}, "cannot import 'no_such_module_here': ModuleNotFoundError"),
        ("resnet-20", {}, "did you mean 'resnet20'"),
        ("nonsense", {}, "expected one of small-cnn, .*package.module:factory"),
        (
            "small-cnn",
            {"wdth": 3},
            "wdth: unknown option of .small-cnn.; expected one of width, hidden, batch_norm; did you mean .width",
        ),
        ("resnet8", {"depth": 20}, "depth: unknown option of .resnet8.; expected one of width"),
        (
            "small-cnn",
            {"width": "wide"},
            "model.options.width: found .wide.; input should be a valid integer",
        ),
        ("small-cnn", {"width": 1.5}, "model.options.width: found 1.5; input should be a valid integer"),
        ("small-cnn", {"width": -1}, "cannot be built with .*width=-1"),
        ("small-cnn", {"mean": [0.5]}, "found 1 means and 3 stds, expected 3 of each"),
        ("small-cnn", {"in_channels": 0}, "expected at least 2 classes and 1 channel"),
    ],
)
def test_what_cannot_be_built_gives_one_clear_line(
    factories: str, name: str, options: dict[str, Any], words: str
) -> None:
    with pytest.raises(ModelError, match=words) as refusal:
        models.get(name, num_classes=5, **options)
    assert "\n" not in str(refusal.value)
    assert refusal.value.exit_code == 3


def test_depths_that_no_resnet_has_are_refused() -> None:
    from robustlens.models.resnet import resnet

    with pytest.raises(ModelError, match=r"found depth 21, expected 6 n \+ 2"):
        resnet(21, num_classes=10, in_channels=3)
    with pytest.raises(ModelError, match=r"found depth 20, expected 6 n \+ 4"):
        wide_resnet(20, 1, num_classes=10, in_channels=3)


def test_a_description_builds_the_same_network_again() -> None:
    described = models.describe(
        "small-cnn", num_classes=4, in_channels=2, mean=(0.1, 0.2), std=(1, 2), width=8
    )
    assert json.loads(json.dumps(described)) == described
    model: Any = models.build_from(described)
    assert model.conv1.weight.shape == (8, 2, 4, 4)
    assert model.linear2.out_features == 4
    assert model.normalize.std.flatten().tolist() == [1.0, 2.0]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"nmae": "x"}, "unknown .'nmae'."),
        ({"options": {"num_classes": 3}}, "found 'num_classes' among the options"),
    ],
)
def test_wrong_descriptions_are_refused(change: dict[str, Any], words: str) -> None:
    with pytest.raises(ModelError, match=words):
        models.build_from(models.describe("resnet8", num_classes=2) | change)
    with pytest.raises(ModelError, match=r"missing \['num_classes'\]"):
        models.build_from({"name": "resnet8"})


# -- weights --------------------------------------------------------------------------------------------


def small(folder: Path, file: str = "weights.safetensors", **options: Any) -> tuple[nn.Module, Path]:
    """A tiny network with weights of its own, and its file."""
    options = {"width": 2, "hidden": 3} | options
    described = models.describe(
        "small-cnn-bn", num_classes=4, in_channels=1, mean=[0.3], std=[0.2], **options
    )
    model = spoil(models.build_from(described)).eval()
    path = folder / file
    path.write_bytes(models.to_bytes(model, described))
    return model, path


def same(model: nn.Module, other: nn.Module) -> bool:
    mine, theirs = model.state_dict(), other.state_dict()
    return list(mine) == list(theirs) and all(torch.equal(mine[key], theirs[key]) for key in mine)


def test_a_bare_weights_file_gives_the_network_back_bit_for_bit_in_eval_mode(tmp_path: Path) -> None:
    model, path = small(tmp_path)
    loaded = models.load(path)
    assert same(loaded, model)
    assert not any(module.training for module in loaded.modules())
    x = torch.rand(2, 1, 12, 12)
    assert torch.equal(loaded(x), model(x))


def test_channels_last_and_tied_weights_are_written_as_plain_tensors(tmp_path: Path) -> None:
    described = models.describe("resnet8", num_classes=2)
    model = channels_last(models.build_from(described))
    model.layer1[0].conv2.weight = model.layer1[0].conv1.weight
    path = tmp_path / "tied.safetensors"
    path.write_bytes(models.to_bytes(model, described))
    assert same(models.load(path), model)


def test_a_state_dict_can_be_written_in_place_of_the_network(tmp_path: Path) -> None:
    model, path = small(tmp_path)
    with safe_open(path, "pt") as file:
        described = json.loads(file.metadata()["robustlens"])["model"]
    assert models.to_bytes(model.state_dict(), described) == path.read_bytes()


def test_a_run_folder_gives_its_best_weights_unless_others_are_asked_for(tmp_path: Path) -> None:
    last, _ = small(tmp_path, "last.safetensors", hidden=5)
    assert same(models.load(tmp_path), last)  # no best yet
    with pytest.raises(ModelError, match=r"found no best\.safetensors"):
        models.load(tmp_path, checkpoint="best")
    best, _ = small(tmp_path, "best.safetensors")
    assert same(models.load(str(tmp_path)), best)
    assert same(models.load(tmp_path, checkpoint="best"), best)
    assert same(models.load(tmp_path, checkpoint="last"), last)
    with pytest.raises(ModelError, match="found 'first', expected best, last, or epoch-0010"):
        models.load(tmp_path, checkpoint="first")


def test_weights_can_be_copied_into_a_network_that_is_there(tmp_path: Path) -> None:
    model, path = small(tmp_path)
    other = models.get("small-cnn-bn", num_classes=4, in_channels=1, width=2, hidden=3)
    models.load_weights(other, path)
    assert same(other, model)


@pytest.mark.parametrize("kept", [0, 5, 200, -1])
def test_a_truncated_file_is_named_in_one_line(tmp_path: Path, kept: int) -> None:
    _, path = small(tmp_path)
    path.write_bytes(path.read_bytes()[:kept])
    with pytest.raises(ModelError, match=r"weights\.safetensors: truncated or damaged") as refusal:
        models.load(path)
    assert "\n" not in str(refusal.value)


def rewritten(path: Path, change: Callable[[dict[str, Tensor]], None]) -> None:
    """Other tensors under the same description, sealed as if they had always been there."""
    with safe_open(path, "pt") as file:
        state = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
        described = json.loads(file.metadata()["robustlens"])["model"]
    change(state)
    path.write_bytes(models.to_bytes(state, described))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda state: state.pop("conv2.weight"), "has no tensor 'conv2.weight'"),
        (lambda state: state.update(extra=torch.zeros(1)), "has an unexpected tensor 'extra'"),
        (
            lambda state: state.update({"bn1.bias": torch.zeros(7)}),
            r"'bn1.bias' has shape \(7,\), expected \(2,\)",
        ),
    ],
)
def test_tensors_that_do_not_fit_are_named_and_the_network_stays_as_it_was(
    tmp_path: Path, change: Callable[[dict[str, Tensor]], None], words: str
) -> None:
    model, path = small(tmp_path)
    rewritten(path, change)
    with pytest.raises(ModelError, match=rf"weights\.safetensors: .*{words}"):
        models.load(path)
    before = {key: tensor.clone() for key, tensor in model.state_dict().items()}
    with pytest.raises(ModelError, match=words):
        models.load_weights(model, path)
    assert all(torch.equal(tensor, before[key]) for key, tensor in model.state_dict().items())


@pytest.mark.parametrize(
    ("text", "error", "words"),
    [
        ("nonsense", StateError, "damaged, its content does not have its seal"),
        ("[]", StateError, "damaged, its content does not have its seal"),
        ("{}", ModelError, "found metadata 'robustlens' without a model"),
        ('{"model": 3}', ModelError, "found metadata 'robustlens' without a model"),
    ],
)
def test_a_description_without_a_model_is_refused(
    tmp_path: Path, text: str, error: type[RobustlensError], words: str
) -> None:
    save_file({"w": torch.zeros(1)}, tmp_path / "changed.safetensors", {"robustlens": text})
    with pytest.raises(error, match=rf"changed\.safetensors: {words}"):
        models.load(tmp_path / "changed.safetensors")


def test_a_weights_file_runs_no_code_unless_it_is_trusted(tmp_path: Path, factories: str) -> None:
    described = models.describe(f"{factories}:linear", num_classes=5, side=3)
    model = models.build_from(described)
    sys.modules.pop(factories)
    path = tmp_path / "theirs.safetensors"
    path.write_bytes(models.to_bytes(model, described))
    with pytest.raises(ModelError, match=r"made by 'my_nets:linear', code from outside.*trust_code=True"):
        models.load(path)
    assert factories not in sys.modules
    assert same(models.load(path, trust_code=True), model)


@pytest.mark.parametrize(
    ("spec", "words"),
    [
        ("resnet20", "an architecture, which has no weights"),
        ("net.pt", "net.pt: no such file, expected a checkpoint"),
        ("nowhere", "no such file or folder; expected a run folder, a file of weights"),
        ("nowhere.safetensors", "nowhere.safetensors: no such file"),
    ],
)
def test_other_specs_are_refused_with_what_is_accepted(spec: str, words: str) -> None:
    with pytest.raises(ModelError, match=words):
        models.load(spec)


def test_options_belong_to_factories(tmp_path: Path, factories: str) -> None:
    _, path = small(tmp_path)
    with pytest.raises(
        ModelError, match="found the option width=2, which only factories take, and weights of"
    ):
        models.load(path, width=2)
    loaded = models.load(f"{factories}:linear", num_classes=2, side=3)
    assert not loaded.training
    assert loaded(torch.rand(1, 1, 3, 3)).shape == (1, 2)
    assert models.load(f"{factories}:ready")(torch.rand(1, 1, 4, 4)).shape == (1, 3)


def test_a_network_in_place_of_a_factory_is_copied(tmp_path: Path, factories: str) -> None:
    ready = imported(f"{factories}:ready", "model")
    torch.save({name: tensor + 1 for name, tensor in ready.state_dict().items()}, tmp_path / "theirs.pt")
    loaded = models.load(f"{factories}:ready")
    filled = models.load(tmp_path / "theirs.pt", architecture=f"{factories}:ready")
    built = models.get(f"{factories}:ready", num_classes=3)
    assert ready.training
    assert torch.equal(filled.state_dict()["1.weight"], ready[1].weight + 1)
    for network in (loaded, built):
        assert network is not ready
        assert torch.equal(network.state_dict()["1.weight"], ready[1].weight)
    ready.lock = threading.Lock()
    with pytest.raises(ModelError, match="'my_nets:ready': found a network that cannot be copied"):
        models.load(f"{factories}:ready")


# -- other libraries ------------------------------------------------------------------------------------


class _Output:
    def __init__(self, logits: Tensor) -> None:
        self.logits = logits


HALVES = {"image_mean": [0.5, 0.5], "image_std": [0.5, 0.5]}


class _Transformer(nn.Module):
    config = types.SimpleNamespace(num_channels=2)

    def forward(self, pixel_values: Tensor) -> _Output:
        return _Output(pixel_values.mean((2, 3)))


@pytest.mark.parametrize(
    ("processor", "expected"),
    [
        ({"image_mean": [0.5, 0.5], "image_std": [0.5, 0.25]}, [1.0, 2.0]),
        ({"image_mean": [0.5, 0.5], "image_std": [0.5, 0.25], "do_normalize": False}, [1.0, 1.0]),
        (HALVES | {"rescale_factor": 0.00392156862745098}, [1.0, 1.0]),
        (HALVES | {"rescale_factor": 1 / 127.5}, [3.0, 3.0]),
        (HALVES | {"rescale_factor": 1 / 127.5, "rescale_offset": True}, [1.0, 1.0]),
        (HALVES | {"do_rescale": False, "rescale_factor": 7}, pytest.approx([509.0, 509.0])),
        ({"do_normalize": False, "rescale_factor": 1 / 127.5}, [2.0, 2.0]),
        ({"do_normalize": False, "do_rescale": False}, pytest.approx([255.0, 255.0])),
        ({"image_mean": 0.5, "image_std": [0.5, 0.25]}, [1.0, 2.0]),
        ({"image_mean": [0.5, 0.25], "image_std": 0.5}, [1.0, 1.5]),
        (HALVES | {"include_top": True}, [2.0, 2.0]),
        (HALVES | {"image_processor_type": "EfficientNetImageProcessorFast"}, [2.0, 2.0]),
        (HALVES | {"image_processor_type": "EfficientNetImageProcessor", "include_top": False}, [1.0, 1.0]),
        (HALVES | {"do_resize": True, "do_center_crop": True, "do_convert_rgb": True}, [1.0, 1.0]),
    ],
)
def test_a_transformers_classifier_is_normalised_as_it_was_trained(
    monkeypatch: pytest.MonkeyPatch, processor: dict[str, Any], expected: list[float]
) -> None:
    library = types.SimpleNamespace(
        AutoModelForImageClassification=types.SimpleNamespace(
            from_pretrained=lambda name, **_: _Transformer()
        ),
        ImageProcessingMixin=types.SimpleNamespace(get_image_processor_dict=lambda name: (processor, {})),
    )
    monkeypatch.setitem(sys.modules, "transformers", library)
    model = models.load("hf:someone/net")
    assert not model.training
    assert models.check_logits(model, torch.ones(1, 2, 4, 4), 2).flatten().tolist() == expected


@pytest.mark.parametrize(
    ("processor", "words"),
    [
        ({}, "found no mean and std"),
        ({"image_mean": [0.5]}, "found no mean and std"),
        ({"do_normalize": False, "include_top": True}, "found no mean and std"),
        (HALVES | {"do_flip_channel_order": True}, "changed by do_flip_channel_order"),
        (HALVES | {"image_processor_type": "MobileViTImageProcessor"}, "changed by do_flip_channel_order"),
        (HALVES | {"do_grayscale": True}, "changed by do_grayscale"),
        (HALVES | {"offset": True}, "changed by offset"),
        (HALVES | {"rescale_factor": "small"}, "values that are no numbers"),
        (HALVES | {"rescale_factor": 0}, "values that are no numbers"),
        ({"image_mean": [[0.5]], "image_std": 0.5}, "values that are no numbers"),
    ],
)
def test_a_transformers_classifier_whose_images_are_changed_otherwise_is_refused(
    monkeypatch: pytest.MonkeyPatch, processor: dict[str, Any], words: str
) -> None:
    library = types.SimpleNamespace(
        AutoModelForImageClassification=types.SimpleNamespace(
            from_pretrained=lambda name, **_: _Transformer()
        ),
        ImageProcessingMixin=types.SimpleNamespace(get_image_processor_dict=lambda name: (processor, {})),
    )
    monkeypatch.setitem(sys.modules, "transformers", library)
    with pytest.raises(ModelError, match=f"'hf:x': .*{words}"):
        models.load("hf:x")


def test_a_timm_network_is_normalised_as_it_was_trained(monkeypatch: pytest.MonkeyPatch) -> None:
    def create_model(name: str, pretrained: bool, **options: Any) -> nn.Module:
        network = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten())
        network.pretrained_cfg = {"mean": (0.5, 0.0), "std": (0.5, 2.0)}  # type: ignore[assignment] # as timm does
        assert (name, pretrained, options) == ("resnet18.a1", False, {"drop_rate": 0.1})
        return network

    library = types.SimpleNamespace(create_model=create_model)
    monkeypatch.setitem(sys.modules, "timm", library)
    model = models.load("timm:resnet18.a1", pretrained=False, drop_rate=0.1)
    assert model(torch.ones(1, 2, 4, 4)).flatten().tolist() == [1.0, 0.5]


def test_a_recipe_may_say_that_its_network_of_timm_has_fresh_weights(monkeypatch: pytest.MonkeyPatch) -> None:
    def create_model(model_name: str, pretrained: bool, num_classes: int, in_chans: int) -> nn.Module:
        assert not pretrained
        return nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(in_chans, num_classes))

    monkeypatch.setitem(sys.modules, "timm", types.SimpleNamespace(create_model=create_model))
    model = models.get("timm:resnet18", num_classes=2, pretrained=False)
    assert model(torch.ones(1, 3, 4, 4)).shape == (1, 2)
    with pytest.raises(ModelError, match="found option 'pretrained'"):
        models.get("timm:resnet18", num_classes=2, pretrained=True)


@pytest.mark.parametrize(
    ("spec", "library", "words"),
    [
        ("hf:someone/net", "transformers", "cannot import transformers .*; pip install .*transformers"),
        ("timm:resnet18", "timm", "cannot import timm .*; pip install timm and the torchvision"),
    ],
)
def test_an_absent_library_is_named_with_its_install(
    monkeypatch: pytest.MonkeyPatch, spec: str, library: str, words: str
) -> None:
    monkeypatch.setitem(sys.modules, library, None)  # makes the import fail
    with pytest.raises(ModelError, match=words):
        models.load(spec)


# -- logits ---------------------------------------------------------------------------------------------


class Returns(nn.Module):
    """Returns what it was told to, from a batch of 4 images."""

    def __init__(self, output: object) -> None:
        super().__init__()
        self.output = output

    def forward(self, x: Tensor) -> object:
        return self.output


@pytest.mark.parametrize(
    ("output", "words"),
    [
        ((torch.zeros(4, 3), None), "returned a tuple of 2, expected a tensor of logits .4, 3."),
        ({"logits": torch.zeros(4, 3)}, "returned dict with logits"),
        (_Output(torch.zeros(4, 3)), r"returned _Output.*model\(x\)\.logits"),
        (torch.zeros(4, 5), "returned 5 logits an image, expected 3"),
        (torch.zeros(4, 3, 1, 1), r"shape \(4, 3, 1, 1\), expected logits \(4, 3\); flatten"),
        (torch.zeros(2, 3), r"returned shape \(2, 3\), expected logits \(4, 3\)"),
        (torch.zeros(4), r"returned shape \(4,\)"),
        (torch.zeros(4, 3, dtype=torch.int64), "torch.int64"),
    ],
)
def test_what_is_not_logits_is_refused_in_one_line(output: object, words: str) -> None:
    with pytest.raises(ModelError, match=words) as refusal:
        models.check_logits(Returns(output), torch.zeros(4, 1), 3)
    assert "\n" not in str(refusal.value)


def test_more_logits_than_labels_are_fine_where_only_a_least_number_is_given() -> None:
    model = Returns(torch.zeros(4, 5))
    assert models.check_logits(model, torch.zeros(4, 1), at_least=3).shape == (4, 5)
    with pytest.raises(ModelError, match="returned 5 logits an image, expected at least 6"):
        models.check_logits(model, torch.zeros(4, 1), at_least=6)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_logits_that_are_not_finite_are_a_matter_of_numerics(value: float) -> None:
    logits = torch.zeros(4, 3)
    logits[1, 2] = value
    with pytest.raises(NumericsError, match="NaN or infinite logits for 1 of 4 images"):
        models.check_logits(Returns(logits), torch.zeros(4, 1))


def test_a_model_that_fails_says_on_which_shape() -> None:
    with pytest.raises(ModelError, match=r"fails on images of shape \(2, 5\): RuntimeError"):
        models.check_logits(nn.Linear(3, 2), torch.zeros(2, 5))


class Restless(nn.Module):
    """Changes everything that a forward pass can change."""

    calls: Tensor
    swapped: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(3, 2)
        self.register_buffer("calls", torch.zeros(1))
        self.register_buffer("swapped", torch.zeros(1))
        self.frozen = nn.Dropout().eval()

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        self.swapped = torch.ones(1)
        if self.calls > 100:
            raise ValueError("tired")
        return self.layer(x) + torch.rand(1)


@pytest.mark.parametrize("calls", [0, 100])
def test_looking_at_a_model_leaves_no_trace_even_where_it_raises(calls: int) -> None:
    model = Restless().train()
    model.frozen.eval()
    model.calls.fill_(calls)
    swapped, random = model.swapped, torch.random.get_rng_state()
    try:
        models.check_logits(model, torch.rand(2, 3, generator=torch.Generator().manual_seed(0)))
    except ModelError:
        assert calls == 100
    assert [module.training for module in (model, model.layer, model.frozen)] == [True, True, False]
    assert model.calls.item() == calls
    assert model.swapped is swapped
    assert not swapped.any()
    assert torch.equal(torch.random.get_rng_state(), random)
    assert torch.is_grad_enabled()


def test_a_model_is_where_its_tensors_are() -> None:
    assert models.device_of(nn.ReLU()) == torch.device("cpu")
    assert models.device_of(nn.Linear(1, 1, device="meta")) == torch.device("meta")
