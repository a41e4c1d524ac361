"""Weights of others: nestings, prefixes, layouts; equal logits, or one line that says why not."""

import argparse
import os
import signal
import sys
import tarfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from helpers.their_networks import (
    MEAN,
    STD,
    DeepMindWide,
    Normalised,
    TheirPreAct,
    TheirResNet,
    TheirWide,
    images,
    warm,
    with_buffers,
)
from robustlens import cli, models
from robustlens.cli import arguments
from robustlens.errors import ConfigError, ModelError
from robustlens.models.wide_resnet import wide_resnet
from robustlens.results.run_folder import Run

CENTRE, SCALE = torch.tensor(MEAN).view(3, 1, 1), torch.tensor(STD).view(3, 1, 1)


@pytest.fixture
def small_wide(monkeypatch: pytest.MonkeyPatch) -> None:
    """The names of the wide ResNets, for smaller ones; nothing that is tested depends on their size."""
    monkeypatch.setitem(models.MODELS, "wrn-28-10", partial(wide_resnet, 10, 1))
    monkeypatch.setitem(models.MODELS, "wrn-34-10", partial(wide_resnet, 16, 1))


def saved(folder: Path, content: object, name: str = "theirs.pt") -> Path:
    torch.save(content, folder / name)
    return folder / name


def agree(model: nn.Module, theirs: nn.Module, normalised: bool = False) -> bool:
    """Equal logits to 1e-5, on images of which the logits are not all alike."""
    x = images(5)
    with torch.no_grad():
        expected = theirs((x - CENTRE) / SCALE if normalised else x)
        found = model(x)
    assert expected.std(0).max() > 1e-4
    return torch.allclose(found, expected, rtol=0, atol=1e-5)


def refusal(path: Path, words: str, **options: Any) -> None:
    with pytest.raises(ModelError, match=words) as refused:
        models.load(path, **options)
    assert "\n" not in str(refused.value)
    assert str(refused.value).startswith(str(path))
    assert refused.value.exit_code == 3


# -- layouts --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "theirs",
    [
        pytest.param(lambda: with_buffers(TheirPreAct(raw=True)), id="RobustBench, Wong2020Fast"),
        pytest.param(lambda: with_buffers(TheirPreAct(raw=False, last="bn")), id="RobustBench, Rice2020 L2"),
        pytest.param(lambda: TheirPreAct(raw=False, last="bn"), id="AWP authors"),
        pytest.param(lambda: TheirPreAct(raw=False), id="kuangliu"),
        pytest.param(lambda: TheirPreAct(raw=True), id="RobustBench, Andriushchenko2020"),
        pytest.param(lambda: TheirPreAct(raw=False, last="bn_out"), id="Andriushchenko, later"),
        pytest.param(lambda: TheirPreAct(raw=False, width=6, classes=7), id="another width"),
        pytest.param(lambda: TheirWide(10), id="TRADES, AWP authors, WRN-28-10"),
        pytest.param(lambda: TheirWide(16, unused=True), id="RobustBench, WRN-34-10 with sub_block1"),
        pytest.param(lambda: with_buffers(TheirWide(16)), id="RobustBench, mu and sigma"),
        pytest.param(lambda: DeepMindWide(10), id="RobustBench, DMWideResNet with SiLU"),
        pytest.param(lambda: DeepMindWide(16, activation=nn.ReLU), id="DMWideResNet with ReLU"),
        pytest.param(TheirResNet, id="akamaster, ResNet-20"),
    ],
)
@pytest.mark.usefixtures("small_wide")
def test_networks_of_others_are_recognised_with_equal_logits(
    tmp_path: Path, theirs: Callable[[], nn.Module]
) -> None:
    network = warm(theirs())
    model: Any = models.load(saved(tmp_path, {"state_dict": network.state_dict(), "epoch": 3}))
    assert agree(model, network)
    assert not any(module.training for module in model.modules())
    assert isinstance(model[0], models.Normalize)


@pytest.mark.parametrize(("mean", "std"), [("normalize.mean", "normalize.std"), ("0.new_mean", "0.new_std")])
@pytest.mark.usefixtures("small_wide")
def test_normalisation_beside_the_network_goes_before_it(tmp_path: Path, mean: str, std: str) -> None:
    network = warm(Normalised(TheirWide(), mean, std, "model" if mean.startswith("n") else "1"))
    model: Any = models.load(saved(tmp_path, network.state_dict()))
    assert agree(model, network)
    torch.testing.assert_close(model[0].std.flatten(), torch.tensor(STD))


