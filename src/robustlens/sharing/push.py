"""A run pushed to a repository of the Hugging Face Hub."""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from robustlens import hub
from robustlens.config import Recipe
from robustlens.errors import ConfigError
from robustlens.results import Run, files
from robustlens.results.publication import DOCUMENTS, PUBLISHED
from robustlens.sharing.contents import Contents, prepared, same_run

_EMPTY = {".gitattributes"}  # of a repository that was just created
_RECIPE = DOCUMENTS[0]


@dataclass(frozen=True)
class Pushed:
    """A run on the Hub.

    Attributes:
        repository: "owner/name". revision: the commit. url: of the commit. private: whether others see it.
        load_as: what `rl.models.load` takes to load exactly this.
        files: that the repository has of the run.
        local_paths: fields of the recipe that name a path of this machine, which readers of it see.
    """

    repository: str
    revision: str
    url: str
    private: bool
    load_as: str
    files: tuple[str, ...]
    local_paths: tuple[str, ...]


def push(
    run: Run | Path | str,
    repository: str,
    *,
    public: bool = False,
    replace: bool = False,
    license_id: str | None = None,
) -> Pushed:
    """Push a run to the Hub, as one commit: weights, documents and a model card that is written from them.

    The repository is made if there is none, private unless `public`: weights tell of the images that they
    were trained on, and what was downloaded once cannot be called back, while a private repository is made
    public in its settings at any time. In one that holds this run already, the files are brought up to date.

    Args:
        run: the run, or its folder.
        repository: "owner/name".
        public: let everyone see a new repository.
        replace: write to a repository that holds another run or other files. Its files of these names are
            replaced or removed, the others left.
        license_id: as the Hub names licences: "mit"; None for a card that names none.

    Raises:
        ConfigError: a wrong name or licence; a repository that holds something else, or is public where a
            private one is asked for; nobody is logged in, or may not write; the Hub cannot be reached.
        StateError: the run is not whole, as `results.publication.publish` finds; before the network is asked.
        ResourceError: the disk is full.
    """
    where = f"push to {hub.checked_name(repository)}"
    client = hub.api(where, ConfigError)
    name = hub.HubRun(repository)
    with prepared(run, load_as=str(name), license_id=license_id) as made, hub.answers(where, ConfigError):
        client.create_repo(repository, private=not public, exist_ok=True)
        there = client.model_info(repository)
        _refuse_visibility(where, is_private=bool(there.private), public=public)
        if not replace:
            _refuse_others(where, client, repository, there, made.run.recipe)
        commit = client.upload_folder(
            repo_id=repository,
            folder_path=made.run.folder,
            allow_patterns=list(made.files),
            delete_patterns=list(PUBLISHED),
            commit_message=_message(made),
            parent_commit=there.sha,  # a commit of another between the question and this one is an error
        )
    pinned = hub.HubRun(repository, str(commit.oid))
    return Pushed(
        repository,
        str(commit.oid),
        str(commit.commit_url),
        bool(there.private),
        str(pinned),
        made.files,
        made.local_paths,
    )


def _message(made: Contents) -> str:
    return f"Run {made.run.recipe.hash()} of robustlens"


def _refuse_visibility(where: str, *, is_private: bool, public: bool) -> None:
    """The visibility of a repository that is there is its owner's; a push neither assumes nor changes it."""
    if is_private and public:
        raise ConfigError(
            f"{where}: --public: the repository is private; make it public in its settings first"
        )
    if not is_private and not public:
        raise ConfigError(
            f"{where}: the repository is public, so everyone sees what is pushed; give --public"
        )


def _refuse_others(where: str, client: Any, repository: str, there: Any, recipe: Recipe) -> None:
    """Raise `ConfigError` where the repository holds another run, or files of another kind."""
    names = _names(there.siblings or ())
    if names <= _EMPTY:
        return
    if _RECIPE not in names:
        shown = ", ".join(sorted(names - _EMPTY)[:3])
        raise ConfigError(
            f"{where}: found other files in it ({shown}); choose another name, or give --replace"
        )
    path = Path(client.hf_hub_download(repository, _RECIPE, revision=there.sha))
    if not same_run(recipe, files.read_bytes(path), f"{repository}/{_RECIPE}"):
        raise ConfigError(f"{where}: found another run in it; choose another name, or give --replace")


def _names(siblings: Iterable[Any]) -> set[str]:
    return {str(sibling.rfilename) for sibling in siblings}
