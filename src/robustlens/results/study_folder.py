"""Study folders: the plan, the runs and the claims of one study."""

from pathlib import Path

from robustlens.results import files
from robustlens.results.run_folder import Run
from robustlens.results.study import ClaimResult, ClaimsRecord, StudyRecord
from robustlens.results.values import decode


class StudyFolder:
    """Folder of a study: its plan, its runs, its claims and its report."""

    def __init__(self, folder: Path | str) -> None:
        self.folder = Path(folder)

    @property
    def exists(self) -> bool:
        """Whether this is a study's folder."""
        return (self.folder / "study.json").exists()

    @property
    def record(self) -> StudyRecord:
        """The study's plan and runs; raises `StateError` where there is none."""
        path = self.folder / "study.json"
        return decode(StudyRecord, files.read_json(path, "study"), str(path))

    def runs(self) -> list[Run]:
        """The runs of the study, in its order, whether they have started or not."""
        return [Run(self.folder / entry.folder, entry) for entry in self.record.runs]

    def run(self, name: str) -> Run:
        """The folder of the run called `name`, whether the study has been written or not."""
        return Run(self.folder / "runs" / name)

    @property
    def claims(self) -> tuple[ClaimResult, ...]:
        """The claims checked on this study; empty before that."""
        path = self.folder / "claims.json"
        if not path.exists():
            return ()
        return decode(ClaimsRecord, files.read_json(path, "claims"), str(path)).claims

    def write_record(self, record: StudyRecord) -> None:
        """Write `study.json`."""
        files.write_json(self.folder / "study.json", record)

    def write_claims(self, claims: tuple[ClaimResult, ...]) -> None:
        """Write `claims.json`."""
        files.write_json(self.folder / "claims.json", ClaimsRecord(claims))