def test_our_own_tensors_are_known_without_their_description(tmp_path: Path) -> None:
    for name, options in {
        "small-cnn": {"width": 3, "hidden": 5},
        "small-cnn-bn": {},
        "resnet8": {"width": 4},
        "preactresnet18": {"width": 4, "final_norm": True},
    }.items():
        ours = warm(models.get(name, num_classes=3, mean=MEAN, std=STD, **options))
        model = models.load(saved(tmp_path, ours.state_dict()))
        assert agree(model, ours), name
        assert list(model.state_dict()) == list(ours.state_dict())


@pytest.mark.usefixtures("small_wide")
def test_one_sided_padding_has_tensor_names_of_its_own(tmp_path: Path) -> None:
    network = warm(DeepMindWide())
    ours = models.load(saved(tmp_path, network.state_dict()))
    again = models.load(saved(tmp_path, ours.state_dict(), "again.pt"))
    assert agree(again, network)
    symmetric = models.get("wrn-28-10", num_classes=10, activation="silu")
    assert set(symmetric.state_dict()) != set(ours.state_dict())


@pytest.mark.parametrize(
    ("name", "make"),
    [
        ("preactresnet18", lambda: TheirPreAct(raw=False, last="bn", width=64)),
        ("wrn-28-10", lambda: TheirWide(28, 10, unused=True)),
        ("wrn-34-10", lambda: TheirWide(34, 10)),
        ("wrn-28-10", lambda: DeepMindWide(28, 10)),
        ("wrn-34-10", lambda: DeepMindWide(34, 10)),
    ],
)
def test_the_published_sizes_fit_by_name_and_shape(name: str, make: Callable[[], nn.Module]) -> None:
    from robustlens.models.fits import fits_of_ours

    with torch.device("meta"):
        state = make().state_dict()
    state |= {key: torch.rand(3) for key in ("mean", "std") if key in state}
    fits = [fit for fit in fits_of_ours(list(models.MODELS), {}, {"module": state}, None) if not fit.faults]
    assert [fit.name for fit in fits] == [name]


def test_a_network_of_full_size_has_equal_logits(tmp_path: Path) -> None:
    network = TheirPreAct(raw=False, last="bn", width=64, classes=10).eval()
    for norm in [module for module in network.modules() if isinstance(module, nn.BatchNorm2d)]:
        nn.init.normal_(norm.get_buffer("running_mean"), 0, 0.3)
        nn.init.uniform_(norm.get_buffer("running_var"), 0.5, 2)
    model = models.load(
        saved(tmp_path, network.state_dict()),
        architecture="preactresnet18",
        raw_shortcut=False,
        mean=[0, 0, 0],
        std=[1, 1, 1],
    )
    assert agree(model, network)


# -- nestings and prefixes ------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def theirs() -> nn.Module:
    torch.manual_seed(0)
    return warm(TheirPreAct(raw=False))


KNOWN: dict[str, Any] = {"raw_shortcut": False, "mean": [0, 0, 0], "std": [1, 1, 1]}


@pytest.mark.parametrize(
    ("nesting", "prefix"),
    [
        ("", "module."),
        ("", "1."),
        ("", "_orig_mod."),
        ("", "any.thing_else."),
        ("state_dict", "module.model."),
        ("model", "module."),
        ("net", "module."),
        ("net", "module.module."),
        ("rmodel", ""),
        ("model_state_dict", "model."),
        ("ema", "net."),
    ],
)
def test_nestings_and_prefixes_of_the_field_are_seen_through(
    tmp_path: Path, theirs: nn.Module, nesting: str, prefix: str
) -> None:
    state = {prefix + key: tensor for key, tensor in theirs.state_dict().items()}
    content = {nesting: state, "acc": 0.5, "arch": "x"} if nesting else state
    assert agree(models.load(saved(tmp_path, content), architecture="preactresnet18", **KNOWN), theirs)


