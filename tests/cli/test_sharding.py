"""Processes of one command: which devices they get, and how their failures end it."""

import multiprocessing
import time

import pytest

from robustlens import cli, machine
from robustlens.cli.sharding import Devices, run_jobs
from robustlens.errors import ConfigError, ModelError, ResourceError, RobustlensError, StoppedError, error_of
from robustlens.executors import Job


@pytest.fixture
def _three_cuda_devices(monkeypatch):
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    monkeypatch.setattr("torch.cuda.device_count", lambda: 3)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4,5,7")


@pytest.mark.parametrize("text", ["3", "cpu,cpu,cpu", "cpu, cpu ,cpu"])
def test_processes_of_the_cpu_where_there_is_no_cuda_device(text, monkeypatch):
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    assert Devices.parse(text) == Devices(3)


@pytest.mark.usefixtures("_three_cuda_devices")
def test_a_number_takes_the_first_cuda_devices_and_a_list_those_that_it_names():
    assert machine.devices() == ("4", "5", "7")
    assert Devices.parse("2") == Devices(2, ("4", "5"))
    assert Devices.parse("2", "cpu") == Devices(2)
    assert Devices.parse("cuda:2,cuda:0") == Devices(2, ("7", "4"))


@pytest.mark.usefixtures("_three_cuda_devices")
@pytest.mark.parametrize(
    ("text", "kind"),
    [("4", ResourceError), ("cuda:3", ResourceError), ("cuda:0,cpu", ConfigError), ("0", ConfigError)]
    + [(text, ConfigError) for text in ("", "-1", "gpu", "cuda", "0,1", "2.5")],
)
def test_other_devices_are_refused(text, kind):
    with pytest.raises(kind, match=r"^(--devices|device): found"):
        Devices.parse(text)


def test_wrong_devices_are_refused_before_anything_is_loaded(capsys):
    arguments = ["evaluate", "nowhere.safetensors", "--data", "none", "--eps", "0.1", "--devices", "some"]
    assert cli.run(arguments) == 2
    assert "--devices: found 'some'" in capsys.readouterr().err


def test_the_failure_of_a_worker_has_its_kind_and_its_line():
    assert isinstance(error_of(2, "x"), ConfigError)
    assert isinstance(error_of(75, "x"), StoppedError)
    for code in (1, 2, 3, 4, 5, 6, 7, 75):
        assert (error_of(code, "a line").exit_code, str(error_of(code, "a line"))) == (code, "a line")


def fail(listen, text):
    raise ModelError(text)


def sleep(listen, seconds):
    time.sleep(seconds)


def test_a_failing_worker_ends_the_others_and_the_command():
    jobs = [Job("evaluate 1/2", sleep, (600,)), Job("evaluate 2/2", fail, ("model: found nothing",))]
    with pytest.raises(RobustlensError, match=r"^model: found nothing$") as caught:
        run_jobs(jobs, Devices(2), lambda name, event: None)
    assert caught.value.exit_code == ModelError.exit_code
    assert not multiprocessing.active_children()
