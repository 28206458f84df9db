"""Foreign load, from texts of /proc as Linux writes them."""

from __future__ import annotations

import multiprocessing
import os
import time

import pytest

from cream.bench.machine import LoadWatch, Usage, busy_ticks, foreign_cores, read_usage, tree_ticks
from cream.errors import BusyMachineError

PROC_STAT = """cpu  100 10 30 5000 70 1 2 4 50 0
cpu0 60 5 15 2500 35 1 1 2 25 0
intr 12345
"""


def stat(pid: int, name: str, parent: int, user: int, system: int, reaped: int = 0) -> str:
    """Text of /proc/<pid>/stat: 14 and 15 are its own time, 16 and 17 that of reaped children."""
    return f"{pid} ({name}) S {parent} 1 1 0 -1 4194304 9 9 0 0 {user} {system} {reaped} 0 20 0 1"


def test_busy_time_leaves_out_idle_and_waiting_and_counts_stolen_time():
    """100 user + 10 nice + 30 system + 1 irq + 2 softirq + 4 steal; guest is within user."""
    assert busy_ticks(PROC_STAT) == 147


def test_the_tree_is_a_process_and_its_descendants():
    stats = [
        stat(1, "init", 0, 1000, 1000),
        stat(7, "cream", 1, 10, 5, reaped=3),
        stat(8, "worker (x) 9", 7, 20, 1),
        stat(9, "grandchild", 8, 100, 0),
        stat(10, "stranger", 1, 500, 0),
    ]

    assert tree_ticks(stats, 7) == 18 + 21 + 100


def test_foreign_work_is_what_the_tree_did_not_do():
    """In 100 ticks 150 were busy, 50 of them own: one core of others."""
    assert foreign_cores(Usage(1000, 200), Usage(1150, 250), 100.0) == 1.0


def test_rounding_never_makes_foreign_work_negative():
    assert foreign_cores(Usage(0, 0), Usage(10, 12), 100.0) == 0


def watch_of(usages: list[Usage | None], *, allowed: bool) -> LoadWatch:
    times = iter([0.0, 1.0])
    return LoadWatch(
        allowed=allowed,
        read=lambda: usages.pop(0),
        clock=lambda: next(times),
        sleep=lambda seconds: None,
        ticks_per_second=100,
    )


def test_a_busy_machine_is_refused_in_one_sentence():
    with pytest.raises(BusyMachineError, match=r"used 0\.50 cores before sampling") as caught:
        watch_of([Usage(0, 0), Usage(60, 10)], allowed=False).check("sampling")

    assert caught.value.exit_code == 3
    assert "--allow-load" in str(caught.value)


def test_a_busy_machine_is_measured_if_that_is_allowed():
    assert watch_of([Usage(0, 0), Usage(60, 10)], allowed=True).check("sampling") == 0.5


def test_a_quiet_machine_passes():
    assert watch_of([Usage(0, 0), Usage(110, 100)], allowed=False).check("x") == pytest.approx(0.1)


def test_load_during_a_case_is_refused_as_well():
    watch = watch_of([Usage(0, 0), Usage(60, 10)], allowed=False)

    with pytest.raises(BusyMachineError, match="during training"), watch.during("during training"):
        pass


def test_a_system_that_does_not_tell_is_unknown_and_not_quiet():
    assert watch_of([None, None], allowed=False).check("x") is None


def spin(seconds: float) -> None:
    end = time.process_time() + seconds
    while time.process_time() < end:
        pass


def test_the_time_of_a_child_is_our_own_while_it_lives_and_afterwards():
    """A child works for half a second of processor time; our tree gains about that much."""
    ticks = os.sysconf("SC_CLK_TCK")
    before = read_usage()
    child = multiprocessing.get_context("spawn").Process(target=spin, args=(0.5,))
    child.start()
    child.join()
    after = read_usage()

    assert before is not None
    assert after is not None
    assert after.own - before.own >= 0.45 * ticks
    assert after.busy - before.busy >= 0.45 * ticks
