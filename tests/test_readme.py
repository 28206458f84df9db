"""The README's commands do what it says, on a tiny model or on reduced sizes."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")


def shell_commands() -> list[str]:
    """Lines of the README's shell blocks, without comments."""
    blocks = re.findall(r"```sh\n(.*?)```", README, flags=re.DOTALL)
    lines = [line.split("  #")[0].strip() for block in blocks for line in block.splitlines()]
    return [line for line in lines if line]


def cream(*args: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", "from cream.cli import main; main()", *args],
        cwd=cwd,
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "COLUMNS": "160"},
    )


def test_every_command_of_the_readme_is_tried_here():
    """A command added to a shell block must be added to a test of this file, or to make's."""
    assert shell_commands() == [
        "make demo",
        "make test",
        "cream init my.yaml",
        "cream run my.yaml",
        "cream status runs/my-run",
    ]


def test_make_demo_runs_the_reversal_recipe():
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")

    recipe = r"^demo: setup\n\t\S+/cream run recipes/reversal.yaml \$\(DEMO\)$"
    assert re.search(recipe, makefile, re.M)
    assert not re.search(r"^DEMO *[?:]?=", makefile, re.M)


def test_ci_begins_with_the_readmes_first_two_commands_in_an_empty_environment():
    """Nothing but what they install themselves may stand beside them."""
    lines = (ROOT / ".ci" / "run").read_text(encoding="utf-8").splitlines()
    begin = lines.index("rm -rf .venv")
    made = [number for number, line in enumerate(lines) if re.match(r"(\w+=\S+ )?make ", line)]
    demo, test, *others = (lines[number] for number in made)

    assert demo.startswith("OMP_NUM_THREADS=1 make demo DEMO=")
    assert test == "make test"
    assert others == ["make check", "make test-all"]
    installs = [n for n, line in enumerate(lines) if re.search(r"\b(apt-get|pip|uv) ", line)]
    assert begin < made[0]
    assert made[1] < min(installs)


def test_init_run_and_status_work_as_written(tiny_inputs: Path, recipe_values: Any, tmp_path: Path):
    """`cream init`, model and data edited as the README says, then `cream run` and `status`."""
    assert cream("init", "my.yaml", cwd=tmp_path).returncode == 0
    recipe = yaml.safe_load((tmp_path / "my.yaml").read_text(encoding="utf-8"))
    kept = ("name", "method")
    edited = {**recipe, **{k: v for k, v in deepcopy(recipe_values).items() if k not in kept}}
    edited["iterations"] = 1
    for role in ("seed", "prompts", "test"):
        for source in edited["data"][role]["sources"]:
            source["path"] = str(tiny_inputs / source["path"])
    edited["method"] = {"name": recipe["method"], "pairing": {"truncated": "keep"}}
    (tmp_path / "my.yaml").write_text(yaml.safe_dump(edited), encoding="utf-8")

    ran = cream("run", "my.yaml", cwd=tmp_path)
    status = cream("status", "runs/my-run", "--json", cwd=tmp_path)
    baseline = cream(
        "pair",
        "--from",
        "runs/my-run",
        "--set",
        "method={name: srlm, pairing: {truncated: keep}}",
        "--json",
        cwd=tmp_path,
    )

    assert ran.returncode == 0, ran.stderr
    assert "M2" in ran.stdout
    states = {stage["state"] for stage in json.loads(status.stdout)["stages"]}
    assert states == {"finished"}
    assert baseline.returncode == 0, baseline.stderr
    assert json.loads(baseline.stdout)["consistency_in_loss"] is None
    evaluated = cream(
        "eval", "runs/my-run/models/M2", "--recipe", "my.yaml", "--json", cwd=tmp_path
    )
    assert evaluated.returncode == 0, evaluated.stderr
    in_run = json.loads(status.stdout)["summary"]["models"][-1]["overall"]
    assert json.loads(evaluated.stdout)["overall"] == in_run


def test_the_method_table_links_every_method_page():
    pages = {path.stem for path in (ROOT / "docs" / "methods").glob("*.md")}

    assert set(re.findall(r"\(docs/methods/(\w+)\.md\)", README)) == pages


@pytest.mark.slow
def test_the_demo_on_reduced_sizes_prints_its_table(tmp_path: Path):
    """`make demo` is this command on the recipe's own sizes."""
    sizes = {"data.prompts.per_iteration": 40, "data.test.sources.0.count": 18}
    ran = reduced("reversal", sizes, tmp_path / "run")

    for name in ("M0", "M1", "M2", "M3", "M4"):
        assert re.search(rf"(?m)^ *{name} +│", ran), ran
    summary = json.loads((tmp_path / "run" / "summary.json").read_text(encoding="utf-8"))
    assert [m["overall"]["n"] for m in summary["models"]] == [18] * 5


@pytest.mark.slow
@pytest.mark.model
def test_the_quickstart_on_reduced_sizes_prints_its_table(tmp_path: Path):
    sizes = {
        "data.seed.sources.0.count": 48,
        "data.prompts.per_iteration": 18,
        "data.test.sources.0.count": 18,
        "evaluation.num_samples": 2,
    }
    ran = reduced("quickstart", sizes, tmp_path / "run")

    for name in ("M0", "M1", "M2", "M3", "constant"):
        assert re.search(rf"(?m)^ *{name} +│", ran), ran
    summary = json.loads((tmp_path / "run" / "summary.json").read_text(encoding="utf-8"))
    assert [m["overall"]["n"] for m in summary["models"]] == [18] * 4


def reduced(recipe: str, sizes: dict[str, int], run: Path) -> str:
    """What a recipe with some sizes changed prints."""
    given = {**sizes, "run_dir": str(run)}
    overrides = [part for key, value in given.items() for part in ("--set", f"{key}={value}")]
    ran = cream("run", f"recipes/{recipe}.yaml", *overrides, cwd=ROOT)
    assert ran.returncode == 0, ran.stderr
    return ran.stdout
