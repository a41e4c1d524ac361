"""What a study measures beyond its plan's own five: the Jacobian, the bound, planes, flatness, curvature."""

from pathlib import Path
from typing import Any

import numpy as np

from robustlens.report import data as collect

GRID = np.linspace(-1, 1, 5)


def measure_more(folder: Path) -> Path:
    """Add everything else to every run of a made study; returns the folder."""
    for place, group in enumerate(collect.study(folder).groups):
        for record in group.records:
            run = record.run
            content = run.read_json("explanation") or {}
            arrays = {key: run.array("explanation", key) for key in run.array_names("explanation")}
            for name, value in _values(place).items():
                content["measures"][name] = {**content["measures"]["landscape"], "value": value}
            run.write_result("explanation", content, arrays | _arrays(place))
            for ending in ("-epoch-0001", "-last"):
                run.write_json(f"evaluation{ending}", {**record.evaluation, "checkpoint": ending[1:]})
                run.write_json(f"explanation{ending}", run.read_json("explanation") or {})
    return folder


def _values(place: int) -> dict[str, dict[str, Any]]:
    fails = {"fails": 0.01 * place}
    split = {"assumption_3_1_fails": {"paths": 0.05}, "stretch": {"at_x": fails, "on_the_way": fails}}
    row = {"gamma": 1.0, "vacuous": True, "because": ["margin", "covering"], "ramp_gap": 0.02 * place}
    terms = {"sigma_product": -4.0 - place, "distance": 0.1, "v_min": -1.0, "u_min": -5.0 - place}
    rises = {"loss": 0.5 + place, "matched": 0.4 + place, "error": 0.1}
    numbers = {"top_eigenvalue": 20.0 - place, "trace": 300.0 - place}
    return {
        "jacobian": {"examples": 2},
        "bound": {
            "log10": {**terms, "complexity_term": 12.0},
            "gammas": [row],
            "covering": {"dimension": 9.0, "two_nn": 20.0},
            "test": split,
            "train": split,
        },
        "flatness": {"average": rises, "worst": rises},
        "curvature": {**numbers, **{f"relative_{name}": value for name, value in numbers.items()}},
    }


def _arrays(place: int) -> dict[str, np.ndarray]:
    bowl = 1.0 + place + GRID[:, None] ** 2 + 0.5 * GRID[None, :] ** 2
    arrays = {
        "jacobian/test_singular_values": np.linspace(1, 3 + place, 12).reshape(6, 2)[:, ::-1],
        "bound/test_upper": np.linspace(0, 1 + place, 30),
        "bound/train_upper": np.linspace(0, 2 + place, 30),
        "landscape/plane_alpha": GRID,
        "landscape/input_radius": GRID,
    }
    arrays |= {f"landscape/test_plane_{kind}": bowl for kind in ("loss", "matched", "error")}
    arrays |= {f"landscape/test_input_{kind}": bowl for kind in ("loss", "error")}
    for prefix in ("", "relative_"):
        arrays[f"curvature/test_{prefix}nodes"] = np.array([[0.0, 20.0 - place]])
        arrays[f"curvature/test_{prefix}weights"] = np.array([[0.9, 0.1]])
    return arrays
