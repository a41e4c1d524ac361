"""Setbacks of runs on a cluster: how often a run is begun again, and how long it asks for a folder."""

from types import SimpleNamespace

import pytest

from robustlens.errors import ConfigError, LockedError
from robustlens.executors import setbacks
from robustlens.executors.jobs import Outcome
from robustlens.executors.setbacks import REFUSED, Setbacks
from robustlens.progress import Event

LOCKED = Outcome("run", "run: another process is writing here", LockedError.exit_code)


@pytest.fixture
def clock(monkeypatch):
    """The time, which a test sets."""
    clock = SimpleNamespace(now=0.0, monotonic=lambda: clock.now)
    monkeypatch.setattr(setbacks, "time", clock)
    return clock


def _begun(retries=1):
    heard = []
    return Setbacks(retries, lambda run, event: heard.append((run, event))), heard


def test_a_run_that_is_lost_too_often_has_failed():
    some, heard = _begun(retries=2)
    assert [some.lost("run", "node died") for _ in range(2)] == [None, None]
    assert heard == [("run", Event("lost its worker", n, 2, "node died")) for n in (1, 2)]
    assert some.lost("other", "node died") is None
    error = "run: lost its worker 3 times (node died); look at that machine"
    assert some.lost("run", "node died") == Outcome("run", error, 5)
    assert "lost its worker once (" in _begun(retries=0)[0].lost("run", "").error


def test_a_run_that_gets_further_may_be_lost_as_often_as_it_needs():
    some, heard = _begun()
    for step in range(1, 9):
        some.hear("run", Event("train", step, 9))
        assert some.lost("run", "") is None
    some.hear("run", Event("train", 8, 9))  # done again
    some.hear("other", Event("train", 9, 9))
    assert some.lost("run", "").exit_code == 5
    assert ("other", Event("train", 9, 9)) in heard, "events are passed on"


def test_work_of_another_phase_is_further_and_its_beginning_is_not():
    some, _ = _begun()
    some.hear("run", Event("train", 9, 9))
    some.lost("run", "")
    some.hear("run", Event("explain", 0, 9))
    assert some.lost("run", "").exit_code == 5
    some.hear("run", Event("explain", 1, 9))
    assert some.lost("run", "") is None


def test_a_folder_is_asked_for_until_the_lease_of_a_lost_worker_has_ended(clock):
    some, _ = _begun()
    assert some.may_ask_again(LOCKED)
    clock.now = REFUSED - 1
    assert some.may_ask_again(LOCKED)
    clock.now = REFUSED
    assert not some.may_ask_again(LOCKED)
    assert not some.may_ask_again(Outcome("other", "wrong", ConfigError.exit_code))


@pytest.mark.parametrize("between", ["lost", "fine"])
def test_an_old_refusal_does_not_count_for_the_lease_of_a_later_worker(clock, between):
    some, _ = _begun()
    assert some.may_ask_again(LOCKED)
    clock.now = 9000.0  # it worked meanwhile
    if between == "lost":
        some.lost("run", "node died")
    else:
        some.may_ask_again(Outcome("run"))
    assert some.may_ask_again(LOCKED)
