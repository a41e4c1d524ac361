"""Noise that belongs to an example, not to a batch.

An attack's random start must not depend on which other images share its batch, on their order, or on
the device. So every example gets a *key*, a 64-bit hash of its own content and of a seed, and element
`i` of its noise is a hash of (key, i): a counter-based generator (the idea of Salmon et al. 2011,
"Parallel random numbers: as easy as 1, 2, 3", with the finaliser of splitmix64). The generator has no
state, so the global random state of the caller is never touched.

Two identical images in one call get identical noise. That is the price of order independence.
"""

import contextlib
import math
from collections.abc import Iterator

import torch
from jaxtyping import Float, Int64
from torch import Tensor

# Signed views of the odd constants of splitmix64 (Steele, Lea and Flood 2014): torch has no usable
# unsigned 64-bit arithmetic, but two's-complement products wrap to the same bits.
_GOLDEN = 0x9E3779B97F4A7C15 - (1 << 64)
_MIX_1 = 0xBF58476D1CE4E5B9 - (1 << 64)
_MIX_2 = 0x94D049BB133111EB - (1 << 64)
_ELEMENTS = 1 << 23  # hashed at a time: 64-bit copies of many large images would fill the memory
_UNIT = 2.0**-24  # 24 bits: every value is exact in float32


def _shift(bits: Int64[Tensor, "..."], by: int) -> Int64[Tensor, "..."]:
    """Logical right shift (torch's own is arithmetic)."""
    return (bits >> by) & ((1 << (64 - by)) - 1)


def _mix(bits: Int64[Tensor, "..."]) -> Int64[Tensor, "..."]:
    """Spread every input bit over all 64 output bits (splitmix64's finaliser)."""
    bits = (bits ^ _shift(bits, 30)) * _MIX_1
    bits = (bits ^ _shift(bits, 27)) * _MIX_2
    return bits ^ _shift(bits, 31)


def seed_from(generator: torch.Generator | None, default: int = 0) -> int:
    """One 62-bit seed drawn from `generator` (which advances), or `default` where there is none."""
    if generator is None:
        return default
    drawn = torch.randint(0, 1 << 62, (1,), generator=generator, device=generator.device)
    return int(drawn.item())


def generator_for(*numbers: int) -> torch.Generator:
    """A CPU generator that is a pure function of `numbers`, e.g. (seed, epoch, step)."""
    state = torch.zeros((), dtype=torch.int64)
    for number in numbers:
        state = _mix(state + _GOLDEN + number)
    return torch.Generator().manual_seed(int(state.item()) & ((1 << 62) - 1))


def seed_torch(seed: int, device: torch.device) -> None:
    """Seed what layers draw from on the CPU and on `device`, to the numbers of `torch.manual_seed`.

    On a machine without an accelerator that one keeps, for each kind of accelerator, a formatted traceback of
    who asked, which takes longer than the forward pass of a small network.
    """
    torch.default_generator.manual_seed(seed)
    if device.type == "cuda":
        with torch.cuda.device(device):
            torch.cuda.manual_seed(seed)


@contextlib.contextmanager
def torch_seeded(seed: int, device: torch.device) -> Iterator[None]:
    """What layers draw inside is of this seed; the caller's random state comes back at the end."""
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        seed_torch(seed, device)
        yield


def keys(x: Float[Tensor, "n ..."], seed: int) -> Int64[Tensor, " n"]:
    """One key per example: a hash of the example's float32 content and of `seed`."""
    parts = _parts(x)
    if len(parts) > 1:
        return torch.cat([keys(part, seed) for part in parts])
    exact = x.detach().to(torch.float32) + 0.0  # minus zero becomes zero
    bits = exact.contiguous().flatten(1).view(torch.int32).to(torch.int64)
    place = torch.arange(1, bits.shape[1] + 1, device=x.device, dtype=torch.int64)
    content = _mix(bits + place * _GOLDEN).sum(1)
    return fold(content, seed)


def fold(key: Int64[Tensor, " n"], number: int) -> Int64[Tensor, " n"]:
    """Keys for sub-stream `number` (a restart, say), independent of the parent's."""
    salt = (number * 2 + 1) * 0x9E3779B97F4A7C15 & ((1 << 64) - 1)
    return _mix(key + (salt - (1 << 64) if salt >> 63 else salt))


def _parts(examples: Tensor) -> tuple[Tensor, ...]:
    """The examples, in parts whose 64-bit copies are not much larger than a batch of small images."""
    size = max(1, examples[0].numel()) if len(examples) else 1
    return examples.split(max(1, _ELEMENTS // size)) if len(examples) * size > _ELEMENTS else (examples,)


def uniform(key: Int64[Tensor, " n"], like: Float[Tensor, "n ..."]) -> Float[Tensor, "n ..."]:
    """Uniform noise in [0, 1) with the shape, type and device of `like`."""
    return _uniform(key, like[0].numel() if len(like) else 0).to(like.dtype).view(like.shape)


def normal(key: Int64[Tensor, " n"], like: Float[Tensor, "n ..."]) -> Float[Tensor, "n ..."]:
    """Standard normal noise (Box-Muller) with the shape, type and device of `like`."""
    count = like[0].numel() if len(like) else 0
    radius = (1.0 - _uniform(fold(key, 1), count)).log().mul(-2.0).sqrt()
    angle = _uniform(fold(key, 2), count) * (2.0 * math.pi)
    return (radius * angle.cos()).to(like.dtype).view(like.shape)


def _uniform(key: Int64[Tensor, " n"], count: int) -> Float[Tensor, "n count"]:
    counter = torch.arange(1, count + 1, device=key.device, dtype=torch.int64) * _GOLDEN
    rows = max(1, _ELEMENTS // max(1, count))
    if len(key) > rows:
        return torch.cat([_uniform(part, count) for part in key.split(rows)])
    return _shift(_mix(key[:, None] + counter), 40).to(torch.float32) * _UNIT
