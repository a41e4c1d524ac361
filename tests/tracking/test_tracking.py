"""Trackers: each epoch is told once, also over stops, and what fails in them ends nothing.

TensorBoard, MLflow and Weights & Biases are the packages themselves, read back with their own readers; trackio
is a stand-in with the calls that we know of it: the package itself needs older packages than are pinned.
"""

import logging
import struct
import sys
import time
from types import SimpleNamespace

import pytest

import robustlens as rl
from helpers.training_runs import recipe, stop_in_epoch_two
from robustlens.errors import ConfigError, StoppedError
from robustlens.progress import Event
from robustlens.results import Run, verify
from robustlens.results.locks import locked
from robustlens.tracking import TRACKERS, Tracking, catch_up, tracked
from robustlens.tracking.registry import TrackerEntry

SHORT = recipe(objective="standard", data={"name": "arrays", "augment": "none"})


class Notebook:
    """A tracker that notes what it is told, and fails where it is asked to."""

    pages: list = []  # noqa: RUF012 - of all runs, as a server would have them
    fails: str = ""
    first: str = "page-1"

    def __init__(self, run):
        self.id = run.id or self.first
        self.note("open", run.id, run.next_step)

    def note(self, what, *more):
        self.pages.append((what, *more))
        if what == self.fails:
            raise ConnectionError("no route\nto the server")

    def log(self, step, metrics):
        self.note("log", step, dict(metrics))

    def finish(self, failed):
        self.note("finish", failed)


@pytest.fixture
def notebook(monkeypatch):
    monkeypatch.setitem(TRACKERS._entries, "notebook", TrackerEntry(Notebook, "json"))
    monkeypatch.setattr(Notebook, "pages", [])
    monkeypatch.setattr(Notebook, "fails", "")
    monkeypatch.setattr(Notebook, "first", "page-1")
    return Notebook


def steps(pages):
    return [page[1] for page in pages if page[0] == "log"]


def test_a_run_that_is_stopped_and_resumed_tells_each_epoch_once(notebook, tmp_path, splits):
    heard = []
    with pytest.raises(StoppedError):
        rl.train(SHORT, tmp_path / "a", splits=splits, track=["notebook"], progress=stop_in_epoch_two)
    run = rl.train(SHORT, tmp_path / "a", splits=splits, track=["notebook"], listeners=[heard.append])
    assert [page[:2] for page in notebook.pages if page[0] != "log"] == [
        ("open", None), ("finish", True), ("open", "page-1"), ("finish", False),
    ]  # fmt: skip
    assert steps(notebook.pages) == [1, 2, 3]
    epochs = run.metrics()
    assert [page[2] for page in notebook.pages if page[0] == "log"] == [epoch.metrics for epoch in epochs]
    told = [event for event in heard if event.metrics]
    assert [(event.step, event.metrics) for event in told] == [(e.epoch, e.metrics) for e in epochs[1:]]
    assert epochs[0].metrics["validation/robust"] == epochs[0].validation.robust
    assert not any(check.problem for check in verify(run.folder))


def test_epochs_that_were_missed_are_told_later_and_those_that_come_again_are_not(notebook, tmp_path, splits):
    run = rl.train(SHORT, tmp_path / "a", splits=splits)
    rl.train(SHORT, tmp_path / "a", splits=splits, track=["notebook"])
    assert steps(notebook.pages) == [1, 2, 3]
    run.update(status="training")
    (run.folder / "state.safetensors").unlink()  # a kill between two renames: the last epoch comes again
    rl.train(SHORT, tmp_path / "a", splits=splits, track=["notebook"])
    assert steps(notebook.pages) == [1, 2, 3]


@pytest.mark.parametrize("fails", ["open", "log", "finish"])
def test_a_tracker_that_fails_is_one_line_and_ends_nothing(fails, notebook, tmp_path, splits, caplog):
    notebook.fails = fails
    with caplog.at_level(logging.WARNING, "robustlens"):
        run = rl.train(SHORT, tmp_path / "a", splits=splits, track=["notebook"])
    assert run.record.status == "trained"
    lines = [record.getMessage() for record in caplog.records if "tracker" in record.getMessage()]
    assert len(lines) == 1
    assert lines[0].startswith("tracker notebook: cannot")
    assert lines[0].endswith("(ConnectionError: no route); training goes on without it")
    assert steps(notebook.pages) == {"open": [], "log": [1], "finish": [1, 2, 3]}[fails]


def test_a_tracker_may_name_a_run_with_spaces(notebook, tmp_path, splits):
    notebook.first = "my run"
    with pytest.raises(StoppedError):
        rl.train(SHORT, tmp_path / "a", splits=splits, track=["notebook"], progress=stop_in_epoch_two)
    rl.train(SHORT, tmp_path / "a", splits=splits, track=["notebook"])
    assert steps(notebook.pages) == [1, 2, 3]
    assert [page[1] for page in notebook.pages if page[0] == "open"] == [None, "my run"]


def test_of_a_finished_run_a_tracker_hears_what_it_missed_and_nothing_twice(notebook, tmp_path, splits):
    run = rl.train(SHORT, tmp_path / "a", splits=splits)
    tracking = Tracking(["notebook"])
    with locked(run.folder):
        catch_up(run, SHORT, tracking)
    assert notebook.pages == [], "whoever works there goes first"
    for _ in range(2):
        catch_up(run, SHORT, tracking)
    assert steps(notebook.pages) == [1, 2, 3]
    assert [page[0] for page in notebook.pages].count("open") == 1


