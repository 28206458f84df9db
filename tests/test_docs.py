"""The documentation says what the code does: links, defaults, metric keys, recipes."""

from __future__ import annotations

import dataclasses
import importlib
import json
import pkgutil
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import pytest
import yaml
from peft.utils import TRANSFORMERS_MODELS_TO_LORA_TARGET_MODULES_MAPPING as LORA_TARGETS
from pydantic import TypeAdapter
from pydantic.fields import FieldInfo
from transformers import Trainer, TrainingArguments

import cream.recipe
from cream import testing
from cream.recipe.base import Section
from cream.recipe.training import SftConfig
from cream.training.optimiser import adamw

ROOT = Path(__file__).parents[1]
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")])
METHOD_PAGES = sorted((ROOT / "docs" / "methods").glob("*.md"))


def name_of(page: Path) -> str:
    return str(page.relative_to(ROOT))


# Links


def prose(page: Path) -> str:
    """The page without fenced blocks, in which brackets are code."""
    return re.sub(r"^```.*?^```", "", page.read_text(encoding="utf-8"), flags=re.M | re.S)


def anchors(page: Path) -> set[str]:
    """Headings as GitHub turns them into anchors."""
    headings = re.findall(r"^#+ +(.+)$", prose(page), flags=re.M)
    return {re.sub(r"[^\w\- ]", "", h.lower()).replace(" ", "-") for h in headings}


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_every_relative_link_leads_to_a_file_and_a_heading(page: Path) -> None:
    broken = []
    for target in re.findall(r"\]\(([^)\s]+)\)", prose(page)):
        if re.match(r"[a-z]+:", target):
            continue
        path, _, anchor = target.partition("#")
        place = (page.parent / path).resolve() if path else page
        if not place.exists() or (anchor and anchor not in anchors(place)):
            broken.append(target)

    assert not broken


# Defaults

Tables = dict[str, dict[str, str]]
"""Class of a section -> its settings -> their defaults as written."""


def tables(page: Path) -> Tables:
    """The tables of settings: under a heading that ends with (`Class`), first column `setting`."""
    found: Tables = {}
    rows: dict[str, str] | None = None
    for line in page.read_text(encoding="utf-8").splitlines():
        if line.startswith("#"):
            heading = re.search(r"\(`(\w+)`\)$", line)
            rows = found.setdefault(heading[1], {}) if heading else None
        elif rows is not None and (row := re.match(r"\| `([\w.]+)` \| ([^|]+) \|", line)):
            assert row[1] not in rows, f"{page.name}: {row[1]} stands twice in one table"
            rows[row[1]] = row[2].strip()
    return found


def sections() -> dict[str, type[Section]]:
    for module in pkgutil.iter_modules(cream.recipe.__path__):
        importlib.import_module(f"cream.recipe.{module.name}")

    def below(cls: type[Section]) -> Iterator[type[Section]]:
        for sub in cls.__subclasses__():
            yield sub
            yield from below(sub)

    made = {cls.__name__: cls for cls in below(Section)}
    return {name: cls for name, cls in made.items() if "[" not in name}  # parameters of generics


def own_fields(cls: type[Section]) -> dict[str, FieldInfo]:
    """Fields that the class itself declares; inherited ones are in its parent's table."""
    return {n: f for n, f in cls.model_fields.items() if n in cls.__annotations__}


def default(field: FieldInfo) -> Any:
    return field.get_default(call_default_factory=True)


def written(value: str) -> Any:
    """What a cell means: `yaml` in backticks, or one of two words."""
    if match := re.fullmatch(r"`(.+)`", value):
        return yaml.safe_load(match[1])
    assert value in ("required", "section"), f"{value!r} is neither `YAML`, required nor section"
    return value


def expected(cls: type[Section], path: str) -> Any:
    """What the cell of a setting must mean, from the schema."""
    first, *rest = path.split(".")
    field = cls.model_fields[first]
    if field.is_required():
        # A nested section that must be given has no default of its own, so no dotted rows either.
        assert not rest
        return "required"
    value = default(field)
    for key in rest:
        value = getattr(value, key)
    return "section" if isinstance(value, Section) else value


