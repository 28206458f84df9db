"""Measures of the source tree: what a reader has to read, and where one fact stands in many places.

    python scripts/measure_house.py            # src/cream against scripts/house.json
    python scripts/measure_house.py --strict   # exit code 1 where a goal is missed

``house.json`` holds the measures of the version it names and the goals. What got worse is named;
nothing here is a limit to game.
"""

from __future__ import annotations

import argparse
import ast
import io
import json
import sys
import tokenize
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
HOUSE = Path(__file__).with_name("house.json")

LONG_FILE, SCREEN = 400, 60
"""Lines of a file, and of a function, from which it is counted as too long."""
NO_CODE = (
    tokenize.COMMENT,
    tokenize.NL,
    tokenize.NEWLINE,
    tokenize.INDENT,
    tokenize.DEDENT,
    tokenize.ENCODING,
    tokenize.ENDMARKER,
)

WORDS = {
    "code_lines": "lines of code (no blanks, docstrings, comments, imports)",
    "files": "files",
    "import_share": "imports, share of code",
    "report_subscripts": '["..."] in report/',
    "function_p95": "lines of a function, 95th percentile",
    "long_functions": f"functions over {SCREEN} lines",
    "long_files": f"files over {LONG_FILE} lines",
    "one_importer": "modules that exactly one other imports",
}
"""Of each measure less is better."""


@dataclass(frozen=True)
class Source:
    """One file."""

    name: str
    """Dotted, ``package.room.module``."""
    text: str
    tree: ast.Module

    @property
    def docs(self) -> set[int]:
        """Lines of docstrings, those of attributes included."""
        return _lines(
            node
            for node in ast.walk(self.tree)
            if isinstance(node, ast.Expr)
            and isinstance(node.value, ast.Constant)
            and isinstance(node.value.value, str)
        )

    @property
    def imports(self) -> set[int]:
        """Lines of import statements."""
        return _lines(n for n in ast.walk(self.tree) if isinstance(n, ast.Import | ast.ImportFrom))

    @property
    def code(self) -> set[int]:
        """Lines that hold code, imports included."""
        tokens = tokenize.generate_tokens(io.StringIO(self.text).readline)
        held = (range(t.start[0], t.end[0] + 1) for t in tokens if t.type not in NO_CODE)
        return {line for lines in held for line in lines} - self.docs

    @property
    def functions(self) -> list[int]:
        """Lines of each function, its docstring included."""
        return [
            (node.end_lineno or node.lineno) - node.lineno + 1
            for node in ast.walk(self.tree)
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        ]

    def imported(self, modules: Iterable[str]) -> set[str]:
        """Those of `modules` that this file imports; a package only if nothing in it is named."""
        known, found = set(modules), set()
        for node in ast.walk(self.tree):
            if isinstance(node, ast.Import):
                found |= {alias.name for alias in node.names} & known
            elif isinstance(node, ast.ImportFrom):
                base = self._base(node)
                for alias in node.names:
                    inner = f"{base}.{alias.name}"
                    found |= {inner if inner in known else base} & known
        return found - {self.name}

    def _base(self, node: ast.ImportFrom) -> str:
        if not node.level:
            return node.module or ""
        above = self.name.split(".")[: -node.level]
        return ".".join([*above, *((node.module,) if node.module else ())])


def _lines(nodes: Iterable[ast.stmt]) -> set[int]:
    return {line for n in nodes for line in range(n.lineno, (n.end_lineno or n.lineno) + 1)}


def sources(package: Path) -> list[Source]:
    """Every file of a package."""
    found = []
    for path in sorted(package.rglob("*.py")):
        parts = (package.name, *path.relative_to(package).with_suffix("").parts)
        text = path.read_text(encoding="utf-8")
        found.append(Source(".".join(p for p in parts if p != "__init__"), text, ast.parse(text)))
    return found


def measure(package: Path) -> dict[str, float]:
    """All measures of a package, under the names in `WORDS`."""
    files = sources(package)
    code = sum(len(file.code - file.imports) for file in files)
    imports = sum(len(file.imports) for file in files)
    lengths = sorted(length for file in files for length in file.functions)
    names = [file.name for file in files]
    importers = Counter(name for file in files for name in file.imported(names))
    return {
        "code_lines": code,
        "files": len(files),
        "import_share": round(imports / max(1, code + imports), 4),
        "report_subscripts": sum(
            isinstance(node, ast.Subscript)
            and isinstance(node.slice, ast.Constant)
            and isinstance(node.slice.value, str)
            for file in files
            if file.name.split(".")[1:2] == ["report"]
            for node in ast.walk(file.tree)
        ),
        "function_p95": lengths[int(0.95 * (len(lengths) - 1))] if lengths else 0,
        "long_functions": sum(length > SCREEN for length in lengths),
        "long_files": sum(len(file.text.splitlines()) > LONG_FILE for file in files),
        "one_importer": sum(count == 1 for count in importers.values()),
    }


def table(
    now: Mapping[str, float], before: Mapping[str, float], goals: Mapping[str, float], version: str
) -> Iterator[str]:
    """A line per measure, then what got worse and which goals are missed."""
    width = max(map(len, WORDS.values()))
    yield f"{'':{width}}  {version:>8}  {'now':>8}  {'goal':>8}"
    for key, words in WORDS.items():
        goal = f"≤ {_number(goals[key])}" if key in goals else ""
        yield f"{words:{width}}  {_number(before[key]):>8}  {_number(now[key]):>8}  {goal:>8}"
    worse = [WORDS[key] for key in WORDS if now[key] > before[key]]
    yield f"worse than {version}: {'; '.join(worse) or 'nothing'}"
    yield f"goals missed: {'; '.join(WORDS[key] for key in missed(now, goals)) or 'none'}"


def missed(now: Mapping[str, float], goals: Mapping[str, float]) -> list[str]:
    """Measures beyond their goal."""
    return [key for key in WORDS if key in goals and now[key] > goals[key]]


def _number(value: float) -> str:
    return f"{value:,}" if isinstance(value, int) else f"{100 * value:.1f} %"


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("package", nargs="?", type=Path, default=ROOT / "src" / "cream")
    parser.add_argument("--strict", action="store_true", help="exit code 1 where a goal is missed")
    parser.add_argument("--json", action="store_true", help="the measures alone, as JSON")
    options = parser.parse_args()
    now = measure(options.package)
    if options.json:
        print(json.dumps(now, indent=2))
        return 0
    house = json.loads(HOUSE.read_text(encoding="utf-8"))
    for line in table(now, house["measured"], house["goals"], house["version"]):
        print(line)
    return int(options.strict and bool(missed(now, house["goals"])))


if __name__ == "__main__":
    sys.exit(main())