def test_a_nesting_in_a_nesting_and_the_state_of_an_optimizer_do_no_harm(
    tmp_path: Path, theirs: nn.Module
) -> None:
    optimizer = torch.optim.SGD(theirs.parameters(), 0.1, momentum=0.9)
    copy = warm(TheirPreAct(raw=False))
    copy(images(2)).sum().backward()
    adam = torch.optim.Adam(copy.parameters())
    adam.step()
    content = {
        "checkpoint": {"state_dict": theirs.state_dict()},
        "optimizer": adam.state_dict(),
        "other": optimizer.state_dict(),
    }
    assert agree(models.load(saved(tmp_path, content), **KNOWN), theirs)


def test_averaged_weights_have_a_counter_that_is_no_weight(tmp_path: Path, theirs: nn.Module) -> None:
    averaged = torch.optim.swa_utils.AveragedModel(theirs)
    assert agree(models.load(saved(tmp_path, averaged.state_dict()), **KNOWN), theirs)


def test_of_several_networks_one_has_to_be_named(tmp_path: Path, theirs: nn.Module) -> None:
    torch.manual_seed(1)
    other = warm(TheirPreAct(raw=False))
    path = saved(tmp_path, {"best": theirs.state_dict(), "last": other.state_dict()})
    refusal(path, "holds 2 networks, 'best', 'last'; say which with entry", **KNOWN)
    assert agree(models.load(path, entry="last", **KNOWN), other)
    assert agree(models.load(path, entry="best", **KNOWN), theirs)
    refusal(
        path, "named as in none of preactresnet18 at entry 'ema'", architecture="preactresnet18", entry="ema"
    )
    twice = saved(tmp_path, {"net": theirs.state_dict(), "ema": theirs.state_dict()})
    assert agree(models.load(twice, **KNOWN), theirs)  # no choice to make


def test_two_networks_in_one_state_dict_may_be_one_defence(tmp_path: Path, theirs: nn.Module) -> None:
    torch.manual_seed(1)
    other = warm(TheirPreAct(raw=False))
    both = nn.ModuleDict({"teacher": other, "student": theirs}).state_dict()
    path = saved(tmp_path, {"state_dict": both})
    refusal(path, "unexpected tensor '.*; name one of 'state_dict.teacher', 'state_dict.student'", **KNOWN)
    assert agree(models.load(path, entry="student", **KNOWN), theirs)
    purifier = {f"denoiser.{key}": tensor for key, tensor in nn.Conv2d(3, 3, 3).state_dict().items()}
    inside = {f"model.{key}": tensor for key, tensor in theirs.state_dict().items()}
    refusal(saved(tmp_path, purifier | inside), "unexpected tensor 'denoiser.weight'", **KNOWN)


# -- what names and shapes do not tell ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("make", "choices"),
    [
        (lambda: TheirPreAct(raw=True), "raw_shortcut=False or raw_shortcut=True"),
        (TheirWide, "activation='relu' or activation='silu'"),
        (TheirResNet, "centred=False or centred=True"),
    ],
)
@pytest.mark.usefixtures("small_wide")
def test_a_forward_pass_that_nothing_tells_is_asked_for(
    tmp_path: Path, make: Callable[[], nn.Module], choices: str
) -> None:
    path = saved(tmp_path, make().state_dict())  # running statistics as they are before training
    refusal(path, f"with {choices}, and its running statistics do not tell", mean=MEAN, std=STD)


def test_running_statistics_that_follow_from_no_form_tell_nothing(tmp_path: Path) -> None:
    network = warm(TheirPreAct(raw=True))
    for norm in [module for module in network.modules() if isinstance(module, nn.BatchNorm2d)]:
        mean, variance = norm.get_buffer("running_mean"), norm.get_buffer("running_var")
        mean.add_(variance.sqrt() * torch.randn_like(mean))
    refusal(saved(tmp_path, network.state_dict()), "do not tell which", mean=MEAN, std=STD)


class Halfway(nn.Module):
    """The mean of ReLU and SiLU."""

    def forward(self, x: Tensor) -> Tensor:
        return (x.relu() + nn.functional.silu(x)) / 2


@pytest.mark.usefixtures("small_wide")
def test_running_statistics_halfway_between_two_forms_tell_nothing(tmp_path: Path) -> None:
    network = warm(DeepMindWide(activation=Halfway))  # near both
    refusal(
        saved(tmp_path, network.state_dict()), "activation='relu' or activation='silu', and .* do not tell"
    )