def test_a_damaged_mark_is_one_line(notebook, tmp_path, splits, caplog):
    (tmp_path / "a" / "tracking").mkdir(parents=True)
    (tmp_path / "a" / "tracking" / "notebook.txt").write_text("page-1 three")
    run = rl.train(SHORT, tmp_path / "a", splits=splits, track=["notebook"])
    assert run.record.status == "trained"
    assert "tracker notebook: cannot be opened" in caplog.text


def test_only_the_process_that_writes_is_heard(notebook, tmp_path):
    with tracked(Run(tmp_path / "a", read_only=True), SHORT, Tracking(("notebook",))) as listen:
        listen(Event("train", 1, 1, step=1, metrics={"loss": 1.0}))
    assert notebook.pages == []


def test_wrong_trackers_are_refused_before_anything_is_written(tmp_path, splits, monkeypatch):
    for names, said in (
        (["tensorbord"], "did you mean 'tensorboard'"),
        (["tensorboard", "tensorboard"], "twice"),
    ):
        with pytest.raises(ConfigError, match=said):
            rl.train(SHORT, tmp_path / "a", splits=splits, track=names)
    monkeypatch.setitem(TRACKERS._entries, "absent", TrackerEntry(Notebook, "no_such_package"))
    with pytest.raises(ConfigError, match=r"pip install .*\[track\]"):
        Tracking(("absent",))
    assert not (tmp_path / "a").exists()


def two_sittings(name, folder):
    """Two epochs of a run, a stop, and the third, told without training."""
    run, where = Run(folder / "run"), Tracking((name,), folder / "tracking", "colours")
    run.folder.mkdir(parents=True)
    for epochs in ((1, 2), (2, 3)):
        with tracked(run, SHORT, where) as listen:
            for step in epochs:
                listen(
                    Event("train", step, 3, step=step, metrics={"loss": 1 / step, "train/robust": step / 8})
                )
                listen(Event("teacher train", step, 3, step=step, metrics={"loss": 9.0}))
    return folder / "tracking" / name


def test_tensorboard_shows_each_epoch_once(tmp_path):
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    folder = two_sittings("tensorboard", tmp_path)
    shown = accumulator.EventAccumulator(str(folder / "run"))
    shown.Reload()
    assert [(one.step, one.value) for one in shown.Scalars("train/robust")] == [
        (1, 0.125), (2, 0.25), (3, 0.375),
    ]  # fmt: skip
    assert [one.value for one in shown.Scalars("loss")] == pytest.approx([1, 1 / 2, 1 / 3])


@pytest.mark.slow
def test_mlflow_has_one_run_with_each_epoch_once(tmp_path, monkeypatch):
    mlflow = pytest.importorskip("mlflow")
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    folder = two_sittings("mlflow", tmp_path)
    client = mlflow.MlflowClient(tracking_uri=folder.as_uri())
    experiment = client.get_experiment_by_name("colours")
    (run,) = client.search_runs([experiment.experiment_id])
    assert (run.info.run_name, run.info.status) == ("run", "FINISHED")
    assert run.data.params["optimizer.lr"] == "0.05"
    history = client.get_metric_history(run.info.run_id, "train/robust")
    assert [(one.step, one.value) for one in history] == [(1, 0.125), (2, 0.25), (3, 0.375)]


def wandb_records(path):
    """The records of an offline file: a header of 7 bytes, then a log in LevelDB's format."""
    data, place, whole = path.read_bytes(), 7, b""
    while place + 7 <= len(data):
        if 32768 - place % 32768 < 7:  # the end of a block is padding
            place += 32768 - place % 32768
            continue
        _, length, kind = struct.unpack("<IHB", data[place : place + 7])
        whole += data[place + 7 : place + 7 + length]
        place += 7 + length
        if kind in (1, 4):  # a full record, or the last part of one
            yield whole
            whole = b""


def wandb_rows(files, record_type):
    """Step and robust accuracy of each row in offline files."""
    for content in (content for path in files for content in wandb_records(path)):
        record = record_type()
        record.ParseFromString(content)
        if record.HasField("history"):
            row = {item.key or item.nested_key[0]: item.value_json for item in record.history.item}
            yield int(row["_step"]), float(row["train/robust"])


@pytest.mark.slow
def test_wandb_offline_writes_each_epoch_once_under_one_run(tmp_path, monkeypatch):
    wandb_internal_pb2 = pytest.importorskip("wandb.proto.wandb_internal_pb2")
    monkeypatch.delenv("WANDB_MODE", raising=False)
    folder = two_sittings("wandb", tmp_path)
    told, deadline = [], time.monotonic() + 60
    while len(told) < 3 and time.monotonic() < deadline:  # a process of its own writes the file
        files = sorted(folder.rglob("run-*.wandb"), key=lambda path: path.stat().st_mtime_ns)
        told = list(wandb_rows(files, wandb_internal_pb2.Record))
        time.sleep(0.05)
    assert len({path.stem for path in files}) == 1
    assert told == [(1, 0.125), (2, 0.25), (3, 0.375)]


def test_trackio_is_called_as_its_documentation_says(tmp_path, monkeypatch):
    calls = []

    def init(project, name=None, config=None, resume="never"):
        calls.append(("init", project, name, config["optimizer.lr"], resume))
        return SimpleNamespace(
            log=lambda metrics, step=None: calls.append((step, metrics["train/robust"])),
            finish=lambda: calls.append("finish"),
        )

    stand_in = SimpleNamespace(init=init, __spec__=SimpleNamespace(name="trackio"))
    monkeypatch.setitem(sys.modules, "trackio", stand_in)
    monkeypatch.setenv("TRACKIO_DIR", str(tmp_path))
    two_sittings("trackio", tmp_path)
    opened = ("init", "colours", "run", 0.05, "allow")
    assert calls == [opened, (1, 0.125), (2, 0.25), "finish", opened, (3, 0.375), "finish"]
