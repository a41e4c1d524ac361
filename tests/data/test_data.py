"""Splits and the embedded images: subsets are what they say, and every row is where it should be."""

import hashlib
import importlib.util
import time
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from helpers.data_files import OFFICIAL, REPOSITORY, needs_official, refused, source_of, toy_splits
from robustlens import data, noise
from robustlens.data import arrays, embedded, splits, stratified
from robustlens.errors import ConfigError

labels_strategy = st.lists(st.integers(0, 4), min_size=1, max_size=60).map(
    lambda values: torch.tensor(values)
)


@settings(deadline=None)
@given(labels=labels_strategy, seed=st.integers(0, 2**31))
def test_every_prefix_of_the_order_holds_each_class_in_its_share(labels: torch.Tensor, seed: int) -> None:
    order = stratified.stratified_order(labels, noise.generator_for(seed))
    assert sorted(order.tolist()) == list(range(len(labels)))
    one_hot = torch.nn.functional.one_hot(labels[order], 5)
    share = one_hot.sum(0) / len(labels)
    ideal = torch.arange(1, len(labels) + 1)[:, None] * share.double()
    assert float((one_hot.cumsum(0) - ideal).abs().max()) < 1  # so rounded down or up, never further


@settings(deadline=None)
@given(
    labels=labels_strategy, seed=st.integers(0, 100), sizes=st.tuples(st.integers(0, 60), st.integers(0, 60))
)
def test_a_smaller_subset_lies_inside_a_larger_one(
    labels: torch.Tensor, seed: int, sizes: tuple[int, int]
) -> None:
    small, large = sorted(min(size, len(labels)) for size in sizes)
    whole = splits.Split(
        torch.zeros(len(labels), 1, 1, 1, dtype=torch.uint8), labels, torch.arange(len(labels))
    )
    inner, outer = whole.take(small, seed), whole.take(large, seed)
    assert len(inner) == small
    assert set(inner.index.tolist()) <= set(outer.index.tolist())
    assert inner.index.tolist() == sorted(inner.index.tolist())
    assert torch.equal(inner.labels, labels[inner.index])


@settings(deadline=None)
@given(
    labels=st.lists(st.integers(0, 2), min_size=4, max_size=60).filter(
        lambda values: set(values) == {0, 1, 2}
    ),
    share=st.floats(0, 0.7),
    seed=st.integers(0, 100),
)
def test_validation_and_training_are_disjoint_complete_and_stratified(
    labels: list[int], share: float, seed: int
) -> None:
    source = source_of(labels)
    made = splits.assemble(
        splits.Sources(source, source, ("a", "b", "c")), "toy", validation=share, seed=seed
    )
    kept, held = set(made.train.index.tolist()), set(made.validation.index.tolist())
    assert not kept & held
    assert kept | held == set(range(len(labels)))
    assert len(held) == (max(1, round(share * len(labels))) if share else 0)
    for label, total in Counter(labels).items():
        assert abs(int((made.validation.labels == label).sum()) - total * len(held) / len(labels)) < 1


def test_subsets_repeat_for_a_seed_differ_between_seeds_and_leave_global_randomness_alone() -> None:
    whole = toy_splits(200, validation=0).train
    state = torch.random.get_rng_state()
    assert torch.equal(whole.take(20, seed=3).index, whole.take(20, seed=3).index)
    assert not torch.equal(whole.take(20, seed=3).index, whole.take(20, seed=4).index)
    assert torch.equal(torch.random.get_rng_state(), state)


def test_a_subset_keeps_images_labels_and_index_together() -> None:
    whole = toy_splits(40, validation=0).train
    part = whole.take(10)
    assert torch.equal(part.images, whole.images[part.index])
    assert torch.equal(part.labels, whole.labels[part.index])
    assert torch.equal(part.take(4).images, whole.images[part.take(4).index])


def test_the_training_limit_is_counted_before_validation_is_taken_out() -> None:
    made = toy_splits(100, train_limit=40, test_limit=2, validation=0.25)
    assert (len(made.train), len(made.validation), len(made.test)) == (30, 10, 2)


def test_training_subsets_are_nested_across_limits() -> None:
    def used(limit: int) -> set[int]:
        made = toy_splits(100, train_limit=limit, seed=5)
        return set(made.train.index.tolist()) | set(made.validation.index.tolist())

    assert used(20) < used(50) < used(100)


def test_only_the_chosen_rows_are_read() -> None:
    asked: list[int] = []
    source = source_of([0, 1] * 50)

    def read(rows: torch.Tensor) -> torch.Tensor:
        asked.extend(rows.tolist())
        return source.read(rows)

    watched = splits.Source(source.labels, read, "toy")
    splits.assemble(splits.Sources(watched, source, ("a", "b")), "toy", train_limit=10, validation=0.2)
    assert len(asked) == len(set(asked)) == 10


