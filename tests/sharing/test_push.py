"""A run pushed to a stand-in of the Hub by the Hub's real library, and to a folder."""

import inspect
import json
import shutil
from pathlib import Path

import pytest
import torch

import robustlens as rl
from helpers.pretended_hub import PretendedHub
from robustlens import cli, sharing
from robustlens.errors import ConfigError, StateError
from robustlens.results import Run, verify

NAME = "someone/robust-cnn"
FILES = {
    "README.md",
    "recipe.json",
    "run.json",
    "metrics.jsonl",
    "best.safetensors",
    "last.safetensors",
    "evaluation.json",
    "evaluation.safetensors",
    "evaluation-last.json",
    "evaluation-last.safetensors",
    "explanation.json",
    "explanation.safetensors",
}


@pytest.fixture
def own(run_folder: Path, tmp_path: Path) -> Path:
    """A copy of the run, to be changed."""
    return Path(shutil.copytree(run_folder, tmp_path / "own"))


def test_a_pushed_run_is_loaded_again_with_the_same_logits(hub: PretendedHub, run_folder: Path) -> None:
    pushed = sharing.push(run_folder, NAME)
    assert set(hub.repositories[NAME].files) == FILES | {".gitattributes"}
    assert hub.repositories[NAME].private
    assert pushed.private
    assert pushed.revision == hub.repositories[NAME].head
    assert pushed.load_as == f"hf-run:{NAME}@{pushed.revision}"
    x = torch.rand(5, 1, 28, 28)
    for name, checkpoint in ((f"hf-run:{NAME}", None), (pushed.load_as, "last")):
        ours = rl.models.load(run_folder, checkpoint=checkpoint)
        assert torch.equal(rl.models.load(name, checkpoint=checkpoint)(x), ours(x))


def test_documents_are_pushed_as_they_are_but_for_the_data_folder(hub: PretendedHub, own: Path) -> None:
    Run(own).update(data_dir=str(own.parent / "secret"))
    sharing.push(own, NAME)
    files = hub.repositories[NAME].files
    for name in FILES - {"README.md", "run.json"}:
        assert files[name] == (own / name).read_bytes(), name
    record = json.loads(files["run.json"])
    assert record["data_dir"] is None
    assert record["recipe_hash"] == Run(own).record.recipe_hash
    assert not any(str(own.parent).encode() in content for content in files.values())


def test_what_belongs_to_the_machine_stays_there(hub: PretendedHub, own: Path) -> None:
    for name in ("lock", "lease", "state.safetensors", "adversarial.safetensors", "epoch-0001.safetensors"):
        (own / name).write_bytes(b"mine")
    for name in ("evaluation.state", "tracking", "report", "teacher"):
        (own / name).mkdir(exist_ok=True)
        (own / name / "run.json").write_bytes(b"mine")
    sharing.push(own, NAME)
    assert set(hub.repositories[NAME].files) == FILES | {".gitattributes"}


def test_the_same_run_is_brought_up_to_date_and_another_is_refused(
    hub: PretendedHub, run_folder: Path, unevaluated: Path
) -> None:
    first = sharing.push(run_folder, NAME)
    (again := Path(shutil.copytree(run_folder, unevaluated.parent / "again"))).joinpath(
        "explanation.json"
    ).unlink()
    (again / "explanation.safetensors").unlink()
    sharing.push(again, NAME)
    assert set(hub.repositories[NAME].files) == FILES - {"explanation.json", "explanation.safetensors"} | {
        ".gitattributes"
    }
    with pytest.raises(ConfigError, match=f"push to {NAME}: found another run in it; .*--replace"):
        sharing.push(unevaluated, NAME)
    sharing.push(unevaluated, NAME, replace=True)
    left = set(hub.repositories[NAME].files) - {".gitattributes"}
    assert left == {n for n in FILES if not n.startswith(("evaluation", "explanation"))}
    assert rl.models.load(first.load_as)  # its commit is still there


def test_files_of_another_kind_are_refused_and_left_by_replace(hub: PretendedHub, run_folder: Path) -> None:
    hub.put(NAME, {"model.bin": b"theirs"})
    with pytest.raises(ConfigError, match=r"found other files in it \(model\.bin\); .*--replace"):
        sharing.push(run_folder, NAME)
    sharing.push(run_folder, NAME, replace=True)
    assert hub.repositories[NAME].files["model.bin"] == b"theirs"


