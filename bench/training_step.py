"""One step of adversarial training: ours beside the published AWP code's loop.

    python bench/training_step.py [--model small-cnn] [--awp] [--rounds 7] [--out FILE]

Three ways to take PGD-10 and one update on the same 128 images of a batch:

- published: as the code of Wu et al. (2020) and most that followed it writes the step. The attack runs in
  train mode, gradients of the weights accumulate while it looks for those of the image, and a last forward
  pass looks at the finished images. With AWP, a copy of the network ascends.
- lean: the same loop with the weights frozen in eval mode during the attack, and nothing after it.
- ours: the step that `robustlens train` takes, in float32 and in bfloat16.

While it trains, robustlens asks glibc to keep freed memory (`machine.kept_memory`), and no script does. So
the published loop is timed under glibc's own rules, as it is run, and once more where memory is kept for it
too.

Each takes its steps in a process of its own, one after the other: memory that one has freed helps the
next. Rounds alternate, and the ratios are of medians. Images are random: a step costs the same on any.
"""

import argparse
import copy
import json
import multiprocessing
import statistics
import time
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812 - the field's name for it
from torch import Tensor, nn

import robustlens as rl
from robustlens.config import Recipe
from robustlens.machine import keep_memory
from robustlens.training.distributed import fabric_for
from robustlens.training.network import describe_model
from robustlens.training.step import TrainingStep

PLAIN = {"published": True, "published, memory kept": True, "lean, memory kept": False}
"""Plain loops, and whether they attack as the published one does."""
OURS = {"ours float32": "32-true", "ours bfloat16": "bf16-mixed"}
SPAWN = multiprocessing.get_context("spawn")
SHAPES = {"small-cnn": (1, 28, 28), "small-cnn-bn": (1, 28, 28)}
EPS, STEP, STEPS, BATCH = 8 / 255, 2 / 255, 10, 128
GAMMA = 0.01


class PlainLoop:
    """Adversarial training as scripts write it.

    Args:
        model: the network.
        awp: perturb the weights along the gradient of a copy.
        published: attack in train mode, with gradients of the weights, and look at the images at the end.
        steps: of the attack.
    """

    def __init__(self, model: nn.Module, *, awp: bool, published: bool, steps: int = STEPS) -> None:
        self.model, self.published, self.steps = model, published, steps
        self.optimizer = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9, weight_decay=5e-4)
        self.proxy = copy.deepcopy(model) if awp else None

    def __call__(self, x: Tensor, y: Tensor) -> None:
        """One step."""
        x_adv = self._attack(x, y)
        self.model.train()
        offsets = [] if self.proxy is None else self._ascend(self.proxy, x_adv, y)
        self.optimizer.zero_grad()
        F.cross_entropy(self.model(x_adv), y).backward()
        self.optimizer.step()
        with torch.no_grad():
            for weight, offset in offsets:
                weight.sub_(offset)

    def _attack(self, x: Tensor, y: Tensor) -> Tensor:
        self.model.train(self.published)
        self.model.requires_grad_(self.published)
        delta = torch.empty_like(x).uniform_(-EPS, EPS)
        delta = ((x + delta).clamp(0, 1) - x).requires_grad_()
        for _ in range(self.steps):
            loss = F.cross_entropy(self.model(x + delta), y)
            loss.backward()
            assert delta.grad is not None
            moved = (delta.detach() + STEP * delta.grad.sign()).clamp(-EPS, EPS)
            delta = ((x + moved).clamp(0, 1) - x).requires_grad_()
        if self.published:
            self.model(x + delta)
        self.model.requires_grad_(True)
        return (x + delta).detach()

    def _ascend(self, proxy: nn.Module, x_adv: Tensor, y: Tensor) -> list[tuple[nn.Parameter, Tensor]]:
        """Move the weights by AWP's step; returns by how much each has moved."""
        proxy.load_state_dict(self.model.state_dict())
        proxy.train()
        proxy.zero_grad()
        (-F.cross_entropy(proxy(x_adv), y)).backward()
        with torch.no_grad():
            pairs = zip(self.model.parameters(), proxy.parameters(), strict=True)
            moves: list[tuple[nn.Parameter, Tensor]] = []
            for weight, other in pairs:
                if weight.ndim > 1 and other.grad is not None:
                    offset = -GAMMA * weight.norm() / (other.grad.norm() + 1e-20) * other.grad
                    weight.add_(offset)
                    moves.append((weight, offset))
        return moves


