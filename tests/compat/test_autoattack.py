"""The AutoAttack handle: what it returns, on models whose worst case is known, and beside `rl.evaluate`."""

import re

import pytest
import torch
from torch import nn

import robustlens as rl
from helpers.linear_models import linear_problem
from robustlens.compat import AutoAttack
from robustlens.errors import ConfigError

EPS, N = 0.1, 16


@pytest.fixture(scope="module")
def problem():
    return linear_problem(12, 3, n=N, seed=2, dtype=torch.float32)


@pytest.fixture(scope="module")
def wrong(problem):
    """Labels of which the first two are not the model's."""
    y = problem.y.clone()
    y[:2] = (y[:2] + 1) % 3
    return y


def custom(problem, **options):
    adversary = AutoAttack(
        problem.model, "Linf", EPS, version="custom", attacks_to_run=["apgd-ce"], verbose=False, **options
    )
    adversary.apgd.n_iter = 20
    return adversary


def test_images_are_broken_where_the_exact_distance_says_so_and_are_else_the_clean_ones(problem, wrong):
    x_adv, y_adv = custom(problem).run_standard_evaluation(problem.x, wrong, bs=5, return_labels=True)
    exact = problem.distances("Linf")
    broken = (x_adv != problem.x).any(1)
    assert broken[2:].tolist() == (exact[2:] < EPS).tolist()
    assert 0 < broken.sum() < N - 2
    assert not broken[:2].any(), "a clean mistake needs no attack"
    assert (x_adv - problem.x).abs().max() <= EPS + 1e-6
    assert torch.equal(y_adv, problem.model(x_adv).argmax(1))
    assert (y_adv != wrong).tolist() == [True, True, *broken[2:].tolist()]


@pytest.mark.slow
def test_standard_is_the_evaluation_by_the_suite_bit_for_bit(problem, wrong, capsys, tmp_path):
    log = tmp_path / "log.txt"
    adversary = AutoAttack(problem.model, norm="Linf", eps=EPS, version="standard", log_path=log, seed=3)
    assert adversary.attacks_to_run == ["apgd-ce", "apgd-t", "fab-t", "square"]
    x_adv = adversary.run_standard_evaluation(problem.x[:4], wrong[:4], bs=4)
    evaluation = rl.evaluate(
        problem.model,
        problem.x[:4],
        wrong[:4],
        rl.ThreatModel("Linf", EPS),
        "standard",
        batch_size=4,
        seed=3,
        save_adversarial=True,
    )
    assert torch.equal(x_adv, evaluation.x_adv)
    lines = log.read_text().splitlines()
    assert lines == capsys.readouterr().out.splitlines()
    assert lines[0] == "initial accuracy: 50.00%"
    assert lines[1].startswith(
        f"robust accuracy after apgd-ce: {evaluation.by_attack['apgd-ce'].sum() / 4:.2%} ("
    )
    assert lines[-1] == f"robust accuracy: {evaluation.robust.sum() / 4:.2%}"


def test_each_attack_alone_is_on_all_images(problem, wrong):
    adversary = AutoAttack(problem.model, eps=EPS, verbose=False, version="custom")
    adversary.attacks_to_run = ["apgd-ce", "square"]
    adversary.apgd.n_iter, adversary.square.n_queries = 20, 60
    alone = adversary.run_standard_evaluation_individual(problem.x, wrong, bs=N)
    assert list(alone) == ["apgd-ce", "square"]
    adversary.attacks_to_run = ["square"]
    assert torch.equal(alone["square"], adversary.run_standard_evaluation(problem.x, wrong, bs=N))
    exact = problem.distances("Linf")[2:]
    assert (alone["apgd-ce"] != problem.x).any(1)[2:].tolist() == (exact < EPS).tolist()


def test_budgets_are_those_of_the_version_unless_they_are_set(problem):
    plus = AutoAttack(problem.model, eps=EPS, version="plus")._attacks()
    assert (plus["apgd-ce"].restarts, plus["fab"].restarts, plus["fab-t"].restarts) == (5, 5, 1)
    rand = AutoAttack(problem.model, eps=EPS, version="rand")
    assert [attack.eot for attack in rand._attacks().values()] == [20, 20]
    l1 = AutoAttack(problem.model, norm="L1", eps=2.0)
    l1.fab.n_restarts, l1.fab.n_target_classes = 4, 2
    attacks = l1._attacks()
    assert (attacks["apgd-ce"].restarts, attacks["apgd-t"].targets) == (5, 5)
    assert (attacks["fab-t"].restarts, attacks["fab-t"].targets) == (1, 2)
    assert (attacks["square"].queries, attacks["apgd-ce"].steps) == (5000, 100)


