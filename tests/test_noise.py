"""Noise keyed by example: distribution, independence, and what it must not depend on."""

import pytest
import torch
from scipy import stats

from robustlens import noise


def test_uniform_and_normal_noise_have_their_distributions():
    x = torch.rand(64, 500)
    key = noise.keys(x, 0)
    assert stats.kstest(noise.uniform(key, x).flatten().numpy(), "uniform").pvalue > 0.01
    assert stats.kstest(noise.normal(key, x).flatten().numpy(), "norm").pvalue > 0.01


def test_noise_of_neighbouring_pixels_images_and_substreams_is_uncorrelated():
    x = torch.rand(64, 500)
    key = noise.keys(x, 0)
    u = noise.uniform(key, x) - 0.5
    for other in (u.roll(1, 0), u.roll(1, 1), noise.uniform(noise.fold(key, 1), x) - 0.5):
        correlation = (u * other).mean() / u.square().mean()
        assert abs(correlation) < 4 / x.numel() ** 0.5


def test_keys_depend_on_content_and_seed_only():
    x = torch.rand(10, 3, 4, 4)
    key = noise.keys(x, 5)
    order = torch.randperm(10)
    assert torch.equal(noise.keys(x[order], 5), key[order])
    assert torch.equal(noise.keys(x[3:4], 5), key[3:4])
    assert torch.equal(noise.keys(x.to(memory_format=torch.channels_last), 5), key)
    assert not (noise.keys(x, 6) == key).any()
    changed = x.clone()
    changed[0, 0, 0, 0] += 1e-6
    assert (noise.keys(changed, 5) != key).tolist() == [True] + [False] * 9


def test_minus_zero_is_zero():
    assert torch.equal(noise.keys(torch.zeros(1, 4), 0), noise.keys(-torch.zeros(1, 4), 0))


def test_keys_notice_that_pixels_changed_places():
    x = torch.rand(1, 16)
    assert noise.keys(x, 0) != noise.keys(x.flip(1), 0)


def test_generators_are_functions_of_their_numbers():
    def draw(*numbers):
        return torch.rand(4, generator=noise.generator_for(*numbers)).tolist()

    assert draw(1, 2, 3) == draw(1, 2, 3)
    assert (
        len({tuple(draw(*numbers)) for numbers in [(1, 2, 3), (1, 3, 2), (1, 2), (0, 2, 3), (1, 2, 3, 0)]})
        == 5
    )


def test_a_seed_from_a_generator_advances_it_and_the_default_is_kept_without_one():
    generator = torch.Generator().manual_seed(0)
    assert noise.seed_from(generator) != noise.seed_from(generator)
    assert noise.seed_from(None, 7) == 7


def test_layers_draw_the_numbers_of_torchs_own_seed_and_the_callers_state_comes_back():
    torch.manual_seed(11)
    wanted = torch.rand(3)
    before = torch.get_rng_state()
    with noise.torch_seeded(11, torch.device("cpu")):
        assert torch.equal(torch.rand(3), wanted)
    assert torch.equal(torch.get_rng_state(), before)


def test_a_seed_is_not_noted_with_a_traceback_for_absent_accelerators(monkeypatch):
    monkeypatch.setattr("traceback.format_stack", lambda *args: pytest.fail("a traceback was formatted"))
    noise.seed_torch(-3, torch.device("cpu"))
