"""The gallery: pixels against the run files, what is chosen, signals, and inputs that have no picture."""

import base64
import io
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from helpers.made_measures import gallery as made_gallery
from helpers.made_networks import Member
from helpers.report_figures import figure
from helpers.study_files import QUICKSTART, traits_of, write_study
from robustlens.report.data import ReportData
from robustlens.report.drawing.gallery import Curves, Gallery, Picture, reduced
from robustlens.report.drawing.matplotlib import drawings
from robustlens.report.page.rendering import page
from robustlens.report.reading import read_study
from robustlens.report.text.headline import headline
from robustlens.results import Measurement, Run


def shown(data: ReportData) -> Gallery:
    found = figure(data, "gallery").gallery
    assert found is not None
    return found


def changed(folder: Path, change: Callable[[int, Measurement], Measurement]) -> ReportData:
    """A study whose galleries are changed, each by its place."""
    for place, run in enumerate(read_study(folder).runs):
        explanation = run.source.explanation()
        assert explanation is not None
        given = explanation.measures["gallery"]
        given = replace(given, arrays=dict(given.arrays))
        measures = {**explanation.measures, "gallery": change(place, given)}
        run.source.write("explanation", replace(explanation, measures=measures))
    return read_study(folder)


def small(folder: Path, members: tuple[Member, ...] = QUICKSTART[:3]) -> Path:
    return write_study(folder, members=members, n=60)


def test_pictures_are_the_pixels_of_the_files(study: ReportData) -> None:
    found, network = shown(study), study.networks[2]
    x, x_adv, gradient = (network.arrays("gallery", f"test_{n}")[0] for n in ("x", "x_adv", "gradient"))
    assert found.kinds == ("adversarial image", "perturbation × 5", "gradient")  # noqa: RUF001 - as shown
    row = found.rows[3]
    assert (row.name, row.index) == ("class 3", 30)
    pictures = [row.drawing, *row.cells[2].drawings]
    pixels = [one.pixels.astype(float) / 255 for one in pictures if isinstance(one, Picture)]
    np.testing.assert_allclose(pixels[0], x[3, 0], atol=0.5 / 255)
    np.testing.assert_allclose(pixels[1], x_adv[3, 0], atol=0.5 / 255)
    np.testing.assert_allclose(pixels[2], (0.5 + 5 * (x_adv - x)[3, 0]).clip(0, 1), atol=0.5 / 32 + 0.5 / 255)
    np.testing.assert_allclose(
        pixels[3], 0.5 + gradient[3, 0] / 6, atol=0.5 / 32 + 0.5 / 255
    )  # all of size 1


def test_answers_are_those_of_the_network(study: ReportData) -> None:
    found, network = shown(study), study.networks[0]
    (confidence,) = network.arrays("gallery", "test_confidence")
    cell = found.rows[0].cells[0]
    assert (cell.label, cell.clean.name, cell.clean.is_right) == ("Standard", "class 0", True)
    assert (cell.attacked.name, cell.attacked.is_right) == ("class 1", False)
    assert cell.clean.confidence == confidence[0]
    rows = figure(study, "gallery").rows()
    assert len(rows) == 4 * 6
    assert (rows[7]["label"], rows[7]["x"], rows[7]["class"]) == ("AT 0.05", 10, "class 1")
    assert (rows[7]["prediction"], rows[7]["adversarial_prediction"]) == ("class 1", "class 2")


def test_a_uri_holds_the_exact_pixels() -> None:
    for shape in ((8, 8), (32, 32, 3)):
        pixels = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
        uri = Picture(pixels, "").uri()
        content = base64.b64decode(uri.removeprefix("data:image/png;base64,"))
        np.testing.assert_array_equal(np.asarray(Image.open(io.BytesIO(content))), pixels)
    large = Picture(np.zeros((64, 64, 3), np.uint8), "").uri()
    assert large.startswith("data:image/jpeg;base64,")


def test_large_pictures_are_reduced_and_perturbations_keep_their_size() -> None:
    image = np.kron(np.arange(56 * 56.0).reshape(56, 56, 1), np.ones((4, 4, 1)))  # 224 x 224
    np.testing.assert_array_equal(reduced(image, signed=False)[..., 0], np.arange(56 * 56.0).reshape(56, 56))
    signs = np.where(np.add.outer(np.arange(224), np.arange(224)) % 3 == 0, 1.0, -1.0)[..., None]
    assert set(np.unique(reduced(signs, signed=True))) == {-1.0, 1.0}
    assert reduced(signs, signed=True).shape == (56, 56, 1)
    assert reduced(np.zeros((65, 30, 3)), signed=False).shape == (32, 15, 3)


