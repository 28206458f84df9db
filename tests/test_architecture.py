"""The house keeps its shape: imports, sizes, options that do something, a light start.

The rules of the import graph are contracts of import-linter in ``pyproject.toml``; the others are
stated here.
"""

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

import pytest
from pydantic import BaseModel

from cream.recipe import Recipe

ROOT = Path(__file__).parents[1]
SOURCES = sorted((ROOT / "src" / "cream").rglob("*.py"))
MAX_FILE_LINES = 400
MAX_FUNCTION_LINES = 70

READ_ELSEWHERE: dict[tuple[str, str], str] = {
    ("PromptData", "by_iteration"): "by its `sources_of`, which the data and the model card ask",
    ("ScoringConfig", "self_certainty"): "by its `columns`, which the parts of a method take over",
}
"""Fields that nothing but the recipe itself reads by name, each with the reason."""


def python(code: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", code, *arguments]
    return subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=False)


def test_the_import_contracts_are_kept():
    code = (
        "import sys; from importlinter.cli import lint_imports; "
        "sys.exit(lint_imports('pyproject.toml', no_cache=True, no_logo=True))"
    )
    done = python(code)

    assert done.returncode == 0, done.stdout + done.stderr
    assert "0 broken" in done.stdout


def test_no_file_is_longer_than_a_reader_can_hold():
    lengths = {
        str(path.relative_to(ROOT)): len(path.read_text(encoding="utf-8").splitlines())
        for path in SOURCES
    }

    assert len(lengths) > 50
    assert {name: n for name, n in lengths.items() if n > MAX_FILE_LINES} == {}


def statement_lines(function: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    """Lines of the body without its docstring: good documentation makes nothing hard to hold."""
    body = function.body[ast.get_docstring(function) is not None :]
    return (body[-1].end_lineno or 0) - body[0].lineno + 1 if body else 0


def test_no_function_is_longer_than_a_screen():
    too_long = {
        f"{path.relative_to(ROOT)}:{node.lineno} {node.name}": statement_lines(node)
        for path in SOURCES
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        and statement_lines(node) > MAX_FUNCTION_LINES
    }

    assert too_long == {}


# --- every option does something ---


def sections(annotation: Any) -> Iterator[type[BaseModel]]:
    """All classes of sections that an annotation leads to, itself first."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
        for field in annotation.model_fields.values():
            yield from sections(field.annotation)
    else:
        for part in get_args(annotation):
            yield from sections(part)


def is_tag(annotation: Any) -> bool:
    """A literal with one value only decides the class, and the class is what code looks at."""
    return get_origin(annotation) is Literal and len(get_args(annotation)) == 1


def recipe_fields() -> list[tuple[str, str]]:
    classes = dict.fromkeys(sections(Recipe))
    return [
        (section.__name__, name)
        for section in classes
        for name, field in section.model_fields.items()
        if not is_tag(field.annotation)
    ]


RECIPE = ROOT / "src" / "cream" / "recipe"
ACTS_IN_THE_RECIPE = {
    *(RECIPE / "methods").glob("*.py"),
    RECIPE / "witness.py",
    RECIPE / "objectives.py",
    RECIPE / "degree.py",
    RECIPE / "scir.py",
    RECIPE / "optimism.py",
    RECIPE / "policy_gradient.py",
}
"""Sections that turn their options into parts or losses themselves."""


def checks_only(node: ast.AST) -> bool:
    """A validator: what it reads is compared, not used."""
    return isinstance(node, ast.FunctionDef) and any(
        "model_validator" in ast.dump(decorator) for decorator in node.decorator_list
    )


def attributes_read(tree: ast.AST) -> Iterator[str]:
    """Names read as ``x.name``, or taken apart by ``case Section(name=...)``."""
    if isinstance(tree, ast.Attribute) and isinstance(tree.ctx, ast.Load):
        yield tree.attr
    elif isinstance(tree, ast.MatchClass):
        yield from tree.kwd_attrs
    for node in ast.iter_child_nodes(tree):
        if not checks_only(node):
            yield from attributes_read(node)


def attributes_that_act() -> set[str]:
    """Names read where something follows from them, not where a recipe is only checked."""
    acting = [p for p in SOURCES if RECIPE not in p.parents or p in ACTS_IN_THE_RECIPE]
    return {name for p in acting for name in attributes_read(ast.parse(p.read_text("utf-8")))}


def test_every_option_of_a_recipe_is_read_by_the_code():
    """An option that nothing reads is a promise that is not kept."""
    fields, read = recipe_fields(), attributes_that_act()
    unread = {field for field in fields if field[1] not in read}

    assert len(fields) > 80
    assert unread == set(READ_ELSEWHERE)


# --- what starts light ---

HEAVY = ("torch", "transformers", "pyarrow")


def modules_after(code: str, *arguments: str) -> set[str]:
    """Top-level names in `sys.modules` of a fresh process after running `code`."""
    done = python(code + "\nprint('MODULES', *{m.split('.')[0] for m in sys.modules})", *arguments)
    assert done.returncode == 0, done.stderr
    return set(done.stdout.splitlines()[-1].split()[1:])


def test_a_recipe_is_checked_without_the_heavy_libraries():
    modules = modules_after("import sys, cream.recipe")

    assert "cream" in modules
    assert not modules & {*HEAVY, "numpy"}


@pytest.mark.parametrize("command", ["", "run", "compare", "pair", "status", "models"])
def test_help_comes_at_once(command: str):
    code = (
        "import sys\n"
        "sys.argv = ['cream', *sys.argv[1:], '--help']\n"
        "from cream.cli import main\n"
        "try:\n    main()\nexcept SystemExit as stop:\n    assert not stop.code, stop.code\n"
    )
    modules = modules_after(code, *command.split())

    assert "typer" in modules
    assert not modules & {*HEAVY, "numpy"}


@pytest.mark.parametrize("module", ["cream.programs.recompute", "cream.report.tables"])
def test_what_reads_a_finished_run_needs_no_model_library(module: str):
    modules = modules_after(f"import sys, {module}")

    assert not modules & {"torch", "transformers", "peft", "accelerate"}
