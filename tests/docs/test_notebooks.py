"""The notebooks run from start to end, on few images; no output is stored in them."""

import json
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.lasts(50)

FOLDER = Path(__file__).resolve().parents[2] / "examples" / "notebooks"
TINY = {"images": 50, "tested": 20, "trained_on": 100, "epochs": 2, "draws": 1}
"""What the sizes of a notebook's cell tagged "parameters" become here."""
SAID = {
    "evaluate_my_model": ("clean", "softmax -", "robust Interval"),
    "awp_in_my_loop": ("AT+AWP  robust: training",),
    "what_robustness_did": ("at        clean", "conv1", "linear1.input", "indecisive"),
    "flat_landscapes": ("AT+AWP  rise",),
}


def cells(name: str) -> list[dict[str, Any]]:
    return json.loads((FOLDER / f"{name}.ipynb").read_text(encoding="utf-8"))["cells"]


def source(cell: dict[str, Any]) -> str:
    return "".join(cell["source"])


def test_every_notebook_is_here():
    assert sorted(path.stem for path in FOLDER.glob("*.ipynb")) == sorted(SAID)


@pytest.mark.parametrize("name", SAID)
def test_a_notebook_holds_no_output(name):
    for cell in cells(name):
        if cell["cell_type"] == "code":
            assert (cell["outputs"], cell["execution_count"]) == ([], None)


@pytest.mark.slow
@pytest.mark.parametrize("name", SAID)
def test_a_notebook_runs_from_start_to_end(name, monkeypatch, capsys, tmp_path):
    monkeypatch.setenv("MPLBACKEND", "agg")
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    code = [cell for cell in cells(name) if cell["cell_type"] == "code"]
    tagged = [cell for cell in code if cell["metadata"].get("tags") == ["parameters"]]
    assert tagged == code[:1]
    names: dict[str, Any] = {}
    exec(source(code[0]), names)
    sizes = {size for size in names if not size.startswith("__")}
    assert sizes <= set(TINY)
    names |= {size: TINY[size] for size in sizes}
    for place, cell in enumerate(code[1:], 2):
        exec(compile(source(cell), f"{name}.ipynb, code cell {place}", "exec"), names)
    said = capsys.readouterr().out
    assert all(text in said for text in SAID[name])
    import matplotlib.pyplot as plt

    plt.close("all")
