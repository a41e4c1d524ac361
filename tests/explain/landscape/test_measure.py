"""The landscape as a measure."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F  # noqa: N812 - the field's name for it

import robustlens as rl
from helpers.small_models import everything, images
from robustlens.explain.landscape.measure import measure_landscape, rises


def test_rises_by_hand():
    alpha = np.array([-0.5, 0.0, 0.5, 1.0])
    values = np.array([2.0, 1.0, 4.0, 9.0])[:, None, None] * np.ones((4, 2, 3))
    assert rises(alpha, values) == {"0.5": 2.0, "1": 8.0}


def test_the_measure_keeps_means_of_the_plane_and_of_the_inputs():
    (x, y), (x_test, y_test) = images(20), images(12)
    splits = rl.data.from_tensors(
        (x * 255).round().to(torch.uint8),
        y,
        (x_test * 255).round().to(torch.uint8),
        y_test,
        classes=tuple("abcde"),
    )
    threat = rl.ThreatModel("Linf", 0.05)
    subject = rl.explain.Subject(everything().eval(), splits.train, splits.test, threat)
    options = {"alphas": (-1, 1), "steps": 2, "splits": ("test",)}
    without = measure_landscape(subject, **options)
    found = measure_landscape(subject, plane=3, plane_examples=6, input=True, **options)
    for name, array in without.arrays.items():
        np.testing.assert_array_equal(found.arrays[name], array)
    assert found.value == without.value
    assert found.arrays["plane_alpha"].tolist() == [-1, 0, 1]
    assert found.arrays["test_plane_error"].shape == (3, 3)
    assert found.arrays["test_plane_loss"][:, 1] == pytest.approx(
        found.arrays["test_loss"][:, 0, :6].mean(1, dtype=np.float64)
    )
    middle = len(found.arrays["input_radius"]) // 2
    loss = F.cross_entropy(everything().eval()(subject.images("test")[0]), y_test).item()
    assert found.arrays["test_input_loss"][middle, middle] == pytest.approx(loss, rel=1e-5)
