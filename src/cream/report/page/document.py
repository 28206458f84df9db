"""The page as a file: sections, style and script in one document under a strict security policy.

`write_page` embeds the explorer's records (a stated sample of them where they are too many);
`write_full_page` writes a folder with every record in shards beside the page. Shards are scripts,
because a page opened from a disk may load scripts of its folder and nothing else.
"""

from __future__ import annotations

import base64
import hashlib
import json
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from string import Template
from typing import Any

from cream import __version__
from cream.errors import RunError
from cream.report.markup import EMPTY, Html, PageSection, join, tag, text
from cream.report.page import account, course, headline, options, probes, trust
from cream.report.page.entries import Entry, entries, set_facts
from cream.report.page.packing import EMBED_LIMIT, Index, compress, pack, shards
from cream.report.page.records import RunRecords, read_run
from cream.report.summary import RunSummary
from cream.runs.files import replacing_file, replacing_folder

FULL_PAGE = "index.html"
SHARD_FOLDER = "records"


@dataclass(frozen=True, slots=True)
class PageResult:
    """What was written."""

    path: Path
    """The page."""
    bytes: int
    """Of the page and its shards together."""
    prompts: int
    """Prompts of all sets of all runs that have completions or answers."""
    shown: int
    """Of these, in the explorer."""


def write_page(
    roots: Sequence[Path], out: Path, *, extra: Sequence[PageSection] = (), limit: int = EMBED_LIMIT
) -> PageResult:
    """Write one self-contained file.

    Args:
        roots: Run directories; several are shown side by side.
        out: The file, replaced if it exists.
        extra: Sections to add after the result.
        limit: Bytes of embedded records beyond which a stratified sample stands for all.

    Raises:
        RunError: A root holds no run, or a file of it is damaged.
    """
    with _of_this_version(roots):
        runs = _read(roots)
        packed = pack(lambda: _all_entries(runs), limit=limit)
        about = _about(runs, packed.index, packed.total)
        scripts = [_data_script("index", compress(about))]
        scripts += [_data_script(f"shard-{n}", shard) for n, shard in enumerate(packed.shards)]
        page = _document(runs, extra, about, scripts, shard_sources="")
    with replacing_file(out) as temporary:
        temporary.write_text(page, encoding="utf-8")
    return PageResult(out, out.stat().st_size, packed.total, len(packed.index))


def write_full_page(
    roots: Sequence[Path], folder: Path, *, extra: Sequence[PageSection] = ()
) -> PageResult:
    """Write a folder with ``index.html`` and every record beside it; opens from a disk as it is.

    An earlier page in `folder` is replaced.

    Raises:
        RunError: A root holds no run, a file of it is damaged, or `folder` holds something else.
    """
    strangers = sorted(
        path.name
        for path in (folder.iterdir() if folder.exists() else ())
        if path.name not in (FULL_PAGE, SHARD_FOLDER)
    )
    if strangers:
        raise RunError(
            f"{folder} holds something else than a report (found {strangers[0]}); name a new folder"
        )
    index = Index()
    with _of_this_version(roots), replacing_folder(folder) as temporary:
        runs = _read(roots)
        (temporary / SHARD_FOLDER).mkdir()
        for number, shard in enumerate(shards(_all_entries(runs), index)):
            script = f"creamShard({number},{json.dumps(shard)})\n"
            (temporary / SHARD_FOLDER / _shard_name(number)).write_text(script, encoding="ascii")
        about = _about(runs, index, len(index))
        scripts = [_data_script("index", compress(about))]
        page = _document(runs, extra, about, scripts, shard_sources="'self' file:")
        (temporary / FULL_PAGE).write_text(page, encoding="utf-8")
        if folder.exists():
            shutil.rmtree(folder)
    size = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
    return PageResult(folder / FULL_PAGE, size, len(index), len(index))


def run_sections(records: RunRecords) -> list[PageSection]:
    """Every section about one run, in reading order; those without anything to show are absent."""
    summary = records.summary
    found = [
        headline.tasks(summary.models, summary.baseline),
        trust.consistency(records),
        trust.calibration(records),
        trust.witnesses(records),
        trust.along(records),
        course.margins(records),
        options.options(records),
        probes.goals(records),
        probes.exploration(records),
        probes.edits(records),
        course.profile(records),
        course.samples(records),
        course.losses(records),
        account.tallies(records),
        account.costs(records),
        account.recipe(records),
    ]
    return [section for section in found if section is not None]


def run_names(summaries: Sequence[RunSummary], roots: Sequence[Path]) -> list[str]:
    """What tells runs apart, as short as possible: method, with the seed, name, or folder."""
    schemes = [
        [s.method for s in summaries],
        [f"{s.method}, seed {s.seed}" for s in summaries],
        [f"{s.name} ({s.method})" for s in summaries],
        [root.resolve().name for root in roots],
        [f"{n}: {s.name} ({s.method})" for n, s in enumerate(summaries, 1)],
    ]
    return next(names for names in schemes if len(set(names)) == len(names))