@pytest.mark.parametrize(("bounds", "low", "width"), [((-1.0, 1.0), -1, 2), ((0.0, 255.0), 0, 255)])
def test_other_bounds_have_the_same_pictures(
    study: ReportData, tmp_path: Path, bounds: tuple[float, float], low: float, width: float
) -> None:
    folder = write_study(tmp_path, n=60)
    for run in read_study(folder).runs:
        explanation = run.source.explanation()
        assert explanation is not None
        given = explanation.measures["gallery"]
        arrays = dict(given.arrays)
        arrays |= {name: low + width * arrays[name] for name in ("test_x", "test_x_adv")}
        threat = replace(explanation.threat, bounds=bounds, eps=explanation.threat.eps * width)
        measures = {**explanation.measures, "gallery": replace(given, arrays=arrays)}
        run.source.write("explanation", replace(explanation, measures=measures, threat=threat))
    wanted, found = shown(study), shown(read_study(folder))
    assert found.kinds == wanted.kinds
    for ours, theirs in zip(found.rows[1].cells, wanted.rows[1].cells, strict=True):
        for one, other in zip(ours.drawings, theirs.drawings, strict=True):
            assert isinstance(one, Picture)
            assert isinstance(other, Picture)
            assert np.abs(one.pixels.astype(int) - other.pixels).max() <= 8  # a level, where rounding decides


def reshaped(shape: tuple[int, ...]) -> Callable[[int, Measurement], Measurement]:
    """Galleries of inputs of this shape."""
    return lambda place, given: made_gallery(traits_of(QUICKSTART[place]), shape=shape)


@pytest.mark.parametrize(("shape", "channels"), [((30,), 1), ((2, 30), 2), ((3, 1, 30), 3), ((1, 30, 1), 1)])
def test_signals_are_curves(tmp_path: Path, shape: tuple[int, ...], channels: int) -> None:
    data = changed(small(tmp_path), reshaped(shape))
    found = shown(data)
    assert found.noun == "signal"
    (x_adv,) = data.networks[0].arrays("gallery", "test_x_adv")
    curves = found.rows[0].cells[0].drawings[0]
    assert isinstance(curves, Curves)
    assert (len(curves.lines), len(curves.behind)) == (channels, channels)
    np.testing.assert_allclose(curves.lines[-1], x_adv[0].reshape(channels, 30)[-1], atol=1e-6)
    middle = found.rows[0].cells[0].drawings[1]
    assert isinstance(middle, Curves)
    assert not middle.behind
    paths = curves.paths(curves.lines)
    assert [path.count("L") for path in paths] == [29] * channels


def test_signals_are_on_the_page_and_in_the_drawing(tmp_path: Path) -> None:
    data = changed(small(tmp_path), reshaped((30,)))
    drawn = figure(data, "gallery")
    curves = shown(data).rows[0].cells[0].drawings[0]
    assert isinstance(curves, Curves)
    text = page(data, [drawn], headline(data))
    assert f'd="{curves.paths(curves.lines)[0]}"' in text
    assert 'aria-label="Standard: adversarial signal, taken for class 1"' in text
    assert b"<svg" in drawings(drawn, drawn.views[0], data.networks)["svg"]


@pytest.mark.parametrize("shape", [(2, 8, 8), (3, 4, 8, 8), (1,), (17, 30), (1, 1, 1)])
def test_inputs_without_a_picture_say_so(tmp_path: Path, shape: tuple[int, ...]) -> None:
    data = changed(small(tmp_path), reshaped(shape))
    drawn = figure(data, "gallery")
    assert drawn.views == ()
    size = " x ".join(map(str, shape))
    assert drawn.missing.startswith(f"Inputs of shape {size} cannot be drawn: ")


