"""Names that become files, code that files name, and texts that would fill a machine."""

import time
from pathlib import Path

import pytest

from robustlens.config import (
    Checkpoint,
    EvaluationPlan,
    Recipe,
    StudySpec,
    ThreatSpec,
    checked,
    parsed_yaml,
    read_yaml,
    refuse_code,
    yaml_files,
)
from robustlens.config.names import code_in
from robustlens.errors import ConfigError

BAD_NAMES = [
    "",
    " ",
    " x",
    "/x",
    "a/b",
    "a\\b",
    "../../ESCAPED",
    "..",
    ".hidden",
    "C:x",
    "a\nb",
    "a\rb",
    "a\tb",
    "a\0b",
    "a\u2028b",
    "a\x1b[2Jb",
    "\ud800",
    "x" * 101,
    "\u00e9" * 101,
    "-rf",
    "nul",
    "Con",
    "aux.txt",
    "COM1",
    "name.",
]


@pytest.mark.parametrize("name", BAD_NAMES)
def test_a_study_has_the_name_of_a_file(name):
    with pytest.raises(ConfigError, match="name: found '") as caught:
        checked(StudySpec, {"name": name, "methods": [{}]}, "study")
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 700


@pytest.mark.parametrize("name", ["quickstart", "AT+AWP (BN)", "a b", "\u65e5\u672c", "x" * 100])
def test_other_names_are_fine(name):
    assert checked(StudySpec, {"name": name, "methods": [{}]}, "study").name == name


@pytest.mark.parametrize(
    "name", ["../best", "best\n", "epoch-\u0663", "epoch-1/../x", "epoch-" + "1" * 10, "x" * 300]
)
def test_checkpoints_have_no_other_names(name):
    with pytest.raises(ConfigError, match="checkpoint: found ") as caught:
        Checkpoint.parse(name)
    assert len(str(caught.value)) < 200


CODE = {
    "data.name": {"data": {"name": "os:system"}},
    "data.augment": {"data": {"augment": "os:system"}},
    "model.name": {"model": {"name": "os:system"}},
    "model.options.part": {"model": {"options": {"part": "os:system"}}},
    "objective": {"objective": "os:system"},
    "weight_perturbation.factory": {"weight_perturbation": {"factory": "os:system"}},
    "init.model": {"init": {"model": "os:system"}},
    "evaluation.attacks.1": {"evaluation": {"attacks": ["fgsm", "os:system"]}},
    "explanation.measures.0": {"explanation": {"measures": ["os:system"]}},
    "explanation.options.os:system": {"explanation": {"options": {"os:system": {}}}},
    "methods.0.objective": {"methods": [{"objective": "os:system"}]},
}
HUB_CODE = {
    "model.options.trust_remote_code": {"model": {"options": {"trust_remote_code": True}}},
    "model.options.code_revision": {"model": {"options": {"code_revision": "main"}}},
    "model.options.attn_implementation": {"model": {"options": {"attn_implementation": "evil/kernel"}}},
    "methods.0.model.options.backbone.attn_implementation": {
        "methods": [{"model": {"options": {"backbone": {"attn_implementation": {"": "evil/kernel@v1:f"}}}}}]
    },
    "defaults.model.options.trust_remote_code": {
        "defaults": {"model": {"options": {"trust_remote_code": "yes"}}}
    },
}
SPELLED = {
    "a list in one text": "fgsm,os:system,pgd-20",
    "with steps": "os:system-5",
    "both": "fgsm,os:system-20",
    "bytes": b"os:system",
    "a set": {"os:system"},
    "a list of tuples": [("fgsm", b"os:system-5")],
    "a key of bytes": {b"os:system": {}},
}
"""Texts and values of YAML from which a name of code is taken."""
READERS = {
    "model.name": {"model": {"name": "npz:main"}},
    "weight_perturbation.factory": {"weight_perturbation": {"factory": "folder:system"}},
    "evaluation.attacks.0": {"evaluation": {"attacks": ["idx:a.b"]}},
    "data.augment": {"data": {"name": "npz:main", "augment": "npz:main"}},
}


