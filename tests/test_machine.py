"""What work changes of the process that it runs in, and what its caller finds again after it."""

import contextlib
import os
import platform
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning_fabric import Fabric

import robustlens as rl
from helpers.evaluated_models import problem
from helpers.watching import Watching, switches
from robustlens import machine, models, reliability
from robustlens.config import ExplanationPlan, Recipe, checked
from robustlens.data import Splits, from_tensors
from robustlens.errors import ConfigError, ResourceError
from robustlens.evaluation import preparation
from robustlens.explain import run as explain_run
from robustlens.machine import environment, float32_products, repeatable
from robustlens.training import trainer
from robustlens.training.distributed import fabric_for, products

BACKENDS: Any = torch.backends
SETTINGS = {
    "as torch is": lambda: None,
    "older, all on": lambda: torch.set_float32_matmul_precision("medium"),
    "older, products on": lambda: setattr(BACKENDS.cuda.matmul, "allow_tf32", True),
    "older, convolutions off": lambda: setattr(BACKENDS.cudnn, "allow_tf32", False),
    "newer, convolutions off": lambda: setattr(BACKENDS.cudnn.conv, "fp32_precision", "ieee"),
    "newer, products on": lambda: setattr(BACKENDS.cuda.matmul, "fp32_precision", "tf32"),
}


def splits_of(x: torch.Tensor, y: torch.Tensor) -> Splits:
    """The images of `problem` as training and as test images."""
    pixels = (x.view(len(x), 1, 3, 4) * 255).to(torch.uint8)
    return from_tensors(pixels, y, pixels, y, classes=tuple("abcd"))


def train_once(folder: Path, splits: Splits, **changes: Any) -> rl.Run:
    """A run of one epoch of the model that notes its settings."""
    values: dict[str, Any] = {"model": {"name": "helpers.watching:network"}, "objective": "standard"}
    values |= {"optimizer": {"epochs": 1, "batch_size": 8}, "monitor": {"examples": 8, "steps": 1}}
    values |= {"data": {"name": splits.name}}
    return rl.train(values | changes, folder, splits=splits)


@pytest.fixture(autouse=True)
def torch_as_it_is():
    """Put torch's own settings back, also where a test mixes the older and the newer ones."""
    yield
    torch.set_float32_matmul_precision("highest")
    BACKENDS.cudnn.allow_tf32 = True


IEEE = ["ieee"] * 4 + ["highest", False]


@pytest.mark.parametrize("name", SETTINGS)
def test_products_are_ieee_inside_and_as_before_outside(name):
    SETTINGS[name]()
    before = switches()
    with float32_products():
        assert switches() == IEEE
        with float32_products("tf32"):
            assert switches() == ["tf32"] * 4 + ["high", True]
            assert environment()["tf32"] == "allowed"
        assert environment()["tf32"] == "off"
    after = switches()
    assert [b for b in before if b != "mixed"] == [
        a for a, b in zip(after, before, strict=True) if b != "mixed"
    ]


def test_they_come_back_after_an_error():
    before = switches()
    with pytest.raises(ZeroDivisionError), float32_products():
        raise ZeroDivisionError
    assert switches() == before


def test_judges_copies_and_searches_see_ieee_products():
    BACKENDS.cuda.matmul.allow_tf32 = True
    model, (_, x, y) = Watching(), problem(20)
    Watching.seen.clear()
    before = switches()
    rl.evaluate(
        model, x, y, rl.ThreatModel("Linf", 0.1), ["fgsm", "cw-2", "square-10"], save_adversarial=True
    )
    at_the_door, *inside = Watching.seen
    assert at_the_door == before  # where two images show that the model returns logits at all
    assert len(inside) > 10
    assert all(each == IEEE for each in inside)
    assert switches() == before
    for look in (
        lambda: models.float64_copy(model, x),
        lambda: models.fast_copy(model, x),
        lambda: reliability.check(model, x, y),
    ):
        Watching.seen.clear()
        look()
        assert Watching.seen
        assert all(each == IEEE for each in Watching.seen)


@pytest.mark.parametrize(
    ("precision", "kind"), [("32-true", "ieee"), ("tf32", "tf32"), ("bf16-mixed", "ieee")]
)
def test_a_recipe_names_its_products(precision, kind):
    recipe = checked(Recipe, {"precision": precision}, "recipe")
    assert products(recipe.precision) == kind
    assert fabric_for(precision)._precision.precision == precision.replace("tf32", "32-true")