def test_of_many_networks_six_are_shown_from_standard_to_strongest_with_awp(tmp_path: Path) -> None:
    members = (
        Member("Standard", "standard", 0.0),
        *(Member("AT", "at", eps / 100) for eps in range(1, 9)),
        Member("AT+AWP", "at", 0.04, awp=True),
        Member("AT+AWP", "at", 0.08, awp=True),
    )
    drawn = figure(read_study(small(tmp_path, members)), "gallery")
    assert drawn.gallery is not None
    assert drawn.gallery.columns == ("Standard", "AT 0.02", "AT 0.04", "AT 0.06", "AT 0.08", "AT+AWP 0.08")
    assert "6 of 11 networks" in drawn.note


def test_a_network_of_other_images_is_left_out_by_name(tmp_path: Path) -> None:
    def other(place: int, given: Measurement) -> Measurement:
        arrays = {**given.arrays}
        if place == 1:
            arrays["test_x"] = 1 - arrays["test_x"]
        return replace(given, arrays=arrays)

    drawn = figure(changed(small(tmp_path), other), "gallery")
    assert drawn.gallery is not None
    assert drawn.gallery.columns == ("Standard", "AT 0.1")
    assert "under another attack, and not shown: AT 0.05." in drawn.note


def broken(part: str) -> Callable[[int, Measurement], Measurement]:
    """Galleries that lack something, or have it in another size."""

    def change(place: int, given: Measurement) -> Measurement:
        arrays: dict[str, Any] = dict(given.arrays)
        value = dict(given.value)
        if part == "names":
            value["labels"] = "class"
        elif part == "value":
            value = {}
        elif part == "missing":
            del arrays["test_gradient"]
        elif part == "shape":
            arrays["test_gradient"] = arrays["test_gradient"][:, :, 1:]
        elif part == "count":
            arrays["test_confidence"] = arrays["test_confidence"][1:]
        else:
            arrays = {name: array[:0] for name, array in arrays.items()}
        return replace(given, value=value, arrays=arrays)

    return change


@pytest.mark.parametrize("part", ["names", "value", "missing", "shape", "count", "empty"])
def test_odd_files_have_no_gallery(tmp_path: Path, part: str) -> None:
    drawn = figure(changed(small(tmp_path), broken(part)), "gallery")
    assert drawn.views == ()
    assert drawn.missing == "Not measured in these runs."


def test_values_that_are_not_finite_or_all_zero_are_drawn(tmp_path: Path) -> None:
    def change(place: int, given: Measurement) -> Measurement:
        arrays = {**given.arrays, "test_gradient": np.zeros_like(given.arrays["test_gradient"])}
        arrays["test_x_adv"] = arrays["test_x"].copy()
        if place == 1:
            arrays["test_gradient"][0, 0, 0, 0] = np.nan
        return replace(given, arrays=arrays)

    found = shown(changed(small(tmp_path), change))
    for cell in found.rows[0].cells:
        for drawing in cell.drawings[1:]:
            assert isinstance(drawing, Picture)
            assert set(np.unique(drawing.pixels)) == {128}
    assert found.kinds[1].endswith(" 1")


def test_labels_and_class_names_are_text(tmp_path: Path) -> None:
    nasty = "<img src=x onerror=alert(1)>"

    def change(place: int, given: Measurement) -> Measurement:
        return replace(given, value={**given.value, "labels": [nasty] * 4, "predictions": [nasty] * 4})

    data = changed(small(tmp_path), change)
    text = page(data, [figure(data, "gallery")], headline(data))
    assert nasty not in text
    assert "&lt;img src=x onerror=alert(1)&gt;" in text


def test_the_page_and_the_drawing_hold_every_picture(study: ReportData) -> None:
    drawn = figure(study, "gallery")
    text = page(study, [drawn], headline(study))
    pictures = re.findall(r'<img src="data:image/png;base64,[A-Za-z0-9+/=]+" alt="[^"]+"', text)
    assert len(pictures) == 4 * (1 + 6 * 3)
    assert 'data-figure="gallery"' not in text
    once, again = (drawings(drawn, drawn.views[0], study.networks) for _ in range(2))
    assert once == again
    assert once["svg"].count(b"<image") == 4 * (1 + 6 * 3)


def test_runs_of_before_have_no_gallery(tmp_path: Path) -> None:
    folder = small(tmp_path)
    for run in read_study(folder).runs:
        explanation = Run(run.source.folder).explanation()
        assert explanation is not None
        measures = {name: one for name, one in explanation.measures.items() if name != "gallery"}
        run.source.write("explanation", replace(explanation, measures=measures))
    assert figure(read_study(folder), "gallery").views == ()