@pytest.mark.usefixtures("small_wide")
def test_the_nearer_of_two_wrong_forms_is_not_taken_for_right(tmp_path: Path) -> None:
    network = warm(DeepMindWide(activation=nn.Sigmoid))  # 0.7 from ReLU, 1.1 from SiLU
    refusal(
        saved(tmp_path, network.state_dict()), "activation='relu' or activation='silu', and .* do not tell"
    )


def test_the_user_has_the_last_word_on_the_forward_pass(tmp_path: Path) -> None:
    network = warm(with_buffers(TheirPreAct(raw=True)))
    path = saved(tmp_path, network.state_dict())
    assert agree(models.load(path, raw_shortcut=True, mean=MEAN, std=STD), network)  # said twice, to 7 digits
    assert not agree(models.load(path, raw_shortcut=False), network)
    with pytest.raises(ModelError, match=r"found raw_shortcut='no', expected one of \(False, True\)"):
        models.load(path, raw_shortcut="no")


def test_images_that_were_normalised_outside_are_noticed(tmp_path: Path) -> None:
    network = warm(TheirPreAct(raw=False), normalised=True)
    path = saved(tmp_path, network.state_dict())
    refusal(path, r"no mean and std of the images, and its first BatchNorm has seen images of mean 0\.")
    assert agree(models.load(path, mean=MEAN, std=STD), network, normalised=True)


@pytest.mark.parametrize("scale", [255.0, 0.01])
def test_pixels_of_another_range_are_noticed(tmp_path: Path, scale: float) -> None:
    network = warm(TheirPreAct(raw=False))
    with torch.no_grad():
        network.conv1.weight.div_(scale)  # now it is a network of images that are `scale` times as bright
    refusal(saved(tmp_path, network.state_dict()), "has seen images of mean .*, which are no pixels")


def test_without_batch_norm_nothing_tells_whether_images_were_normalised(tmp_path: Path) -> None:
    network = models.get("small-cnn", num_classes=3, in_channels=1).eval()
    state = {key: tensor for key, tensor in network.state_dict().items() if "normalize" not in key}
    path = saved(tmp_path, state)
    refusal(path, r"nothing in it tells whether .* or mean=\[0\] and std=\[1\] if it takes pixels")
    model = models.load(path, mean=[0], std=[1])
    x = torch.rand(2, 1, 28, 28)
    assert torch.equal(model(x), network(x))


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"mean": [0.5, 0.5, 0.5]}, "found mean alone, expected mean and std"),
        ({"std": [0.5, 0.5, 0.5]}, "found std alone"),
        ({"mean": [0.5] * 3, "std": [0.5] * 3}, "found mean and std of the images twice"),
        ({"architecture": "resnet-20"}, "did you mean 'resnet20'"),
        ({"architecture": "resnet20", "depth": 3}, "model.options.depth: unknown option of 'resnet20'"),
        (
            {"architecture": "resnet20"},
            "fits none of resnet20; nearest is resnet20: has no tensor 'bn1.weight'",
        ),
        ({"num_classes": 9}, r"'linear.weight' has shape \(5, 32\), expected \(9, 32\)"),
        ({"width": 8}, r"'conv1.weight' has shape \(4, 3, 3, 3\), expected \(8, 3, 3, 3\)"),
    ],
)
def test_options_that_do_not_fit_the_file_are_refused(
    tmp_path: Path, options: dict[str, Any], words: str
) -> None:
    network = warm(with_buffers(TheirPreAct(raw=False)))
    path = saved(tmp_path, network.state_dict())
    with pytest.raises(ModelError, match=words):
        models.load(path, **options)


@pytest.mark.parametrize(
    ("key", "words"),
    [
        ("module.layer_0.0.conv_2d_1.weight", "DeepMind's PreActResNet, whose shortcuts are 3x3"),
        ("layer2.0.shortcut.1.weight", "a ResNet with BatchNorm in its shortcuts"),
    ],
)
def test_near_strangers_are_called_by_their_names(tmp_path: Path, key: str, words: str) -> None:
    path = saved(tmp_path, {key: torch.zeros(2), "linear.weight": torch.zeros(2, 2)})
    refusal(path, f"holds {words}.*package.module:factory")