@contextmanager
def _of_this_version(roots: Sequence[Path]) -> Iterator[None]:
    """Turn a key or column that a record lacks into an error a person can act on."""
    try:
        yield
    except KeyError as error:
        raise RunError(
            f"a record of {', '.join(map(str, roots))} has no {error}: the run was made by another "
            "version of Cream, whose own `cream report` reads it"
        ) from error


def _read(roots: Sequence[Path]) -> dict[str, RunRecords]:
    runs = [read_run(root) for root in roots]
    names = run_names([run.summary for run in runs], roots)
    return dict(zip(names, runs, strict=True))


def _all_entries(runs: Mapping[str, RunRecords]) -> Iterator[tuple[int, Entry]]:
    for number, records in enumerate(runs.values()):
        for entry in entries(records):
            yield number, entry


def _about(runs: Mapping[str, RunRecords], index: Index, total: int) -> dict[str, Any]:
    """What the script reads first: the columns to filter by, and what their codes mean."""
    facts: dict[str, Any] = {}
    for records in runs.values():
        facts |= set_facts(records)
    return {**index.value(), "runs": list(runs), "facts": facts, "total": total}


def _document(
    runs: Mapping[str, RunRecords],
    extra: Sequence[PageSection],
    about: Mapping[str, Any],
    scripts: Sequence[Html],
    *,
    shard_sources: str,
) -> str:
    style, script = _asset("page.css"), _asset("page.js")
    summaries = {name: records.summary for name, records in runs.items()}
    parts = [headline.headline(summaries), *extra]
    contents = list(parts)
    for number, (name, records) in enumerate(runs.items(), 1):
        found = run_sections(records)
        if len(runs) > 1:
            found = [
                PageSection(f"run-{number}-{s.key}", f"{name}: {s.title}", s.body) for s in found
            ]
            contents.append(PageSection(found[0].key, name, EMPTY))
        else:
            contents += found
        parts += found
    first = next(iter(runs.values())).summary
    title = first.name if len(runs) == 1 else " · ".join(runs)
    values = {
        "policy": text(_policy(style, script, shard_sources)),
        "style": style,
        "script": script,
        "title": text(title),
        "subtitle": text(_subtitle(runs)),
        "navigation": _navigation([*contents, PageSection("explorer", "Prompts", EMPTY)]),
        "sections": join(map(_section, parts)),
        "shown": text(_shown(len(about["rows"]["id"]), about["total"])),
        "records": join(scripts),
        "version": text(__version__),
    }
    return Template(_asset("template.html")).substitute(values)


def _subtitle(runs: Mapping[str, RunRecords]) -> str:
    if len(runs) > 1:
        return f"{len(runs)} runs side by side"
    summary = next(iter(runs.values())).summary
    done = len(summary.iterations) + len(summary.weighed)
    planned = summary.iterations_planned
    went = f"{planned} iterations" if done == planned else f"{done} of {planned} iterations so far"
    return f"Method {summary.method}, seed {summary.seed}, {went}"


def _shown(shown: int, total: int) -> str:
    if shown == total:
        return f"All {total:,} prompts of the run are here."
    return (
        f"A sample: {shown:,} of {total:,} prompts, the same share of every set, task, outcome and "
        "of right and wrong, chosen by a hash of their ids. `cream report RUN --full DIR` writes a "
        "page with all of them. Every figure above is computed from all prompts."
    )


def _policy(style: str, script: str, shard_sources: str) -> str:
    """No network, no frames, no forms; only this very script and style, and shards if any."""
    scripts = f"{_source_hash(script)} {shard_sources}".strip()
    return (
        f"default-src 'none'; script-src {scripts}; style-src {_source_hash(style)}; "
        "base-uri 'none'; form-action 'none'"
    )


def _source_hash(content: str) -> str:
    digest = hashlib.sha256(content.encode()).digest()
    return f"'sha256-{base64.b64encode(digest).decode()}'"


def _navigation(parts: Sequence[PageSection]) -> Html:
    return join(
        tag("li", tag("a", text(part.title), attributes={"href": f"#{part.key}"})) for part in parts
    )


def _section(part: PageSection) -> Html:
    heading = tag("h2", text(part.title), attributes={"id": f"{part.key}-title"})
    named = {"id": part.key, "aria-labelledby": f"{part.key}-title"}
    return tag("section", heading, part.body, attributes=named)


def _data_script(key: str, content: str) -> Html:
    """A script element that is not executed; base64 cannot end it."""
    return tag("script", Html(content), attributes={"type": "text/plain", "id": f"data-{key}"})


def _shard_name(number: int) -> str:
    return f"{number:05d}.js"


def _asset(name: str) -> str:
    return (resources.files("cream.report.page") / "assets" / name).read_text(encoding="utf-8")
