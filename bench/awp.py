"""What AWP adds to a training step: plain adversarial training, exact AWP, and AWP from the attack.

    python bench/awp.py --data-dir FOLDER [--model resnet20] [--steps 10] [--precision bf16-mixed]

Every contestant is the step that `robustlens train` takes, on the same real images; rounds alternate in one
process, and the ratios are of medians. Per step AT makes `steps` + 1 forward and backward passes, AWP one
more; from the attack it saves that pass, and differentiates the attack's last one by the weights as well.
"""

import argparse
import json
import statistics
import time
from pathlib import Path
from typing import Any

import torch

import robustlens as rl
import training_step
from robustlens.config import Recipe
from robustlens.machine import keep_memory
from robustlens.training.step import TrainingStep

CONTESTANTS: dict[str, dict[str, Any]] = {
    "AT": {},
    "AT+AWP": {"awp": {}},
    "AT+AWP from the attack": {"awp": {"from_attack": True}},
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="resnet20")
    parser.add_argument("--data-dir", type=Path, help="where CIFAR-10 lies, if not on the hub")
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--batch-size", type=int, default=128)
    parser.add_argument("--precision", default="32-true")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--out", type=Path, help="write the result as JSON")
    arguments = parser.parse_args()
    keep_memory()
    steps = {name: step_with(more, arguments) for name, more in CONTESTANTS.items()}
    rows = torch.arange(arguments.batch_size)
    seconds: dict[str, list[float]] = {name: [] for name in steps}
    for round_ in range(arguments.rounds + 1):
        for name, step in steps.items():
            began = time.perf_counter()
            step(0, round_, rows)
            if round_ > 0:  # the first is a warm-up
                seconds[name].append(time.perf_counter() - began)
    plain = statistics.median(seconds["AT"])
    found = {
        "model": arguments.model,
        "steps": arguments.steps,
        "batch_size": arguments.batch_size,
        "precision": arguments.precision,
        "threads": torch.get_num_threads(),
        "seconds": seconds,
        "ratios": {name: statistics.median(each) / plain for name, each in seconds.items()},
    }
    print(json.dumps(found, indent=2))
    if arguments.out:
        arguments.out.write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")


def step_with(more: dict[str, Any], arguments: argparse.Namespace) -> TrainingStep:
    """The training step of one contestant, with a network of its own."""
    recipe = Recipe.model_validate(
        {
            "data": {"name": "cifar10", "data_dir": arguments.data_dir and str(arguments.data_dir)},
            "model": {"name": arguments.model},
            "threat": {"norm": "Linf", "eps": "8/255"},
            "attack": {"steps": arguments.steps},
            "optimizer": {"batch_size": arguments.batch_size},
            "precision": arguments.precision,
            **more,
        }
    )
    return training_step.step_of(recipe, rl.data.of_spec(recipe.data))


if __name__ == "__main__":
    main()