def test_a_function_of_images_and_a_bound_forward_are_models(problem):
    expected = custom(problem).run_standard_evaluation(problem.x, problem.y)
    for function in (lambda x: problem.model(x), problem.model.forward):
        adversary = AutoAttack(
            function, eps=EPS, version="custom", attacks_to_run=["apgd-ce"], verbose=False, device="cpu"
        )
        adversary.apgd.n_iter = 20
        assert torch.equal(adversary.run_standard_evaluation(problem.x, problem.y), expected)


def test_clean_accuracy_by_hand_and_an_empty_set(problem, wrong):
    assert custom(problem).clean_accuracy(problem.x, wrong, bs=3) == 14 / 16
    training = nn.Sequential(nn.Dropout(0.9), problem.model).train()
    assert AutoAttack(training, eps=EPS).clean_accuracy(problem.x, wrong) == 14 / 16
    assert training.training


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"version": "standart"}, "did you mean 'standard'"),
        ({"attacks_to_run": ["fab"]}, "found names beside version 'standard'"),
        ({"is_tf_model": True}, "expected a PyTorch model"),
        ({"device": "cuda"}, r"move it with model\.to\('cuda'\)"),
        ({"device": "nope"}, "AutoAttack.model: found device 'nope' .*, expected cpu or cuda"),
    ],
)
def test_wrong_arguments_are_one_line(options, said, problem):
    with pytest.raises(ConfigError, match=said):
        AutoAttack(problem.model, eps=EPS, **options)


@pytest.mark.parametrize(
    ("names", "said"), [(["apgd"], "did you mean 'apgd-"), ([], "each once"), (["fab"] * 2, "once")]
)
def test_wrong_attacks_are_one_line(names, said, problem):
    adversary = AutoAttack(problem.model, eps=EPS, version="custom", attacks_to_run=names)
    with pytest.raises(ConfigError, match=said):
        adversary.run_standard_evaluation(problem.x, problem.y)


def test_a_line_is_told_as_each_attack_ends(problem, wrong, capsys):
    told_before = []

    class Network(nn.Module):
        def forward(self, x):
            told_before.append(capsys.readouterr().out)
            return problem.model(x)

    adversary = AutoAttack(
        Network(), eps=EPS, version="custom", attacks_to_run=["apgd-ce", "apgd-t", "square"]
    )
    adversary.apgd.n_iter, adversary.apgd_targeted.n_iter, adversary.square.n_queries = 3, 3, 20
    adversary.run_standard_evaluation(problem.x, wrong, bs=5)
    before = "".join(told_before).splitlines()
    after = capsys.readouterr().out.splitlines()
    assert before[0] == "initial accuracy: 87.50%"
    assert [line.split(":")[0] for line in before[1:]] == [
        "robust accuracy after apgd-ce",
        "robust accuracy after apgd-t",
        "robust accuracy after square",
    ]
    assert after[-1] == before[-1].split(" after square")[0] + before[-1].split("square")[1].split(" (")[0]
    assert all("after" not in line.split(":")[0] for line in after)


@pytest.mark.parametrize("eps", [0.0, 0.9])
def test_lines_of_attacks_that_break_all_or_nothing_are_those_of_the_evaluation(
    problem, wrong, eps, tmp_path
):
    state = tmp_path / "state"
    logs = [tmp_path / "first.txt", tmp_path / "again.txt"]
    for log in logs:  # the second finds everything done, and tells it at the end
        adversary = AutoAttack(
            problem.model, eps=eps, version="custom", attacks_to_run=["apgd-ce", "apgd-t"], verbose=False
        )
        adversary.apgd.n_iter, adversary.apgd_targeted.n_iter, adversary.log_path = 3, 3, log
        adversary.run_standard_evaluation(problem.x, wrong, bs=5, state_path=state)
    first, again = (
        [re.sub(r", [\d.]+ s", "", line) for line in log.read_text().splitlines()] for log in logs
    )
    assert first == again
    assert len([line for line in first if " after " in line]) == 2


def test_a_log_that_cannot_be_written_is_refused_before_the_first_attack(problem, tmp_path):
    class Network(nn.Module):
        def forward(self, x):
            pytest.fail("asked")

    adversary = AutoAttack(Network(), eps=EPS, log_path=tmp_path / "absent" / "log.txt")
    with pytest.raises(
        ConfigError, match=r"AutoAttack.log_path: found '.*log.txt', expected a file that can"
    ):
        adversary.run_standard_evaluation(problem.x, problem.y)


def test_a_function_on_a_device_that_is_not_there_is_one_line(problem):
    with pytest.raises(ConfigError, match="found device 'cuda:99'"):
        AutoAttack(lambda x: problem.model(x), eps=EPS, device="cuda:99")
