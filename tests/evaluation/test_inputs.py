"""Images and labels that an evaluation takes, and notes on the model that it keeps."""

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import robustlens as rl
from helpers.evaluated_models import THREAT, assert_same, network, problem
from robustlens.errors import DataError

MODEL, X, Y = problem(30)
EVERY_CLASS = torch.arange(30) % 4


def run(x, y, model=MODEL, **more):
    return rl.evaluate(model, x, y, THREAT, ["fgsm", "pgd-2"], flags=False, batch_size=8, **more)


@pytest.mark.parametrize(
    ("x", "y"),
    [
        (X, Y.to(torch.uint8)),
        (X.numpy(), Y.numpy().astype(np.int16)),
        (DataLoader(TensorDataset(X, Y), batch_size=7), None),
        (((X[i : i + 1], Y[i : i + 1]) for i in range(30)), None),
        (X.double(), Y),
        (X.numpy().astype(">f4"), Y),
    ],
    ids=["uint8 labels", "arrays", "DataLoader", "generator", "float64", "another byte order"],
)
def test_the_same_images_give_the_same_masks(x, y):
    assert_same(run(x, y), run(X, Y))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_images_are_evaluated_as_the_float32_images_that_they_are(dtype, tmp_path):
    assert_same(run(X.to(dtype), Y, state=tmp_path), run(X.to(dtype).float(), Y))


def test_dust_is_clamped():
    dusty = X.clone()
    dusty[0, 0], dusty[1, 1] = -2.98e-8, 1 + 1.2e-7
    evaluation = run(dusty, Y, save_adversarial=True)
    assert evaluation.x_adv.min() >= 0
    assert evaluation.x_adv.max() <= 1
    assert_same(evaluation, run(dusty.clamp(0, 1), Y))


@pytest.mark.parametrize(
    ("x", "y", "said"),
    [
        (X, None, "images without labels"),
        ([], None, "no batches"),
        ([X], None, "batches of another kind"),
        ([(X, Y), (X[:, :5], Y)], None, "differ in shape"),
        (X, nn.functional.one_hot(Y), "one-hot"),
        (X, Y.bool(), "bool labels"),
        ((X * 255).to(torch.uint8), Y, "uint8 pixels"),
        (torch.where(X > 0.99, torch.nan, X), Y, "NaN or infinite"),
    ],
)
def test_what_does_not_fit_is_one_line(x, y, said):
    with pytest.raises(DataError, match=f"evaluate: found.*{said}") as caught:
        run(x, y)
    assert "\n" not in str(caught.value)


def test_more_outputs_than_labels_show_are_noted():
    assert run(X, EVERY_CLASS).notes == ()
    assert run(X, Y).notes == ("the model has 4 outputs, and the labels show 2 of these classes",)


def test_an_absent_float64_judge_is_noted():
    model = network()
    handle = model[0].register_forward_hook(lambda module, args, output: None)
    (note,) = run(X, EVERY_CLASS, model).notes
    assert "float32 alone" in note
    handle.remove()
    assert run(X, EVERY_CLASS, model).notes == ()


class DependsOnTheBatch(nn.Module):
    """Linear model that subtracts the mean image of the batch."""

    def __init__(self):
        super().__init__()
        self.model = network()

    def forward(self, x):
        return self.model(x - 0.5 * x.mean(0))


def test_images_kept_of_a_model_that_depends_on_the_batch_are_noted_not_refused():
    model = DependsOnTheBatch()
    evaluation = run(X, model(X).argmax(1), model, save_adversarial=True)
    assert any("when it is asked again: its answers change (batch-dependent)" in n for n in evaluation.notes)
