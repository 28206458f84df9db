"""Terminals, folders and users as containers and old machines have them: no traceback."""

import io
import os
import subprocess
import sys
from pathlib import Path

import pytest

from cream.cache import cache_dir
from cream.cli.console import spell_what_cannot_be_shown
from cream.errors import RunError

CODE = "from cream.cli import main; main()"


def cream(*args, cwd=None, **environ):
    return subprocess.run(
        [sys.executable, "-c", CODE, *map(str, args)],
        cwd=cwd,
        env={**os.environ, **environ},
        capture_output=True,
        check=False,
    )


@pytest.fixture
def streams(monkeypatch):
    """Standard output and error in an encoding."""

    def make(encoding):
        buffers = io.BytesIO(), io.BytesIO()
        for name, buffer in zip(("stdout", "stderr"), buffers, strict=True):
            stream = io.TextIOWrapper(buffer, encoding=encoding, write_through=True)
            monkeypatch.setattr(sys, name, stream)
        spell_what_cannot_be_shown()
        return buffers

    return make


@pytest.mark.parametrize(
    ("encoding", "shown"),
    [
        ("ascii", "4 x 2 -> 8, 1/2 ok ... tau ??"),
        ("latin-1", "4 × 2 -> 8, ½ ok ... tau ??"),
        ("cp1252", "4 × 2 -> 8, ½ ok … tau ??"),
        ("utf-8", "4 × 2 → 8, ½ ✓ … τ 水火"),
    ],
)
def test_signs_are_spelled_where_the_encoding_has_none(streams, encoding, shown):
    out, err = streams(encoding)

    print("4 × 2 → 8, ½ ✓ … τ 水火", end="")
    print("→", end="", file=sys.stderr)

    assert out.getvalue().decode(encoding) == shown
    assert err.getvalue() in (b"->", "→".encode())


@pytest.mark.parametrize(
    "environ",
    [
        {"PYTHONIOENCODING": "ascii"},
        {"PYTHONIOENCODING": "latin-1"},
        {"PYTHONIOENCODING": "cp1252"},
        {"TERM": "dumb", "NO_COLOR": "1"},
        {"COLUMNS": "1"},
        {"COLUMNS": "20", "LINES": "1", "FORCE_COLOR": "1"},
    ],
    ids=str,
)
def test_a_finished_run_is_shown_on_every_terminal(finished_run: Path, environ):
    done = cream("status", finished_run, **environ)

    assert done.returncode == 0, done.stderr
    assert b"Traceback" not in done.stdout + done.stderr
    assert done.stdout


def test_a_run_in_a_folder_that_cannot_be_written_ends_in_one_line(recipe_file: Path, tmp_path):
    if os.geteuid() == 0:
        pytest.skip("root may write everywhere")
    place = tmp_path / "closed"
    place.mkdir()
    place.chmod(0o500)

    done = cream("run", recipe_file, "--set", f"run_dir={place}/run", "-q", cwd=place)

    assert done.returncode == 1
    assert done.stderr.startswith(b"error: Permission denied")


# --- no home ---


@pytest.fixture
def homeless(monkeypatch, tmp_path):
    """No HOME, no entry in the list of users, a temporary folder of the test's own."""
    monkeypatch.setattr(os.path, "expanduser", lambda path: path)
    monkeypatch.setattr("tempfile.gettempdir", lambda: str(tmp_path))
    return tmp_path / f"cream-{os.getuid()}"


def test_without_a_home_the_cache_is_a_folder_that_only_its_user_may_write(homeless):
    assert cache_dir({}) == homeless
    assert homeless.stat().st_mode & 0o777 == 0o700
    assert cache_dir({}) == homeless
    assert cache_dir({"CREAM_CACHE": "/c"}) == Path("/c")
    assert cache_dir({"XDG_CACHE_HOME": "/x"}) == Path("/x/cream")


def test_a_folder_that_others_may_write_is_refused(homeless):
    homeless.mkdir()
    homeless.chmod(0o777)

    with pytest.raises(RunError, match="CREAM_CACHE"):
        cache_dir({})


@pytest.mark.parametrize("kind", ["link", "file"])
def test_what_is_no_folder_is_refused(homeless, tmp_path, kind):
    if kind == "link":
        (tmp_path / "elsewhere").mkdir()
        homeless.symlink_to(tmp_path / "elsewhere")
    else:
        homeless.write_text("")

    with pytest.raises(RunError, match="CREAM_CACHE"):
        cache_dir({})
