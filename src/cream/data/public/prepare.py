"""Reading a public dataset and writing it as files of a recipe, with a manifest.

A dataset ``arc`` becomes ``arc.prompts.jsonl`` (unlabelled prompts; answers are kept for reports),
``arc.test.jsonl`` (with the paper's evaluation instruction) and ``arc.manifest.json``; ``oasst1``
becomes ``oasst1.seed.jsonl`` and ``oasst1.prompts.jsonl``. Every row read is counted as kept or as
dropped with a reason; the counts add up.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, assert_never

from cream.data.dedup import question_key
from cream.data.files import Row, file_rows, hub_rows
from cream.data.public.catalogue import Conversations, Questions, dataset_named
from cream.data.public.questions import (
    EVALUATION_INSTRUCTION,
    Dropped,
    Question,
    ReadQuestion,
    evaluation_prompt,
    first_turns,
)
from cream.data.sources import RoleName
from cream.errors import DataError
from cream.recipe.data import HubSource
from cream.runs.files import replacing_file, write_json
from cream.types import Message, Tally

LOCAL_SUFFIXES = (".jsonl", ".ndjson", ".parquet")
"""Local files that hold what these datasets hold (CSV has no lists)."""

Read = Callable[[str | None, str], list[Row]]
"""(configuration, split) -> rows."""
Records = list[dict[str, Any]]


def prepare_dataset(
    name: str,
    out: Path,
    *,
    source: Path | None = None,
    revision: str | None = None,
    replace: bool = False,
) -> dict[str, Any]:
    """Write the files of one public dataset.

    Args:
        name: One of `cream.data.public.DATASETS`.
        out: Folder to write to; made if missing.
        source: Local folder of the dataset instead of the hub: ``<configuration>/<split>*`` as on
            the hub, or ``<split>*`` for a dataset with one configuration; JSONL or Parquet.
        revision: Branch, tag or commit on the hub. A commit makes the files repeatable.
        replace: Write over files that exist.

    Returns:
        The manifest, as written to ``<out>/<name>.manifest.json``.

    Raises:
        DataError: No such dataset, file, split or column; or the files exist.
    """
    dataset = dataset_named(name)
    manifest = out / f"{name}.manifest.json"
    if manifest.exists() and not replace:
        raise DataError(f"{manifest} exists; choose another folder or give --force")
    read = _reader(dataset.hub_id, source, revision)
    match dataset:
        case Questions():
            files, tallies = _questions(dataset, read)
        case Conversations():
            files, tallies = _conversations(dataset, read)
        case _:
            assert_never(dataset)
    entries = {}
    for role, records in files.items():
        path = out / f"{name}.{role}.jsonl"
        _write_jsonl(path, records)
        entries[path.name] = {
            "role": role,
            "rows": len(records),
            "tally": {"total": tallies[role].total, "parts": dict(tallies[role].parts)},
        }
    value = {
        "dataset": name,
        "source": str(source) if source else dataset.hub_id,
        "revision": revision,
        "evaluation_instruction": EVALUATION_INSTRUCTION if "test" in files else None,
        "files": entries,
    }
    write_json(manifest, value)
    return value


def _questions(
    dataset: Questions, read: Read
) -> tuple[dict[RoleName, Records], dict[RoleName, Tally]]:
    """Test first, because a training question that is also a test question is dropped."""
    test: Records = []
    counts: Counter[str] = Counter()
    taken: dict[str, str] = {}
    for part in dataset.parts:
        kept = _kept(read(part.config_name, part.test), dataset.read, taken, "test", counts)
        test += [_record(q, part.task) | {"prompt": evaluation_prompt(q.text)} for q in kept]
    prompts: Records = []
    training: Counter[str] = Counter()
    for part in dataset.parts:
        kept = _kept(read(part.config_name, part.train), dataset.read, taken, "prompts", training)
        prompts += [_record(q, part.task) for q in kept]
    return (
        {"prompts": prompts, "test": test},
        {"prompts": _tally(training), "test": _tally(counts)},
    )


def _kept(
    rows: Iterable[Row],
    read: ReadQuestion,
    taken: dict[str, str],
    role: str,
    counts: Counter[str],
) -> list[Question]:
    """Questions of some rows, each once; `taken` (question -> role) and `counts` grow."""
    found = []
    for row in rows:
        question = read(row)
        if isinstance(question, Dropped):
            counts[question.value] += 1
            continue
        key = question_key([Message("user", question.text)])
        if key in taken:
            counts["duplicate" if taken[key] == role else "in_test"] += 1
            continue
        taken[key] = role
        counts["kept"] += 1
        found.append(question)
    return found


def _record(question: Question, task: str) -> dict[str, Any]:
    own = {} if question.own_id is None else {"id": question.own_id}
    return {"prompt": question.text, "answer": question.answer, "task": task, **own}


def _conversations(
    dataset: Conversations, read: Read
) -> tuple[dict[RoleName, Records], dict[RoleName, Tally]]:
    rows = read(None, dataset.split)
    turns, counts = first_turns(rows)
    seed: Records = []
    prompts: Records = []
    seen: set[str] = set()
    for turn in turns:
        record = {"prompt": turn.prompt, "task": dataset.task, "id": turn.message_id}
        seed.append(record | {"completion": turn.completion})
        key = question_key([Message("user", turn.prompt)])
        if key not in seen:
            prompts.append(record)
        seen.add(key)
    repeated = {"duplicate": len(turns) - len(prompts)} if len(prompts) < len(turns) else {}
    return (
        {"seed": seed, "prompts": prompts},
        {
            "seed": Tally(total=len(rows), parts=counts),
            "prompts": Tally(total=len(turns), parts={"kept": len(prompts), **repeated}),
        },
    )


def _tally(counts: Mapping[str, int]) -> Tally:
    return Tally(total=sum(counts.values()), parts=dict(counts))


def _reader(hub_id: str, source: Path | None, revision: str | None) -> Read:
    if source is None:

        def from_hub(config_name: str | None, split: str) -> list[Row]:
            wanted = HubSource(
                source="hub",
                dataset=hub_id,
                config_name=config_name,
                split=split,
                revision=revision,
            )
            return list(hub_rows(wanted, Path()))

        return from_hub
    return lambda config_name, split: _local_rows(source, config_name, split)


def _local_rows(folder: Path, config_name: str | None, split: str) -> list[Row]:
    places = [folder / config_name] if config_name else [folder / "data", folder]
    if config_name == "main":
        places.append(folder)
    for place in places:
        files = _split_files(place, split)
        if files:
            return [row for path in files for row in file_rows(path)]
    shown = " or ".join(str(place / f"{split}*") for place in places)
    raise DataError(
        f"no file {shown} with one of the suffixes {', '.join(LOCAL_SUFFIXES)}; --from takes a "
        "folder laid out as on the hub"
    )


def _split_files(folder: Path, split: str) -> Sequence[Path]:
    """Files ``train.jsonl`` or ``train-00000-of-00002.parquet``, in order."""
    return sorted(
        path
        for path in folder.glob(f"{split}*")
        if path.suffix in LOCAL_SUFFIXES and path.name[len(split)] in ".-"
    )


def _write_jsonl(path: Path, records: Records) -> None:
    with replacing_file(path) as temporary, temporary.open("w", encoding="utf-8") as stream:
        for record in records:
            stream.write(json.dumps(record, ensure_ascii=False) + "\n")