def test_visibility_is_what_was_asked_for_or_nothing_is_pushed(hub: PretendedHub, run_folder: Path) -> None:
    assert not sharing.push(run_folder, "someone/open", public=True).private
    with pytest.raises(ConfigError, match="the repository is public, so everyone sees what is pushed"):
        sharing.push(run_folder, "someone/open")
    hub.put("someone/closed", {})
    with pytest.raises(ConfigError, match="--public: the repository is private"):
        sharing.push(run_folder, "someone/closed", public=True)
    assert set(hub.repositories["someone/closed"].files) == {".gitattributes"}


def test_a_commit_of_another_in_between_is_no_push(
    hub: PretendedHub, run_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from huggingface_hub import HfApi

    upload = HfApi.upload_folder

    def late(self, **arguments):
        hub.put(NAME, {"theirs.txt": b"theirs"})
        return upload(self, **arguments)

    monkeypatch.setattr(HfApi, "upload_folder", late)
    with pytest.raises(ConfigError, match=f"push to {NAME}: .*412"):
        sharing.push(run_folder, NAME)
    assert set(hub.repositories[NAME].files) == {".gitattributes", "theirs.txt"}


@pytest.mark.parametrize(
    "name",
    [
        "cnn",
        "a/b/c",
        "",
        "/x",
        "x/",
        "a/../b",
        "../b",
        "a/b c",
        "a/b--c",
        "a/b.git",
        "a/-b",
        "a\\b/c",
        "a/b@c",
    ],
)
def test_wrong_names_are_refused_before_any_request(hub: PretendedHub, run_folder: Path, name: str) -> None:
    with pytest.raises(ConfigError, match="expected owner/name"):
        sharing.push(run_folder, name)
    assert hub.requests == []


@pytest.mark.parametrize("status", ["new", "training", "failed"])
def test_a_run_that_is_not_trained_is_refused(hub: PretendedHub, own: Path, status: str) -> None:
    Run(own).update(status=status)
    with pytest.raises(StateError, match=f"found status '{status}', expected a run that is trained"):
        sharing.push(own, NAME)
    assert hub.requests == []


def _flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(bytes(content))


@pytest.mark.parametrize("name", sorted(FILES - {"README.md"}))
def test_a_damaged_file_is_named_before_any_request(hub: PretendedHub, own: Path, name: str) -> None:
    _flip(own / name)
    with pytest.raises(StateError, match=f"{own}.*{name.partition('.')[0]}"):
        sharing.push(own, NAME)
    assert hub.requests == []


def test_results_of_other_weights_are_refused(hub: PretendedHub, own: Path, unevaluated: Path) -> None:
    shutil.copy(unevaluated / "best.safetensors", own / "best.safetensors")
    with pytest.raises(StateError, match=r"best\.safetensors: found weights of recipe"):
        sharing.push(own, NAME)
    shutil.copy(own / "last.safetensors", own / "best.safetensors")
    written = (own / "evaluation.json").read_text(encoding="utf-8")
    assert Run(own).weights_seal(rl.config.Checkpoint.parse("best")) in written  # one epoch: best is last
    assert hub.requests == []


def test_a_link_out_of_the_run_is_refused(hub: PretendedHub, own: Path) -> None:
    (own / "metrics.jsonl").unlink()
    (own / "metrics.jsonl").symlink_to("/etc/hostname")
    with pytest.raises(StateError, match="is a link out of"):
        sharing.push(own, NAME)
    assert hub.requests == []


@pytest.mark.parametrize("status", [401, 403, 404, 500])
def test_a_refusal_of_the_hub_is_one_line(
    hub: PretendedHub, run_folder: Path, status: int, capsys: pytest.CaptureFixture
) -> None:
    hub.refuse = status
    assert cli.run(["push", str(run_folder), NAME, "--quiet"]) == 2
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err.startswith(f"error: push to {NAME}: ")
    assert len(said.err.strip().splitlines()) == 1


def test_without_the_library_the_extra_is_named(run_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "huggingface_hub", None)
    with pytest.raises(
        ConfigError, match=r"cannot import huggingface_hub .*install it with pip install .*\[hub\]"
    ):
        sharing.push(run_folder, NAME)


def test_the_library_has_the_parameters_that_are_given() -> None:
    hub = pytest.importorskip("huggingface_hub")
    given = {
        "create_repo": {"private", "exist_ok"},
        "model_info": {"revision"},
        "upload_folder": {
            "repo_id",
            "folder_path",
            "allow_patterns",
            "delete_patterns",
            "commit_message",
            "parent_commit",
        },
        "snapshot_download": {"revision", "local_dir", "allow_patterns"},
        "hf_hub_download": {"filename", "revision"},
    }
    for name, parameters in given.items():
        assert parameters <= set(inspect.signature(getattr(hub.HfApi, name)).parameters), name


# -- to a folder, and from the command line --------------------------------------------------------


def test_a_folder_gets_the_files_of_a_push_without_the_library(
    own: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(__import__("sys").modules, "huggingface_hub", None)
    Run(own).update(data_dir=str(tmp_path / "secret"))
    written = sharing.write_folder(own, tmp_path / "out")
    assert set(written.files) == FILES
    assert {path.name for path in (tmp_path / "out").iterdir()} == FILES
    assert not [check for check in verify(tmp_path / "out") if check.problem]
    assert str(tmp_path) not in (tmp_path / "out" / "README.md").read_text(encoding="utf-8")
    x = torch.rand(3, 1, 28, 28)
    assert torch.equal(rl.models.load(tmp_path / "out")(x), rl.models.load(own)(x))


def test_a_folder_with_something_else_is_refused(own: Path, unevaluated: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    sharing.write_folder(own, out)
    sharing.write_folder(own, out)
    with pytest.raises(ConfigError, match="with another run in it"):
        sharing.write_folder(unevaluated, out)
    sharing.write_folder(unevaluated, out, replace=True)
    assert not (out / "evaluation.json").exists()
    (tmp_path / "papers").mkdir()
    (tmp_path / "papers" / "thesis.tex").write_text("mine", encoding="utf-8")
    with pytest.raises(ConfigError, match="with other files in it"):
        sharing.write_folder(own, tmp_path / "papers")
    sharing.write_folder(own, tmp_path / "papers", replace=True)
    assert (tmp_path / "papers" / "thesis.tex").read_text(encoding="utf-8") == "mine"
    for inside in (own, own / "out", own / ".." / "own" / "x"):
        with pytest.raises(ConfigError, match="in the run's own folder"):
            sharing.write_folder(own, inside)
    with pytest.raises(ConfigError, match="is no folder"):
        sharing.write_folder(own, tmp_path / "papers" / "thesis.tex")


def test_a_link_in_the_folder_is_not_written_through(own: Path, tmp_path: Path) -> None:
    (tmp_path / "theirs").write_text("theirs", encoding="utf-8")
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "README.md").symlink_to(tmp_path / "theirs")
    with pytest.raises(StateError, match="is a link out of"):
        sharing.write_folder(own, tmp_path / "out", replace=True)
    assert (tmp_path / "theirs").read_text(encoding="utf-8") == "theirs"


def test_the_command_says_where_it_is_and_what_loads_it(
    hub: PretendedHub, run_folder: Path, capsys: pytest.CaptureFixture
) -> None:
    assert cli.run(["push", str(run_folder), NAME, "--license", "mit", "--quiet"]) == 0
    head = hub.repositories[NAME].head
    assert capsys.readouterr().out.splitlines() == [
        f"pushed: https://huggingface.co/{NAME}/commit/{head}",
        f"load it as: hf-run:{NAME}@{head}",
    ]
    assert cli.run(["push", str(run_folder), NAME, "--json", "--quiet"]) == 0
    said = json.loads(capsys.readouterr().out)
    assert said["repository"] == NAME
    assert said["private"] is True
    assert set(said["files"]) == FILES


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        ([], "found neither, expected a repository, owner/name, or --folder PATH"),
        ([NAME, "--folder", "x"], "found both, expected a repository"),
        (["--folder", "x", "--public"], "found --public beside --folder"),
        ([NAME, "--license", "MIT licence"], "license: found 'MIT licence', expected an identifier"),
    ],
)
def test_options_that_do_not_go_together_are_refused(
    hub: PretendedHub, run_folder: Path, arguments: list[str], line: str, capsys: pytest.CaptureFixture
) -> None:
    assert cli.run(["push", str(run_folder), *arguments]) == 2
    assert line in capsys.readouterr().err
    assert hub.requests == []


def test_what_is_no_run_is_refused(hub: PretendedHub, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    assert cli.run(["push", str(tmp_path / "nothing"), NAME]) == 7
    assert "found no recipe.json, expected the folder of a training run" in capsys.readouterr().err
    (tmp_path / "study.json").write_text("{}", encoding="utf-8")
    assert cli.run(["push", str(tmp_path), NAME]) == 7
    assert "is a study; name one of the runs" in capsys.readouterr().err


def test_paths_that_the_recipe_names_are_told(
    hub: PretendedHub, own: Path, capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        "robustlens.sharing.contents.paths_in", lambda recipe: [("data.name", "npz:/home/me/x.npz")]
    )
    assert cli.run(["push", str(own), "--folder", str(own.parent / "out")]) == 0
    assert "note: recipe.json tells others data.name 'npz:/home/me/x.npz'" in capsys.readouterr().err
