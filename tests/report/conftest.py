"""The study that most tests of the report read: six networks of one seed, and three claims."""

from pathlib import Path

import pytest

from helpers.study_files import example_claims, write_study
from robustlens.report.data import ReportData
from robustlens.report.reading import read_study


@pytest.fixture(scope="session")
def study_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of the study; no test changes it."""
    return write_study(tmp_path_factory.mktemp("study"), claims=example_claims())


@pytest.fixture(scope="session")
def study(study_folder: Path) -> ReportData:
    """The study as the report reads it."""
    return read_study(study_folder)


@pytest.fixture(scope="session")
def suite_study(tmp_path_factory: pytest.TempPathFactory) -> ReportData:
    """The same networks, attacked by the standard suite and a minimum-norm search as well."""
    return read_study(write_study(tmp_path_factory.mktemp("study"), suite=True, claims=example_claims()))
