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
        ({"evaluation": {"attacks": ["pgd-99999999"]}}, "attacks: found 'pgd-99999999'"),
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
        (
            {"defaults": {"attack": {"step_size": 1e39}}},
            r"step_size: found 1e\+39; .*of size at most 1e18",
        ),
        ({"defaults": {"optimizer": {"lr": "1e308"}}}, r"lr: found '1e308'"),
        ({"evaluation": {"curve": [1e308]}}, r"curve\.0: found 1e\+308"),
        ({"evaluation": {"checkpoint": "epoch-2"}}, "evaluation.checkpoint: found epoch-0002, .*not given"),
        (
            {
                "explanation": {"checkpoint": "epoch-3"},
                "defaults": {"keep_every": 2, "optimizer": {"epochs": 4}},
            },
            "explanation.checkpoint: found epoch-0003, which no run keeps: keep_every is 2 of 4 epochs",
        ),
        ({"data": {"name": "cifar-10"}}, "data.name: found 'cifar-10'.*did you mean 'cifar10'"),
        ({"methods": [{"objective": ["at"]}]}, r"objective: found \['at'\], expected the name of one"),
        ({"methods": [{"label": "AT", "eps": []}]}, "eps: found none, expected at least one strength"),
        ({"explanation": {"options": {"landscape": {"alphas": []}}}}, r"landscape\.alphas: found \[\]"),
        (
            {"explanation": {"options": {"landscape": {"alphas": [float("nan")]}}}},
            r"landscape\.alphas: found \[nan\]; input should be a finite number",
        ),
        ({"explanation": {"options": {"bound": {"gammas": []}}}}, r"bound\.gammas: found \[\]"),
        ({"explanation": {"measures": ["bound"], "examples": 7}}, "examples: found 7, expected at least 8"),
        ({"explanation": {"measures": ["bound"], "threat": {"eps": 0}}}, "bound.eps: found none"),
        ({"threat": {"eps": 0.1}, "methods": [{"eps": True}]}, "eps: found True, expected a number"),
        ({"methods": [{"objective_options": {"label_smothing": 0.1}}]}, "did you mean 'label_smoothing'"),
        (
            {"defaults": {"optimizer": "adamw"}, "methods": [{"optimizer": {"epochs": 3}}]},
            r"s: optimizer: found \{'epochs': 3\} laid on 'adamw', expected two mappings or none",
        ),
        (
            {"defaults": {"awp": 0.005}, "methods": [{"awp": {"steps": 2}}]},
            r"s: awp: found \{'steps': 2\} laid on 0.005, expected two mappings",
        ),
        (
            {"defaults": {"model": "resnet20"}, "methods": [{"model": {"options": {"width": 4}}}]},
            r"s: model: found .* laid on 'resnet20', expected two mappings",
        ),
        (
            {"defaults": {"model": {"options": 4}}, "methods": [{"model": {"options": {"width": 4}}}]},
            r"s: model\.options: found \{'width': 4\} laid on 4, expected two mappings",
        ),
        ({"defaults": {"model": "resnet20"}}, "model: found 'resnet20'"),
        ({"methods": [{"label": None}]}, "s: label: found None, expected text"),
        ({"methods": [{"label": True}]}, "s: label: found True, expected text"),
        ({"defaults": {"label": 1.1}, "methods": [{}]}, "s: label: found 1.1, expected text"),
        ({"methods": [{"data": {"name": {"x": 1}}}]}, r"data\.name: found \{'x': 1\} laid on 'fashion-mnist"),
    ],
)
def test_what_only_a_later_step_would_refuse_is_refused_by_the_plan(changes, said):
    with pytest.raises(ConfigError, match=said) as caught:
        planning.plan(study(**changes))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "options",
    [{"wdith": 4}, {"width": 0}, {"width": -1}, {"width": "wide"}, {"num_classes": 3}, {"mean": [0.5]}],
)
def test_a_network_that_cannot_be_built_is_refused_by_the_plan(options):
    with pytest.raises(ModelError, match=r"small-cnn|model\.options\.width"):
        planning.plan(study(model={"name": "small-cnn", "options": options}))


def test_networks_are_built_without_memory(monkeypatch):
    planning.plan(study(model={"name": "wrn-34-10"}))  # 46 million weights, which would take 185 MB


def test_a_kept_epoch_may_be_asked_for():
    kept = {"keep_every": 2, "optimizer": {"epochs": 4}}
    planning.plan(study(evaluation={"checkpoint": "epoch-4"}, defaults=kept))


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


METHODS = (
    {"label": "Standard", "objective": "standard"},
    {"label": "AT", "eps": [0.1, 0.2]},
    {"label": "AT+AWP", "eps": [0.1, 0.2], "awp": {"gamma": 0.01}},
    {"label": "AT+AWP from attack", "eps": [0.1], "awp": {"gamma": 0.01, "from_attack": True}},
    {"label": "AT+RWP", "eps": [0.1], "rwp": {}},
    {"label": "TRADES", "objective": "trades", "eps": [0.1]},
    {"label": "TRADES+AWP", "objective": "trades", "eps": [0.1], "awp": {"gamma": 0.02}},
    {"label": "TRADES 1", "objective": "trades", "eps": [0.1], "objective_options": {"beta": 1.0}},
)


