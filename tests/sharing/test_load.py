"""`hf-run:owner/name`: fetched from a stand-in of the Hub, by name, at a commit, damaged and hostile."""

import json
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

import robustlens as rl
from helpers.pretended_hub import PretendedHub
from robustlens import cli, sharing
from robustlens import hub as own_hub
from robustlens.config import checked
from robustlens.config.recipe import Recipe
from robustlens.errors import ModelError, StateError
from robustlens.results import Run, files

NAME = "someone/robust-cnn"
SPEC = f"hf-run:{NAME}"
WRONG = ["x", "a/b/c", "a/..", "../b", "a/b--c", "a/b.git", "/b", "a/", "a b/c", "a/b\n", f"a/{'b' * 97}"]


def pushed(stand_in: PretendedHub, folder: Path) -> dict[str, bytes]:
    """The run on the stand-in; returns its files."""
    sharing.push(folder, NAME)
    stand_in.requests.clear()
    return dict(stand_in.repositories[NAME].files)


@pytest.mark.parametrize("name", WRONG)
def test_wrong_names_are_those_that_the_library_refuses_too(name: str) -> None:
    validate = pytest.importorskip("huggingface_hub.utils").validate_repo_id
    assert own_hub.name_problem(name)
    if "/" in name:  # ours have an owner
        with pytest.raises(ValueError, match=r"[Rr]epo"):
            validate(name)
    for right in ("a/b", "A-b/c.d_e", "a/1", "_a/b_"):
        assert own_hub.name_problem(right) is None
        validate(right)


@pytest.mark.parametrize(
    "spec",
    [*(f"hf-run:{name}" for name in WRONG), "hf-run:", "hf-run:a/b@", "hf-run:a/b@../x", "hf-run:a/b@x y"],
)
def test_a_wrong_name_asks_no_network(hub: PretendedHub, spec: str) -> None:
    with pytest.raises(ModelError, match="expected"):
        rl.models.load(spec)
    assert hub.requests == []


def test_only_named_files_are_fetched_and_once(hub: PretendedHub, run_folder: Path) -> None:
    pushed(hub, run_folder)
    hub.repositories[NAME].files["../../evil.safetensors"] = b"x"
    hub.repositories[NAME].files["code.py"] = b"raise SystemExit"
    commit = hub.repositories[NAME].head
    rl.models.load(f"{SPEC}@{commit}")
    fetched = {r.rpartition("/")[2] for r in hub.requests if "/resolve/" in r}
    assert fetched == {"recipe.json", "run.json", "metrics.jsonl", "best.safetensors"}
    hub.requests.clear()
    hub.refuse = 500
    rl.models.load(f"{SPEC}@{commit}")
    assert hub.requests == []


def test_a_commit_stays_what_it_was(hub: PretendedHub, run_folder: Path, unevaluated: Path) -> None:
    first = sharing.push(run_folder, NAME)
    sharing.push(unevaluated, NAME, replace=True)
    x = torch.rand(3, 1, 28, 28)
    assert torch.equal(rl.models.load(first.load_as)(x), rl.models.load(run_folder)(x))
    assert torch.equal(rl.models.load(SPEC)(x), rl.models.load(unevaluated)(x))
    assert torch.equal(rl.models.load(f"{SPEC}@main")(x), rl.models.load(unevaluated)(x))


@pytest.mark.parametrize(
    ("spec", "line"),
    [
        ("hf-run:someone/nothing", "no such repository, or a private one"),
        (f"{SPEC}@v9", "the repository has no such revision"),
        (f"{SPEC}@{'0' * 40}", "no such revision"),
    ],
)
def test_what_is_not_there_is_one_line(
    hub: PretendedHub, run_folder: Path, spec: str, line: str, capsys: pytest.CaptureFixture
) -> None:
    pushed(hub, run_folder)
    assert cli.run(["evaluate", spec, "--quiet"]) == 3
    said = capsys.readouterr().err
    assert line in said
    assert len(said.strip().splitlines()) == 1


