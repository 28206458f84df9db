import platform
import subprocess
import sys

import pytest

from cream.kernels.memory import keep_freed_memory

COUNT_FAULTS = """
import resource, sys
from cream.kernels.memory import keep_freed_memory
import numpy as np
if sys.argv[1] == "keep":
    assert keep_freed_memory()
def faults():
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt
np.ones(2 << 20)
before = faults()
for _ in range(20):
    np.ones(2 << 20)  # 16 MiB
print(faults() - before)
"""


def faults_of(mode):
    done = subprocess.run(  # its own process: the setting cannot be undone
        [sys.executable, "-c", COUNT_FAULTS, mode],
        capture_output=True,
        text=True,
        check=True,
        env={"NUMPY_MADVISE_HUGEPAGE": "0"},
    )
    return int(done.stdout)


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="a setting of glibc")
def test_buffers_that_come_again_fault_no_more():
    """20 buffers of 16 MiB are 81,920 pages of 4 KiB; kept, they fault at most once."""
    assert faults_of("keep") < 8192


def test_a_setting_of_the_environment_is_left_alone(monkeypatch):
    monkeypatch.setenv("MALLOC_ARENA_MAX", "2")
    assert keep_freed_memory() is False
