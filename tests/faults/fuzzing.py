"""Random damage to everything that Cream reads: seeded, as many inputs as asked for.

    python tests/faults/fuzzing.py --inputs 1000000

An input is a valid text or file that was cut, repeated, spliced, flipped, or salted with what
breaks readers. Right is a value, or one `CreamError`; wrong is any other exception (a traceback),
and more than a second of processor time. What was wrong is kept beside its count, to be tried again
with ``--again FILE``.
"""

from __future__ import annotations

import argparse
import json
import random
import resource
import shutil
import signal
import tempfile
import time
import traceback
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from cream.algorithms import numbers
from cream.algorithms.judging import parse_preference, parse_score
from cream.data import extraction, reference_extraction
from cream.data.sources import read_source
from cream.data.verifiers import ChoiceLetter, ExactMatch, LastNumber, StatedNumber
from cream.errors import CreamError
from cream.loop.card import licence_of
from cream.models.fingerprints import stored_parameters
from cream.models.folders import check_model_folder
from cream.models.loading import empty_model, generation_eos_ids, load_config
from cream.models.positions import context_length, fast_reach
from cream.models.templates import Template
from cream.recipe import load_recipe
from cream.recipe.data import FileSource
from cream.recipe.load import apply_overrides, validate_recipe
from cream.report.terminal import printable, readable
from cream.runs.files import read_json, read_sealed, read_table, write_sealed, write_table
from cream.runs.integrity import read_begun, read_marks, read_record
from cream.runs.manifest import last_made_by
from cream.runs.plan import read_plan
from cream.runs.trackers import Ledger
from cream.testing import CHAT_TEMPLATE, tiny_model_folder, tiny_tokenizer
from cream.types import Message, Prompt
from tiny_run import tiny_values

SLOW_SECONDS = 1.0
"""Of processor time, which a reader may take for one input."""
HANG_SECONDS = 10.0
"""After so long an input is given up."""
Try = Callable[[bytes], Any]

SALT = [
    *(b"\x00", b"\xff", b"\xed\xa0\x80", b"\xef\xbb\xbf", b"\r", b"\n", b"\t", b" ", b"\\", b'"'),
    *(b"'", b"\xe2\x80\xae", b"\x1b[2J", b"\xc2\x85", b"\xe2\x80\xa8", b"\xf0\x9f\x99\x82"),
    *(b"NaN", b"nan", b".nan", b"Infinity", b".inf", b"-0", b"1e999", b"1e-999", b"9" * 400),
    *(b"9" * 5000, b"0x1f", b"1_000", b"null", b"true", b"~", b"[]", b"{}", b"[" * 300, b"{" * 300),
    *(b"(" * 300, b'{"a":' * 200, b"- " * 300, b"&a ", b"*a", b"<<: *a\n", b"!!int x", b"!!set"),
    *(b"!!python/object:os.system", b"? ", b": ", b"---\n", b"...\n", b"%YAML 9\n", b"| ", b"> "),
    *(b"{{", b"}}", b"{%", b"%}", b"{#", b"{% for i in range(99999) %}", b"{{ 'a' * 999999999 }}"),
    *(b"{{ messages * 99999 }}", b"{% endfor %}", b"{% set x = [] %}", b"| tojson", b"| sort"),
    *(
        b"{{ ''.__class__ }}",
        b"{{ raise_exception('no') }}",
        b"{% include 'a' %}",
        b"| center(9)",
    ),
    *(b"\\boxed{", b"\\frac{1}{", b"####", b"Answer: ", b"Score: ", b"1/0", b"10^10^10", b"1e1e1"),
    *(b"[[A]]", b"[[", b"<answer>", b"</answer>", b"<|im_end|>", b"12,345", b"1 1/2", b"\xc2\xbd"),
    *(b"10^999999", b"2\xe2\x81\xb5\xe2\x81\xb0", b"\xd9\xa3", b"\xe0\xa4\xaf", b"million", b"%"),
]
"""Pieces that have broken readers, of Cream and of others."""


