"""The summary under the title, written from the data."""

from dataclasses import replace
from pathlib import Path

from helpers.study_files import QUICKSTART, write_study
from robustlens.report.data import ReportData
from robustlens.report.reading import read_run, read_study
from robustlens.report.text.summary import summary


def test_the_summary_is_written_from_the_data(study: ReportData) -> None:
    text = " ".join(summary(study))
    assert text.startswith("6 networks (Standard, AT 0.05, AT 0.1, AT 0.2, TRADES 0.1 and AT+AWP 0.1)")
    assert "fashion-mnist-10k" in text
    assert "one seed each" in text
    assert "200 test and 200 training images within Linf eps = 0.1 by FGSM, PGD-20 and CW-20" in text
    assert "at the best checkpoint (chosen on validation images, never on test images)" in text


def test_a_checkpoint_that_no_validation_images_chose_is_not_said_to_be(tmp_path: Path) -> None:
    folder = write_study(tmp_path, members=QUICKSTART[:1], n=60) / "runs/standard-0-s0"
    data = read_run(folder)
    run = data.runs[0]
    assert run.recipe is not None
    recipe = run.recipe.model_copy(update={"data": run.recipe.data.model_copy(update={"validation": 0})})
    (network,) = data.networks
    unseen = replace(data, networks=(replace(network, runs=(replace(run, recipe=recipe),)),))
    assert "at the best checkpoint (chosen on validation images" in " ".join(summary(data))
    assert (
        "at the best checkpoint (the last epoch, as there were no validation images to choose on)."
        in " ".join(summary(unseen))
    )


def test_the_sentence_names_a_suite_and_its_attacks(suite_study: ReportData) -> None:
    wanted = (
        "by FGSM, PGD-20, CW-20, the standard suite (APGD-CE, APGD-T, FAB-T and Square) and a minimum-norm"
    )
    assert wanted in " ".join(summary(suite_study))


def test_a_run_alone_is_named_by_its_recipe(study_folder: Path) -> None:
    text = summary(read_run(study_folder / "runs/at-awp-0.1-s0"))[0]
    assert text.startswith("One network (AT+AWP 0.1), trained on fashion-mnist-10k with the architecture ")


def test_runs_without_an_evaluation_are_counted(tmp_path: Path) -> None:
    folder = write_study(tmp_path, members=QUICKSTART[:2], n=60)
    (folder / "runs/standard-0-s0/evaluation.json").unlink()
    assert summary(read_study(folder))[-1] == "1 of 2 runs has no evaluation yet; see the notes."
