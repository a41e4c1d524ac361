"""Memory of training, evaluating and explaining on 8 GB of packed images, and their speed beside memory.

    python bench/memory.py FOLDER --data-dir ../shared/data

The images are real ones of CIFAR-10, windows of 28x28 enlarged to 256x256: 39,000 to train and 2,000 to test,
8.06 GB. Each stage runs in a process of its own. Counted is the largest resident set of the process (VmHWM of
/proc/self/status), all of it: shards are read and not mapped, so no page of them belongs to the process; and,
apart, the largest part of it that no file backs (RssAnon, looked at ten times a second). The network is a
convolution of stride 8 and a linear layer, so that the stages are bound by images and not by products.
"""

import argparse
import json
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

import robustlens as rl
from robustlens import data
from robustlens.config import EvaluationPlan, ExplanationPlan, Recipe, checked
from robustlens.data import Source, Sources, Split
from robustlens.evaluation import evaluate_splits
from robustlens.explain import explain
from robustlens.machine import keep_memory
from robustlens.training.images import TrainingImages

SIZE, TRAIN, TEST = 256, 39_000, 2_000
STAGES = ("statistics", "train", "train-at", "evaluate", "explain", "speed")
THREAT = {"norm": "Linf", "eps": 4 / 255}


def enlarged(data_dir: Path | None = None) -> Sources:
    """CIFAR-10 as sources of more rows than it has images: another window of each, image after image."""
    small = data.load("cifar10", data_dir=data_dir, validation=0)
    train, test = _windows(small.train, TRAIN), _windows(small.test, TEST)
    return Sources(train, test, small.classes)


def _windows(split: Split, rows: int) -> Source:
    def each(chosen: torch.Tensor) -> Iterator[np.ndarray]:
        for row in chosen.tolist():
            image, window = row % len(split), row // len(split)
            top, left = window % 5, window // 5 % 5
            yield split.images[image, :, top : top + 28, left : left + 28].permute(1, 2, 0).numpy()

    labels = split.labels[torch.arange(rows) % len(split)]
    return Source(labels, split.images.__getitem__, "enlarged cifar10", each=each)


def network(num_classes: int) -> nn.Module:
    layers = (nn.Conv2d(3, 16, 8, stride=8), nn.ReLU(), nn.AdaptiveAvgPool2d(4), nn.Flatten())
    return nn.Sequential(*layers, nn.Linear(256, num_classes))


def recipe(pack: Path, objective: str, **changes: Any) -> Recipe:
    values: dict[str, Any] = {
        "data": {"name": f"packed:{pack}", "validation": 0.02, "augment": "flip"},
        "model": {"name": "memory:network"},
        "threat": THREAT,
        "objective": objective,
        "attack": {"steps": 2},
        "optimizer": {"lr": 0.05, "epochs": 1, "batch_size": 64},
        "monitor": {"examples": 256, "steps": 2},
    }
    for key, value in changes.items():
        values[key] = {**values[key], **value}
    return checked(Recipe, values, "recipe")


def run_stage(stage: str, pack: Path, limit: int) -> dict[str, Any]:
    """Images and what else a stage says of itself; `limit`: images of each split that are used."""
    name, runs = f"packed:{pack}", pack.parent / "runs"
    if stage == "statistics":
        splits = data.load(name, validation=0.02)
        return {"images": len(splits.train), "mean": data.channel_statistics(splits.train.images)[0]}
    if stage == "train":
        limited = {"data": {"train_limit": min(limit, TRAIN)}}
        rl.train(recipe(pack, "standard", **limited), runs / f"train-{time.time():.0f}")
        return {"images": min(limit, TRAIN)}
    if stage == "train-at":
        of_crops = {"data": {"name": f"{name}?crop=224", "augment": "resized-crop-flip", "train_limit": 1400}}
        rl.train(recipe(pack, "at", **of_crops), runs / f"at-{time.time():.0f}")
        return {"images": 1400}
    splits, model = data.load(name, validation=0), network(10)
    if stage == "evaluate":
        values = {"threat": THREAT, "attacks": ["fgsm"], "curve": [], "batch_size": 64}
        values |= {"test_examples": min(limit, TEST), "train_examples": min(limit, TRAIN)}
        plan = checked(EvaluationPlan, values, "plan")
        result, _ = evaluate_splits(model, splits, plan)
        return {"images": sum(part.n for part in result.splits.values())}
    if stage == "explain":
        options = {"landscape": {"alphas": [0, 0.5], "steps": 2}, "smoothness": {"steps": 2}}
        values = {"threat": THREAT, "options": options, "batch_size": 64}
        explain(model, splits, checked(ExplanationPlan, values, "plan"))
        return {"images": 1000}
    return speed(splits, model)


