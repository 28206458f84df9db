"""`scripts/measure_house.py` counts what it says, on a tree that is counted by hand."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[1] / "scripts" / "measure_house.py"

FIRST = '''"""A docstring
of two lines."""

import os
from small.report import (
    second,
)

LIMIT = 3
"""What an attribute means."""


def f(x):
    """Doc."""
    # A comment.
    text = """not a docstring,
    # nor a comment"""
    return os.sep + text + second.g({"a": x})  # two lines of text, one of this
'''
SECOND = """def g(row):
    return row["a"] + row["b"][0] + row.get("c")
"""
THIRD = """from . import second as other
from .first import f, LIMIT
import small.report
import small.report.first
"""


@pytest.fixture
def package(tmp_path: Path) -> Path:
    folder = tmp_path / "small"
    (folder / "report").mkdir(parents=True)
    for name, text in {
        "__init__.py": "",
        "report/__init__.py": "",
        "report/first.py": FIRST,
        "report/second.py": SECOND,
        "report/third.py": THIRD,
        "outside.py": 'x = {}["a"]\n',
    }.items():
        (folder / name).write_text(text, encoding="utf-8")
    return folder


def run(script: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(script), *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_the_measures_of_a_tree_counted_by_hand(package: Path):
    """first: LIMIT, def, text (2 lines), return = 5 and 4 of imports; second: 2; third: 4 imports;
    outside: 1. `second` is imported by first and third, `first` and `small.report` by third only.
    """
    assert json.loads(run(SCRIPT, str(package), "--json").stdout) == {
        "code_lines": 8,
        "files": 6,
        "import_share": 0.5,
        "report_subscripts": 2,
        "function_p95": 2,
        "long_functions": 0,
        "long_files": 0,
        "one_importer": 2,
    }


def test_a_function_is_long_from_61_lines_and_a_file_from_401(package: Path):
    body = "    x = 1\n"
    (package / "functions.py").write_text(f"def a():\n{body * 59}def b():\n{body * 60}")
    (package / "file_400.py").write_text("x = 1\n" * 400)
    (package / "file_401.py").write_text("x = 1\n" * 401)
    found = json.loads(run(SCRIPT, str(package), "--json").stdout)

    assert (found["long_functions"], found["long_files"]) == (1, 1)


def test_what_got_worse_is_named_and_a_missed_goal_fails_only_if_asked(
    package: Path, tmp_path: Path
):
    script = tmp_path / "measure_house.py"
    shutil.copy(SCRIPT, script)
    measured = json.loads(run(SCRIPT, str(package), "--json").stdout)
    before = {**measured, "files": 5, "code_lines": 9}
    house = {"version": "before", "measured": before, "goals": {"code_lines": 7, "files": 6}}
    (tmp_path / "house.json").write_text(json.dumps(house))
    told = run(script, str(package))

    assert told.returncode == 0
    assert told.stdout.splitlines()[-2:] == [
        "worse than before: files",
        "goals missed: lines of code (no blanks, docstrings, comments, imports)",
    ]
    assert run(script, str(package), "--strict").returncode == 1
