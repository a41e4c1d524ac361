"""Linux, macOS and Windows: nothing that only one of them has is taken for granted, and texts are UTF-8."""

import ast
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from helpers.pretended_windows import POSIX_MODULES, POSIX_NAMES, pretended_windows
from robustlens import stopping
from robustlens.errors import LockedError, ResourceError, StoppedError
from robustlens.results import files, locks, placing

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "src" / "robustlens"
GUARDED = {
    "executors/local.py: os.sched_getaffinity": "where os has it, else the number of cores",
    "executors/starting.py: signal.SIG_BLOCK": "where signal has pthread_sigmask",
    "executors/starting.py: signal.SIG_SETMASK": "where signal has pthread_sigmask",
    "executors/starting.py: signal.SIG_UNBLOCK": "where signal has pthread_sigmask",
    "executors/starting.py: signal.pthread_sigmask": "where signal has it",
    "executors/slurm_job.py: signal.SIGUSR2": "inside a job of Slurm, which runs on Linux",
    "machine.py: os.sysconf": "its AttributeError is caught",
    "results/locks.py: os.O_NOFOLLOW": "of a lease that is kept open, which only POSIX does",
    "results/locks.py: os.pwrite": "of a lease that is kept open, which only POSIX does",
}
"""Names that Windows does not have, where the package uses them, and why that is safe."""


def _files(*folders):
    return [path for folder in folders for path in sorted((ROOT / folder).rglob("*.py"))]


def _nodes(path):
    return ast.walk(ast.parse(path.read_text(encoding="utf-8")))


def test_names_that_windows_does_not_have_are_guarded():
    used = {
        f"{path.relative_to(PACKAGE).as_posix()}: {node.value.id}.{node.attr}"
        for path in _files("src")
        for node in _nodes(path)
        if isinstance(node, ast.Attribute)
        and isinstance(node.value, ast.Name)
        and node.attr in POSIX_NAMES.get(node.value.id, ())
    }
    assert used == set(GUARDED)


def test_modules_that_windows_does_not_have_are_not_imported():
    imported = {
        name
        for path in _files("src")
        for node in _nodes(path)
        if isinstance(node, ast.Import | ast.ImportFrom)
        for name in [getattr(node, "module", None) or "", *(alias.name for alias in node.names)]
    }
    assert imported & POSIX_MODULES == set()
    assert {"os", "signal"} <= imported, "the oracle sees imports"


@pytest.mark.parametrize("folders", [("src",), ("bench", "examples", "tools")], ids=str)
def test_texts_are_read_and_written_as_utf_8(folders):
    """The system's own encoding is another one on Windows."""
    unsaid = [
        f"{path.relative_to(ROOT)}:{node.lineno}"
        for path in _files(*folders)
        for node in _nodes(path)
        if isinstance(node, ast.Call) and _opens_text(node) and not _says_encoding(node)
    ]
    assert unsaid == []


def _opens_text(call: ast.Call) -> bool:
    name = ast.unparse(call.func).rpartition(".")[2]
    if name in ("read_text", "write_text"):
        return True
    mode = next((word.value for word in call.keywords if word.arg == "mode"), None)
    is_path = isinstance(call.func, ast.Attribute) and name == "open" and not _of_a_library(call.func)
    given = call.args[:1] if is_path else call.args[1:2]
    mode = mode or (given[0] if given else None)
    text = not (isinstance(mode, ast.Constant) and "b" in str(mode.value))
    return text and (is_path or name == "fdopen" or ast.unparse(call.func) == "open")


def _of_a_library(function: ast.Attribute) -> bool:
    """Whether `x.open` opens something else than a text: a number of a file, an archive, an image, our state."""
    others = ("os", "gzip", "tarfile", "archive", "Image", "EvaluationState", "TRACKERS[name]", "webbrowser")
    return ast.unparse(function.value) in others


def _says_encoding(call: ast.Call) -> bool:
    return any(word.arg == "encoding" for word in call.keywords)


@pytest.mark.parametrize(
    ("call", "found"),
    [
        ("open('x')", True),
        ("open('x', 'rb')", False),
        ("path.open()", True),
        ("path.open('a')", True),
        ("path.open(mode='wb')", False),
        ("os.open('x', 0)", False),
        ("os.fdopen(1, 'w')", True),
        ("path.read_text()", True),
        ("(ROOT / 'x').write_text('')", True),
        ("path.read_bytes()", False),
    ],
)
def test_the_search_for_texts_finds_them(call, found):
    node = ast.parse(call).body[0].value
    assert _opens_text(node) is found
    assert not _says_encoding(node)


