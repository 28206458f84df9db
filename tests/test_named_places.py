"""What the pages and docstrings name is there: rooms, files, modules and what modules define."""

from __future__ import annotations

import ast
import re
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "src" / "cream"
HISTORY = {"CHANGELOG.md", "log.md"}
"""Pages that tell what was, under the names of then."""
PAGES = sorted(
    page
    for page in [*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")]
    if page.name not in HISTORY
)
SOURCES = sorted(PACKAGE.rglob("*.py"))
README, CONTRIBUTING = ROOT / "README.md", ROOT / "CONTRIBUTING.md"


def name_of(page: Path) -> str:
    return str(page.relative_to(ROOT))


def rooms() -> set[str]:
    """Packages and modules right under ``cream``."""
    packages = {f"{path.parent.name}/" for path in PACKAGE.glob("*/__init__.py")}
    return packages | {path.name for path in PACKAGE.glob("*.py") if path.stem != "__init__"}


def block(page: Path, heading: str) -> str:
    """The first fenced block under a heading."""
    match = re.search(
        rf"^## {heading}\n.*?^```\n(.*?)^```", page.read_text("utf-8"), flags=re.M | re.S
    )
    assert match, f"{page.name}: no block under {heading}"
    return match[1]


def tree(text: str) -> set[str]:
    """Paths of a tree drawn by indentation; a line may name several files before its remark."""
    found: set[str] = set()
    folders: list[tuple[int, str]] = []
    for line in text.splitlines():
        indent = len(line) - len(line.lstrip())
        if not re.match(r"[\w.]+(/|\.py)", line.strip()):
            continue  # the remark of the line before goes on
        while folders and folders[-1][0] >= indent:
            folders.pop()
        parent = folders[-1][1] if folders else ""
        for name in re.split(r"\s{2,}", line.strip()):
            if not re.fullmatch(r"[\w./]+(/|\.py)", name):
                break
            found.add(parent + name)
            if name.endswith("/"):
                folders.append((indent, parent + name))
    return found


def test_the_tree_of_the_readme_names_every_room_and_nothing_else():
    named = tree(block(README, "Where things are"))
    here = {f"src/cream/{room}" for room in rooms()}

    assert not {path for path in named if not (ROOT / path).exists()}
    assert not here - named
    assert {"recipes/", "docs/", "src/cream/algorithms/consistency.py"} <= named


def test_the_table_of_rooms_names_every_room_once():
    text = CONTRIBUTING.read_text(encoding="utf-8")
    table = text.split("| room |")[1].split("\n\n")[0]
    cells = re.findall(r"^\| (`[^|]+) \|", table, flags=re.M)
    named = [name for cell in cells for name in re.findall(r"`([^`]+)`", cell)]

    assert sorted(named) == sorted(rooms())


def test_the_layers_of_contributing_are_those_that_are_enforced():
    """A line may leave out the parentheses of the contract."""
    contracts = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["tool"]["importlinter"]
    (layers,) = [c["layers"] for c in contracts["contracts"] if c["type"] == "layers"]
    drawn = re.findall(r"^ *(?:└─ )?(\w[\w |]*)$", block(CONTRIBUTING, "Where things live"), re.M)

    assert drawn == [re.sub(r"[()]", "", layer) for layer in layers]


def test_every_folder_of_tests_is_that_of_a_package():
    folders = {path.parent.name for path in (ROOT / "tests").rglob("test_*.py")}
    # Faults are injected into whole runs; a cluster is several rooms in several processes.
    tested = folders - {"tests", "faults", "cluster"}
    packages = {path.parent.name for path in PACKAGE.rglob("__init__.py")}

    assert {"algorithms", "stages"} <= tested <= packages


# Files and modules, wherever they are named

PLACES = ("", "src/", "src/cream/")
"""Where a path that a page names may begin."""


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_every_file_that_a_page_names_is_there(page: Path):
    text = page.read_text(encoding="utf-8")
    named = re.findall(r"`([\w.]+/[\w./]*\.(?:py|sh|cpp))`", text)
    named += re.findall(r"`((?:src|tests|scripts)/[\w./]*/)`", text)

    assert not [n for n in named if not any((ROOT / place / n).exists() for place in PLACES)]


def defined(source: Path) -> set[str]:
    """Top-level names of a module; of ``cream`` itself also the lazy ones."""
    tree = ast.parse(source.read_text(encoding="utf-8"))
    names: set[str] = set()
    for node in tree.body:
        match node:
            case ast.FunctionDef(name=name) | ast.ClassDef(name=name):
                names.add(name)
            case ast.Assign(targets=targets):
                names |= {n.id for t in targets for n in ast.walk(t) if isinstance(n, ast.Name)}
            case ast.AnnAssign(target=ast.Name(id=name)):
                names.add(name)
            case ast.ImportFrom(names=aliases) | ast.Import(names=aliases):
                names |= {a.asname or a.name for a in aliases}
            case ast.If(test=ast.Name(id="TYPE_CHECKING")):
                names |= {a.asname for n in node.body for a in getattr(n, "names", ())}
    return names


def leads_somewhere(dotted: str) -> bool:
    """Whether ``cream.a.b.name`` is a module, or something that a module defines."""
    place, (_, *parts) = PACKAGE, dotted.split(".")
    while parts and (place / parts[0]).is_dir():
        place /= parts.pop(0)
    source = place / "__init__.py"
    if parts and (place / f"{parts[0]}.py").is_file():
        source = place / f"{parts.pop(0)}.py"
    return source.is_file() and (not parts or parts[0] in defined(source))


def test_a_name_that_is_not_there_is_noticed():
    assert leads_somewhere("cream.run")
    assert leads_somewhere("cream.algorithms.consistency.set_level")
    assert not leads_somewhere("cream.algorithms.consistency.absent")
    assert not leads_somewhere("cream.absent.module")


@pytest.mark.parametrize("page", [*PAGES, *SOURCES], ids=name_of)
def test_every_module_that_is_named_is_there(page: Path):
    """In backticks: pages, and docstrings and comments of the source."""
    named = re.findall(r"`(cream(?:\.\w+)+)(?:\(\))?`", page.read_text(encoding="utf-8"))

    assert not [name for name in named if not leads_somewhere(name)]
