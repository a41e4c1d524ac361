"""Adversarial images that are kept: feasible, breaking the model, sealed, and the same after a stop."""

import random

import pytest
import torch
from safetensors.torch import load_file, save_file

import robustlens as rl
from helpers.evaluated_models import (
    ATTACKS,
    THREAT,
    assert_same,
    evaluated,
    network,
    problem,
    stop_after,
)
from robustlens.errors import NumericsError, StateError, StoppedError
from robustlens.evaluation import Shard, attack_shard
from robustlens.evaluation.adversarial_images import AdversarialImages
from robustlens.evaluation.state import EvaluationState


def test_saved_images_are_feasible_and_break_the_model(tmp_path):
    _, x, y = problem()
    for state in (None, tmp_path):
        evaluation = evaluated(state, save_adversarial=True)
        broken = evaluation.clean & ~evaluation.robust
        assert torch.equal(evaluation.x_adv[~broken], x[~broken])
        exact = network().double()
        assert (exact(evaluation.x_adv[broken].double()).argmax(1) != y[broken]).all()
        assert (evaluation.x_adv.double() - x.double()).abs().max() <= THREAT.eps + 1e-6
        assert evaluation.x_adv.min() >= 0
        assert evaluation.x_adv.max() <= 1


def test_saved_images_survive_a_stop(tmp_path):
    whole = evaluated(tmp_path / "whole", save_adversarial=True)
    with pytest.raises(StoppedError):
        evaluated(tmp_path / "stopped", save_adversarial=True, progress=stop_after(5))
    assert torch.equal(evaluated(tmp_path / "stopped", save_adversarial=True).x_adv, whole.x_adv)


def _stopped(folder, batches, **changes):
    with pytest.raises(StoppedError):
        evaluated(folder, progress=stop_after(batches), **changes)


def test_a_stop_without_images_goes_on_without_them_alone(tmp_path):
    """What broke is known, and the images are not: more batches cannot bring them back."""
    _stopped(tmp_path, 5)
    before = {file.name: file.read_bytes() for file in tmp_path.iterdir()}
    for _ in range(2):
        with pytest.raises(
            StateError, match=r"found the progress of \d+ broken images without.*; leave it out"
        ):
            evaluated(tmp_path, save_adversarial=True)
    assert {file.name: file.read_bytes() for file in tmp_path.iterdir()} == before
    assert_same(evaluated(tmp_path), evaluated())


def test_a_stop_with_images_goes_on_without_them_and_then_without_them_alone(tmp_path):
    _stopped(tmp_path, 1, save_adversarial=True)
    _stopped(tmp_path, 2)
    with pytest.raises(StateError, match=r"save_adversarial: found the progress of 2 broken images"):
        evaluated(tmp_path, save_adversarial=True)
    assert_same(evaluated(tmp_path), evaluated())


def test_a_stop_before_any_image_broke_goes_on_either_way(tmp_path):
    easy = {"threat": rl.ThreatModel("Linf", 1e-6), "curve": ()}
    _stopped(tmp_path, 2, **easy)
    assert not list(tmp_path.glob("adversarial-*"))
    assert_same(evaluated(tmp_path, save_adversarial=True, **easy), evaluated(**easy))


@pytest.mark.parametrize("first", [True, False])
def test_shards_are_refused_images_that_another_shard_did_not_keep(tmp_path, first):
    model, x, y = problem()
    given = {"attacks": ATTACKS, "batch_size": 16, "state": tmp_path}
    attack_shard(model, x, y, THREAT, shard=Shard(0, 2), save_adversarial=first, **given)
    if first:
        attack_shard(model, x, y, THREAT, shard=Shard(1, 2), save_adversarial=True, **given)
        whole = rl.evaluate(model, x, y, THREAT, **{**given, "state": None}, save_adversarial=True)
        joined = rl.evaluate(model, x, y, THREAT, **given, save_adversarial=True)
        assert torch.equal(joined.x_adv, whole.x_adv)
        return
    for shard in (Shard(1, 2), Shard(0, 2)):
        with pytest.raises(StateError, match=r"save_adversarial: found"):
            attack_shard(model, x, y, THREAT, shard=shard, save_adversarial=True, **given)