def test_an_unreachable_hub_is_one_line(hub: PretendedHub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(ModelError, match=f"{SPEC}: the Hub cannot be reached .*; check the network"):
        rl.models.load(SPEC)


@pytest.mark.parametrize("name", ["recipe.json", "run.json", "best.safetensors"])
def test_damage_is_found_before_anything_is_used(hub: PretendedHub, run_folder: Path, name: str) -> None:
    content = bytearray(pushed(hub, run_folder)[name])
    content[len(content) // 2] ^= 1
    hub.repositories[NAME].files[name] = bytes(content)
    with pytest.raises(StateError, match=f"{name}: "):
        rl.models.load(SPEC)


@pytest.mark.parametrize("name", ["recipe.json", "run.json", "best.safetensors"])
def test_an_interrupted_download_goes_on(hub: PretendedHub, run_folder: Path, name: str) -> None:
    pushed(hub, run_folder)
    hub.cut = name
    with pytest.raises(ModelError, match=SPEC):
        rl.models.load(SPEC)
    hub.cut = ""
    x = torch.rand(2, 1, 28, 28)
    assert torch.equal(rl.models.load(SPEC)(x), rl.models.load(run_folder)(x))


@pytest.mark.parametrize(
    ("missing", "line"),
    [
        (("recipe.json",), "found no recipe.json and run.json"),
        (("run.json",), "found no recipe.json and run.json"),
        (("best.safetensors", "last.safetensors"), "found no best.safetensors or last.safetensors"),
    ],
)
def test_a_repository_without_a_run_says_what_is_missing(
    hub: PretendedHub, run_folder: Path, missing: tuple[str, ...], line: str
) -> None:
    pushed(hub, run_folder)
    for name in missing:
        del hub.repositories[NAME].files[name]
    with pytest.raises(ModelError, match=line):
        rl.models.load(SPEC)


def test_weights_of_another_run_are_refused(hub: PretendedHub, run_folder: Path, unevaluated: Path) -> None:
    pushed(hub, run_folder)
    hub.repositories[NAME].files["best.safetensors"] = (unevaluated / "best.safetensors").read_bytes()
    with pytest.raises(StateError, match="found weights of recipe"):
        rl.models.load(SPEC)


def _with_description(folder: Path, **changes: object) -> bytes:
    """The weights of a run whose header describes its network otherwise, sealed anew."""
    from robustlens.results import array_files

    path = folder / "best.safetensors"
    header = dict(array_files.read_header(path).values)
    header["model"] = {**header["model"], **changes}
    header["recipe"] = ""
    return array_files.sealed_tensors(path.read_bytes(), header)


def test_code_that_the_weights_name_is_not_run(
    hub: PretendedHub, run_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pushed(hub, run_folder)
    (tmp_path / "evil_module.py").write_text(
        f"open({str(tmp_path / 'ran')!r}, 'w').close()", encoding="utf-8"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    hub.repositories[NAME].files["best.safetensors"] = _with_description(run_folder, name="evil_module:make")
    with pytest.raises(ModelError, match=r"'evil_module:make', code from outside .*trust_code=True"):
        rl.models.load(SPEC)
    for option, value in (("trust_remote_code", True), ("attn_implementation", "evil/kernel")):
        changes = {"name": "hf:someone/net", "options": {option: value}}
        weights = _with_description(run_folder, **changes)
        hub.put(NAME, {**hub.repositories[NAME].files, "best.safetensors": weights})
        with pytest.raises(ModelError, match=rf"run code of 'hf:someone/net' \({option}\)"):
            rl.models.load(SPEC)
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("kind", ["timm", "hf"])
@pytest.mark.parametrize(
    "option",
    [
        {"pretrained": True},
        {"pretrained_cfg": {"hf_hub_id": "someone/else"}},
        {"pretrained_cfg_overlay": {"url": "https://example.com"}},
        {"checkpoint_path": "/etc/passwd"},
        {"model_name": "hf-hub:someone/else"},
        {"proxies": {"https": "https://example.com"}},
        {"cache_dir": "/etc"},
        {"token": "x"},
    ],
)
def test_weights_cannot_say_where_others_are_fetched(
    hub: PretendedHub, run_folder: Path, monkeypatch: pytest.MonkeyPatch, kind: str, option: dict[str, object]
) -> None:
    def fetch(*args: object, **kwargs: object) -> None:
        pytest.fail(f"fetched with {kwargs}")

    monkeypatch.setitem(sys.modules, "timm", SimpleNamespace(create_model=fetch))
    monkeypatch.setattr("transformers.AutoConfig.from_pretrained", fetch)
    pushed(hub, run_folder)
    description = _with_description(run_folder, name=f"{kind}:resnet18", options=option)
    hub.put(NAME, {**hub.repositories[NAME].files, "best.safetensors": description})
    with pytest.raises(
        ModelError, match=f"found option '{next(iter(option))}', expected options of the arch"
    ):
        rl.models.load(SPEC)


def _with_data(stand_in: PretendedHub, folder: Path, data: dict[str, object]) -> None:
    """The run on the stand-in, with a recipe of other data; everything sealed and of one recipe."""
    stand_in.repositories.clear()
    content = pushed(stand_in, folder)
    values = {**Run(folder).recipe.model_dump(), "data": data}
    recipe = checked(Recipe, values, "recipe")
    run = json.loads(content["run.json"])
    run = {key: value for key, value in run.items() if key not in ("format", "kind", "seal")}
    run |= {"recipe_hash": recipe.hash(), "data_dir": "/etc"}
    changed = {
        "recipe.json": files.sealed_json({**recipe.model_dump(mode="json"), "data": data}, "recipe"),
        "run.json": files.sealed_json(run, "run"),
        "best.safetensors": _with_description(folder),
    }
    stand_in.put(NAME, {**content, **changed})


def test_a_path_of_another_machine_is_not_read(
    hub: PretendedHub, run_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    _with_data(hub, run_folder, {"name": "npz:/etc/passwd"})
    assert cli.run(["evaluate", SPEC, "--quiet"]) == 2
    assert (
        "was trained on 'npz:/etc/passwd' of another machine, so --data is needed" in capsys.readouterr().err
    )
    _with_data(hub, run_folder, {"name": "cifar10", "data_dir": str(tmp_path)})
    assert cli.run(["evaluate", SPEC, "--quiet"]) == 3
    assert str(tmp_path / "cifar10") not in capsys.readouterr().err


def test_evaluate_attacks_it_anew_and_explain_measures_it(
    hub: PretendedHub, run_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    pushed(hub, run_folder)
    asked = ["--attacks", "fgsm,pgd-2", "--limit", "40", "--curve", "none", "--quiet", "--json"]
    out = ["--out", str(tmp_path / "evaluation")]
    assert cli.run(["evaluate", SPEC, *asked, *out]) == 0
    said = json.loads(capsys.readouterr().out)
    owners = json.loads((run_folder / "evaluation.json").read_text(encoding="utf-8"))
    assert said["splits"]["test"]["by_attack"] == owners["splits"]["test"]["by_attack"]
    assert (tmp_path / "evaluation" / "evaluation.json").is_file()
    assert cli.run(["explain", SPEC, "--measures", "margins", "--examples", "30", "--quiet", "--json"]) == 0
    assert "margins" in json.loads(capsys.readouterr().out)["measures"]
    fetched = list((tmp_path / "hub-home").rglob("best.safetensors"))
    assert fetched  # and its folder is not written to
    assert not list((tmp_path / "hub-home").rglob("evaluation*"))


@pytest.mark.parametrize("checkpoint", ["both", "every", "epoch-0001"])
def test_checkpoints_that_are_never_pushed_are_refused(
    hub: PretendedHub, checkpoint: str, capsys: pytest.CaptureFixture
) -> None:
    assert cli.run(["evaluate", SPEC, "--checkpoint", checkpoint, "--quiet"]) == 3
    assert "expected best or last" in capsys.readouterr().err
    assert hub.requests == []


def test_options_of_other_models_are_refused(hub: PretendedHub) -> None:
    with pytest.raises(ModelError, match="found the option architecture='resnet8'"):
        rl.models.load(SPEC, architecture="resnet8")
    assert hub.requests == []


def test_without_the_library_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "huggingface_hub", None)
    with pytest.raises(
        ModelError, match=r"cannot import huggingface_hub .*install it with pip install .*\[hub\]"
    ):
        rl.models.load(SPEC)
