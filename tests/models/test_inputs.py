"""Images and labels as callers give them: accepted, mended or refused in one line."""

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from helpers.small_models import Snapshot, everything, images
from robustlens.errors import DataError, ModelError
from robustlens.models.inputs import ANYWHERE, check_network, checked, checked_images, checked_labels

BOX = (0.0, 1.0)


def test_what_fits_comes_back_as_the_same_tensors() -> None:
    model, (x, y) = everything(), images(4)
    before = Snapshot(model)
    images_, labels = checked(model, x, y, BOX, where="f")
    before.assert_unchanged()
    assert images_ is x
    assert labels is y


@pytest.mark.parametrize(
    "kind", [torch.uint8, torch.int8, torch.int16, torch.int32, np.uint8, np.uint16, np.int32, ">i8"], ids=str
)
def test_labels_of_any_integer_type_become_int64(kind: Any) -> None:
    numbers = [0, 3, 2]
    y = torch.tensor(numbers, dtype=kind) if isinstance(kind, torch.dtype) else np.array(numbers, dtype=kind)
    labels = checked_labels(y, where="f")
    assert labels.dtype == torch.int64
    assert labels.tolist() == numbers


@pytest.mark.parametrize(
    ("y", "message"),
    [
        (torch.eye(3), r"f: found labels of shape \(3, 3\), as of one-hot rows, .* y.argmax\(1\)"),
        (torch.eye(3).long(), "one-hot rows"),
        (torch.tensor([True, False]), "found bool labels"),
        (torch.tensor([0.0, 1.0]), "found float32 labels"),
        (torch.tensor([[1], [2]]), r"found int64 labels of shape \(2, 1\)"),
        (torch.tensor(1), r"of shape \(\)"),
        (torch.tensor([0, -1]), "found label -1"),
        (np.array(["a", "b"]), "found labels as ndarray, expected a tensor or an array of integers"),
    ],
)
def test_other_labels_are_refused_by_name(y: Any, message: str) -> None:
    with pytest.raises(DataError, match=message):
        checked_labels(y, where="f")


@pytest.mark.parametrize(
    "kind", [torch.float16, torch.bfloat16, torch.float64, np.float64, np.float16], ids=str
)
def test_images_get_the_precision_of_the_model(kind: Any) -> None:
    x, _ = images(4)
    given = x.to(kind) if isinstance(kind, torch.dtype) else x.numpy().astype(kind)
    for model, wanted in ((nn.Linear(4, 2), torch.float32), (nn.Linear(4, 2).double(), torch.float64)):
        found = checked_images(given, BOX, model, where="f")
        assert found.dtype == wanted
        assert float(found.min()) >= 0
        assert float(found.max()) <= 1


def test_a_model_in_half_precision_gets_its_own_type_and_no_rounded_images() -> None:
    model, (x, _) = nn.Linear(4, 2).half(), images(2)
    assert checked_images(x.half(), BOX, model, where="f").dtype == torch.float16
    assert checked_images(x, BOX, model, where="f") is x
    assert checked_images(x.double(), BOX, where="f").dtype == torch.float64


def test_dust_is_clamped_and_more_is_refused() -> None:
    x = torch.full((2, 3), 0.5)
    x[0, 0], x[1, 2] = -2.98e-8, 1 + 1e-7
    found = checked_images(x, BOX, where="f")
    assert (float(found.min()), float(found.max())) == (0.0, 1.0)
    assert float(x.min()) < 0  # the caller's are left as they are
    x[0, 0] = -1e-5
    with pytest.raises(DataError, match=r"found pixels in \[-1e-05, 1\], expected \[0, 1\]"):
        checked_images(x, BOX, where="f")
    wide = torch.tensor([[255 + 1e-4, 0.0]])
    assert float(checked_images(wide, (0.0, 255.0), where="f").max()) == 255.0


def test_images_of_read_only_or_reversed_arrays_are_accepted() -> None:
    array = np.linspace(0, 1, 6, dtype=np.float32).reshape(2, 3)
    array.flags.writeable = False
    assert checked_images(array[::-1], BOX, where="f").tolist() == array[::-1].tolist()