def overridden(cls: type[Section]) -> set[str]:
    """Dotted settings whose default differs from that of the nested section itself."""
    found = set()
    for name, field in own_fields(cls).items():
        nested = None if field.is_required() else default(field)
        if isinstance(nested, Section):
            for inner, inner_field in type(nested).model_fields.items():
                if inner_field.is_required() or getattr(nested, inner) != default(inner_field):
                    found.add(f"{name}.{inner}")
    return found


@pytest.mark.parametrize("page", [ROOT / "docs" / "papers.md", *METHOD_PAGES], ids=name_of)
def test_every_default_in_the_documentation_is_that_of_the_schema(page: Path) -> None:
    known = sections()
    wrong = []
    for name, rows in tables(page).items():
        for setting, cell in rows.items():
            want, have = expected(known[name], setting), written(cell)
            if (type(have), have) != (type(want), want):
                wrong.append(f"{name}.{setting}: {have!r} written, {want!r} in the schema")

    assert not wrong


def test_papers_has_a_row_for_every_field_and_no_other() -> None:
    have = tables(ROOT / "docs" / "papers.md")
    want = {n: set(own_fields(cls)) | overridden(cls) for n, cls in sections().items()}

    assert {name: set(rows) for name, rows in have.items()} == want


def test_papers_names_a_source_for_every_row() -> None:
    text = (ROOT / "docs" / "papers.md").read_text(encoding="utf-8")
    sources = re.findall(r"^\| `[\w.]+` \| [^|]+ \| ([^|]+) \|", text, flags=re.M)
    allowed = r"reference code|paper|not stated|ours|arXiv \d{4}\.\d{5}"

    assert len(sources) == sum(map(len, tables(ROOT / "docs" / "papers.md").values()))
    assert not [s for s in sources if not re.fullmatch(allowed, s.strip())]


def row_of_papers(name: str, setting: str) -> tuple[str, str, str]:
    """Default, source and remark."""
    text = (ROOT / "docs" / "papers.md").read_text(encoding="utf-8")
    section = text.split(f"(`{name}`)\n", 1)[1].split("\n### ", 1)[0]
    row = next(line for line in section.splitlines() if line.startswith(f"| `{setting}` |"))
    cells = [cell.strip() for cell in row.strip("|").split("|")]
    return cells[1].strip("`"), cells[2], cells[3]


def test_what_the_reference_code_leaves_to_its_libraries_is_stated_by_them() -> None:
    """It trains with transformers' Trainer and gives neither Adam's betas nor LoRA's targets."""
    given = {field.name: field.default for field in dataclasses.fields(TrainingArguments)}
    for setting in ("adam_beta1", "adam_beta2", "adam_epsilon"):
        default, source, _ = row_of_papers("OptimiserConfig", setting)
        assert (float(default), source) == (given[setting], "reference code")
    default, source, remark = row_of_papers("LoraConfig", "target_modules")
    assert (default, source) == ("all-linear", "ours")
    assert set(re.findall(r"`(\w+_proj)`", remark)) == set(LORA_TARGETS["llama"])
    assert row_of_papers("Recipe", "seed")[:2] == ("0", "reference code")
    assert row_of_papers("EvaluationConfig", "max_completion_tokens")[:2] == (
        "768",
        "reference code",
    )


def test_weight_decay_spares_what_the_trainer_of_the_reference_code_spares() -> None:
    """Of a Llama: everything but the weights of norms."""
    model = testing.tiny_model()
    names = dict(model.named_parameters(remove_duplicate=False))
    theirs = {id(names[n]) for n in Trainer.get_decay_parameter_names(cast(Trainer, None), model)}
    groups = adamw(dict(model.named_parameters()), SftConfig().optimiser).param_groups
    ours = {id(p) for group in groups if group["weight_decay"] for p in group["params"]}

    assert ours == theirs
    assert len(theirs) < len(set(map(id, names.values())))


