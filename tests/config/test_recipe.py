"""Recipes: fractions, hashes, differences, and refusals that name the field."""

from datetime import date
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from robustlens.config import (
    AWPSpec,
    CapacitySpec,
    EvaluationPlan,
    ExplanationPlan,
    FactoryPerturbationSpec,
    InitSpec,
    PseudoLabelSpec,
    Recipe,
    RWPSpec,
    SAMSpec,
    StudySpec,
    checked,
)
from robustlens.config.values import number
from robustlens.errors import ConfigError


@given(st.integers(-1000, 1000), st.integers(1, 1000))
def test_fractions_are_read_exactly(top, bottom):
    assert number(f"{top}/{bottom}") == top / bottom


@pytest.mark.parametrize("text", ["8/0", "eight", "1/2/3", "", "8 of 255", None, [1]])
def test_what_is_no_number_is_passed_on(text):
    assert number(text) == text


def test_a_hash_depends_on_values_only():
    written = checked(Recipe, {"threat": {"norm": "l_inf", "eps": "8/255"}}, "recipe")
    plain = checked(Recipe, {"threat": {"eps": 8 / 255, "norm": "Linf"}, "seed": 0}, "recipe")
    assert written.hash() == plain.hash()
    assert written.hash() != checked(Recipe, {"threat": {"eps": "8/255"}, "seed": 1}, "recipe").hash()


def test_equal_numbers_have_one_spelling():
    six = [checked(Recipe, {"objective_options": {"beta": beta}}, "recipe") for beta in (6, 6.0)]
    assert six[0].hash() == six[1].hash()


def test_where_the_data_lies_is_no_part_of_the_recipe():
    here = checked(Recipe, {"data": {"name": "cifar10", "data_dir": "/here"}}, "recipe")
    there = checked(Recipe, {"data": {"name": "cifar10", "data_dir": "/there"}}, "recipe")
    assert here.hash() == there.hash()
    assert here.difference(there) == ""


PINNED = {
    "data": {"name": "fashion-mnist-10k", "train_limit": None, "test_limit": None, "validation": 0.1}
    | {"augment": "auto", "unlabeled": 0, "seed": 0},
    "model": {"name": "small-cnn", "options": {}},
    "threat": {"norm": "Linf", "eps": 0.1},
    "objective": "at",
    "objective_options": {},
    "attack": {"steps": 10, "step_size": None, "random_start": True, "model_mode": "eval", "replays": 1},
    "awp": {"warmup_epochs": 0, "gamma": 0.01, "steps": 1, "alternations": 1, "from_attack": False}
    | {"images": "all", "loss_threshold": None},
    "rwp": {"warmup_epochs": 0, "gamma": 0.01},
    "sam": {"warmup_epochs": 0, "rho": 0.05},
    "weight_perturbation": {"warmup_epochs": 0, "options": {}},
    "mixup": None,
    "pseudo_labels": {"share": 0.5},
    "init": {"checkpoint": "best", "new_head": False},
    "ema": None,
    "capacity": {"low": 0.0, "high": 1.0, "every": 50},
    "optimizer": {"lr": 0.1, "momentum": 0.9, "nesterov": False, "weight_decay": 5e-4, "l1": 0.0}
    | {"batch_size": 128, "accumulate": 1, "epochs": 30, "patience": None, "schedule": "piecewise"}
    | {"milestones": [0.5, 0.75], "warmup": 0.3},
    "monitor": {"examples": 512, "steps": 10},
    "keep_every": None,
    "precision": "32-true",
    "compile": False,
    "seed": 0,
}
"""Every default that a hash leaves out: one that changed would give old hashes a new meaning."""


def test_no_default_has_changed():
    parts = {
        "awp": AWPSpec(),
        "rwp": RWPSpec(),
        "sam": SAMSpec(),
        "weight_perturbation": FactoryPerturbationSpec(factory="a:b"),
        "pseudo_labels": PseudoLabelSpec(),
        "init": InitSpec(model="m"),
        "capacity": CapacitySpec(),
    }
    whole = {
        **Recipe().model_dump(mode="json"),
        **{name: p.model_dump(mode="json") for name, p in parts.items()},
    }
    assert set(PINNED) <= set(whole)
    for name, value in PINNED.items():
        now = whole[name]
        assert (now if not isinstance(value, dict) else {key: now[key] for key in value}) == value, name
    teacher = whole["pseudo_labels"]["teacher"]
    assert {key: teacher[key] for key in PINNED["optimizer"]} == PINNED["optimizer"]


