"""Runs on the Hugging Face Hub (extra `hub`): names of their repositories, and how a run is fetched.

Only data are fetched: a few files by their exact names, into a folder for one commit in the Hub's cache.
Whoever reads them checks their seals, which find damage and do not say who made the files.
"""

import contextlib
import importlib
import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from robustlens.config import BEST, LAST, Checkpoint
from robustlens.errors import ConfigError, ModelError, ResourceError, RobustlensError, out_of_memory
from robustlens.extras import install_extra
from robustlens.registry import one_line
from robustlens.results import Run
from robustlens.results.links import refuse_links
from robustlens.results.publication import DOCUMENTS
from robustlens.version import __version__

PREFIX = "hf-run:"
"""Before the name of a run on the Hub."""

_LONGEST = 96  # characters of a name, for the Hub
_PART = r"[A-Za-z0-9_](?:[A-Za-z0-9._-]*[A-Za-z0-9_])?"
_NAME = re.compile(f"{_PART}/{_PART}")
_REVISION = re.compile(r"[A-Za-z0-9_](?:[A-Za-z0-9._/-]*[A-Za-z0-9_-])?")
_COMMIT = re.compile(r"[0-9a-f]{40}")
_OFFLINE = ("ConnectError", "ConnectTimeout", "OfflineModeIsEnabled", "LocalEntryNotFoundError")


@dataclass(frozen=True)
class HubRun:
    """A run on the Hub.

    Attributes:
        repository: "owner/name". revision: a commit, branch or tag; None for the newest commit.
    """

    repository: str
    revision: str | None = None

    def __str__(self) -> str:
        return f"{PREFIX}{self.repository}" + (f"@{self.revision}" if self.revision else "")

    @classmethod
    def parse(cls, text: str) -> "HubRun":
        """The run that "hf-run:owner/name" or "hf-run:owner/name@REVISION" names; the network is not asked.

        Raises:
            ModelError: no such form, or a name that the Hub has for no repository.

        >>> HubRun.parse("hf-run:someone/robust-cnn@v1")
        HubRun(repository='someone/robust-cnn', revision='v1')
        """
        name, at, revision = text.removeprefix(PREFIX).partition("@")
        problem = name_problem(name)
        if problem is not None:
            raise ModelError(f"model {text[:200]!r}: {problem}")
        if at and (not _REVISION.fullmatch(revision) or ".." in revision or "//" in revision):
            raise ModelError(
                f"model {text[:200]!r}: found revision {revision[:80]!r}, expected a commit, branch or tag"
            )
        return cls(name, revision or None)

    @property
    def is_pinned(self) -> bool:
        """Whether the revision is a commit in full, whose content never changes."""
        return _COMMIT.fullmatch(self.revision or "") is not None


def name_problem(name: str) -> str | None:
    """Words for what keeps `name` from being that of a repository, "owner/name"; None where it is one.

    >>> name_problem("someone/robust-cnn"), name_problem("robust-cnn")
    (None, "found 'robust-cnn', expected owner/name")
    """
    found = f"found {name[:80]!r}, expected owner/name"
    if not _NAME.fullmatch(name):
        usual = "" if name.count("/") != 1 else " of letters, digits, '-', '_' and '.', these inside"
        return found + usual
    if len(name) > _LONGEST:
        return f"{found} of at most {_LONGEST} characters"
    if "--" in name or ".." in name or name.endswith(".git"):
        return f"{found} without '--' and '..', and no .git at its end"
    return None


def is_hub_run(text: object) -> bool:
    """Whether `text` begins as the name of a run on the Hub."""
    return str(text).startswith(PREFIX)


def pinned(text: str) -> str:
    """The name of the same run with its commit in full: whoever loads it later loads the same files.

    Raises:
        ModelError: a wrong name, no such repository or revision, or the Hub cannot be reached.
    """
    run = HubRun.parse(text)
    return text if run.is_pinned else str(replace(run, revision=_commit(run)))


def fetch(text: str, checkpoint: Checkpoint | str | None = None) -> Run:
    """The run "hf-run:owner/name", its documents and the weights of one checkpoint on this machine.

    A commit that was fetched before is read from the disk: with the commit in full, no network is asked then.

    Args:
        text: name of the run.
        checkpoint: best or last; None for the best where there is one, and the last otherwise.

    Returns:
        The run in its folder, which is not to be written to. Its seals are checked by who reads the files.

    Raises:
        ModelError: a wrong name, no such repository, revision or run in it, an interrupted download, or the
            extra is absent. StateError: the documents are damaged or do not belong together.
        ResourceError: the disk is full.
    """
    wanted = published_checkpoints(text, checkpoint)
    run = HubRun.parse(pinned(text))
    folder = _folder(run)
    _download(run, folder, *DOCUMENTS)
    fetched = Run(folder)
    if not fetched.has_recipe or not fetched.record.recipe_hash:
        raise ModelError(
            f"{run}: found no recipe.json and run.json, expected a run that `robustlens push` wrote"
        )
    _ = fetched.recipe  # its seal, and that of run.json, before the weights are fetched
    for one in wanted:
        _download(run, folder, f"{one}.safetensors")
        if (folder / f"{one}.safetensors").is_file():
            return fetched
    raise ModelError(
        f"{run}: found no {' or '.join(f'{one}.safetensors' for one in wanted)}; push the run again"
    )