@pytest.mark.parametrize("field", CODE)
def test_code_that_a_file_names_is_refused_by_name(field):
    with pytest.raises(ConfigError, match=f"mine.yaml: {field}: found 'os:system'.*--trust-code"):
        refuse_code(CODE[field], "mine.yaml")
    refuse_code(CODE[field], "mine.yaml", trust_code=True)


@pytest.mark.parametrize("field", HUB_CODE)
def test_an_option_that_runs_code_of_the_hub_is_refused_by_name(field):
    with pytest.raises(ConfigError, match=f"mine.yaml: {field}: found .*--trust-code"):
        refuse_code(HUB_CODE[field], "mine.yaml")
    refuse_code(HUB_CODE[field], "mine.yaml", trust_code=True)


def test_options_of_transformers_that_run_no_code_need_no_trust():
    options = {"trust_remote_code": False, "attn_implementation": "sdpa", "image_size": 32}
    model = {"name": "hf:someone/net", "options": options}
    refuse_code({"model": model}, "mine.yaml")
    assert not checked(Recipe, {"model": model}, "recipe").names_code
    assert checked(Recipe, {"model": {"options": {"trust_remote_code": True}}}, "recipe").names_code


@pytest.mark.parametrize("spelling", SPELLED)
def test_code_is_refused_however_a_field_spells_it(spelling):
    with pytest.raises(
        ConfigError, match=r"mine.yaml: evaluation.attacks.*: found 'os:system', .*--trust-code"
    ):
        refuse_code({"evaluation": {"attacks": SPELLED[spelling]}}, "mine.yaml")


@pytest.mark.parametrize("name", ["hf:main", "timm:main", "1x:main", "x:1", "\u00e9vil:main", "x"])
@pytest.mark.parametrize("field", ["listeners", "weight_perturbation"])
def test_a_recipe_names_code_as_everything_else_does(name, field):
    asked = {"listeners": [name], "weight_perturbation": {"factory": name}}
    with pytest.raises(
        ConfigError, match=f"recipe.{field}.*: found '{name}', expected package.module:factory"
    ):
        checked(Recipe, {field: asked[field]}, "recipe")


@pytest.mark.parametrize("field", READERS)
def test_a_module_may_be_called_as_a_reader_of_data(field):
    with pytest.raises(ConfigError, match=f"mine.yaml: {field}: found .*--trust-code"):
        refuse_code(READERS[field], "mine.yaml")


def test_texts_and_paths_are_no_code():
    values = {"description": "note:this", "label": "a:b", "data": {"name": "npz:x", "data_dir": "c:x"}}
    values |= {"methods": [{"label": "a:b", "data": {"name": "folder:images"}}], "init": {"model": "runs/a"}}
    assert list(code_in(values)) == []
    assert not Recipe().names_code
    assert checked(Recipe, {"model": {"name": "mine:net"}}, "recipe").names_code


@pytest.mark.parametrize(
    "eps", ["1e99999999", "1e400", "-1e99999999", "1" * 5000, "1/" + "3" * 5000, 10**400]
)
def test_huge_numbers_are_refused_at_once(eps):
    began = time.process_time()
    with pytest.raises(ConfigError, match="eps: found ") as caught:
        checked(ThreatSpec, {"norm": "L2", "eps": eps}, "threat")
    assert time.process_time() - began < 5
    assert len(str(caught.value)) < 300


@pytest.mark.parametrize(
    ("kind", "values"),
    [
        (Recipe, {"optimizer": {"epochs": 10**30}}),
        (Recipe, {"keep_every": 1 << 63}),
        (EvaluationPlan, {"restarts": 10**30}),
        (Recipe, {"model": {"options": {"width": 10**30}}}),
    ],
)
def test_huge_counts_are_refused(kind, values):
    with pytest.raises(ConfigError, match="expected at most 4611686018427387904"):
        checked(kind, values, "plan")


LAUGHS = "a: &a [x, x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"{name}: &{name} [{', '.join(10 * ['*' + before])}]\n"
    for before, name in zip("abcdefgh", "bcdefghi", strict=True)
)