# -- tensors --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_other_precisions_become_float32(tmp_path: Path, theirs: nn.Module, dtype: torch.dtype) -> None:
    state = {k: t.to(dtype) if t.is_floating_point() else t for k, t in theirs.state_dict().items()}
    model = models.load(saved(tmp_path, state), **KNOWN)
    assert {tensor.dtype for tensor in model.parameters()} == {torch.float32}
    ours = model.state_dict()
    assert torch.equal(ours["layer2.0.shortcut.weight"], state["layer2.0.shortcut.0.weight"].float())


def test_counters_may_be_missing(tmp_path: Path, theirs: nn.Module) -> None:
    state = {key: tensor for key, tensor in theirs.state_dict().items() if "num_batches" not in key}
    assert agree(models.load(saved(tmp_path, state), **KNOWN), theirs)


def test_parameters_on_a_view_or_wrapped_are_tensors_too(tmp_path: Path, theirs: nn.Module) -> None:
    state = {key: nn.Parameter(t) for key, t in theirs.state_dict().items() if t.is_floating_point()}
    model = models.load(saved(tmp_path, state), **KNOWN)
    assert agree(model, theirs)


def test_safetensors_of_others_are_read_too(tmp_path: Path, theirs: nn.Module) -> None:
    path = tmp_path / "theirs.safetensors"
    save_file({f"model.{key}": t.contiguous() for key, t in theirs.state_dict().items()}, path)
    assert agree(models.load(path, **KNOWN), theirs)
    assert agree(models.load(path), theirs)  # pixels as they are, which the running statistics tell


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (
            lambda s: s.pop("layer1.0.bn1.bias"),
            "nearest is preactresnet18: has no tensor 'layer1.0.bn1.bias'",
        ),
        (lambda s: s.update(extra=torch.zeros(1)), "has an unexpected tensor 'extra'"),
        (lambda s: s.update({"mean": torch.zeros(3)}), "has an unexpected tensor 'mean'"),
        (lambda s: s.update({"layer1.0.bn1.bias": torch.zeros(9)}), r"has shape \(9,\), expected \(4,\)"),
        (
            lambda s: s.update({"layer1.0.bn1.bias": torch.zeros(4).int()}),
            "holds torch.int32, expected torch.float32",
        ),
        (
            lambda s: s.pop("linear.weight"),
            "its .* tensors .'conv1.weight', .* are named as in none of small-cnn",
        ),
        (lambda s: s["conv1.weight"][0, 0].fill_(float("nan")), "'conv1.weight' holds NaN or infinite"),
    ],
)
def test_tensors_that_do_not_fit_are_named(
    tmp_path: Path, theirs: nn.Module, change: Callable[[dict[str, Tensor]], None], words: str
) -> None:
    state = {key: tensor.clone() for key, tensor in theirs.state_dict().items()}
    change(state)
    refusal(saved(tmp_path, state), words, **KNOWN)


@pytest.mark.parametrize(
    "content", [[torch.zeros(1)], torch.zeros(2), {"epoch": 3}, {0: torch.zeros(1)}, None]
)
def test_a_checkpoint_without_named_tensors_is_refused(tmp_path: Path, content: object) -> None:
    refusal(saved(tmp_path, content), "without tensors by name, expected a state dict")


# -- files ----------------------------------------------------------------------------------------------------