@contextlib.contextmanager
def answers(where: str, error_type: type[RobustlensError]) -> Iterator[None]:
    """Turn a failure of the Hub's library into one line that begins with `where`.

    Raises:
        error_type: what the Hub refuses, or does not have. ResourceError: the disk is full.
    """
    try:
        yield
    except RobustlensError:
        raise
    except Exception as error:  # of the library, of its transport, or of the system
        if out_of_memory(error):
            raise
        if isinstance(error, OSError) and error.errno is not None and type(error).__module__ == "builtins":
            raise ResourceError(f"{where}: {error.filename or 'disk'}: {error.strerror}") from error
        raise error_type(f"{where}: {_reason(error)}") from error


def api(where: str, error_type: type[RobustlensError]) -> Any:
    """The client of the Hub; raises `error_type` where the library is not installed."""
    try:
        library = importlib.import_module("huggingface_hub")
    except ImportError as error:
        raise error_type(
            f"{where}: cannot import huggingface_hub ({one_line(error)}); install it with "
            f"{install_extra('hub')}"
        ) from error
    return library.HfApi(library_name="robustlens", library_version=__version__)


def checked_name(name: str) -> str:
    """The name of a repository to write to; raises `ConfigError` for what is none."""
    problem = name_problem(name)
    if problem is not None:
        raise ConfigError(f"repository: {problem}")
    return name


def published_checkpoints(text: str, checkpoint: Checkpoint | str | None) -> tuple[Checkpoint, ...]:
    """Checkpoints to look for, in order; `ModelError` for others than best and last: none is pushed."""
    if checkpoint is None:
        return BEST, LAST
    named = {str(one): one for one in (BEST, LAST)}
    if str(checkpoint) not in named:
        raise ModelError(f"model {text!r}: found checkpoint {str(checkpoint)!r}, expected best or last")
    return (named[str(checkpoint)],)


def _commit(run: HubRun) -> str:
    client = api(str(run), ModelError)
    with answers(str(run), ModelError):
        commit = str(client.model_info(run.repository, revision=run.revision).sha)
    if not _COMMIT.fullmatch(commit):  # it becomes the name of a folder
        raise ModelError(f"{run}: the Hub answered commit {commit[:80]!r}, expected 40 hexadecimal digits")
    return commit


def _folder(run: HubRun) -> Path:
    """The folder of one commit, in the cache of the Hub's library."""
    api(str(run), ModelError)
    home = importlib.import_module("huggingface_hub").constants.HF_HOME
    return Path(home) / "robustlens" / run.repository.replace("/", "--") / str(run.revision)


def _download(run: HubRun, folder: Path, *names: str) -> None:
    """Fetch files by their exact names, those that are there; plain files, no links into a cache."""
    client = api(str(run), ModelError)
    with answers(str(run), ModelError):
        client.snapshot_download(
            run.repository, revision=run.revision, local_dir=folder, allow_patterns=list(names)
        )
    refuse_links(folder)


def _reason(error: Exception) -> str:
    """Words for what the Hub's library raised."""
    kinds = {kind.__name__ for kind in type(error).__mro__}
    if "GatedRepoError" in kinds:
        return "its owner grants access on request; ask for it on the page of the repository"
    if "RepositoryNotFoundError" in kinds:
        return "no such repository, or a private one; check the name, or log in with `hf auth login`"
    if "RevisionNotFoundError" in kinds:
        return "the repository has no such revision, expected a commit, branch or tag of it"
    if "LocalTokenNotFoundError" in kinds:
        return "nobody is logged in; log in with `hf auth login`"
    status = getattr(getattr(error, "response", None), "status_code", None)
    if status in (401, 403):
        return f"the Hub refused ({status}); log in with `hf auth login` as one who may do this"
    if "IncompleteSnapshotError" in kinds:
        return "the download is incomplete and the Hub cannot be reached; the same command goes on with it"
    if kinds & set(_OFFLINE):
        return f"the Hub cannot be reached ({one_line(error)[:200]}); check the network"
    return f"the Hub's library failed ({one_line(error)[:300]}); the same command tries again"
