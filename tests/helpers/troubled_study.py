"""A study in which everything went wrong that can: for tests that a report is still made of it."""

from dataclasses import replace
from pathlib import Path

from helpers.made_networks import Member
from helpers.study_files import QUICKSTART, example_claims, write_study
from robustlens.results import EvaluationResult, Flag, Run
from robustlens.results.run import ErrorRecord

NASTY = "<script>alert(1)</script>"
MARKUP = "$\\alpha$ <b>x</b>"
"""Text that matplotlib, or plotly, would set in another font."""
NASTY_IMAGE = '<img src=x onerror="alert(2)">'


def write_troubled_study(folder: Path) -> Path:
    """Hostile texts, failed, unfinished, damaged and partly measured runs, in one study."""
    labels = (NASTY, MARKUP, "Failed", "New", "Damaged", "Bare")
    members = [*QUICKSTART[:3], *(Member(label, "at", 0.1) for label in labels)]
    claims = [replace(claim, statement=NASTY, why=NASTY_IMAGE, paper=NASTY) for claim in example_claims()]
    write_study(folder, members=members, n=80, claims=claims)
    runs = folder / "runs"
    failed, new, bare = (runs / f"{name}-0.1-s0" for name in ("failed", "new", "bare"))
    for run_folder in (failed, new):
        for file in list(run_folder.iterdir()):
            if file.name != "recipe.json":
                file.unlink()
    error = ErrorRecord("NumericsError", f"loss became NaN {NASTY_IMAGE}", 4)
    Run(failed).update(status="failed", error=error)
    for name in ("evaluation.json", "explanation.safetensors"):
        (runs / "damaged-0.1-s0" / name).write_bytes(b"{ not what it was")
    for name in ("explanation.json", "explanation.safetensors", "metrics.jsonl"):
        (bare / name).unlink()
    change_test_split(Run(bare), flags=(Flag("masking", f"gradients vanish {NASTY_IMAGE}"),))
    flag = Flag(NASTY, f"seen {NASTY}", NASTY, f"nothing good {NASTY}", f"look {NASTY_IMAGE}")
    change_test_split(Run(runs / "at-0.05-s0"), flags=(flag,), notes=(NASTY_IMAGE,))
    for name in ("at-0.05-s0", "at-0.1-s0"):
        _add_hostile_layer(Run(runs / name))
    return folder


def change_test_split(run: Run, **changes: object) -> EvaluationResult:
    """Write a run's evaluation again with some fields of its test split changed."""
    evaluation = run.evaluation()
    assert evaluation is not None
    test = replace(evaluation.splits["test"], **changes)  # type: ignore[arg-type]
    changed = replace(evaluation, splits={**evaluation.splits, "test": test})
    run.write("evaluation", changed)
    return changed


def _add_hostile_layer(run: Run) -> None:
    explanation = run.explanation()
    assert explanation is not None
    spectrum = explanation.measures["spectrum"]
    layers = spectrum.value["layers"]
    changed = replace(spectrum, value={**spectrum.value, "layers": {**layers, NASTY: layers["conv1"]}})
    run.write("explanation", replace(explanation, measures={**explanation.measures, "spectrum": changed}))