class Harmful:
    """Would leave a file behind if it were unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.path),)


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize(
    ("content", "words"),
    [
        (lambda net, _: net, "their_networks.TheirPreAct"),
        (lambda net, _: {"net": net.state_dict(), "args": argparse.Namespace(a=1)}, "argparse.Namespace"),
        (lambda net, _: {"net": net.state_dict(), "acc": np.float64(3)}, "numpy._core.multiarray.scalar"),
        (lambda net, path: {"net": net.state_dict(), "x": Harmful(path)}, "posix.mkdir"),
    ],
)
def test_code_in_a_checkpoint_is_named_and_not_run(
    tmp_path: Path,
    theirs: nn.Module,
    content: Callable[[nn.Module, Path], object],
    words: str,
    zipped: bool,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD", "1")  # which must not open the door
    path, mark = tmp_path / "code.pt", tmp_path / "it ran"
    torch.save(content(theirs, mark), path, _use_new_zipfile_serialization=zipped)
    refusal(path, rf"holds .*{words}.*torch\.save\(model\.state_dict\(\), 'weights\.pt'\)")
    assert not mark.exists()


def test_the_format_before_zip_files_is_read(tmp_path: Path, theirs: nn.Module) -> None:
    path = tmp_path / "old.pth.tar"
    torch.save({"state_dict": theirs.state_dict()}, path, _use_new_zipfile_serialization=False)
    assert agree(models.load(path, **KNOWN), theirs)
    whole = path.read_bytes()
    for kept in (len(whole) - 9, len(whole) // 2, 40):
        path.write_bytes(whole[:kept])
        refusal(path, "truncated or damaged|no checkpoint of torch.save")


@pytest.mark.parametrize("kept", [1, 1000, 0.5, 0.999])
def test_a_truncated_checkpoint_is_named(tmp_path: Path, theirs: nn.Module, kept: float) -> None:
    path = saved(tmp_path, theirs.state_dict())
    whole = path.read_bytes()
    path.write_bytes(whole[: int(kept if kept >= 1 else kept * len(whole))])
    refusal(path, "truncated or damaged|no checkpoint of torch.save")


def test_one_changed_byte_is_noticed(tmp_path: Path, theirs: nn.Module) -> None:
    path = saved(tmp_path, theirs.state_dict())
    whole = bytearray(path.read_bytes())
    place = whole.find(theirs.get_parameter("conv1.weight").detach().numpy().tobytes())
    whole[place + 3] ^= 1
    path.write_bytes(whole)
    assert torch.load(path, weights_only=True)  # torch itself does not notice
    refusal(path, "damaged, '.*' in it does not have its checksum")


def holds_itself() -> dict[str, Any]:
    content: dict[str, Any] = {"linear.weight": torch.ones(3, 8)}
    content["again"] = content["and again"] = content
    return content


def deep(content: object) -> object:
    for _ in range(100):
        content = {"model": content}
    return content


def branching() -> object:
    content: object = {"linear.weight": torch.ones(3, 8)}
    for _ in range(40):
        content = {"a": content, "b": content}
    return content


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (lambda net: net | {"conv1.weight": net["conv1.weight"].to_sparse()}, "'conv1.weight' is sparse"),
        (
            lambda net: net | {"conv1.weight": net["conv1.weight"].to("meta")},
            "'conv1.weight' is without values",
        ),
        (
            lambda net: net | {"x": torch.nested.nested_tensor([torch.ones(2), torch.ones(3)])},
            "'x' is nested",
        ),
        (lambda net: {"net": net | {"x": torch.ones(2).to_sparse()}}, "'x' is sparse"),
        (lambda net: net | {"x": torch.quantize_per_tensor(torch.ones(2), 0.1, 0, torch.qint8)}, "quantised"),
        (lambda net: holds_itself(), "holds mappings in itself"),
        (deep, "holds mappings in itself, or more than 50 deep"),
        (lambda net: branching(), "holds mappings in itself"),
    ],
)
@pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors", "ignore:torch.quantize_per_tensor")
def test_tensors_and_mappings_that_no_network_can_take_are_named(
    tmp_path: Path, theirs: nn.Module, content: Callable[[Any], object], words: str
) -> None:
    refusal(saved(tmp_path, content(dict(theirs.state_dict()))), words)


@pytest.mark.parametrize("beside", [True, False])
def test_statistics_of_images_in_0_to_255_are_refused(
    tmp_path: Path, theirs: nn.Module, beside: bool
) -> None:
    mean, std = [125.3, 123.0, 113.9], [63.0, 62.1, 66.7]
    tensors = {"normalize.mean": torch.tensor(mean), "normalize.std": torch.tensor(std)}
    path = saved(tmp_path, theirs.state_dict() | (tensors if beside else {}))
    given = {} if beside else {"mean": mean, "std": std}
    refusal(path, r"found mean \[125.3.* expected that of pixels in \[0, 1\]", raw_shortcut=True, **given)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "no checkpoint of torch.save, it starts with b''"),
        (b"<!DOCTYPE html><title>Virus scan", "it starts with b'<!DOCTYPE html>"),
        (b"version https://git-lfs.github.com", "it starts with b'version https://"),
        (b"PK\x03\x04 and no more", "truncated or damaged"),
        (bytes(range(256)) * 9, "no checkpoint of torch.save|truncated or damaged"),
    ],
)
def test_what_is_no_checkpoint_is_shown(tmp_path: Path, content: bytes, words: str) -> None:
    path = tmp_path / "theirs.ckpt"
    path.write_bytes(content)
    refusal(path, words)


def test_archives_of_other_kinds_are_refused_with_the_way_out(tmp_path: Path, theirs: nn.Module) -> None:
    script = tmp_path / "script.pt"
    torch.jit.trace(nn.Linear(2, 2), torch.rand(1, 2)).save(script)
    refusal(script, r"is a TorchScript archive.*torch\.save\(model\.state_dict\(\)")
    old = tmp_path / "oldest.tar"
    with tarfile.open(old, "w") as archive:
        archive.add(saved(tmp_path, theirs.state_dict()), "theirs.pt")
    refusal(old, "is in torch's oldest format")
    arrays = tmp_path / "arrays.bin"
    with arrays.open("wb") as file:
        np.savez(file, a=np.zeros(3))
    refusal(arrays, "truncated or damaged, cannot be read")


def test_a_file_that_is_not_there_is_said_to_be_missing(tmp_path: Path) -> None:
    refusal(tmp_path / "nowhere.pt", "no such file, expected a checkpoint")


# -- factories ------------------------------------------------------------------------------------------------


@pytest.fixture
def factories(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A module of the user's."""
    (tmp_path / "their_code.py").write_text(
        "from torch import nn\n"
        "def net(side=32):\n"
        "    return nn.Sequential(nn.Flatten(), nn.Linear(3 * side * side, 4), nn.BatchNorm1d(4))\n"
        "def empty():\n"
        "    return nn.Flatten()\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    return "their_code"


def test_weights_fill_the_network_of_a_factory(tmp_path: Path, factories: str) -> None:
    theirs = nn.Sequential(nn.Flatten(), nn.Linear(3072, 4), nn.BatchNorm1d(4)).eval()
    wrapped = Normalised(theirs, "normalize.mean", "normalize.std")
    name = f"{factories}:net"
    path = saved(tmp_path, {"ema": {f"module.{k}": t.half() for k, t in theirs.state_dict().items()}})
    rounded: Any = models.load(path, architecture=name)
    assert torch.equal(rounded[1].weight, theirs.get_parameter("1.weight").half().float())
    assert not rounded.training
    plain = saved(tmp_path, theirs.state_dict(), "plain.pt")
    assert agree(models.load(plain, architecture=name), theirs)
    assert agree(models.load(plain, architecture=name, mean=MEAN, std=STD), theirs, normalised=True)
    beside = saved(tmp_path, wrapped.state_dict(), "beside.pt")
    assert agree(models.load(beside, architecture=name), wrapped)
    refusal(plain, r"'1.weight' has shape \(4, 3072\), expected \(4, 12\)", architecture=name, side=2)
    with pytest.raises(ModelError, match="has no tensors that a file could fill"):
        models.load(plain, architecture=f"{factories}:empty")
    with pytest.raises(ModelError, match="unknown option 'sides', expected side"):
        models.load(plain, architecture=name, sides=2)


@pytest.mark.parametrize("option", [{"architecture": "resnet8"}, {"entry": "ema"}])
def test_what_knows_its_network_takes_no_architecture(
    tmp_path: Path, factories: str, option: dict[str, Any]
) -> None:
    described = models.describe("resnet8", num_classes=2, width=2)
    path = tmp_path / "ours.safetensors"
    path.write_bytes(models.to_bytes(models.build_from(described), described))
    for spec in (path, f"{factories}:net", "hf:x", "timm:x"):
        with pytest.raises(ModelError, match=f"found the option {next(iter(option))}="):
            models.load(spec, **option)


# -- the command line -----------------------------------------------------------------------------------------

CLI_CODE = """
import torch
from torch import nn

class Net(nn.Module):
    def __init__(self, classes=10, how="logits"):
        super().__init__()
        self.layer = nn.Linear(784, classes)
        self.how = how
    def forward(self, x):
        logits = self.layer(x.flatten(1))
        return {"logits": logits, "tuple": (logits, x), "dict": {"logits": logits}, "list": [logits],
                "map": logits[..., None, None], "labels": logits.argmax(1), "one": logits.sum(1)}[self.how]

def make(classes=10, how="logits"):
    return Net(classes, how)
"""


@pytest.fixture
def command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Callable[..., tuple[int, str]]:
    """Run a verb on a model and 20 images; returns the exit code and what was said of errors."""
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    monkeypatch.setattr(cli, "keep_memory", lambda: None)
    monkeypatch.setattr(signal, "signal", lambda number, handler: handlers.get(number))
    (tmp_path / "cli_code.py").write_text(CLI_CODE)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "cli_code", raising=False)
    few = {
        "evaluate": ["--attacks", "fgsm", "--limit", "20"],
        "explain": ["--measures", "margins", "--examples", "20"],
    }

    def run(verb: str, model: str, *options: str) -> tuple[int, str]:
        where = ["--data", "fashion-mnist-10k", "--eps", "0.1", "--quiet"]
        code = cli.run([verb, model, *where, *few[verb], *options])
        return code, capsys.readouterr().err

    return run


