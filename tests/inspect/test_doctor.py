"""Doctor reads the machine's own descriptions, and tells what is missing and what to do."""

from __future__ import annotations

import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from cream.inspect.doctor import (
    available_memory,
    checks,
    cpu_features,
    healthy,
    measure_speed,
    parse_requirement,
    release,
)


def test_vector_units_are_read_from_the_flags():
    text = "processor : 0\nflags\t\t: fpu avx2 avx512f amx_bf16 sse\n"

    assert cpu_features(text) == ["avx2", "avx512f", "amx_bf16"]
    assert cpu_features("Features : fp asimd bf16\n") == ["asimd", "bf16"]
    assert cpu_features("") == []


def test_available_memory_is_bytes_and_unknown_where_it_is_not_told():
    assert available_memory("MemTotal: 9 kB\nMemAvailable:   2 kB\n") == 2048
    assert available_memory("") is None


def test_requirements_and_versions_are_compared_by_number():
    assert parse_requirement("torch>=2.6") == ("torch", "2.6")
    assert parse_requirement("PyYAML") == ("PyYAML", "0")
    assert release("2.13.0+cpu") > release("2.6")
    assert release("2.6") == release("2.6.0")
    assert release("5.0rc1") == (5,)


def test_what_is_missing_or_too_old_says_how_to_get_it(tmp_path: Path):
    needed = ["no-such-package>=3", "numpy>=9999", "numpy>=1.0", "dev>=1; extra == 'dev'"]
    absent, old, good, *rest = checks(tmp_path, needed)

    assert (absent.state, absent.remedy) == ("missing", "pip install 'no-such-package>=3'")
    assert (old.state, old.remedy) == ("missing", "pip install 'numpy>=9999'")
    assert good.state == "ok"
    assert "dev" not in [check.name for check in rest]
    assert not healthy([absent, good])
    assert healthy([good])


def test_an_embedded_model_that_is_not_fetched_is_a_note_unless_there_is_no_room(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    by_name = {check.name: check for check in checks(tmp_path, [])}
    assert by_name["embedded model"].state == "note"
    assert "cream models --fetch" in by_name["embedded model"].remedy

    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=10))
    by_name = {check.name: check for check in checks(tmp_path, [])}
    assert by_name["embedded model"].state == "missing"
    assert "CREAM_CACHE" in by_name["embedded model"].remedy
    assert by_name["disk"].state == "note"


def test_rates_are_those_of_a_machine():
    """Between a slow core and a rack: an error of units (1000 or 8) would leave this range."""
    speed = measure_speed(torch.device("cpu"))

    assert 1e8 < speed.gemm["float32"] < 1e15
    assert 1e8 < speed.copying < 1e13
