"""Study folders: the plan, the runs and the claims of one study."""

from pathlib import Path

from robustlens.results import files
from robustlens.results.links import OwnFolder, inside
from robustlens.results.run_folder import Run
from robustlens.results.study import ClaimResult, ClaimsRecord, StudyRecord
from robustlens.results.values import decode


class StudyFolder(OwnFolder):
    """Folder of a study: its plan, its runs, its claims and its report."""

    def __init__(self, folder: Path | str) -> None:
        self.folder = Path(folder)

    @property
    def exists(self) -> bool:
        """Whether this is a study's folder."""
        return self._path("study").exists()

    @property
    def record(self) -> StudyRecord:
        """The study's plan and runs; raises `StateError` where there is none."""
        path = self._path("study")
        return decode(StudyRecord, files.read_json(path, "study"), str(path))

    def runs(self, record: StudyRecord | None = None) -> list[Run]:
        """The runs of the study (of `record`, where it has been read), in its order, started or not."""
        entries = (self.record if record is None else record).runs
        return [Run(inside(self.folder, entry.folder), entry) for entry in entries]

    def run(self, name: str) -> Run:
        """The folder of the run called `name`, whether the study has been written or not."""
        return Run(inside(self.folder, "runs", name))

    @property
    def claims(self) -> tuple[ClaimResult, ...]:
        """The claims checked on this study; empty before that."""
        path = self._path("claims")
        if not path.exists():
            return ()
        return decode(ClaimsRecord, files.read_json(path, "claims"), str(path)).claims

    def write_record(self, record: StudyRecord) -> None:
        """Write `study.json`."""
        files.write_json(self._path("study"), record, "study")

    def write_claims(self, claims: tuple[ClaimResult, ...]) -> None:
        """Write `claims.json`."""
        files.write_json(self._path("claims"), ClaimsRecord(claims), "claims")

    def _path(self, name: str) -> Path:
        return inside(self.folder, f"{name}.json")
