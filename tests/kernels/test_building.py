"""Compiling the kernels: with a compiler made of three lines of shell, so that it can fail."""

from pathlib import Path

import pytest
import torch

from cream.kernels import library
from cream.kernels.library import BuildError, build, find_compiler


def fake_compiler(folder: Path, *, version: str = "1", body: str = "") -> list[str]:
    """A compiler that logs its calls and writes its output file, unless `body` stops it."""
    script = folder / "fakecc"
    script.write_text(
        "#!/bin/sh\n"
        f'if [ "$1" = --version ]; then echo fakecc {version}; exit 0; fi\n'
        f"echo compiled >> {folder}/log\n"
        f"{body}\n"
        'while [ "$1" != -o ]; do shift; done\n'
        'echo library > "$2"\n'
    )
    script.chmod(0o755)
    return [str(script)]


def compilations(folder: Path) -> int:
    log = folder / "log"
    return len(log.read_text().splitlines()) if log.exists() else 0


def test_the_compiler_of_the_environment_comes_first():
    assert find_compiler({"CXX": "sh -x"}) == ["sh", "-x"]


def test_without_a_compiler_the_error_says_what_to_do(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("PATH", "/nowhere")
    with pytest.raises(BuildError, match=r"install g\+\+, or set CXX"):
        find_compiler({})


def test_a_library_is_compiled_once(tmp_path: Path):
    compiler = fake_compiler(tmp_path)
    first = build(tmp_path / "cache", compiler)
    assert build(tmp_path / "cache", compiler) == first
    assert first.read_text() == "library\n"
    assert compilations(tmp_path) == 1


def test_another_version_of_the_compiler_gives_another_library(tmp_path: Path):
    first = build(tmp_path / "cache", fake_compiler(tmp_path))
    assert build(tmp_path / "cache", fake_compiler(tmp_path, version="2")) != first
    assert compilations(tmp_path) == 2


def test_what_the_compiler_says_is_told_and_nothing_is_left(tmp_path: Path):
    refusing = "while [ $1 != -o ]; do shift; done; echo half > $2; echo 'x.cpp:1: error: boom' >&2"
    compiler = fake_compiler(tmp_path, body=f"{refusing}; exit 1")
    with pytest.raises(BuildError, match=r"could not compile the kernels: x\.cpp:1: error: boom"):
        build(tmp_path / "cache", compiler)
    assert list((tmp_path / "cache").iterdir()) == []


def test_a_folder_that_cannot_be_made_is_an_error(tmp_path: Path):
    (tmp_path / "cache").write_text("a file")
    with pytest.raises(BuildError, match="cannot be written"):
        build(tmp_path / "cache", fake_compiler(tmp_path))


@pytest.fixture
def again(monkeypatch: pytest.MonkeyPatch):
    """Decide anew inside the test, and once more after it."""
    monkeypatch.delenv(library.SWITCH, raising=False)
    library.kernels.cache_clear()
    yield library.kernels
    library.kernels.cache_clear()


def test_the_switch_turns_the_kernels_off(again, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv(library.SWITCH, "off")
    assert again() == library.Kernels(None, "CREAM_KERNELS is off")
    assert not library.fit(torch.zeros(2, dtype=torch.bfloat16))


def test_a_processor_without_the_units_is_told(again, monkeypatch, tmp_path: Path):
    info = tmp_path / "cpuinfo"
    info.write_text(f"flags : {' '.join(library.REQUIRED_UNITS - {'amx_bf16'})}\n")
    monkeypatch.setattr(library, "CPU_INFO", info)
    assert again().reason in ("the processor has no amx_bf16", "they are for Linux on x86-64")
    assert again().library is None


def test_a_library_that_cannot_be_loaded_is_told(again, monkeypatch, tmp_path: Path):
    monkeypatch.setattr(library, "_obstacle", lambda: "")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setenv("CXX", fake_compiler(tmp_path)[0])
    assert again().library is None
    assert "kernels-" in again().reason


def test_kernels_take_bfloat16_on_a_cpu_alone():
    assert not library.fit(torch.zeros(2))
    assert not library.fit(torch.zeros(2, dtype=torch.bfloat16, device="meta"))
    assert library.fit(torch.zeros(2, dtype=torch.bfloat16)) == (
        library.kernels().library is not None
    )


def test_the_first_compiler_that_is_installed_is_taken(tmp_path: Path, monkeypatch):
    (tmp_path / "clang++").symlink_to("/bin/sh")
    monkeypatch.setenv("PATH", str(tmp_path))
    assert find_compiler({}) == ["clang++"]
    (tmp_path / "g++").symlink_to("/bin/sh")
    assert find_compiler({}) == ["g++"]


def test_a_named_compiler_that_is_not_there_is_an_error():
    with pytest.raises(BuildError, match="set CXX"):
        find_compiler({"CXX": "/nowhere/c++"})


def test_a_compiler_that_does_not_run_is_an_error(tmp_path: Path):
    with pytest.raises(BuildError, match=r"/nowhere/c\+\+ did not run"):
        build(tmp_path / "cache", ["/nowhere/c++"])
    assert not (tmp_path / "cache").exists()


def test_what_another_process_left_unfinished_is_no_library(tmp_path: Path):
    compiler = fake_compiler(tmp_path)
    whole = build(tmp_path / "cache", compiler)
    unfinished = whole.rename(whole.with_suffix(".1.tmp"))
    assert build(tmp_path / "cache", compiler) == whole
    assert compilations(tmp_path) == 2
    assert unfinished.exists()


def test_another_system_is_told(again, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(library.platform, "system", lambda: "Darwin")
    assert again() == library.Kernels(None, "they are for Linux on x86-64")


def test_all_missing_units_are_named(again, monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    info = tmp_path / "cpuinfo"
    info.write_text("flags : fpu fma avx512f avx512bw avx512vl avx512dq avx512_bf16\n")
    monkeypatch.setattr(library, "CPU_INFO", info)
    monkeypatch.setattr(library.platform, "system", lambda: "Linux")
    monkeypatch.setattr(library.platform, "machine", lambda: "x86_64")
    assert again() == library.Kernels(None, "the processor has no amx_bf16, amx_tile")
