"""Estimated lengths of runs: worked out by hand, the order of a study's runs, and their threads."""

import pytest

from robustlens import study
from robustlens.config import Recipe, StudySpec, checked
from robustlens.executors import LocalProcesses, Outcome
from robustlens.study.length import length, passes

SMALL = {"name": "small-cnn-bn", "options": {"width": 4, "hidden": 8}}


def recipe(**fields):
    return checked(Recipe, {"threat": {"eps": 0.05}, "model": SMALL, **fields}, "recipe")


def test_a_length_is_epochs_images_passes_and_parameters():
    of = {
        "data": {"train_limit": 1000, "validation": 0.2},
        "model": {"name": "small-cnn", "options": {"width": 4}},
        "objective": "at",
        "attack": {"steps": 5},
        "optimizer": {"epochs": 3},
        "monitor": {"examples": 10, "steps": 2},
    }
    parameters = 41_630 + 2 * 4 * 4 * 4  # with one channel; two more for four kernels of 4 x 4
    assert length(recipe(**of)) == pytest.approx((3 * 800 * 13 + 2 * 3 * 10 * 5) * parameters)
    taught = {"data": {**of["data"], "unlabeled": 500}, "pseudo_labels": {"teacher": {"epochs": 4}}}
    with_teacher = (3 * 1300 * 13 + 2 * 3 * 10 * 5 + 4 * 800 * 3) * parameters
    assert length(recipe(**{**of, **taught})) == pytest.approx(with_teacher)


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({"objective": "standard"}, 3),
        ({"objective": "at"}, 23),
        ({"objective": "at", "awp": {"gamma": 0.01}}, 26),
        ({"objective": "at", "threat": {"eps": 0}}, 3),
        ({"objective": "fgsm"}, 5),
        ({"objective": "at", "attack": {"steps": 4}}, 11),
        ({"objective": "at", "attack": {"steps": 4}, "awp": {"gamma": 0.01}}, 14),
        ({"objective": "at", "attack": {"steps": 4}, "awp": {"gamma": 0.01, "from_attack": True}}, 11),
        ({"objective": "at", "attack": {"steps": 4}, "sam": {"rho": 0.05}}, 14),
        ({"objective": "at", "attack": {"steps": 4}, "rwp": {"gamma": 0.01}}, 11),
        ({"objective": "at", "attack": {"replays": 4}}, 12),
    ],
)
def test_passes_are_those_of_a_training_step(fields, expected):
    """Ten steps of PGD take two passes each; the gradient of the weights takes three, and so does AWP's."""
    assert passes(recipe(**fields)) == expected


class Told:
    """An executor that is told the jobs, and does nothing."""

    def __init__(self, cores=2):
        self.cores, self.jobs = LocalProcesses(2, ()), []
        self.cores.cores = cores

    def share_cores(self, lengths):
        self.lengths = list(lengths)
        return self.cores.share_cores(lengths)

    def run(self, jobs, listen):
        self.jobs = jobs
        yield from (Outcome(name) for name in dict.fromkeys(job.run for job in jobs))


def spec(**changes):
    methods = [
        {"label": "Standard", "objective": "standard"},
        {"label": "AT", "objective": "at"},
        {"label": "AT+AWP", "objective": "at", "awp": {"gamma": 0.01}},
    ]
    values = {"name": "s", "model": SMALL, "data": {"name": "fashion-mnist-10k"}, "methods": methods}
    return checked(StudySpec, {**values, **changes}, "s")


def test_the_longest_run_begins_first_and_the_last_has_the_cores_that_are_left(tmp_path):
    executor = Told()
    result = study.run(spec(), tmp_path, executor=executor)
    assert [outcome.name for outcome in result.outcomes] == ["at-awp-0.1-s0", "at-0.1-s0", "standard-0-s0"]
    threads = {job.run: job.resources.threads for job in executor.jobs}
    assert list(threads.values()) == [1, 1, 1], "the last is over before the others"
    assert executor.lengths == sorted(executor.lengths, reverse=True)
    executor = Told()
    alike = [{"label": label, "objective": "at"} for label in "abc"]
    study.run(spec(methods=alike), tmp_path / "alike", executor=executor)
    assert [job.resources.threads for job in executor.jobs if job.name.endswith("train")] == [1, 1, 2]


def test_a_run_keeps_the_threads_that_it_began_with(tmp_path):
    """Whatever is left of the study, and however many workers there are now."""
    alike = spec(methods=[{"label": label, "objective": "at"} for label in "abc"])
    executor = Told()
    folder = study.run(alike, tmp_path, executor=executor).folder
    begun = {"b-0.1-s0": "7", "c-0.1-s0": "3"}
    for name, number in begun.items():
        device = "cpu (x86_64)" if name[0] == "b" else "NVIDIA H100"
        folder.run(name).update(status="training", environment={"threads": number, "device": device})
    folder.run("a-0.1-s0").update(status="trained")
    executor = Told(cores=4)
    study.run(alike, tmp_path, executor=executor)
    threads = {job.run: job.resources.threads for job in executor.jobs}
    assert threads == {"a-0.1-s0": 2, "b-0.1-s0": 7, "c-0.1-s0": 4}
