"""Progress of long work with a given clock and stream."""

import io
import logging
import re
import subprocess
import sys
from pathlib import Path

import pytest

from lib.support.progress import progress

ROOT = Path(__file__).parent.parent


class Clock:
    def __init__(self):
        self.now = 100.0

    def __call__(self):
        return self.now


class Terminal(io.StringIO):
    def isatty(self):
        return True


def worked(clock, caplog, seconds=20.0, n=6, **options):
    """Return the lines that are logged while `n` blocks of 50 tokens take `seconds` each."""
    caplog.set_level(logging.INFO, logger="lib")
    options = {"what": "encode", "unit": "tokens", "count": len, "stream": io.StringIO(), "clock": clock} | options
    for _ in progress([[0] * 50] * n, **options):
        clock.now += seconds
    assert options["stream"].getvalue() == ""
    return caplog.messages


def test_a_log_file_gets_a_line_every_30_seconds(caplog):
    # 50 tokens in 20 s are 2.5 a second; of the 300, 200 are left after 40 s and 100 after 80 s
    assert worked(Clock(), caplog, total=300) == [
        "encode: 100 of 300 (33%) tokens, 2.5 tokens/s, 0:01:20 left",
        "encode: 200 of 300 (67%) tokens, 2.5 tokens/s, 0:00:40 left",
        "encode: 300 of 300 (100%) tokens, 2.5 tokens/s, 0:00:00 left",
    ]


def test_the_end_is_logged_behind_the_last_line(caplog):
    assert [line.split()[1] for line in worked(Clock(), caplog, n=5)] == ["100", "200", "250"]


def test_a_line_without_a_total_and_with_a_status(caplog):
    lines = worked(Clock(), caplog, n=2, status=lambda: "fvu 0.23")
    assert lines[0] == "encode: 100 tokens, 2.5 tokens/s, fvu 0.23"


def test_work_that_was_done_earlier_does_not_count_as_speed(caplog):
    # 100 of the 1,000 tokens were done in these 40 s: 2.5 a second, and 400 are left
    line = worked(Clock(), caplog, n=2, total=1000, initial=500)[0]
    assert line == "encode: 600 of 1,000 (60%) tokens, 2.5 tokens/s, 0:02:40 left"


def test_short_work_logs_nothing(caplog):
    assert worked(Clock(), caplog, seconds=1.0) == []


def test_nothing_is_shown_when_it_is_switched_off(caplog):
    assert worked(Clock(), caplog, show=False) == []
    assert worked(Clock(), caplog, show=False, stream=Terminal()) == []


def test_a_terminal_gets_a_bar(caplog):
    caplog.set_level(logging.INFO, logger="lib")
    terminal = Terminal()
    texts = progress("abcd", what="encode", unit="texts", total=4, status=lambda: "well", stream=terminal)
    assert "".join(texts) == "abcd"
    assert re.search(r"encode: +100%.* 4\.00/4\.00 .*texts/s, well", terminal.getvalue())
    assert caplog.messages == []


def test_an_interrupted_loop_closes_its_bar_and_its_source():
    closed = []

    def source():
        try:
            yield from range(9)
        finally:
            closed.append(True)

    terminal = Terminal()
    with pytest.raises(RuntimeError):
        for number in progress(source(), what="work", unit="items", stream=terminal):
            if number == 2:
                raise RuntimeError
    assert terminal.getvalue().endswith("\n")
    assert closed


def test_the_lines_reach_a_log_file_of_a_command():
    script = """
from lib.support import progress
progress.log_to_stderr()
progress.INTERVAL = 0.0
list(progress.progress(["a text"], what="encode", unit="texts"))
"""
    run = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=True)
    assert re.fullmatch(r"\d{4}-\d\d-\d\d \S+ encode: 1 texts, .* texts/s\n", run.stderr)