def damaged(rng: random.Random, seeds: Sequence[bytes]) -> bytes:
    """One of the seeds, changed in one to six places."""
    data = bytearray(rng.choice(seeds))
    for _ in range(rng.choice((1, 1, 1, 2, 3, 6))):
        at, other = rng.randrange(len(data) + 1), rng.choice(seeds)
        end = min(len(data), at + rng.choice((1, 2, 8, 64, 4096)))
        match rng.randrange(9):
            case 0 if data:
                data[min(at, len(data) - 1)] ^= 1 << rng.randrange(8)
            case 1:
                data[at:end] = rng.randbytes(rng.choice((1, 2, 8, 32)))
            case 2:
                del data[at:end]
            case 3:
                data[at:at] = data[at:end]
            case 4:
                data[at:at] = bytes(data[at : at + 16]) * rng.choice((2, 10, 100, 1000))
            case 5:
                start = rng.randrange(len(other) + 1)
                data[at:end] = other[start : start + rng.choice((1, 8, 64, 4096))]
            case 6:
                del data[at:]
            case 7:
                data[at:at] = rng.choice(SALT) * rng.choice((1, 1, 1, 2, 30))
            case _:
                data[at:end] = rng.choice(SALT)
    return bytes(data)


@dataclass(frozen=True, slots=True)
class Target:
    """Something that reads."""

    name: str
    seeds: tuple[bytes, ...]
    share: float
    """Of all inputs."""
    read: Try


@dataclass(slots=True)
class Found:
    """What became of the inputs of a target."""

    tried: int = 0
    refused: int = 0
    seconds: float = 0.0
    slowest: float = 0.0
    wrong: list[tuple[str, bytes]] = field(default_factory=list)


class Hang(BaseException):
    """An input took `HANG_SECONDS`."""


def fuzz(targets: Sequence[Target], inputs: int, seed: int) -> dict[str, Found]:
    """Try so many inputs in all."""
    return {
        target.name: fuzz_target(target, max(1, round(inputs * target.share)), seed)
        for target in targets
    }


def fuzz_target(target: Target, inputs: int, seed: int) -> Found:
    """Try so many inputs on one target."""
    rng, found = random.Random(f"{seed} {target.name}"), Found()
    for _ in range(inputs):
        data = damaged(rng, target.seeds)
        found.tried += 1
        begun = time.process_time()
        try:
            with _giving_up():
                target.read(data)
        except CreamError:
            found.refused += 1
        except Hang:
            found.wrong.append((f"a hang of {HANG_SECONDS:g} s", data))
        except Exception:
            found.wrong.append((traceback.format_exc(limit=-4), data))
        seconds = time.process_time() - begun
        found.seconds += seconds
        found.slowest = max(found.slowest, seconds)
        if SLOW_SECONDS < seconds < HANG_SECONDS:
            found.wrong.append((f"slow: {seconds:.1f} s", data))
    return found


@contextmanager
def _giving_up() -> Iterator[None]:
    def stop(number: int, frame: Any) -> None:
        raise Hang

    before = signal.signal(signal.SIGPROF, stop)
    signal.setitimer(signal.ITIMER_PROF, HANG_SECONDS)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.signal(signal.SIGPROF, before)


def make_targets(folder: Path) -> list[Target]:
    """Everything that reads, with what it reads when nothing is wrong.

    Args:
        folder: For files; a memory file system is quickest.
    """
    kinds = (_recipes, _rows, _answers, _templates, _models, _records)
    return [target for kind in kinds for target in kind(folder)]


def _recipes(folder: Path) -> Iterator[Target]:
    import yaml

    path = folder / "recipe.yaml"
    whole = tiny_values(Path("/inputs"))
    small = {key: whole[key] for key in ("name", "iterations", "method", "data")}
    small["data"]["seed"]["sources"][0] = {
        "source": "reasoning_gym",
        "tasks": [{"name": "chain_sum", "count": 5, "config": {"min_terms": 2}}],
    }

    def recipe(data: bytes) -> None:
        path.write_bytes(data)
        load_recipe(path)

    def override(data: bytes) -> None:
        text = data.decode("utf-8", "surrogateescape")
        validate_recipe(apply_overrides(whole, [text]), source="recipe")

    anchors = b"a: &a {b: 1}\nc: *a\nd:\n  <<: *a\n  e: 2020-01-01\n"
    seeds = (*(yaml.safe_dump(values).encode() for values in (whole, small)), anchors)
    yield Target("recipe", seeds, 0.03, recipe)
    texts = (b"method=cream", b"method.level=set", b"data.seed.sources.0.path=a.jsonl", b"seed=3")
    more = (b"sampling={temperature: 0.5, top_p: 1}", b"engine.python=x", b"model.name=/a/b")
    yield Target("override", (*texts, *more), 0.03, override)