@pytest.mark.slow
def test_every_module_is_imported_where_nothing_of_posix_is(tmp_path):
    program = """
import importlib, pkgutil, signal, sys, warnings
from pathlib import Path
sys.path.insert(0, sys.argv[1])
from helpers.pretended_windows import block_posix_modules
block_posix_modules()
sys.modules["fcntl"] = None  # to other packages, too, as are two signals
del signal.SIGKILL, signal.SIGHUP
warnings.simplefilter("ignore")
import robustlens
names = [each.name for each in pkgutil.walk_packages(robustlens.__path__, "robustlens.")]
for name in names:
    importlib.import_module(name)
from robustlens.results import locks
assert not hasattr(locks.os, "pwrite")
with locks.locked(Path(sys.argv[2])):
    try:
        with locks.locked(Path(sys.argv[2])):
            sys.exit("two writers")
    except locks.LockedError:
        print(len(names))
"""
    command = [sys.executable, "-c", program, str(ROOT / "tests"), str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert int(done.stdout) == len(_files("src")) - 1  # all but the package itself


def test_a_folder_is_locked_and_written_on_a_pretended_windows(tmp_path):
    with pretended_windows(locks, files, placing), locks.locked(tmp_path):
        files.write_json(tmp_path / "run.json", {"a": 1})
        assert files.read_json(tmp_path / "run.json", "") == {"a": 1}
        (holder,) = locks._holders
        assert holder.file is None
        holder._renew_once()
        assert not holder.lost
        assert locks.owner(tmp_path).process == ""
    assert not (tmp_path / "lease").exists()


def test_a_lease_of_a_process_that_windows_cannot_look_up_counts_until_it_ends(tmp_path, monkeypatch):
    with pretended_windows(locks, files, placing):
        lease = locks.Lease(1, locks._HOST, locks._machine(), "", 0.0, 0.0, "token")
        for age, alive in ((1.0, True), (locks.LIMIT + 1, False)):
            monkeypatch.setattr(locks.time, "time", lambda age=age: age)
            assert lease.is_alive() is alive
        assert "at most 120 s if that process is gone" in str(locks._refusal(tmp_path, lease))


def test_a_file_that_another_process_has_open_is_replaced_a_little_later(tmp_path, monkeypatch):
    """Windows refuses to replace it."""
    refusals = [PermissionError(13, "open in another process")] * 2
    replace = Path.replace

    def busy(self, target):
        if refusals:
            raise refusals.pop()
        return replace(self, target)

    monkeypatch.setattr(Path, "replace", busy)
    monkeypatch.setattr(placing, "_PAUSE", 0.0)
    monkeypatch.setattr(placing, "_TRIES", 3)
    (tmp_path / "file").write_bytes(b"old")
    files.write_atomic(tmp_path / "file", b"new")
    assert (tmp_path / "file").read_bytes() == b"new"
    refusals += [PermissionError(13, "open in another process")] * 3
    with pytest.raises(ResourceError, match="open in another process"):
        files.write_atomic(tmp_path / "file", b"newer")
    assert [path.name for path in tmp_path.iterdir()] == ["file"]
    assert (tmp_path / "file").read_bytes() == b"new"


def test_a_second_writer_is_refused_on_a_pretended_windows(tmp_path):
    with (
        pretended_windows(locks, files, placing),
        locks.locked(tmp_path),
        pytest.raises(LockedError, match="another process is writing here"),
        locks.locked(tmp_path),
    ):
        pass


@pytest.mark.parametrize("pretended", [False, True], ids=["posix", "windows"])
def test_a_process_can_ask_itself_to_stop_from_a_thread(pretended):
    modules = (stopping,) if pretended else ()

    def ask():
        with stopping.handled(), pretended_windows(*modules), stopping.deferred():
            thread = threading.Thread(target=stopping.terminate)
            thread.start()
            thread.join()
            end = time.monotonic() + 60
            while not stopping.requested():
                assert time.monotonic() < end

    with pytest.raises(StoppedError, match="stopped by SIGTERM"):
        ask()
