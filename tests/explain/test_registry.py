"""Measures by name, with options that are checked before anything is measured."""

import inspect
from pathlib import Path

import pytest
import torch

from helpers.small_models import everything
from robustlens import ThreatModel, explain
from robustlens.data import Split
from robustlens.errors import ConfigError
from robustlens.explain import MEASURES, Subject, get
from robustlens.registry import options_of


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("specturm", {}, r"^measures: found 'specturm', expected one of spectrum, .*did you mean 'spectrum'"),
        ("landscape", {"step": 3}, r"^explanation\.options\.landscape\.step: unknown option .* 'steps'"),
        ("activations", {"steps": 3}, r"options\.activations\.steps: unknown option .*; it has none"),
        ("smoothness", {"steps": 0}, r"options\.smoothness\.steps: found 0; .* greater than or equal to 1"),
        ("smoothness", {"steps": "many"}, r"options\.smoothness\.steps: found 'many'; .* valid integer"),
        ("smoothness", {"steps": True}, r"options\.smoothness\.steps: found True"),
        ("jacobian", {"examples": 2.5}, r"options\.jacobian\.examples: found 2\.5"),
        ("flatness", {"xi_worst": -1}, r"options\.flatness\.xi_worst: found -1"),
        ("flatness", {"splits": []}, r"options\.flatness\.splits: found \[\]"),
        (
            "flatness",
            {"splits": ["validation"]},
            r"found \['validation'\]; input should be 'train' or 'test'",
        ),
        ("curvature", {"split": "validation"}, "found 'validation'; input should be 'train' or 'test'"),
        ("spectrum", {"operator": "same"}, "found 'same'; input should be 'circular' or 'zero'"),
        ("spectrum", {"batch_norm": "folded"}, "found 'folded'; input should be 'apart' or 'fold'"),
        ("bound", {"eta": 1.5}, r"options\.bound\.eta: found 1\.5"),
        ("bound", {"gammas": [0.1, 0]}, r"options\.bound\.gammas: found \[0\.1, 0\]"),
        ("bound", {"subject": None}, r"options\.bound\.subject: unknown option"),
    ],
)
def test_wrong_names_and_options_are_refused(name: str, options: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        get(name, **options)


def test_every_option_of_every_measure_takes_its_own_default() -> None:
    for name, measure in MEASURES.items():
        options = options_of(measure, MEASURES.hidden)
        defaults = {option: parameter.default for option, parameter in options.items()}
        assert MEASURES.checked(name, defaults) == defaults


def test_fractions_and_whole_numbers_are_read_as_people_write_them() -> None:
    assert MEASURES.checked("bound", {"eps": "8/255"}) == {"eps": 8 / 255}
    assert MEASURES.checked("landscape", {"alphas": [-1, 0.5]}) == {"alphas": [-1.0, 0.5]}


def test_a_measure_of_the_users_own_goes_by_where_it_lies(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "their_measures.py").write_text(
        "from robustlens.explain import Measurement\n"
        "def layers(subject, *, least: int = 0):\n"
        "    count = sum(p.ndim > least for p in subject.model.parameters())\n"
        "    return Measurement({'count': count}, '1', 'what', 'source')\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    empty = Split(torch.zeros(0, 3, 4, 4).byte(), torch.zeros(0).long(), torch.zeros(0).long())
    subject = Subject(everything(), empty, empty, ThreatModel("Linf", 0.1))
    assert get("their_measures:layers", least=1)(subject).value == {"count": 2}
    with pytest.raises(ConfigError, match=r"least: found 'few'"):
        get("their_measures:layers", least="few")
    with pytest.raises(ConfigError, match=r"measures 'their_measures:other': .* has no 'other'"):
        get("their_measures:other")


GRID = tuple(number / 4 for number in range(-4, 5))
WIDTHS = (0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0)
DEFAULTS: dict[str, dict[str, object]] = {
    "spectrum": {
        "operator": "circular", "batch_norm": "apart", "max_bytes": 2**27, "draws": 4, "steps": 64,
    },
    "jacobian": {"examples": 64},
    "activations": {},
    "margins": {},
    "smoothness": {"steps": 10, "examples": None},
    "gallery": {"examples": 10, "steps": 20},
    "gradients": {"examples": 1000},
    "landscape": {
        "alphas": GRID, "draws": 1, "steps": 10, "examples": 256, "splits": ("test", "train"),
        "plane": 0, "plane_examples": 64, "input": False,
    },
    "flatness": {
        "xi_average": 0.5, "draws": 10, "xi_worst": 0.003, "ascents": 20, "steps": 10, "examples": 128,
        "splits": ("test",),
    },
    "curvature": {
        "examples": 64, "split": "test", "eigenvalues": 5, "lanczos_steps": 20, "draws": 20, "steps": 10,
    },
    "sharpness": {"factors": (0.25, 0.5, 1.0, 2.0), "steps": 10, "examples": 256, "splits": ("test",)},
    "bound": {
        "gammas": WIDTHS, "eta": 0.05, "eps": None, "examples": 128, "steps": 50, "points": 20,
        "operator": "circular",
    },
}  # fmt: skip
"""A saved plan names the options that were set; what the others mean must not change unseen."""


@pytest.mark.parametrize("name", MEASURES)
def test_a_measure_has_the_defaults_that_saved_plans_leave_out(name: str) -> None:
    options = options_of(MEASURES.find(name), MEASURES.hidden)
    assert {option: parameter.default for option, parameter in options.items()} == DEFAULTS[name]


@pytest.mark.parametrize(
    "name",
    ["landscape", "plane", "flatness", "curvature", "smoothness", "sharpness", "bound", "input_landscape"],
)
def test_a_function_has_the_defaults_of_its_measure(name: str) -> None:
    measure = {"plane": "landscape", "input_landscape": "landscape"}.get(name, name)
    known = {"batch_size": 256, "seed": 0, "radii": tuple(number / 2 for number in range(-4, 5))}
    known |= {"towards": "gradient"} | DEFAULTS[measure]
    parameters = inspect.signature(getattr(explain, name)).parameters
    shared = {option: known[option] for option in known if option in parameters}
    assert {option: parameters[option].default for option in shared} == shared
