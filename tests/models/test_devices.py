import subprocess
import sys

import pytest
import torch

from cream.errors import ModelError
from cream.models.devices import native_bfloat16_unit, pick_compute_dtype, pick_device, threads


@pytest.mark.parametrize(
    ("cpu_info", "unit"),
    [
        ("processor\t: 0\nflags\t\t: fpu avx512f avx512_bf16 amx_bf16 amx_tile\n", "AMX"),
        ("flags\t\t: fpu avx512f avx512_bf16\n", "AVX-512"),
        ("Features\t: fp asimd bf16 i8mm\n", "Arm"),
        ("model name\t: a CPU with amx_bf16 in its name\nflags\t\t: fpu avx2\n", None),
        ("Features\t: fp asimd ebf16x\n", None),
        ("", None),
    ],
)
def test_native_bfloat16_is_read_from_the_feature_flags(cpu_info: str, unit: str | None):
    assert native_bfloat16_unit(cpu_info) == unit


def test_requested_dtype_is_taken_as_it_is():
    cpu = torch.device("cpu")
    assert pick_compute_dtype(cpu, "float32").dtype == torch.float32
    assert pick_compute_dtype(cpu, "bfloat16").dtype == torch.bfloat16
    assert "compute_dtype" in pick_compute_dtype(cpu, "bfloat16").reason


def test_automatic_dtype_states_a_reason_that_fits():
    choice = pick_compute_dtype(torch.device("cpu"))
    assert ("natively" in choice.reason) == (choice.dtype == torch.bfloat16)


def test_automatic_dtype_is_float32_where_bfloat16_is_incomplete():
    assert pick_compute_dtype(torch.device("mps")).dtype == torch.float32


def test_automatic_device_exists():
    device = pick_device("auto")
    assert device.type == ("cuda" if torch.cuda.is_available() else "cpu")
    assert pick_device("cpu") == torch.device("cpu")


def test_device_that_is_not_there_is_an_error():
    with pytest.raises(ModelError, match="usable CUDA devices"):
        pick_device("cuda:99")
    with pytest.raises(ModelError, match="is no device"):
        pick_device("abacus")


def test_threads_are_those_of_torch():
    torch.set_num_threads(2)
    assert threads().torch == 2
    torch.set_num_threads(1)
    assert threads().torch == 1
    assert threads().usable_cores >= 1


def test_tests_and_the_processes_they_start_have_one_thread():
    """`tests/conftest.py` says so before torch is imported."""
    ask = [sys.executable, "-c", "import torch; print(torch.get_num_threads())"]

    assert torch.get_num_threads() == 1
    assert subprocess.run(ask, capture_output=True, text=True, check=True).stdout == "1\n"
