"""The files that others get: of the run, and the model card."""

import contextlib
import os
import re
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from robustlens.config import Recipe, checked
from robustlens.config.names import paths_in
from robustlens.errors import ConfigError, StateError
from robustlens.results import Run, files
from robustlens.results.links import inside, refuse_links
from robustlens.results.publication import PUBLISHED, publish
from robustlens.sharing.card import model_card

CARD = "README.md"
"""The model card, where the Hub looks for it."""
_HERE = "FOLDER"  # in the card of a folder: where it lies is of this machine alone
_LICENSE = re.compile(r"[a-z0-9][a-z0-9.-]{0,63}")


@dataclass(frozen=True)
class Contents:
    """Files in a folder of their own.

    Attributes:
        run: the copy of the run. files: names of all files, the card first.
        local_paths: fields of the recipe that name a path of this machine. Its hash covers them: they stay.
    """

    run: Run
    files: tuple[str, ...]
    local_paths: tuple[str, ...]


@dataclass(frozen=True)
class WrittenFolder:
    """A run in a folder for others.

    Attributes:
        folder: where. files: names of all files, the card first.
        local_paths: fields of the recipe that name a path of this machine, which readers of it see.
    """

    folder: str
    files: tuple[str, ...]
    local_paths: tuple[str, ...]


@contextlib.contextmanager
def prepared(run: Run | Path | str, *, load_as: str, license_id: str | None = None) -> Iterator[Contents]:
    """The files of a run in a temporary folder, checked.

    Args:
        run: the run, or its folder.
        load_as: what the card gives `rl.models.load`.
        license_id: as the Hub names licences: "mit"; None for a card that names none.

    Raises:
        ConfigError: no such form of a licence. StateError: as `results.publication.publish`.
    """
    if license_id is not None and not _LICENSE.fullmatch(license_id):
        raise ConfigError(
            f"license: found {license_id[:80]!r}, expected an identifier of the Hub: mit, apache-2.0"
        )
    run = run if isinstance(run, Run) else Run(run)
    with tempfile.TemporaryDirectory(prefix="robustlens-") as temporary:
        folder = Path(temporary)
        names = publish(run, folder)
        copy = Run(folder)
        card = model_card(copy, names, load_as=load_as, license_id=license_id)
        files.write_atomic(folder / CARD, card.encode())
        recipe = copy.recipe.model_dump(mode="json")
        local = tuple(f"{field} {value!r}" for field, value in paths_in(recipe))
        yield Contents(copy, (CARD, *names), local)


def write_folder(
    run: Run | Path | str, out: Path | str, *, replace: bool = False, license_id: str | None = None
) -> WrittenFolder:
    """Write to a folder what `push` would put on the Hub; no network is needed.

    Args:
        run: the run, or its folder.
        out: the folder; a new one, an empty one, or one that this run was written to before.
        replace: write to a folder that holds another run or other files. Those of these names are replaced or
            removed, the others left.
        license_id: as in `prepared`.

    Raises:
        ConfigError: `out` is the run's own folder or holds something else. StateError: as `prepared`; a link
            leads out of `out`. ResourceError: the disk is full.
    """
    run, out = run if isinstance(run, Run) else Run(run), Path(out)
    _refuse_own(run, out)
    with prepared(run, load_as=_HERE, license_id=license_id) as made:
        _refuse_others(made.run.recipe, out, replace=replace)
        for name in (*PUBLISHED, CARD):
            path = inside(out, name)
            if name in made.files:
                files.write_atomic(path, files.read_bytes(made.run.folder / name))
            else:
                path.unlink(missing_ok=True)
        return WrittenFolder(str(out), made.files, made.local_paths)


def same_run(recipe: Recipe, other: bytes, where: str) -> bool:
    """Whether the content of another run's `recipe.json` is this recipe; False where it is damaged."""
    try:
        return checked(Recipe, files.parsed_json(other, "recipe", where), where).hash() == recipe.hash()
    except (ConfigError, StateError):
        return False


def _refuse_own(run: Run, out: Path) -> None:
    own, given = os.path.realpath(run.folder), os.path.realpath(out)
    if given == own or given.startswith(own + os.sep):
        raise ConfigError(f"--folder: found {out}, which is in the run's own folder; choose another one")


def _refuse_others(recipe: Recipe, out: Path, *, replace: bool) -> None:
    if out.exists() and not out.is_dir():
        raise ConfigError(f"--folder: found {out}, which is no folder; choose another one")
    if not out.is_dir() or not any(out.iterdir()):
        return
    refuse_links(out)
    there = Run(out)
    is_same = there.has_recipe and same_run(recipe, files.read_bytes(there.path("recipe.json")), str(out))
    if not is_same and not replace:
        other = "another run" if there.has_recipe else "other files"
        raise ConfigError(f"--folder: found {out} with {other} in it; choose another one, or give --replace")