def test_the_parts_that_are_off_by_default_stay_off():
    off = ("awp", "rwp", "sam", "weight_perturbation", "pseudo_labels", "init", "capacity")
    assert all(getattr(Recipe(), name) is None for name in off)


@pytest.mark.parametrize(
    ("values", "known"),
    [
        ({}, "44136fa355b3"),
        (
            {"threat": {"eps": "8/255"}, "objective": "trades", "objective_options": {"beta": 6}},
            "b88b377604c4",
        ),
        (
            {"awp": {"gamma": 0.01, "warmup_epochs": 2}, "seed": 3, "data": {"train_limit": 240}},
            "194965669bac",
        ),
    ],
)
def test_a_hash_is_what_it_was_in_format_1(values, known):
    assert checked(Recipe, values, "recipe").hash() == known


def test_a_recipe_survives_json():
    recipe = checked(
        Recipe, {"awp": {"gamma": "1/200"}, "objective_options": {"label_smoothing": 0.1}}, "recipe"
    )
    assert Recipe.model_validate_json(recipe.model_dump_json()).hash() == recipe.hash()


def test_differences_name_the_field_and_both_values():
    a = checked(Recipe, {"optimizer": {"lr": 0.1}}, "recipe")
    b = checked(Recipe, {"optimizer": {"lr": 0.2}, "awp": {"gamma": 0.01}}, "recipe")
    assert "optimizer.lr: 0.1 -> 0.2" in b.difference(a)
    assert "awp.gamma: None -> 0.01" in b.difference(a)


@pytest.mark.parametrize(
    ("mine", "theirs", "said"),
    [
        ({"norm": True}, {"norm": 1}, "norm: 1 -> True"),
        ({"norm": 0}, {"norm": False}, "norm: False -> 0"),
        ({"norms": [1, 0]}, {"norms": [1, False]}, "norms: [1, False] -> [1, 0]"),
        ({"a": {}}, {}, "a: None -> {}"),
        ({"a": None}, {}, "a: None -> None"),
        ({"a.b": 1}, {"a": {"b": 1}}, "a.b: None -> 1"),
        ({"a": {}}, {"a": []}, "a: [] -> {}"),
        ({"a": "1"}, {"a": 1}, "a: 1 -> '1'"),
        ({"a": 2.0}, {"a": 2}, None),
        ({"a": [{"x": 1, "y": 2.0}]}, {"a": [{"y": 2, "x": 1}]}, None),
        ({"a": -0.0}, {"a": 0}, None),
    ],
)
def test_recipes_differ_where_their_hashes_do(mine, theirs, said):
    one, other = (Recipe.model_validate({"model": {"options": options}}) for options in (mine, theirs))
    assert (one.hash() == other.hash()) is (said is None)
    assert f"model.options.{said}" in one.difference(other) if said else one.difference(other) == ""