def speed(splits: data.Splits, model: nn.Module, images: int = 3840) -> dict[str, Any]:
    """Images/s of a standard step on packed images, over those on the same images in memory; interleaved."""
    packed = splits.train.take(images)
    kept = replace(packed, images=packed.images[:])
    device, optimizer = torch.device("cpu"), torch.optim.SGD(model.parameters(), lr=0.01)
    seconds: dict[str, list[float]] = {"in memory": [], "packed": []}
    # `packed` was compared with its digests when it was read above: this is the speed after the first epoch.
    for batches in torch.randperm(images).split(128 * 5):
        for kind, split in (("in memory", kept), ("packed", packed)):
            source, rows = TrainingImages(split, device), list(batches.split(128))
            began = time.perf_counter()
            for place, some in enumerate(rows):
                x = source.floats(source.pixels(some))
                source.announce(rows[place + 1] if place + 1 < len(rows) else None)
                optimizer.zero_grad()
                nn.functional.cross_entropy(model(x), split.labels[some]).backward()
                optimizer.step()
            seconds[kind].append(time.perf_counter() - began)
    ratios = np.array(seconds["in memory"]) / np.array(seconds["packed"])
    return {
        "images": images,
        "ratio": round(float(np.median(ratios)), 3),
        "ratios": [round(float(r), 2) for r in ratios],
        "images_per_second": {k: round(128 * 5 / float(np.median(v))) for k, v in seconds.items()},
    }


def measured(stage: str, pack: Path, limit: int) -> dict[str, Any]:
    """One stage in this process, with its memory."""
    keep_memory()  # as the command line does
    largest, done = [0], threading.Event()

    def watch() -> None:
        while not done.wait(0.1):
            largest[0] = max(largest[0], _status("RssAnon"))

    threading.Thread(target=watch, daemon=True).start()
    imported, began = _status("VmRSS"), time.perf_counter()
    said = run_stage(stage, pack, limit)
    seconds = time.perf_counter() - began
    done.set()
    peak = {
        "peak_gb": _status("VmHWM") / 1e6,
        "peak_anonymous_gb": largest[0] / 1e6,
        "imported_gb": imported / 1e6,
    }
    return {"stage": stage, **said, "seconds": round(seconds, 1), **{k: round(v, 3) for k, v in peak.items()}}


def _status(field: str) -> int:
    """A line of /proc/self/status, in kB."""
    lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(f"{field}:"))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--data-dir", type=Path)
    parser.add_argument("--images", type=int, default=TRAIN, help="of each split; all by default")
    parser.add_argument("--stages", default=",".join(STAGES))
    parser.add_argument("--stage", help="run one stage in this process")
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    pack = options.folder.resolve() / "pack"
    if options.stage:
        print(json.dumps(measured(options.stage, pack, options.images)))
        return
    began = time.perf_counter()
    record = data.pack("memory:enlarged", pack, size=SIZE, data_dir=options.data_dir)
    size = sum(path.stat().st_size for path in pack.glob("*.u8"))
    lines = [{"stage": "pack", "gb": size / 1e9, "seconds": round(time.perf_counter() - began, 1)}]
    print(json.dumps(lines[0]), {name: split.rows for name, split in record.splits.items()}, flush=True)
    for stage in options.stages.split(","):
        command = [
            sys.executable,
            str(Path(__file__).resolve()),
            str(options.folder),
            "--stage",
            stage,
            "--images",
            str(options.images),
        ]
        done = subprocess.run(command, check=True, capture_output=True, text=True)
        lines.append(json.loads(done.stdout.splitlines()[-1]))
        print(json.dumps(lines[-1]), flush=True)
    if options.out:
        options.out.write_text(json.dumps(lines, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