def our_step(
    name: str, x: Tensor, y: Tensor, *, awp: bool, steps: int = STEPS, **fields: Any
) -> Callable[[], object]:
    """The step of `robustlens train` on these images; `fields` of its recipe, such as precision."""
    recipe = Recipe.model_validate(
        {
            "data": {"name": "arrays", "augment": "none"},
            "model": {"name": name},
            "threat": {"norm": "Linf", "eps": EPS},
            "attack": {"steps": steps, "step_size": STEP},
            "optimizer": {"batch_size": len(x)},
            **({"awp": {"gamma": GAMMA}} if awp else {}),
            **fields,
        }
    )
    pixels = (255 * x.cpu()).round().to(torch.uint8)
    step = step_of(recipe, rl.data.from_tensors(pixels, y.cpu(), pixels, y.cpu(), validation=0.0))
    rows = torch.arange(len(x))
    return lambda: step(0, 0, rows)


def step_of(recipe: Recipe, splits: rl.data.Splits) -> TrainingStep:
    """The training step of a recipe, with a network of its own."""
    torch.manual_seed(0)
    fabric = fabric_for(recipe.precision)
    # nn.Module.to takes a memory format, although its type stubs leave it out
    network: Any = rl.models.build_from(describe_model(recipe, splits))
    model = network.to(fabric.device, memory_format=torch.channels_last).train()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9, weight_decay=5e-4)
    return TrainingStep(recipe, model, splits.train, optimizer, fabric, splits.num_classes)


def step_named(who: str, name: str, x: Tensor, y: Tensor, *, awp: bool) -> Callable[[], object]:
    """A contestant's way to take one step, with a network of its own."""
    if who in OURS:
        return our_step(name, x, y, awp=awp, precision=OURS[who])
    torch.manual_seed(0)
    model = rl.models.get(name, num_classes=10, in_channels=x.shape[1]).to(x.device)
    loop = PlainLoop(model, awp=awp, published=PLAIN[who])
    return lambda: loop(x, y)


def take_steps(pipe: Connection, who: str, arguments: argparse.Namespace) -> None:
    """Take a step whenever asked, and send the seconds that it took."""
    if who != "published":
        keep_memory()
    clock = time.process_time if arguments.processor_time else time.perf_counter
    if arguments.processor_time:
        torch.set_num_threads(1)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    torch.manual_seed(0)
    x = torch.rand(BATCH, *SHAPES.get(arguments.model, (3, 32, 32)), device=device)
    y = torch.arange(BATCH, device=device) % 10
    step = step_named(who, arguments.model, x, y, awp=arguments.awp)
    while pipe.recv():
        began = clock()
        step()
        if device.type == "cuda":
            torch.cuda.synchronize()
        pipe.send(clock() - began)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--model", default="small-cnn")
    parser.add_argument("--awp", action="store_true")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--processor-time", action="store_true", help="of one thread, for a busy machine")
    parser.add_argument("--out", type=Path, help="add the result to this JSON file")
    arguments = parser.parse_args()
    pipes: dict[str, Connection] = {}
    for who in (*PLAIN, *OURS):
        pipes[who], other = SPAWN.Pipe()
        SPAWN.Process(target=take_steps, args=(other, who, arguments), daemon=True).start()
        other.close()  # so that a process that fails is not waited for
    seconds: dict[str, list[float]] = {who: [] for who in pipes}
    for round_ in range(arguments.rounds + 2):
        for who, pipe in pipes.items():
            pipe.send(True)
            taken = pipe.recv()
            if round_ > 1:  # the first two are a warm-up
                seconds[who].append(taken)
    for pipe in pipes.values():
        pipe.send(False)
    base = statistics.median(seconds["published"])
    ratios = {who: round(base / statistics.median(times), 2) for who, times in seconds.items()}
    for who, times in seconds.items():
        print(f"{who:22s} {1000 * statistics.median(times):9.1f} ms   {ratios[who]:.2f}x")
    if arguments.out:
        results = json.loads(arguments.out.read_text(encoding="utf-8")) if arguments.out.exists() else {}
        key = f"{arguments.model}{' with AWP' * arguments.awp}"
        results[key] = {
            "rounds": arguments.rounds,
            "threads": 1 if arguments.processor_time else torch.get_num_threads(),
            "times faster": ratios,
        }
        arguments.out.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
