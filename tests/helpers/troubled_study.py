"""A study in which everything went wrong that can: for tests that a report is still made of it."""

import json
from pathlib import Path

from helpers.study_files import QUICKSTART, Member, example_claims, write_study
from robustlens.results.folders import Run

NASTY = "<script>alert(1)</script>"
MARKUP = "$\\alpha$ <b>x</b>"
"""What matplotlib, and what plotly, would set in another font."""
NASTY_IMAGE = '<img src=x onerror="alert(2)">'


def write_troubled_study(folder: Path) -> Path:
    """Hostile texts, failed, unfinished, damaged and partly measured runs, in one study."""
    members = [
        *QUICKSTART[:3],
        Member(NASTY, "at", 0.1),
        Member(MARKUP, "at", 0.1),
        Member("Failed", "at", 0.1),
        Member("New", "at", 0.1),
        Member("Damaged", "at", 0.1),
        Member("Bare", "at", 0.1),
    ]
    claims = [{**claim, "statement": NASTY, "why": NASTY_IMAGE, "paper": NASTY} for claim in example_claims()]
    write_study(folder, members=members, n=80, claims=claims)
    runs = folder / "runs"
    failed, new = runs / "failed-0.1-s0", runs / "new-0.1-s0"
    for run in (failed, new):
        for file in list(run.iterdir()):
            if file.name != "recipe.json":
                file.unlink()
    error = {"type": "NumericsError", "message": f"loss became NaN {NASTY_IMAGE}", "exit_code": 4}
    Run(failed).update_status(status="failed", error=error)
    for name in ("evaluation.json", "explanation.safetensors"):
        (runs / "damaged-0.1-s0" / name).write_bytes(b"{ not what it was")
    for name in ("explanation.json", "explanation.safetensors", "metrics.jsonl"):
        (runs / "bare-0.1-s0" / name).unlink()
    evaluation = json.loads((runs / "bare-0.1-s0" / "evaluation.json").read_text())
    flag = {"name": "masking", "message": f"gradients vanish {NASTY_IMAGE}"}
    evaluation["splits"]["test"]["flags"] = [flag]
    Run(runs / "bare-0.1-s0").write_json("evaluation", evaluation)
    evaluation = json.loads((runs / "at-0.05-s0" / "evaluation.json").read_text())
    parts = {"raised_if": NASTY, "means": f"nothing good {NASTY}", "todo": f"look {NASTY_IMAGE}"}
    flag = {"name": NASTY, "message": f"seen {NASTY}; {parts['means']}; {parts['todo']}", **parts}
    evaluation["splits"]["test"] |= {"flags": [flag], "notes": [NASTY_IMAGE]}
    Run(runs / "at-0.05-s0").write_json("evaluation", evaluation)
    for name in ("at-0.05-s0", "at-0.1-s0"):
        explanation = json.loads((runs / name / "explanation.json").read_text())
        layers = explanation["measures"]["spectrum"]["value"]["layers"]
        layers[NASTY] = layers["conv1"]
        Run(runs / name).write_json("explanation", explanation)
    return folder
