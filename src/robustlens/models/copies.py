"""Copies of a network that give its logits: one in less time, one in float64."""

import contextlib
from collections.abc import Iterator, Sequence
from itertools import chain

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.modules.module import register_module_forward_pre_hook

from robustlens.errors import ConfigError, ModelError, StoppedError
from robustlens.machine import float32_products
from robustlens.models.fast_network import Changes, FastNetwork, copied
from robustlens.models.inference import inference
from robustlens.models.probe import as_logits

# How far logits may lie from the model's, as a share of their scale.
_FLOAT32, _BFLOAT16, _FLOAT64 = 1e-4, 0.1, 1e-3


def fast_copy(model: nn.Module, x: Float[Tensor, "n ..."], *, precision: str = "32-true") -> nn.Module:
    """A copy of `model` in eval mode that gives the same logits and input gradients in less time.

    Its BatchNorms are folded where a convolution or linear layer comes before them, convolutions keep their
    images channels last, and work on patches where they stride over few channels; a map is made a vector as
    it lies in memory; no weight asks for a gradient. With "bf16-mixed", convolutions and linear layers work
    in bfloat16, but for the last: logits are float32.

    A copy is given out only if it has shown the model's logits on `x` and on a mirrored, noisy batch of
    another size: to 1e-4 of their scale; in bfloat16 to 0.1, with the same prediction for three quarters of
    the images. If it fails, one with fewer of these changes is tried. A model that has hooks, draws random
    numbers, changes its own tensors or cannot be copied is returned itself.

    Args:
        model: in any mode; left as it is.
        x: a few images to compare on, on the model's device.
        precision: "32-true" or "bf16-mixed".

    Raises:
        ConfigError: unknown precision.
    """
    fast = _fast_network(_uncompiled(model), x, precision)
    return model if fast is None else fast.network


def training_copy(
    model: nn.Module, x: Float[Tensor, "n ..."], *, precision: str = "32-true"
) -> FastNetwork | None:
    """A copy as `fast_copy` makes it, which `FastNetwork.refreshed` brings up to the weights of a later step.

    Whether there is one, and what is changed in it, depends on the network and on `x` as they are now: a run
    that begins with the same weights gets the same copy when it is resumed. None where no copy would be
    faster, and for a network that keeps tensors outside its parameters and buffers, or changes anything else
    in train mode: these would grow old.

    The BatchNorms of a new network do next to nothing: one folded into the wrong layer would not show. So
    another copy of the network is changed as training changes it, and what follows it has to give its logits.

    Args:
        model: about to be trained; left as it is.
        x: a few images to compare on, on the model's device.
        precision: "32-true" or "bf16-mixed".
    """
    if any(isinstance(value, Tensor) for module in model.modules() for value in vars(module).values()):
        return None
    fast = _fast_network(model, x, precision, follows=True)
    return fast if fast is not None and fast.is_faster else None


def _fast_network(
    model: nn.Module, x: Tensor, precision: str, *, follows: bool = False
) -> FastNetwork | None:
    """The fastest copy that gives the model's logits on two batches; None where none does.

    With `follows`, also after changes of the model.
    """
    if precision not in ("32-true", "bf16-mixed"):
        raise ConfigError(f"precision: found {precision!r}, expected '32-true' or 'bf16-mixed'")
    batches = _batches(x)
    plans = [(True, torch.channels_last), (True, torch.contiguous_format), (False, torch.channels_last)]
    with float32_products():
        wanted = _logits(model, batches)
        if wanted is None:
            return None
        for lowers in (True, False) if precision == "bf16-mixed" else (False,):
            for folds, layout in plans:
                with _attempt():
                    candidate = FastNetwork(model, batches[0], Changes(folds, lowers, layout))
                    logits = _run(candidate.network, batches, model)
                    agrees = _agree(logits, wanted, _BFLOAT16 if lowers else _FLOAT32)
                    if agrees and (not follows or _follows(model, batches, Changes(folds, False, layout))):
                        return candidate
    return None


def _follows(model: nn.Module, batches: Sequence[Tensor], changes: Changes) -> bool:
    """Whether such a copy gives the logits of a network that was changed after it was made."""
    other = copied(model)
    fast = FastNetwork(other, batches[0], changes)
    before = _own_values(other)
    _change_as_training_does(other, batches[0])
    if _own_values(other) != before:
        return False
    logits = _run(fast.refreshed(), batches, other)
    return _agree(logits, _run(other.eval(), batches, model), _FLOAT32)


def _own_values(model: nn.Module) -> list[dict[str, str]]:
    """What each module keeps beside tensors and modules, as it would be printed."""
    usual = vars(nn.Module())
    return [
        {name: repr(value) for name, value in vars(module).items() if name not in usual}
        for module in model.modules()
    ]