@pytest.mark.parametrize(
    ("x", "message"),
    [
        (torch.full((2, 3), torch.nan), "f: found NaN or infinite pixels in 2 of 2 images"),
        (torch.tensor([[0.0, torch.inf], [0.0, 1.0]]), "in 1 of 2 images"),
        (torch.rand(2, 3) * 255, "expected .0, 1.; divide by 255"),
        (torch.zeros(2, 3, dtype=torch.uint8), r"found uint8 pixels, .* x.float\(\) / 255"),
        (torch.zeros(2, 3, dtype=torch.bool), "found bool pixels"),
        (torch.rand(3), r"found images of shape \(3,\)"),
        (torch.rand(0, 3), "found 0 images"),
        (torch.rand(2, 0), r"found images of shape \(2, 0\)"),
        (np.array([["a"]]), "found images as ndarray, expected a tensor or an array of floats"),
    ],
)
def test_images_that_do_not_fit_are_refused(x: Any, message: str) -> None:
    with pytest.raises(DataError, match=message):
        checked_images(x, BOX, where="f")


def test_without_bounds_only_bytes_are_outside() -> None:
    normalised = torch.tensor([[-2.6, 2.7]])
    assert checked_images(normalised, where="f") is normalised
    assert checked_images(1e9 * normalised, ANYWHERE, where="f").tolist() == (1e9 * normalised).tolist()
    with pytest.raises(DataError, match=r"found pixels in \[0, 255\], expected \[0, 1\], or normalised"):
        checked_images(torch.tensor([[0.0, 255.0]]), where="f")


class Answering(nn.Module):
    """A network that returns something else than logits."""

    def __init__(self, answer: Any) -> None:
        super().__init__()
        self.answer = answer

    def forward(self, x: Tensor) -> Any:
        return self.answer(x)


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (lambda x: {"logits": x.flatten(1)}, "returned dict with logits, expected a tensor of logits"),
        (lambda x: (x.flatten(1),), "a tuple of 1"),
        (lambda x: x, "returned shape"),
        (lambda x: x.flatten(1)[:, :3], "returned 3 logits an image, expected at least 5"),
        (lambda x: x @ torch.ones(3, 3), "fails on images of shape"),
    ],
)
def test_models_that_return_no_logits_are_refused(answer: Any, message: str) -> None:
    x, _ = images(4)
    with pytest.raises(ModelError, match=message):
        checked(Answering(answer), x, torch.tensor([0, 1, 2, 4]), BOX, where="f")


def test_as_many_labels_as_images() -> None:
    x, y = images(4)
    with pytest.raises(DataError, match="f: found 4 images and 3 labels"):
        checked(everything(), x, y[:3], BOX, where="f")


class Writing(nn.Module):
    """A network that normalises the images that it is given in place."""

    def forward(self, x: Tensor) -> Tensor:
        return x.sub_(0.5).flatten(1)


def test_a_network_that_writes_to_its_images_is_refused_and_leaves_the_callers_alone() -> None:
    x, y = images(4)
    before = x.clone()
    with pytest.raises(ModelError, match=r"writes to the images that it is given; .*x\.clone\(\)"):
        checked(Writing(), x, y, BOX, where="f")
    assert torch.equal(x, before)


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (lambda x: x, "found function, expected an nn.Module"),
        (Writing, "found the class Writing, expected an nn.Module"),
        (nn.Sequential(nn.Flatten(), nn.LazyLinear(3)), "1.weight has no shape yet; call the network once"),
    ],
)
def test_what_is_no_built_network_is_refused(model: Any, message: str) -> None:
    with pytest.raises(ModelError, match=message):
        check_network(model)


def test_images_are_refused_where_their_network_is_not_built() -> None:
    with pytest.raises(ModelError, match="no shape yet"):
        checked_images(torch.rand(2, 3), model=nn.LazyLinear(3), where="f")


def test_batches_give_their_images_where_no_labels_are_asked_for() -> None:
    x, y = images(4)
    assert torch.equal(checked_images([(x[:3], y[:3]), (x[3:], y[3:])], BOX, where="f"), x)
    nested = [[row.numpy() for row in image] for image in x[:, :2]]  # numbers, two channels an image
    assert torch.equal(checked_images(nested, BOX, where="f"), x[:, :2])