@pytest.mark.parametrize("page", METHOD_PAGES, ids=name_of)
def test_a_method_page_lists_every_option(page: Path) -> None:
    """Nested sections with options are listed by their fields, as dotted settings."""
    (name,) = (n for n in tables(page) if n.endswith("Method"))
    cls = sections()[name]
    want = set()
    for option, field in cls.model_fields.items():
        value = default(field)
        inner = type(value).model_fields if isinstance(value, Section) else {}
        want |= {f"{option}.{key}" for key in inner} or {option}

    assert set(tables(page)[name]) == want


# Recipes


def snippets(page: Path) -> list[dict[str, Any]]:
    blocks = re.findall(r"^```yaml\n(.*?)^```", page.read_text(encoding="utf-8"), flags=re.M | re.S)
    return [yaml.safe_load(block) for block in blocks]


@pytest.mark.parametrize("page", METHOD_PAGES, ids=name_of)
def test_the_recipe_of_a_method_page_is_valid(page: Path) -> None:
    prompts = {"source": "file", "path": "prompts.jsonl"}
    frame = {
        "name": "x",
        "iterations": 1,
        "data": {
            "seed": {"sources": [prompts]},
            "prompts": {"per_iteration": 1, "sources": [prompts]},
        },
    }
    found = [TypeAdapter(cream.recipe.Recipe).validate_python(frame | s) for s in snippets(page)]

    assert [recipe.method.name for recipe in found] == [page.stem]


# Metric keys


NAMED = {
    "undefined",
    "counts",
    "noise",
    "tasks",
    "parts",
    "constant_baseline",
    "baseline",
    "seconds",
    "seconds_by_kind",
    "witnesses",
    "chosen_from",
    "rejected_from",
}
"""Mappings whose keys are names of something (a reason, a model, a task, a stage), no metrics."""


def keys_of(value: Any, *, named: bool = False) -> set[str]:
    """Keys of a JSON value, at any depth."""
    if isinstance(value, list):
        return set().union(*(keys_of(item) for item in value))
    if not isinstance(value, dict):
        return set()
    inner = (keys_of(v, named=k in NAMED and not named) for k, v in value.items())
    return set().union(*inner, () if named else value)


def keys_written(run: Path) -> set[str]:
    """Every key in the summaries and metrics of a run's files."""
    found = keys_of(json.loads((run / "summary.json").read_text(encoding="utf-8")))
    for record in run.rglob("stage.json"):
        found |= keys_of(json.loads(record.read_text(encoding="utf-8"))["summary"])
    for lines in run.rglob("metrics.jsonl"):
        for line in lines.read_text(encoding="utf-8").splitlines():
            found |= keys_of(json.loads(line))
    return found


def test_every_key_that_a_run_writes_is_in_the_glossary(finished_run: Path) -> None:
    text = (ROOT / "docs" / "glossary.md").read_text(encoding="utf-8")
    _, _, listing = text.partition("## Metric keys")
    rows = re.findall(r"^\| ([^|]+) \|([^|]+)\|$", listing, flags=re.M)
    keys = {key for cell, _ in rows for key in re.findall(r"`([^`]+)`", cell)}
    nested = {key for _, cell in rows for key in re.findall(r"`([^`]+)`", cell)}
    used = keys_written(finished_run)
    # Stages that a run of this method does not have.
    elsewhere = {
        cell
        for cell, told in rows
        if any(f"`{stage}`:" in told for stage in ("transform", "score-examples", "answer/*"))
    }
    others = {key for cell in elsewhere for key in re.findall(r"`([^`]+)`", cell)}

    assert {"loss", "rewards/margins", "consistency", "pass_at_k", "unparsed"} <= used
    assert sorted(used - keys - nested) == []
    assert sorted(keys - used - others) == []


def test_the_glossary_defines_every_term_once() -> None:
    text = (ROOT / "docs" / "glossary.md").read_text(encoding="utf-8")
    listing, _, _ = text.partition("## Metric keys")
    rows = re.findall(r"^\| ([^|`]+?) \| [^|]+ \|", listing, flags=re.M)
    terms = [term.strip() for row in rows if row != "term" for term in row.split(",")]

    assert len(terms) > 100
    assert not {term for term in terms if terms.count(term) > 1}