def test_tf32_trains_in_tf32_is_monitored_in_ieee_and_says_so(tmp_path):
    splits = splits_of(*problem(24)[1:])
    Watching.seen.clear()
    before = switches()
    run = train_once(tmp_path / "run", splits, precision="tf32")
    assert run.record.environment["tf32"] == "allowed"
    trained, monitored = ["tf32"] * 4 + ["high", True], IEEE
    assert trained in Watching.seen
    assert monitored in Watching.seen
    assert all(each in (trained, monitored, before) for each in Watching.seen)
    assert switches() == before
    assert rl.Recipe().hash() != checked(Recipe, {"precision": "tf32"}, "recipe").hash()


# -- devices -----------------------------------------------------------------------------------------------


@pytest.fixture
def four_devices(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 4)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)


@pytest.mark.usefixtures("four_devices")
def test_devices_go_by_torchs_names(monkeypatch):
    names = ("auto", "cuda", "cuda:3", "cpu")
    assert [str(machine.device(name)) for name in names] == ["cuda:0", "cuda:0", "cuda:3", "cpu"]
    assert [machine.devices(name) for name in names] == [("0", "1", "2", "3")] * 2 + [("3",), ()]
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "7, 5,GPU-a,2")
    assert [machine.devices(name) for name in names] == [("7", "5", "GPU-a", "2")] * 2 + [("2",), ()]