@pytest.mark.parametrize(
    ("change", "said"),
    [(lambda x_adv: x_adv * 0 + 0.5, "found an image at Linf distance"), (None, "do not break the model")],
)
def test_saved_images_are_checked_again(tmp_path, change, said):
    evaluated(tmp_path, save_adversarial=True)
    file = sorted(tmp_path.glob("adversarial-*"))[0]
    saved = load_file(file)
    x = problem()[1]
    AdversarialImages(tmp_path).add(
        int(file.name.split("-")[1]), saved["rows"], change(saved["x_adv"]) if change else x[saved["rows"]]
    )
    with pytest.raises(NumericsError, match=said) as caught:
        evaluated(tmp_path, save_adversarial=True)
    assert caught.value.exit_code == 4


def test_the_first_image_that_does_not_break_the_model_is_named(tmp_path):
    """Three files are filled with clean images: the message counts them, and names the first."""
    evaluated(tmp_path, save_adversarial=True)
    x, replaced = problem()[1], []
    for file in sorted(tmp_path.glob("adversarial-*"))[:3]:
        rows = load_file(file)["rows"]
        AdversarialImages(tmp_path).add(int(file.name.split("-")[1]), rows, x[rows])
        replaced += rows.tolist()
    assert len(replaced) > 1
    said = f"found {len(replaced)} that do not break the model, image {min(replaced)} first"
    with pytest.raises(NumericsError, match=said):
        evaluated(tmp_path, save_adversarial=True)


def test_a_file_is_named_by_its_try_and_its_first_row(tmp_path):
    """As by version 0.1: images that a killed process wrote are replaced by their equals."""
    AdversarialImages(tmp_path).add(7, torch.tensor([12, 345]), torch.rand(2, 3))
    AdversarialImages(tmp_path).add(8, torch.tensor([], dtype=torch.int64), torch.rand(0, 3))
    assert [file.name for file in tmp_path.iterdir()] == ["adversarial-007-00000012.safetensors"]


def test_no_flipped_bit_passes(tmp_path):
    x = torch.rand(4, 3)
    AdversarialImages(tmp_path).add(0, torch.tensor([1, 3]), x[:2])
    (path,) = tmp_path.iterdir()
    content = path.read_bytes()
    broken = torch.tensor([False, True, False, True])
    for bit in random.Random(0).sample(range(8 * len(content)), 300):
        changed = bytearray(content)
        changed[bit // 8] ^= 1 << bit % 8
        path.write_bytes(bytes(changed))
        with pytest.raises(StateError, match=rf"{path.name}: damaged; delete .* to start again"):
            AdversarialImages(tmp_path).assemble(x, broken)
    path.write_bytes(content)
    assert torch.equal(AdversarialImages(tmp_path).assemble(x, broken)[[1, 3]], x[:2])


def test_another_sealed_file_in_place_of_images_is_refused(tmp_path):
    state = EvaluationState.open(tmp_path, {"model": "a"}, torch.tensor([True]), 1)
    state.record(0, torch.tensor([0]), torch.tensor([True]), torch.tensor([0.5]), 1.0)
    (tmp_path / "progress.safetensors").rename(tmp_path / "adversarial-000-00000000.safetensors")
    with pytest.raises(StateError, match="holds no adversarial images; delete"):
        AdversarialImages(tmp_path).require(torch.tensor([True]))


def test_files_of_format_1_have_no_seal(tmp_path):
    rows, x_adv = torch.tensor([2]), torch.rand(1, 3)
    save_file({"rows": rows, "x_adv": x_adv}, tmp_path / "adversarial-000-00000002.safetensors")
    assembled = AdversarialImages(tmp_path).assemble(torch.zeros(3, 3), torch.tensor([True, True, True]))
    assert torch.equal(assembled, torch.cat([torch.zeros(2, 3), x_adv]))