@pytest.mark.parametrize(
    "text",
    [
        LAUGHS,
        LAUGHS.replace("[", "{<<: [")
        .replace("]", "]}")
        .replace("[x, x, x, x, x, x, x, x, x, x]", "[{k: 1}]"),
        "a: &a [*a]",
        "&a {b: *a}",
        "[" * 5000,
        "a: " + "1" * 5000,
        "a: 2024-99-99",
        "a: !!timestamp x",
        "a: !!float x",
        "a: !!int 0x",
        "a: !!python/object/apply:os.system ['true']",
        "? {a: b}\n: c",
        "a: [1",
        b"\xff\xfe\x00",
        b"a: \xff",
        "a: \0",
    ],
    ids=range(16),
)
def test_a_text_that_is_no_plain_yaml_is_one_line(text):
    began = time.process_time()
    with pytest.raises(ConfigError, match="mine") as caught:
        parsed_yaml(text, "mine")
    assert "\n" not in str(caught.value)
    assert time.process_time() - began < 10


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("objective: trades\nmodel: {}\nobjective: at", "objective"),
        ("methods: [{eps: 1, 'eps': 2}]", "eps"),
        ("{1: a, 1: b}", "1"),
    ],
)
def test_a_key_that_stands_twice_is_refused(text, name):
    with pytest.raises(ConfigError, match=f"^mine: not valid YAML: found '{name}' twice .*line "):
        parsed_yaml(text, "mine")


def test_a_mapping_may_be_taken_into_another_and_changed_there():
    text = "a: &a {x: 1, y: 2}\nb: &b {<<: *a, x: 3}\nc: {<<: *b, y: 4}\nd: *b"
    a, b, c = {"x": 1, "y": 2}, {"x": 3, "y": 2}, {"x": 3, "y": 4}
    assert parsed_yaml(text, "mine") == {"a": a, "b": b, "c": c, "d": b}


@pytest.mark.parametrize("kind", ["!!binary b3M=", "!!set {a}", "!!omap [a: 1]", "!!pairs [a: 1]"])
def test_kinds_of_values_that_no_field_has_are_refused(kind):
    with pytest.raises(ConfigError, match="mine: not valid YAML: could not determine a constructor"):
        parsed_yaml(f"a: {kind}", "mine")


YAML_WORDS = {
    "on": "on", "Off": "Off", "yes": "yes", "NO": "NO", "010": "010", "-07": "-07", "0_7": "0_7",
    "12:00:00": "12:00:00", "1:30": "1:30", "1:30.5": "1:30.5",
    "true": True, "False": False, "null": None, "~": None, "10": 10, "-7": -7, "0": 0, "0.5": 0.5,
    "1_000": 1000, "0x1f": 31, "1e-3": "1e-3", "1.0e-3": 0.001, "8/255": "8/255",
}  # fmt: skip


@pytest.mark.parametrize("text", YAML_WORDS)
def test_words_and_numbers_mean_what_they_look_like(text):
    value = parsed_yaml(text, "mine")
    assert (type(value), value) == (type(YAML_WORDS[text]), YAML_WORDS[text])
    assert parsed_yaml(f"{{{text}: [{text}]}}", "mine") == {YAML_WORDS[text]: [YAML_WORDS[text]]}


def test_fields_take_other_words_for_truth_and_numbers_with_zeros_before_them():
    spec = checked(StudySpec, parsed_yaml("{name: no, seeds: [010], methods: [{}]}", "mine"), "mine")
    assert (spec.name, spec.seeds) == ("no", (10,))
    recipe = checked(Recipe, parsed_yaml("{fast: on, optimizer: {nesterov: yes}}", "mine"), "mine")
    assert (recipe.fast, recipe.optimizer.nesterov) == (True, True)


def test_a_file_too_large_for_a_recipe_is_refused_unread(tmp_path: Path):
    (tmp_path / "big.yaml").write_bytes(b"#" * (yaml_files.LARGEST_YAML + 1))
    with pytest.raises(ConfigError, match=r"big\.yaml: found more than 262144 bytes"):
        read_yaml(tmp_path / "big.yaml")
    assert parsed_yaml("a: &a [1, 2]\nb: *a", "x") == {"a": [1, 2], "b": [1, 2]}