def test_a_machine_without_devices_works_on_the_cpu(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert machine.device() == machine.device("cpu") == torch.device("cpu")
    assert machine.devices() == ()
    for name in ("cuda", "cuda:0"):
        with pytest.raises(ResourceError, match=f"device: found '{name}', but torch sees none here"):
            machine.device(name)


@pytest.mark.usefixtures("four_devices")
def test_a_device_that_is_not_there_is_refused():
    with pytest.raises(
        ResourceError, match="found 'cuda:4', but torch sees cuda:0, cuda:1, cuda:2, cuda:3 here"
    ):
        machine.device("cuda:4")


@pytest.mark.parametrize(
    "name", ["", "gpu", "cuda:", "cuda:-1", "cuda:x", "cpu:0", "CUDA", "cuda:1:2", "auto:0"]
)
def test_what_is_no_device_is_refused(name):
    with pytest.raises(ConfigError, match="expected auto, cpu, cuda or one of several as cuda:1"):
        machine.device(name)


@pytest.mark.usefixtures("four_devices")
def test_training_asks_for_the_device_by_its_number(monkeypatch):
    asked = []

    class Watched(Fabric):
        def __init__(self, **options: Any) -> None:
            asked.append((options["accelerator"], options["devices"]))
            super().__init__(accelerator="cpu")

    monkeypatch.setattr("robustlens.training.fabric.Fabric", Watched)
    for name in ("auto", "cuda:2", "cpu"):
        fabric_for("32-true", name)
    assert asked == [("cuda", [0]), ("cuda", [2]), ("cpu", 1)]


def algorithms() -> tuple[bool, ...]:
    cudnn = torch.backends.cudnn
    return (torch.are_deterministic_algorithms_enabled(), cudnn.deterministic, cudnn.benchmark)


MEMORY: Any = torch.utils.deterministic  # whose class has the setting


def attention() -> tuple[bool, ...]:
    cuda = torch.backends.cuda
    return (cuda.flash_sdp_enabled(), cuda.mem_efficient_sdp_enabled(), cuda.cudnn_sdp_enabled())


@pytest.mark.parametrize("fast", [False, True])
def test_work_on_cuda_is_repeatable_unless_it_is_fast(fast: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CUBLAS_WORKSPACE_CONFIG", raising=False)
    before, inside = (algorithms(), attention()), list[Any]()

    def fail() -> None:
        with repeatable(torch.device("cuda"), fast=fast):
            inside[:] = [*algorithms(), torch.is_deterministic_algorithms_warn_only_enabled()]
            assert attention() == (fast, fast, fast)
            assert torch.backends.cuda.math_sdp_enabled()
            assert not MEMORY.fill_uninitialized_memory
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert inside == [not fast, not fast, fast, True]
    assert os.environ["CUBLAS_WORKSPACE_CONFIG"] == ":4096:8"
    assert (algorithms(), attention()) == before
    assert MEMORY.fill_uninitialized_memory
    with repeatable(torch.device("cpu"), fast=fast):
        assert (algorithms(), attention()) == before


def test_the_settings_of_the_caller_come_back(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.backends.cudnn, "benchmark", True)
    torch.use_deterministic_algorithms(True)
    torch.backends.cuda.enable_flash_sdp(False)
    try:
        with repeatable(torch.device("cuda")):
            assert algorithms() == (True, True, False)
            with repeatable(torch.device("cuda"), fast=True):
                assert attention() == (False, False, False), "what is off stays off"
        assert algorithms() == (True, False, True)
        assert attention() == (False, True, True)
        assert not torch.is_deterministic_algorithms_warn_only_enabled()
    finally:
        torch.use_deterministic_algorithms(False)
        torch.backends.cuda.enable_flash_sdp(True)


@pytest.mark.usefixtures("four_devices")
def test_cublas_gets_its_workspace_before_anything_is_computed(monkeypatch: pytest.MonkeyPatch) -> None:
    """It looks once, at its first product; a network is tried out before work begins to be repeatable."""
    monkeypatch.delenv("CUBLAS_WORKSPACE_CONFIG", raising=False)
    machine.device("cpu")
    assert "CUBLAS_WORKSPACE_CONFIG" not in os.environ
    machine.device("auto")
    assert os.environ["CUBLAS_WORKSPACE_CONFIG"] == ":4096:8"


@pytest.mark.parametrize("fast", [False, True])
def test_training_and_evaluation_are_repeatable_on_their_device(
    fast: bool, tmp_path: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first fast choice is the recipe's; a verdict is never fast."""
    asked: list[tuple[str, bool]] = []

    def note(on: torch.device, *, fast: bool = False) -> Any:
        asked.append((on.type, fast))
        return contextlib.nullcontext()

    for room in (trainer, preparation):
        monkeypatch.setattr(room, "repeatable", note)
    _, x, y = problem(24)
    train_once(tmp_path / "run", splits_of(x, y), fast=fast)
    assert asked == [("cpu", fast)]
    rl.evaluate(Watching(), x, y, rl.ThreatModel("Linf", 0.1), ["fgsm"])
    assert asked == [("cpu", fast), ("cpu", False)]


# -- memory ---------------------------------------------------------------------------------------------

FAULTS = """
import contextlib, resource, sys
import numpy
from robustlens import machine

def faults():
    "Pages of memory that the system hands out while a large block is taken and freed again, ten times."
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(10):
        numpy.ones(8 << 20)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

def kept(before, after):
    return after < before / 10

def work(inside=None):
    with machine.kept_memory():
        numpy.ones(8 << 20)  # handed out once
        return inside() if inside else faults()

first = faults()
if sys.argv[1] == "for the time of the work":
    assert kept(first, work())
    assert not kept(first, faults())
elif sys.argv[1] == "by two at once":
    assert kept(first, work(lambda: (work(), faults())[1]))
    assert not kept(first, faults())
elif sys.argv[1] == "also after a failure":
    with contextlib.suppress(ZeroDivisionError):
        work(lambda: 1 / 0)
    assert not kept(first, faults())
elif sys.argv[1] == "for good":
    assert machine.keep_memory()
    assert kept(first, work())
    assert kept(first, faults())
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc has these thresholds")
@pytest.mark.parametrize(
    "case", ["for the time of the work", "by two at once", "also after a failure", "for good"]
)
def test_freed_memory_is_kept(case: str) -> None:
    subprocess.run([sys.executable, "-c", FAULTS, case], check=True)


def test_training_evaluation_and_explanation_keep_memory(
    tmp_path: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    rooms: dict[str, int] = dict.fromkeys(("train", "evaluate", "explain"), 0)

    def counted(name: str) -> Any:
        @contextlib.contextmanager
        def counting() -> Iterator[None]:
            rooms[name] += 1
            yield

        return counting

    monkeypatch.setattr(trainer, "kept_memory", counted("train"))
    monkeypatch.setattr(preparation, "kept_memory", counted("evaluate"))
    monkeypatch.setattr(explain_run, "kept_memory", counted("explain"))
    _, x, y = problem(24)
    splits = splits_of(x, y)
    run = train_once(tmp_path / "run", splits)
    rl.evaluate(Watching(), x, y, rl.ThreatModel("Linf", 0.1), ["fgsm"], flags=False)
    plan = ExplanationPlan(measures=("margins",), threat=run.recipe.threat)
    explain_run.explain(models.load(run.folder, trust_code=True), splits, plan)
    assert rooms == {"train": 1, "evaluate": 1, "explain": 1}
