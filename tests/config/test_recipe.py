"""Recipes: fractions, hashes, differences, and refusals that name the field."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from robustlens.config import EvaluationPlan, ExplanationPlan, Recipe, checked
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


def test_the_hash_of_the_default_recipe_is_pinned():
    """A new field must not change it, and a changed default must not happen (see `Recipe.hash`)."""
    assert Recipe().hash() == "44136fa355b3"


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
    ("kind", "values", "said"),
    [
        (Recipe, {"optimiser": {}}, r"recipe.optimiser: unknown key, found {}; expected one of data, model"),
        (
            Recipe,
            {"awp": {"gama": 1}},
            r"recipe.awp.gama: unknown key, found 1; expected one of warmup_epochs, gamma",
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
        (Recipe, ["a", "list"], r"found list, expected a mapping"),
        (EvaluationPlan, {"checkpoint": "worst"}, r"checkpoint: found 'worst'"),
        (ExplanationPlan, {"measure": ["spectrum"]}, r"unknown key"),
    ],
)
def test_refusals_are_one_line_and_name_the_field(kind, values, said):
    with pytest.raises(ConfigError, match=said) as caught:
        checked(kind, values, "recipe")
    assert "\n" not in str(caught.value)
    assert caught.value.exit_code == 2