def test_runs_that_differ_in_capacity_alone_share_the_hash_without_it():
    methods = (
        {"label": "AT", "eps": [0.1, 0.2]},
        {"label": "AT bounded", "eps": [0.1], "capacity": {"low": 0.8, "high": 1.25}},
        {"label": "AT tight", "eps": [0.1], "capacity": {"low": 0.9, "high": 1.1}},
    )
    plain, stronger, bounded, tight = (
        run.entry() for run in planning.plan(study(methods=methods, seeds=[0]))
    )
    assert plain.unbounded == bounded.unbounded == tight.unbounded != stronger.unbounded
    assert plain.capacity == stronger.capacity == {}
    assert (bounded.capacity["low"], tight.capacity["high"]) == (0.8, 1.1)
    assert plain.setting != bounded.setting


def test_runs_that_differ_in_the_perturbation_alone_and_only_these_share_its_hash():
    entries = [run.entry() for run in planning.plan(study(methods=METHODS, seeds=[0, 1]))]
    together = {}
    for entry in entries:
        together.setdefault(entry.unperturbed, []).append(entry.id)
    by_hand = [{f"standard-0-s{seed}"} for seed in (0, 1)]
    for seed in (0, 1):
        by_hand += [
            {f"{name}-0.1-s{seed}" for name in ("at", "at-awp", "at-awp-from-attack", "at-rwp")},
            {f"at-0.2-s{seed}", f"at-awp-0.2-s{seed}"},
            {f"trades-0.1-s{seed}", f"trades-awp-0.1-s{seed}"},
            {f"trades-1-0.1-s{seed}"},
        ]
    assert sorted(map(sorted, together.values())) == sorted(map(sorted, by_hand))


def test_an_entry_says_what_was_trained():
    run = next(run for run in planning.plan(study(methods=METHODS)) if run.id == "trades-awp-0.1-s0")
    entry = run.entry()
    assert (entry.folder, entry.label, entry.method) == ("runs/trades-awp-0.1-s0", "TRADES+AWP", "TRADES+AWP")
    assert (entry.objective, entry.perturbation, entry.from_attack) == ("trades", "awp", False)
    assert (entry.eps, entry.seed) == (0.1, 0)
    sources = {each.label: each.entry() for each in planning.plan(study(methods=METHODS))}
    assert sources["AT+AWP from attack"].from_attack
    assert (sources["TRADES 1"].objective_options, entry.objective_options) == ({"beta": 1.0}, {})
    assert [sources[name].perturbation for name in ("AT 0.1", "AT+RWP", "AT+AWP 0.2")] == [None, "rwp", "awp"]


def test_strengths_objectives_perturbations_and_seeds_are_compared_within_one_setting():
    entries = [run.entry() for run in planning.plan(study(methods=METHODS, seeds=[0, 1]))]
    assert len({entry.setting for entry in entries if entry.perturbation != "rwp"}) == 1
    others = (
        {"optimizer": {"lr": 0.5}},
        {"model": {"name": "small-cnn", "options": {"width": 3}}},
        {"ema": 0.9},
    )
    settings = {
        planning.plan(study(methods=[{"label": "AT", **other}]))[0].entry().setting for other in others
    }
    assert len(settings - {entries[0].setting}) == len(others)


def test_every_perturbation_of_the_weights_is_compared_within_one_setting():
    plain, *others = (
        planning.plan(study(methods=[{"label": "AT", **perturbation}]))[0].entry().setting
        for perturbation in ({}, {"awp": {}}, {"rwp": {}}, {"sam": {}})
    )
    assert set(others) == {plain}


def test_a_study_records_every_strength_that_is_trained_in_ascending_order():
    planned = planning.plan(spec := study(methods=METHODS, seeds=[1, 0]))
    record = planning.record(spec, planned)
    assert record.strengths == (0.0, 0.1, 0.2)
    assert record.seeds == (1, 0)
    assert record.threat["eps"] == 0.1
    assert record.evaluation["threat"]["eps"] == 0.1
    assert [entry.id for entry in record.runs][:4] == [
        "standard-0-s1",
        "standard-0-s0",
        "at-0.1-s1",
        "at-0.1-s0",
    ]


def test_a_method_fills_in_turns_on_and_turns_off_what_the_defaults_say():
    defaults = {"awp": None, "rwp": {"gamma": 0.1}, "optimizer": {"epochs": 3, "lr": 0.2}}
    method = {"label": "AT", "awp": {"steps": 2}, "rwp": None, "optimizer": {"lr": 0.3}}
    (run,) = planning.plan(study(defaults=defaults, methods=[method]))
    assert (run.recipe.awp.steps, run.recipe.rwp) == (2, None)
    assert (run.recipe.optimizer.epochs, run.recipe.optimizer.lr, run.recipe.objective) == (3, 0.3, "at")
