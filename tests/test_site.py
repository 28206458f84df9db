"""The pages of the site: every command block is run, or says why not; every recipe part is valid.

Before a fenced shell block stands a comment: ``<!-- run -->``, and this file runs it on a tiny
model, or ``<!-- not run: REASON -->``. A page is run in a folder as its reader has it: ``my.yaml``
(the recipe that `cream init` writes, its model and data edited), data files and ``model/``.
"""

from __future__ import annotations

import copy
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from cream.cli import main
from cream.recipe.load import validate_recipe

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
PAGES = [
    DOCS / "index.md",
    DOCS / "tutorial.md",
    DOCS / "python.md",
    *sorted((DOCS / "how-to").glob("*.md")),
    *sorted((DOCS / "concepts").glob("*.md")),
]
MARK = re.compile(r"^<!-- (run|not run: .{10,}) -->$")


def name_of(page: Path) -> str:
    return str(page.relative_to(DOCS))


def shell_blocks(page: Path) -> list[tuple[str, list[str]]]:
    """What stands before each shell block, and its lines without comments."""
    lines = page.read_text(encoding="utf-8").splitlines()
    found = []
    for number, line in enumerate(lines):
        if line.startswith(("```sh", "```bash", "```console", "```shell")):
            end = lines.index("```", number)
            commands = [text.split("  #")[0].strip() for text in lines[number + 1 : end]]
            found.append((lines[number - 1] if number else "", [c for c in commands if c]))
    return found


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_every_command_block_is_run_or_says_why_not(page: Path):
    unmarked = [commands for before, commands in shell_blocks(page) if not MARK.match(before)]

    assert not unmarked


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_every_block_has_a_language(page: Path):
    fences = re.findall(r"^```(\w*)$", page.read_text(encoding="utf-8"), flags=re.M)

    assert set(fences[::2]) <= {"sh", "yaml", "python", "text", "json"}
    assert set(fences[1::2]) <= {""}


def run_command(command: str) -> None:
    """Run ``cream ...`` in this process; it must succeed."""
    program, *arguments = shlex.split(command)
    assert program == "cream", f"only cream commands are run, not {command!r}"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["cream", *arguments])
        with pytest.raises(SystemExit) as stop:
            main()
    assert not stop.value.code, command


@pytest.fixture(scope="module")
def readers_folder(
    tmp_path_factory: pytest.TempPathFactory, tiny_inputs: Path, recipe_values: dict[str, Any]
) -> Path:
    """Data, ``model/``, ``my.yaml`` and its finished run, to be copied for each page."""
    folder = tmp_path_factory.mktemp("reader")
    shutil.copytree(tiny_inputs / "model", folder / "model")
    for name in ("seed", "prompts", "test"):
        shutil.copy(tiny_inputs / f"{name}.jsonl", folder)
    values = copy.deepcopy(recipe_values)
    values |= {"name": "my-run", "iterations": 1}
    values["model"]["name"] = "./model"
    values["evaluation"]["num_samples"] = 0
    (folder / "my.yaml").write_text(yaml.safe_dump(values), encoding="utf-8")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        run_command("cream run my.yaml --quiet")
    return folder


TO_RUN = [page for page in PAGES if any(mark == "<!-- run -->" for mark, _ in shell_blocks(page))]


@pytest.mark.parametrize("page", TO_RUN, ids=name_of)
def test_the_commands_of_a_page_run_in_order(
    page: Path, readers_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    shutil.copytree(readers_folder, tmp_path / "reader")
    monkeypatch.chdir(tmp_path / "reader")
    edited = Path("my.yaml").read_text(encoding="utf-8")
    for mark, commands in shell_blocks(page):
        for command in commands if mark == "<!-- run -->" else ():
            if command.startswith("cream init"):
                Path("my.yaml").unlink()
            run_command(command)
            if command.startswith("cream init"):
                assert "$schema=recipe.schema.json" in Path("my.yaml").read_text(encoding="utf-8")
                Path("my.yaml").write_text(edited, encoding="utf-8")


def test_pages_to_run_are_found():
    assert {page.stem for page in TO_RUN} >= {"tutorial", "own-model", "resuming"}


def yaml_blocks() -> list[tuple[str, dict[str, Any]]]:
    return [
        (name_of(page), yaml.safe_load(block))
        for page in PAGES
        for block in re.findall(
            r"^```yaml\n(.*?)^```", page.read_text(encoding="utf-8"), flags=re.M | re.S
        )
    ]


@pytest.mark.parametrize(("page", "part"), yaml_blocks())
def test_every_part_of_a_recipe_on_a_page_is_valid(page: str, part: dict[str, Any]):
    table = {"source": "file", "path": "x.jsonl"}
    frame = {
        "name": "x",
        "iterations": 1,
        "data": {
            "seed": {"sources": [table]},
            "prompts": {"per_iteration": 1, "sources": [table]},
        },
    }
    recipe = validate_recipe(frame | part, source=page)

    assert set(part) <= set(recipe.model_fields_set)


def test_every_page_is_in_the_navigation():
    text = (ROOT / "mkdocs.yml").read_text(encoding="utf-8")
    listed = set(re.findall(r"([\w/-]+\.md)$", text, flags=re.M))
    pages = {name_of(page) for page in DOCS.rglob("*.md")}

    assert listed == pages


@pytest.mark.slow
def test_the_site_is_built_without_a_warning(tmp_path: Path):
    pytest.importorskip("mkdocs")
    done = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "-d", str(tmp_path / "site")],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )

    assert done.returncode == 0, done.stderr
    page = (tmp_path / "site/reference/api/index.html").read_text(encoding="utf-8")
    for name in ("cream.api.run", "cream.algorithms.objectives.cream", "OwnVerifier"):
        assert name in page