def _rows(folder: Path) -> Iterator[Target]:
    rows: list[dict[str, Any]] = [
        {"prompt": "1+1=", "completion": "2", "answer": "2", "metadata": {"a": [1, 2.5, None]}},
        {"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]},
        {"instruction": "a", "input": "b", "output": "c", "answer": 3},
        {"conversations": [{"from": "human", "value": "a"}, {"from": "gpt", "value": "b"}]},
        {"prompt": [{"role": "user", "content": "a"}], "chosen": "b", "rejected": "c"},
    ]

    def reading(suffix: str) -> Try:
        path = folder / f"rows{suffix}"
        checked = FileSource(source="file", path=path.name, verifier="exact_match")
        plain = FileSource(source="file", path=path.name)

        def read(data: bytes) -> None:
            path.write_bytes(data)
            _kept(lambda: read_source(checked, "test", folder))
            _kept(lambda: read_source(plain, "prompts", folder))
            read_source(plain, "seed", folder)

        return read

    jsonl = [json.dumps(row).encode() + b"\n" for row in rows]
    yield Target("jsonl", (*jsonl, jsonl[0] * 3), 0.06, reading(".jsonl"))
    csv = b'prompt,completion,answer\n1+1=,2,2\n"a,""b""\nc",d,4\n'
    yield Target("csv", (csv, b"question,answer\na,b\n"), 0.04, reading(".csv"))
    path = folder / "seed.parquet"
    tables = (rows[:1], rows[1:2], [{"prompt": "a", "answer": b"x"}] * 40)
    parquet = []
    for table in tables:
        pq.write_table(pa.Table.from_pylist(table), path)
        parquet.append(path.read_bytes())
    yield Target("parquet", tuple(parquet), 0.03, reading(".parquet"))


def _answers(folder: Path) -> Iterator[Target]:
    texts = (
        *("The answer is 42.", "\\boxed{\\frac{1}{2}}", "So 1,234.5 and 10^6.", "#### -3"),
        *(
            "Answer: (C), because 3:45",
            "<answer>12</answer>",
            "1 1/2 million",
            "½ + ⅓",
            "√2 ≈ 1.41",
        ),
        *("x = 3e10, y=2\u00a0000", "1,25,000", "−5", "5-3", "(A) (B)", "twelve", "Final: $18.00"),
    )
    prompt = Prompt("p", (Message("user", "q"),), task="t", answer="42", metadata={})
    letters = Prompt("p", (Message("user", "q"),), task="t", answer="B", metadata={})

    readers: tuple[Callable[[str], Any], ...] = (
        extraction.whole_completion,
        extraction.last_number,
        extraction.number_value,
        extraction.stated_number,
        extraction.stated_value,
        reference_extraction.reference_choice,
        reference_extraction.reference_number,
        numbers.find_numbers,
        numbers.whole_number,
        printable,
        readable,
        lambda text: extraction.tagged(text, "answer"),
        lambda text: extraction.choice_letter(text, "ABCDE"),
    )

    def extract(data: bytes) -> None:
        text = data.decode("utf-8", "surrogateescape" if len(data) % 2 else "replace")
        readers[zlib.crc32(data) % len(readers)](text)

    def verify(data: bytes) -> None:
        text = data.decode("utf-8", "replace")
        for verifier in (ExactMatch(), LastNumber(), StatedNumber()):
            verifier.verify(prompt, text)
        ChoiceLetter().verify(letters, text)

    def judge(data: bytes) -> None:
        text = data.decode("utf-8", "replace")
        for truncated in (False, True):
            parse_score(text, truncated=truncated)
            parse_preference(text, truncated=truncated)

    seeds = tuple(text.encode() for text in texts)
    said = (b"Score: 4", b"I give 3 points.\nScore: 3.5/5", b"[[A]]", b"Response B. [[B]] [[A]]")
    yield Target("extraction", seeds, 0.3, extract)
    yield Target("verifiers", seeds, 0.13, verify)
    yield Target("judge", (*said, *seeds), 0.15, judge)


def _templates(folder: Path) -> Iterator[Target]:
    tokenizer = tiny_tokenizer()
    talk = [
        Message("user", "hello\nthere"),
        Message("assistant", "hi"),
        Message("user", "b"),
    ]
    llama = (
        "{% for m in messages %}{% if m.role == 'user' %}[INST] {{ m.content | trim }} [/INST]"
        "{% else %}{{ ' ' + m['content'] + eos_token }}{% endif %}{% endfor %}"
    )
    macro = (
        "{%- macro turn(m) -%}<{{ m.role }}>{{ m.content }}\n{%- endmacro -%}"
        "{%- for m in messages -%}{{ turn(m) }}{%- if loop.last and add_generation_prompt -%}"
        "<assistant>{%- endif -%}{%- endfor -%}"
    )

    def template(data: bytes) -> None:
        made = Template(tokenizer, data.decode("utf-8", "replace"))
        made.encode(made.render(talk, generation_prompt=True))

    chat = Template(tokenizer, CHAT_TEMPLATE)

    def conversation(data: bytes) -> None:
        said = [Message("user", data.decode("utf-8", "replace"))]
        chat.encode(chat.render(said, generation_prompt=True))

    card = folder / "card"
    card.mkdir(exist_ok=True)

    def licence(data: bytes) -> None:
        (card / "README.md").write_bytes(data)
        licence_of(str(card))

    texts = (CHAT_TEMPLATE, llama, macro)
    yield Target("template", tuple(text.encode() for text in texts), 0.02, template)
    talks = (
        b"What is <|im_end|>?",
        b"a <|im_start|>b",
        "ünï\n\n".encode(),
        b"plain text of a user",
    )
    yield Target("conversation", talks, 0.08, conversation)
    yield Target("licence", (b"---\nlicense: mit\nbase_model: a/b\n---\n# A\n",), 0.02, licence)


def _models(folder: Path) -> Iterator[Target]:
    model = tiny_model_folder(folder / "model")
    files = {
        name: (model / name).read_bytes() for name in ("config.json", "generation_config.json")
    }

    def configuration(data: bytes) -> None:
        name = "config.json" if len(data) > 200 else "generation_config.json"
        (model / name).write_bytes(data)
        try:
            shape = load_config(model)
            fast_reach(shape)
            context_length(shape)
            generation_eos_ids(model)
            empty_model(model)
        finally:
            (model / name).write_bytes(files[name])

    index = model / "model.safetensors.index.json"

    def shards(data: bytes) -> None:
        (model / "model.safetensors").unlink(missing_ok=True)
        index.write_bytes(data)
        try:
            check_model_folder(model)
        finally:
            index.unlink()
            (model / "model.safetensors").write_bytes(weights)

    weights = (model / "model.safetensors").read_bytes()

    def header(data: bytes) -> None:
        (model / "model.safetensors").write_bytes(data + weights[len(data) :])
        try:
            stored_parameters(model)
        finally:
            (model / "model.safetensors").write_bytes(weights)

    yield Target("configuration", tuple(files.values()), 0.004, configuration)
    listed = json.dumps({"weight_map": {"a": "a.safetensors", "b": "model-1.safetensors"}})
    yield Target("index", (listed.encode(),), 0.01, shards)
    yield Target("weights", (weights[:2000],), 0.01, header)


def _records(folder: Path) -> Iterator[Target]:
    path = folder / "record.json"
    spec = {"name": "a", "kind": "sample", "label": "a"}
    mark = {"bytes": 3, "mtime_ns": 4, "blake2b": "0" * 64}
    done = {
        **{"spec": spec, "fingerprint": "f" * 24, "seconds": 1.5, "inputs": {"stage": "a"}},
        **{"files": {"part-00000.parquet": mark}, "model_files": {}, "summary": {"a": [1, None]}},
    }
    write_sealed(path, done)
    sealed = path.read_bytes()
    write_sealed(path, {"inputs": {"stage": "a"}, "made_by": [], "parts": {"x": mark}})
    begun = path.read_bytes()

    def record(data: bytes) -> None:
        path.write_bytes(data)
        for read in (read_json, read_sealed, read_begun, read_record):
            _kept(lambda read=read: read(path))
        found = _kept(lambda: read_json(path))
        _kept(lambda: read_marks(path, (found or {}).get("files")))
        _kept(lambda: Ledger(path))

    yield Target("records", (sealed, begun, b'{"key": "a", "sent": {"x": 1}}'), 0.05, record)
    run = folder / "run"
    run.mkdir(exist_ok=True)
    (run / "recipe.yaml").write_text("name: a\n")
    plan = json.dumps({"format": 2, "stages": [spec], "parts": {}}).encode()
    made = json.dumps({"command": ["cream"], "made_by": {"cream": "1"}, "later_openings": []})

    def opened(data: bytes) -> None:
        for name in ("plan.json", "manifest.json"):
            (run / name).write_bytes(data)
        _kept(lambda: last_made_by(run))
        read_plan(run)

    yield Target("plan", (plan, made.encode()), 0.02, opened)
    part = folder / "part.parquet"
    ids = np.arange(40)
    write_table(
        part, pa.table({"id": [f"p{i}" for i in ids], "logp": ids / 7.0, "t": [[1, 2]] * 40})
    )

    def shard(data: bytes) -> None:
        part.write_bytes(data)
        read_table(part)

    yield Target("shard", (part.read_bytes(),), 0.01, shard)


def _kept(read: Callable[[], Any]) -> Any:
    try:
        return read()
    except CreamError:
        return None


def told(found: dict[str, Found]) -> str:
    """A table of counts."""
    lines = [f"{'target':14}{'tried':>10}{'refused':>10}{'wrong':>7}{'slowest':>10}{'seconds':>9}"]
    for name, one in found.items():
        counts = f"{one.tried:>10,}{one.refused:>10,}{len(one.wrong):>7}"
        lines.append(f"{name:14}{counts}{one.slowest:>8.2f} s{one.seconds:>9.1f}")
    total = sum(one.tried for one in found.values())
    wrong = sum(len(one.wrong) for one in found.values())
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss >> 10
    return "\n".join([*lines, f"{total:,} inputs, {wrong} wrong, at most {peak:,} MiB of memory"])


def main() -> None:
    """The long form."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--inputs", type=int, default=1_000_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", help="targets, with commas")
    parser.add_argument("--again", type=Path, help="a kept input, to be tried once")
    parser.add_argument("--keep", type=Path, default=Path("fuzz-wrong"), help="for wrong inputs")
    given = parser.parse_args()
    memory = Path("/dev/shm")
    folder = Path(tempfile.mkdtemp(dir=memory if memory.is_dir() else None))
    try:
        targets = make_targets(folder)
        if given.only:
            targets = [t for t in targets if t.name in given.only.split(",")]
        if given.again:
            for target in targets:
                if given.again.name.startswith(target.name):
                    target.read(given.again.read_bytes())
            return
        found = fuzz(targets, given.inputs, given.seed)
    finally:
        shutil.rmtree(folder)
    print(told(found))
    seen: set[str] = set()
    for name, one in found.items():
        for number, (why, data) in enumerate(one.wrong):
            kind = why.strip().splitlines()[-1][:60]
            if kind not in seen:
                seen.add(kind)
                given.keep.mkdir(exist_ok=True)
                (given.keep / f"{name}-{number}").write_bytes(data)
                print(f"{name}-{number}: {why}")
    raise SystemExit(any(one.wrong for one in found.values()))


if __name__ == "__main__":
    main()