def test_no_validation_gives_an_empty_split_of_the_same_shape() -> None:
    made = toy_splits(validation=0)
    assert len(made.train) == 40
    assert made.validation.images.shape == (0, 1, 4, 4)
    assert len(made.validation.x()) == 0


@pytest.mark.parametrize("share", [1.0, 1000, -0.1, float("nan"), 0.999])
def test_a_validation_share_that_cannot_be_met_is_refused(share: float) -> None:
    refused(r"^data\.validation: found ", lambda: toy_splits(validation=share), ConfigError)


@pytest.mark.parametrize(
    "limits", [{"train_limit": 41}, {"test_limit": 5}, {"train_limit": 0}, {"test_limit": -1}]
)
def test_a_limit_that_cannot_be_met_is_refused_by_name(limits: dict[str, int]) -> None:
    refused(
        rf"^data\.{next(iter(limits))}: found {next(iter(limits.values()))}",
        lambda: toy_splits(**limits),
        ConfigError,
    )


def test_taking_more_than_there_is_is_refused() -> None:
    refused(
        r"found 41, expected at most the 40 images",
        lambda: toy_splits(validation=0).train.take(41),
        ConfigError,
    )


def test_x_is_the_pixels_over_255_in_float32() -> None:
    split = splits.Split(
        torch.arange(256, dtype=torch.uint8).view(4, 1, 8, 8), torch.arange(4), torch.arange(4)
    )
    expected = (np.arange(256) / 255).astype(np.float32).reshape(4, 1, 8, 8)
    assert split.x().dtype == torch.float32
    assert np.array_equal(split.x().numpy(), expected)
    assert np.array_equal(split.x(torch.tensor([2, 0])).numpy(), expected[[2, 0]])
    assert np.array_equal(split.x(slice(1, 3)).numpy(), expected[1:3])


def test_grey_test_images_become_rgb_beside_rgb_training_images() -> None:
    grey, colour = source_of([0, 1, 0]), source_of([0, 1, 1], channels=3)
    made = splits.assemble(splits.Sources(colour, grey, ("a", "b")), "toy")
    assert made.shape == (3, 4, 4)
    assert torch.equal(made.test.images, grey.read(torch.arange(3)).expand(3, 3, 4, 4))


def test_train_and_test_images_of_two_sizes_are_refused() -> None:
    pair = splits.Sources(source_of([0, 1]), source_of([0, 1], size=5), ("a", "b"))
    refused(r"images are 4x4 and 5x5, expected one size", lambda: splits.assemble(pair, "toy"))


def test_the_embedded_images_are_balanced_and_complete() -> None:
    made = data.load("fashion-mnist-10k")
    assert (len(made.train), len(made.validation), len(made.test)) == (9000, 1000, 2000)
    assert made.train.labels.bincount().tolist() == [900] * 10
    assert made.validation.labels.bincount().tolist() == [100] * 10
    assert made.test.labels.bincount().tolist() == [200] * 10
    assert (made.shape, made.num_classes, made.classes[9]) == ((1, 28, 28), 10, "Ankle boot")


def test_the_embedded_file_is_small_licensed_and_loads_fast() -> None:
    file = Path(embedded.__file__).with_name(embedded.FILE)
    assert file.stat().st_size <= 8 * 2**20
    assert hashlib.sha256(file.read_bytes()).hexdigest() == embedded.SHA256
    licence = file.with_name("fashion_mnist_10k.LICENSE.txt").read_text(encoding="utf-8")
    assert "MIT License" in licence
    assert "Zalando SE" in licence
    started = time.process_time()
    embedded.load()
    assert time.process_time() - started < 5


def test_a_damaged_embedded_file_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(embedded, "SHA256", "0" * 64)
    refused(rf"{embedded.FILE}: sha256 .* reinstall", embedded.load)


@needs_official
def test_the_embedded_images_are_the_official_ones() -> None:
    official, mine = arrays.load_idx(OFFICIAL), embedded.load()
    for ours, theirs in ((mine.train, official.train), (mine.test, official.test)):
        split = ours.split(torch.arange(len(ours.labels)))
        assert torch.equal(split.images, theirs.read(split.index))
        assert torch.equal(split.labels, theirs.labels[split.index])


@needs_official
def test_the_build_script_gives_the_same_bytes() -> None:
    path = REPOSITORY / "tools" / "build_fashion_mnist_10k.py"
    spec = importlib.util.spec_from_file_location("build_fashion_mnist_10k", path)
    assert spec is not None
    assert spec.loader is not None
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)
    assert hashlib.sha256(script.build(OFFICIAL)).hexdigest() == embedded.SHA256
