"""Plans: everything that a later step would refuse is refused before the first epoch."""

import pytest

from robustlens import cli
from robustlens.config import EvaluationPlan, Recipe, StudySpec, checked
from robustlens.errors import ConfigError, ModelError
from robustlens.study import planning


def study(**changes):
    values = {"name": "s", "methods": [{"label": "AT"}], "threat": {"eps": 0.1}}
    return checked(StudySpec, {**values, **changes}, "s.yaml")


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"evaluation": {"curve": [-1]}}, r"evaluation\.curve\.0: found -1"),
        ({"evaluation": {"attacks": ["pgd-0"]}}, "pgd-0"),
        ({"explanation": {"options": {"landscape": {"steps": 0}}}}, r"landscape\.steps: found 0"),
        ({"explanation": {"options": {"landscape": {"draws": "many"}}}}, r"landscape\.draws: found 'many'"),
        (
            {"explanation": {"options": {"spectrum": {"operator": "round"}}}},
            r"spectrum\.operator: found 'round'",
        ),
        (
            {"defaults": {"optimizer": {"batch_size": 8, "accumulate": 9}}},
            "accumulate: found 9, expected at most",
        ),
        ({"defaults": {"optimizer": {"milestones": [-0.5]}}}, r"milestones\.0: found -0.5"),
        ({"defaults": {"optimizer": {"milestones": [100, 150]}}}, r"milestones\.0: found 100"),
        ({"defaults": {"attack": {"step_size": float("inf")}}}, r"step_size.*inf"),
        ({"methods": [{"objective_options": {"label_smothing": 0.1}}]}, "did you mean 'label_smoothing'"),
    ],
)
def test_what_only_a_later_step_would_refuse_is_refused_by_the_plan(changes, said):
    with pytest.raises(ConfigError, match=said) as caught:
        planning.plan(study(**changes))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("options", [{"wdith": 4}, {"width": 0}, {"width": -1}, {"width": "wide"}])
def test_a_network_that_cannot_be_built_is_refused_by_the_plan(options):
    with pytest.raises(ModelError, match="small-cnn|model.options.width"):
        planning.plan(study(model={"name": "small-cnn", "options": options}))


def test_networks_are_built_without_memory(monkeypatch):
    planning.plan(study(model={"name": "wrn-34-10"}))  # 46 million weights, which would take 185 MB


def test_a_misspelt_key_names_itself_before_what_is_missing_beside_it():
    with pytest.raises(ConfigError, match=r"s\.yaml\.methds: unknown key.*did you mean 'methods'"):
        checked(StudySpec, {"name": "s", "methds": [{}]}, "s.yaml")


def test_min_norm_may_be_asked_for_beside_a_curve():
    planned = study(evaluation={"attacks": ["fgsm", "min-norm"], "curve": [1]})
    planning.plan(planned)
    assert planning.evaluation_plan(planned).attacks == ("fgsm", "min-norm")


@pytest.mark.parametrize(("norm", "eps"), [("L2", 800), ("L1", 200_000), ("Linf", 8)])
def test_a_radius_that_reaches_any_image_is_refused(norm, eps):
    with pytest.raises(ConfigError, match=rf"eps: found {eps}.*did you mean {eps}/255"):
        checked(Recipe, {"threat": {"norm": norm, "eps": eps}}, "recipe")
    with pytest.raises(ConfigError, match="did you mean"):
        checked(EvaluationPlan, {"threat": {"norm": norm, "eps": eps}}, "evaluation")


def test_a_leaderboard_entry_without_its_suite_is_refused_before_the_evaluation(tmp_path, capsys):
    missing = tmp_path / "nowhere"  # it is not even looked for
    asked = ["evaluate", str(missing), "--leaderboard", str(tmp_path / "entry.json"), "--attacks", "fgsm"]
    assert cli.run(asked) == 2
    assert "expected the suite standard" in capsys.readouterr().err
