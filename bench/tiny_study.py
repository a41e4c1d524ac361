"""A study of four tiny runs with evaluation and measures, for the benches that hurt it on purpose.

Its images are Gaussian blobs, made here, so that it needs no data set; it takes a few seconds on one core.
"""

import sys
from pathlib import Path
from typing import Any

import numpy as np
import yaml

SPEC: dict[str, Any] = {
    "name": "tiny",
    "data": {"augment": "none"},
    "model": {"name": "small-cnn-bn", "options": {"width": 4, "hidden": 8}},
    "threat": {"eps": 0.05},
    "defaults": {
        "attack": {"steps": 2},
        "optimizer": {"lr": 0.2, "epochs": 3, "batch_size": 16, "schedule": "one-cycle"},
        "monitor": {"examples": 20, "steps": 2},
    },
    "methods": [
        {"label": "Standard", "objective": "standard"},
        {"label": "AT", "objective": "at", "ema": 0.9},
        {"label": "AT+AWP", "objective": "at", "awp": {"gamma": 0.01}},
        {"label": "TRADES", "objective": "trades"},
    ],
    "evaluation": {"attacks": ["fgsm", "pgd-3"], "curve": [], "batch_size": 20, "checkpoint": "both"},
    "explanation": {"examples": 20, "measures": ["spectrum", "activations", "margins"]},
}


def images(n: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Images (n, 8, 8) of three classes, and their labels."""
    rng = np.random.default_rng(seed)
    labels = np.arange(n) % 3
    centres = np.random.default_rng(0).uniform(0.2, 0.8, (3, 8, 8))
    noisy = centres[labels] + rng.normal(0, 0.15, (n, 8, 8))
    return np.rint(255 * noisy.clip(0, 1)).astype(np.uint8), labels


def write(folder: Path, **changes: Any) -> Path:
    """Write the images and the study file into a folder; returns the file."""
    folder.mkdir(parents=True, exist_ok=True)
    (x, y), (x_test, y_test) = images(90, 1), images(40, 2)
    np.savez(folder / "blobs.npz", x_train=x, y_train=y, x_test=x_test, y_test=y_test)
    spec = {**SPEC, **changes}
    spec["data"] = {"name": f"npz:{(folder / 'blobs.npz').resolve()}", **spec["data"]}
    path = folder / "tiny.yaml"
    path.write_text(yaml.safe_dump(spec, sort_keys=False), encoding="utf-8")
    return path


if __name__ == "__main__":
    print(write(Path(sys.argv[1])))