@pytest.mark.parametrize("verb", ["evaluate", "explain"])
@pytest.mark.parametrize(
    ("option", "words"),
    [
        ("how=tuple", "returned a tuple of 2, expected a tensor of logits"),
        ("how=list", "returned a list of 1, expected a tensor of logits"),
        ("how=dict", "returned dict with logits, expected a tensor of logits"),
        ("how=map", "10, 1, 1), expected logits"),
        ("how=labels", "returned torch.int64"),
        ("how=one", "expected logits"),
        ("classes=7", "returned 7 logits an image, expected"),
        ("classes=1", "returned 1 logits an image, expected"),
        ("side=3", "unknown option 'side', expected classes, how"),
    ],
)
def test_what_is_not_logits_ends_in_one_line_and_exit_3(
    command: Callable[..., tuple[int, str]], verb: str, option: str, words: str
) -> None:
    code, said = command(verb, "cli_code:make", "--model-option", option)
    assert code == 3, said
    assert words in said
    assert len(said.strip().splitlines()) == 1


@pytest.mark.parametrize("verb", ["evaluate", "explain"])
def test_the_command_line_fills_a_network_with_weights_of_others(
    command: Callable[..., tuple[int, str]], tmp_path: Path, verb: str
) -> None:
    state = {f"module.layer.{key}": t for key, t in nn.Linear(784, 10).state_dict().items()}
    path = str(saved(tmp_path, {"net": state}))
    named = ("--architecture", "cli_code:make")
    assert command(verb, path, *named) == (0, "")
    code, said = command(verb, path)
    assert code == 3
    assert "named as in none of small-cnn" in said
    code, said = command(verb, path, *named, "--model-option", "classes=9")
    assert code == 3
    assert "'layer.weight' has shape (10, 784), expected (9, 784)" in said