@pytest.mark.parametrize(
    ("kind", "values", "said"),
    [
        (
            Recipe,
            {"data": {"name": "npz:caf\udce9"}},
            r"recipe.data.name: found 'npz:caf\\udce9', expected Unicode",
        ),
        (Recipe, {"optimiser": {}}, r"recipe.optimiser: unknown key, found {}; expected one of data, model"),
        (
            Recipe,
            {"awp": {"gama": 1}},
            r"recipe.awp.gama: unknown key, found 1; expected one of warmup_epochs, .*gamma",
        ),
        (Recipe, {"threat": {"eps": 8}}, r"did you mean 8/255 = 0.03137"),
        (Recipe, {"threat": {"norm": "L7"}}, r"found 'L7', expected Linf, L2 or L1"),
        (Recipe, {"optimizer": {"lr": "fast"}}, r"recipe.optimizer.lr: found 'fast'"),
        (Recipe, {"optimizer": {"lr": float("nan")}}, r"recipe.optimizer.lr"),
        (Recipe, {"optimizer": {"epochs": 0, "batch_size": 0}}, r"\(and 1 more\)"),
        (Recipe, {"capacity": {"low": 2, "high": 1}}, r"capacity.low: found 2, expected at most high"),
        (Recipe, {"awp": {}, "sam": {}}, r"recipe.sam: found beside awp, expected one perturbation"),
        (
            Recipe,
            {"attack": {"replays": 4}, "mixup": 1},
            r"recipe.attack.replays: free training goes with no",
        ),
        (Recipe, {"pseudo_labels": {}}, r"recipe.pseudo_labels: found without data.unlabeled"),
        (Recipe, {"awp": {"from_attack": True, "steps": 2}}, r"awp.from_attack: the attack gives one step"),
        (Recipe, {"precision": "fp8"}, r"recipe.precision: found 'fp8'"),
        (
            Recipe,
            {"precision": "16-mixed"},
            r"recipe.precision: found .16-mixed., expected 32-true, tf32 or bf16-mixed: in float16",
        ),
        (Recipe, ["a", "list"], r"found list, expected a mapping"),
        (EvaluationPlan, {"checkpoint": "worst"}, r"checkpoint: found 'worst'"),
        (ExplanationPlan, {"measure": ["spectrum"]}, r"unknown key"),
        (ExplanationPlan, {"measures": ["bound", "margins", "bound"]}, r"measures: found 'bound' twice"),
        (
            Recipe,
            {"optimizer": {"epochs": True}},
            r"optimizer.epochs: found True; input should be an integer",
        ),
        (Recipe, {"optimizer": {"patience": False}}, r"optimizer.patience: found False"),
        (StudySpec, {"name": "a", "methods": [{}], "seeds": [0, True]}, r"seeds: found \[0, True\]"),
    ],
)
def test_refusals_are_one_line_and_name_the_field(kind, values, said):
    with pytest.raises(ConfigError, match=said) as caught:
        checked(kind, values, "recipe")
    assert "\n" not in str(caught.value)
    assert caught.value.exit_code == 2


@pytest.mark.parametrize(
    ("value", "where"),
    [
        (float("inf"), ": found inf"),
        (-float("inf"), ": found -inf"),
        (float("nan"), ": found nan"),
        ([1, {"deep": float("inf")}], r"\[1\].deep: found inf"),
        (date(2026, 1, 2), ": found datetime.date"),
        (b"x", ": found b'x'"),
        ("caf\udce9", r": found 'caf\\udce9'"),
        ({1: 2}, ": found {1: 2}"),
    ],
)
@pytest.mark.parametrize(
    "field",
    [
        "model.options",
        "objective_options",
        "optimizer.options",
        "optimizer.schedule_options",
        "weight_perturbation.options",
    ],
)
def test_an_option_that_files_would_change_is_refused(field, value, where):
    """They know neither of these: inf, nan and null had one hash, and the network was built with null."""
    asked: dict[str, Any] = {"x": value}
    for name in reversed(field.split(".")):
        asked = {name: asked}
    if field.startswith("weight"):
        asked["weight_perturbation"]["factory"] = "a:b"
    with pytest.raises(ConfigError, match=f"recipe.{field}.x{where}.*, expected a finite number") as caught:
        checked(Recipe, asked, "recipe")
    assert "\n" not in str(caught.value)


def test_options_that_files_keep_are_taken_as_files_give_them_back():
    """A network that was built with a tuple of Python's would be built with a list when it is loaded."""
    options = {"a": None, "b": True, "c": 1, "d": 0.5, "e": "x", "f": [1, [2.0, "y"]], "g": {"h": {}}}
    for inner in ([2.0, "y"], (2.0, "y")):
        asked = {**options, "f": (1, inner)}
        assert checked(Recipe, {"model": {"options": asked}}, "recipe").model.options == options
        own = checked(ExplanationPlan, {"options": {"mine:measure": asked}}, "explanation")
        assert own.options == {"mine:measure": options}


@pytest.mark.parametrize("value", [float("inf"), float("nan"), {1: 2}, b"x"])
def test_an_option_of_a_measure_of_ones_own_that_files_would_change_is_refused(value):
    """Its parameter may have no type that refuses the value; files keep null."""
    asked = {"options": {"spectrum": {"operator": "zero"}, "mine:measure": {"q": value}}}
    with pytest.raises(
        ConfigError, match=r"^explanation\.options\.mine:measure\.q: found .*, expected a finite"
    ):
        checked(ExplanationPlan, asked, "explanation")
