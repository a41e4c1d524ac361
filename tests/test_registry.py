"""Registries: near names, options of the annotated type, factories of the user's."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import pytest
from pydantic import Field

from robustlens import data, losses, models
from robustlens.attacks import ATTACKS
from robustlens.data import augment
from robustlens.errors import ConfigError, DataError, ModelError
from robustlens.factories import is_factory
from robustlens.objectives import OBJECTIVES
from robustlens.registry import Registry, imported
from robustlens.weights import PERTURBATIONS


@dataclass(frozen=True)
class Square:
    """A shape."""

    side: Annotated[float, Field(gt=0)] = 1.0
    corners: int = 4
    hollow: bool = False


def circle(centre: tuple[float, float], *, r: float = 1.0, colours: tuple[str, ...] = ("red",)) -> Any:
    return centre, r, colours


def shapes(**options: Any) -> Registry[Callable[..., Any]]:
    return Registry(
        "shape",
        {"square": Square, "circle": circle, "unit": partial(Square, 1.0)},
        hidden=("hollow",),
        **options,
    )


def test_entries_are_a_mapping_that_can_grow_and_shrink() -> None:
    registry = shapes()
    assert list(registry) == ["square", "circle", "unit"]
    registry["dot"] = circle
    assert registry["dot"] is circle
    del registry["dot"]
    assert len(registry) == 3


def test_options_are_the_parameters_with_a_default_that_are_not_hidden() -> None:
    assert shapes().options("square") == ("side", "corners")
    assert shapes().options("circle") == ("r", "colours")
    assert shapes().options("unit") == ("corners",)


def test_values_get_the_annotated_type() -> None:
    assert shapes().checked("square", {"side": 2}) == {"side": 2.0}
    assert shapes().checked("circle", {"colours": ["red", "blue"]}) == {"colours": ("red", "blue")}
    assert shapes().build("circle", (0.0, 1.0), options={"r": 3}) == ((0.0, 1.0), 3.0, ("red",))
    assert shapes().build("unit", options={"corners": 3}) == Square(1.0, 3)


@pytest.mark.parametrize(
    ("name", "options", "said"),
    [
        ("squaer", {}, "shape: found 'squaer', expected one of square, circle, unit; did you mean 'square'?"),
        (
            "square",
            {"sied": 1},
            "shape 'square'.sied: unknown option of 'square'; expected one of side, corners; ",
        ),
        ("square", {"hollow": True}, "shape 'square'.hollow: unknown option"),
        ("square", {"side": 0}, "shape 'square'.side: found 0; input should be greater than 0"),
        ("square", {"side": True}, "shape 'square'.side: found True; input should be a valid number"),
        ("square", {"corners": 1.5}, "shape 'square'.corners: found 1.5; input should be a valid integer"),
        ("circle", {"r": None}, "shape 'circle'.r: found None; input should be a valid number"),
        ("my:shape", {}, "shape: found 'my:shape', expected one of square, circle, unit"),
    ],
)
def test_wrong_names_and_options_are_refused_in_one_line(
    name: str, options: dict[str, Any], said: str
) -> None:
    with pytest.raises(ConfigError) as caught:
        shapes().build(name, options=options)
    assert str(caught.value).startswith(said)
    assert "\n" not in str(caught.value)


def test_a_factory_stands_for_an_entry(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "my_shapes.py").write_text(
        "def line(*, length: float = 1.0):\n    return length\n"
        "def broken():\n    raise ValueError('first\\nsecond')\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    registry = shapes(factories=True, result_type=float, other_names=("dot",))
    assert registry.build("my_shapes:line", options={"length": 3}) == 3.0
    for name, options, said in (
        (
            "my_shapes:line",
            {"length": "long"},
            "shape 'my_shapes:line'.length: found 'long'; input should be",
        ),
        (
            "my_shapes:lines",
            {},
            "shape 'my_shapes:lines': 'my_shapes' has no 'lines'; expected package.module:fac",
        ),
        ("no_shapes:line", {}, "shape 'no_shapes:line': cannot import 'no_shapes': ModuleNotFoundError"),
        ("my_shapes:broken", {}, "shape 'my_shapes:broken': failed (ValueError: first); mend it"),
        (
            "my_shapes:__doc__",
            {},
            "shape 'my_shapes:__doc__': found NoneType, expected a function or a class",
        ),
        (
            "line",
            {},
            "shape: found 'line', expected one of square, circle, unit, dot, package.module:factory",
        ),
    ):
        with pytest.raises(ConfigError) as caught:
            registry.build(name, options=options)
        assert str(caught.value).startswith(said)
    with pytest.raises(ConfigError, match="gives a str, expected a float"):
        registry.call("mine", str)


def test_prefixes_are_no_factories() -> None:
    assert is_factory("my.package:network")
    others = ("hf:owner", "timm:resnet18", "resnet8", "a-b:c", "a:b-c", "1x:y", "\u00e9vil:main", "a:b,c:d")
    for name in others:
        assert not is_factory(name)
        with pytest.raises(ConfigError, match=f"^model: found '{name}', expected package.module:factory$"):
            imported(name, "model")


@pytest.mark.parametrize(
    "look_up",
    [
        lambda: ATTACKS.find("pgdd"),
        lambda: OBJECTIVES.find("tradse"),
        lambda: losses.get("magrin"),
        lambda: models.get("resnet-8", num_classes=3),
        lambda: augment.get("crop-flp"),
        lambda: data.load("cifar-10"),
        lambda: PERTURBATIONS.find("wap"),
    ],
)
def test_every_kind_of_name_is_looked_up_with_near_names(look_up: Callable[[], Any]) -> None:
    with pytest.raises(
        (ConfigError, DataError, ModelError), match=r"found '.*expected one of .*did you mean '"
    ):
        look_up()


@pytest.mark.parametrize("registry", [OBJECTIVES, models.MODELS, PERTURBATIONS, augment.AUGMENTATIONS])
def test_every_option_of_ours_has_a_type(registry: Registry[Callable[..., Any]]) -> None:
    for name in registry:
        for option in registry.options(name):
            with pytest.raises((ConfigError, ModelError), match=rf"\.{option}: found <object"):
                registry.checked(name, {option: object()})