@torch.no_grad()
def _change_as_training_does(model: nn.Module, x: Tensor) -> None:
    """Move all weights a little, those that are zero too, and run once in train mode."""
    generator = torch.Generator().manual_seed(0)
    for weight in model.parameters():
        size = weight.abs().mean()
        noise = torch.randn(weight.shape, generator=generator).to(weight)
        weight.add_(0.1 * torch.where(size > 0, size, 1.0) * noise)
    with _forked_random_state(x):
        model.train()(x.clone())


def float64_copy(model: nn.Module, x: Float[Tensor, "n ..."]) -> nn.Module | None:
    """A frozen float64 copy of `model` in eval mode, to judge close calls without rounding.

    Args:
        model: in any mode; left as it is.
        x: a few images to compare on, on the model's device. The logits must agree to 1e-3 of their scale.

    Returns:
        The copy, which takes float64 images; None where there is none, as of a model that has hooks, draws
        random numbers, changes its own tensors, or names a dtype in its forward pass.
    """
    model, batches = _uncompiled(model), _batches(x)
    with float32_products():
        wanted = _logits(model, batches)
        with _attempt():
            if wanted is not None:
                candidate = copied(model).double()
                logits = _run(candidate, [batch.double() for batch in batches], model)
                if _agree(logits, [each.double() for each in wanted], _FLOAT64):
                    return candidate
    return None


def _uncompiled(model: nn.Module) -> nn.Module:
    """The network inside a model that its owner gave to torch.compile: a compiled pass gives one gradient."""
    inside = getattr(model, "_orig_mod", model)  # its class, OptimizedModule, takes a second to import
    return inside if isinstance(inside, nn.Module) else model


def _batches(x: Tensor) -> tuple[Tensor, Tensor]:
    """Two batches to compare on: `x`, and one more image, mirrored, with noise of up to 1 % of the range."""
    noise = torch.rand(len(x) + 1, *x.shape[1:], generator=torch.Generator().manual_seed(0)) - 0.5
    low, high = (x.min().item(), x.max().item()) if x.numel() else (0.0, 0.0)
    other = torch.cat([x, x[:1]]).flip(-1) + 0.02 * (high - low) * noise.to(x)
    return x.detach().clone(), other.detach().clamp(low, high)  # a copy, for networks that write to x


def _logits(model: nn.Module, batches: Sequence[Tensor]) -> list[Tensor] | None:
    """The logits that a copy has to give; None for a model of which no copy can be trusted.

    The model itself runs only once a copy has shown to be the same after a pass as before.
    """
    if len(batches[0]) == 0 or _has_hooks(model):
        return None
    with _attempt():
        another = copied(model)
        first, again = _run(another, [batches[0], batches[0]], model)
        pairs = zip(_tensors(model), _tensors(another), strict=True)
        if torch.equal(first, again) and all(torch.equal(mine, its) for mine, its in pairs):
            with inference(model):
                return [as_logits(model(batch), len(batch)) for batch in batches]
    return None


def _run(candidate: nn.Module, batches: Sequence[Tensor], model: nn.Module) -> list[Tensor]:
    """The logits of a copy of `model`, which must not depend on it; the caller's random state stays.

    Raises:
        ModelError: the copy calls a layer of `model`: a function in it refers to the original.
    """
    originals = set(model.modules())

    def refuse(module: nn.Module, args: object) -> None:
        if module in originals:
            raise ModelError("model: its copy calls the original")

    handle = register_module_forward_pre_hook(refuse)
    try:
        with torch.no_grad(), _forked_random_state(batches[0]):
            return [as_logits(candidate(batch), len(batch)) for batch in batches]
    finally:
        handle.remove()


def _forked_random_state(x: Tensor) -> contextlib.AbstractContextManager[None]:
    """Whatever is drawn inside, on the CPU or the device of `x`, the caller's random state stays."""
    return torch.random.fork_rng(devices=[x.device] if x.is_cuda else [])


def _agree(logits: Sequence[Tensor], wanted: Sequence[Tensor], tolerance: float) -> bool:
    """Whether logits are the same but for `tolerance`, and the prediction is for three quarters of images.

    Their scale is the largest distance of a logit from the mean of its image.
    """
    for one, other in zip(logits, wanted, strict=True):
        finite = other.nan_to_num(0.0, 0.0, 0.0)
        scale = (finite - finite.mean(1, keepdim=True)).abs().max().item()
        close = torch.allclose(one, other, rtol=0.0, atol=tolerance * scale)  # raises for another dtype
        if not close or (one.argmax(1) == other.argmax(1)).double().mean() < 0.75:
            return False
    return True


def _has_hooks(model: nn.Module) -> bool:
    """Whether a module of the model has hooks: those of copies would call them too."""
    kinds = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
    return any(getattr(module, kind) for module in model.modules() for kind in kinds)


def _tensors(model: nn.Module) -> Iterator[Tensor]:
    return chain(model.parameters(), model.buffers())


@contextlib.contextmanager
def _attempt() -> Iterator[None]:
    """Give up at an error inside, but not at a signal to stop."""
    try:
        yield
    except StoppedError:
        raise
    except Exception:
        return