def test_the_command_line_takes_a_checkpoint_by_itself_and_with_what_it_does_not_tell(
    command: Callable[..., tuple[int, str]], tmp_path: Path
) -> None:
    network = warm(TheirPreAct(raw=True, channels=1, classes=10), channels=1)
    path = str(saved(tmp_path, {"last": network.state_dict()}))
    assert command("evaluate", path, "--limit", "4") == (0, "")
    given = ["mean=[0.5]", "std=[0.2]", "raw_shortcut=true", "entry=last"]
    options = [word for item in given for word in ("--model-option", item)]
    assert command("explain", path, *options, "--architecture", "preactresnet18") == (0, "")


@pytest.mark.parametrize(
    ("option", "words"),
    [
        ("mean", "expected NAME=VALUE"),
        ("mean=0.5", "found mean=0.5, expected one number a channel"),
        ("mean=[a]", "found mean=['a'], expected one number a channel"),
        ("mean=[0.5", "not valid YAML"),
        ("checkpoint=last", "found 'checkpoint', expected an option of the network"),
    ],
)
def test_model_options_are_checked_first(
    command: Callable[..., tuple[int, str]], option: str, words: str
) -> None:
    code, said = command("evaluate", "nowhere.pt", "--model-option", option)
    assert code == 2
    assert "--model-option" in said
    assert words in said


def test_a_run_folder_takes_no_model_options(tmp_path: Path) -> None:
    run = Run(tmp_path / "run")
    with pytest.raises(ConfigError, match=r"found 'architecture', which the recipe in .*run tells already"):
        arguments.model_options(run, "resnet8", None)
    assert arguments.model_options(run, None, None) == {}
