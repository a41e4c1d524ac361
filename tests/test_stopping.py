"""Signals: the first is a request, the second ends the process; one line and exit code 75 at any gap."""

import os
import signal
import subprocess
import sys
import time

import pytest

from robustlens import stopping
from robustlens.errors import StoppedError

PROGRAM = """
import signal, sys, time
from robustlens import stopping
from robustlens.errors import StoppedError
stopping.PATIENCE = 0.5
try:
    with stopping.handled(last=True):
        print("ready", flush=True)
        {body}
except StoppedError as error:
    stopping.announce(str(error))
    {after}
sys.exit(75)
"""


def ended(body: str, signals: list[tuple[float, signal.Signals]], after: str = "pass") -> tuple[int, str]:
    """Exit code and error output of a program that gets signals, each after some seconds."""
    program = PROGRAM.format(body=body, after=after)
    process = subprocess.Popen(
        [sys.executable, "-c", program], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    for wait, number in signals:
        time.sleep(wait)
        process.send_signal(number)
    _, error = process.communicate(timeout=20)
    return process.returncode, error


LINE = "error: stopped by {}; the same command goes on where it stopped\n"


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_stops_the_work(number):
    assert ended("time.sleep(20)", [(0.05, number)]) == (75, LINE.format(number.name))


@pytest.mark.parametrize("gap", [0.0, 0.001, 0.01, 0.1])
@pytest.mark.parametrize("second", [signal.SIGINT, signal.SIGTERM])
def test_a_second_signal_at_any_gap_ends_with_the_same_line(gap, second):
    """Whether the first was being handled, cleaned up after, or written to the terminal."""
    body = """
        try:
            time.sleep(20)
        finally:
            time.sleep(0.05)"""
    code, error = ended(body, [(0.05, signal.SIGTERM), (gap, second)], after="time.sleep(0.02)")
    assert code == 75
    assert error in (LINE.format("SIGTERM"), LINE.format("SIGINT")), "two at once may come in either order"


def test_a_signal_that_foreign_code_swallows_ends_the_process_when_patience_is_over():
    body = """
        while True:
            try:
                time.sleep(20)
            except Exception:
                pass"""
    assert ended(body, [(0.05, signal.SIGTERM)]) == (75, LINE.format("SIGTERM"))


def test_a_signal_ends_a_process_that_is_busy_outside_python():
    body = "import ctypes; ctypes.CDLL(None).sleep(20)"
    code, error = ended(body, [(0.2, signal.SIGTERM), (0.1, signal.SIGTERM)])
    assert (code, error) == (75, LINE.format("SIGTERM"))


def test_a_signal_in_a_destructor_says_no_word_of_it():
    body = """
        class Slow:
            def __del__(self):
                time.sleep(0.3)
        Slow()
        while True:
            time.sleep(0.01)
            stopping.check()"""
    assert ended(body, [(0.1, signal.SIGTERM)]) == (75, LINE.format("SIGTERM"))


def test_a_signal_ends_a_process_whose_errors_nobody_reads():
    body = """
        import os, threading
        os.set_blocking(2, False)
        try:
            while True:
                os.write(2, b"x" * 65536)  # the pipe is full from here on
        except BlockingIOError:
            os.set_blocking(2, True)
        print("full", flush=True)
        time.sleep(20)"""
    program = PROGRAM.format(body=body, after="pass")
    with subprocess.Popen(
        [sys.executable, "-c", program], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as process:
        assert process.stdout is not None
        assert [process.stdout.readline(), process.stdout.readline()] == [b"ready\n", b"full\n"]
        process.terminate()
        try:
            assert process.wait(10) == 75
        finally:
            process.kill()


def test_a_process_without_a_place_for_errors_stops_as_others():
    assert ended("sys.stderr = None; time.sleep(20)", [(0.1, signal.SIGTERM)]) == (75, "")


def test_signals_after_the_end_of_the_work_change_nothing():
    body = "pass"
    program = PROGRAM.format(body=body, after="pass").replace("sys.exit(75)", "time.sleep(0.3); sys.exit(0)")
    process = subprocess.Popen(
        [sys.executable, "-c", program], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    assert process.stdout is not None
    process.stdout.readline()
    time.sleep(0.1)
    process.terminate()
    assert (process.wait(20), process.communicate()[1]) == (0, b"")


def test_a_block_can_put_a_signal_off_and_let_it_in_again():
    steps = []
    with stopping.handled():
        with pytest.raises(StoppedError, match="SIGTERM"), stopping.deferred():  # noqa: PT012 - nested blocks
            os.kill(os.getpid(), signal.SIGTERM)
            steps.append(stopping.requested())
            with pytest.raises(StoppedError), stopping.interruptible():
                steps.append("never")
            with stopping.deferred():
                steps.append("inside")
        with pytest.raises(StoppedError):
            stopping.check()
    assert steps == [True, "inside"]
    assert not stopping.requested(), "the next command starts anew"


def test_handlers_come_back_and_nothing_happens_without_them():
    before = signal.getsignal(signal.SIGTERM)
    with stopping.handled():
        assert signal.getsignal(signal.SIGTERM) != before
        with stopping.handled():
            pass
        assert signal.getsignal(signal.SIGTERM) != before
    assert signal.getsignal(signal.SIGTERM) == before
    with stopping.deferred():
        stopping.check()
