"""What Cream does, recorded, so that a rebuilding can be checked against it.

    python scripts/net.py record tests/golden/net     # from the version that is right
    python scripts/net.py check tests/golden/net      # after a move: says what came out otherwise

Runs every recipe of ``recipes/smoke`` on tiny models (and a few more: a calibrated one, methods
composed in Python, a comparison), and keeps one JSON file per run: stages in the order they
finished, their fingerprints, pairs, losses, summaries, and what the commands print. Seconds,
bytes, versions and paths are left out. `check` exits with 1 if anything came out otherwise, which
is for the reader to judge: a move may be meant to change a key.

``--only NAME`` (repeatable) takes some runs. ``--model`` takes a cut of the quickstart on the
embedded model instead, whose record is ``quickstart.json`` in the same folder.

Only public names of Cream are used here, so that the script outlives what it watches.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import re
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

os.environ |= {"CREAM_KERNELS": "off", "OMP_NUM_THREADS": "1", "COLUMNS": "120"}

import pyarrow.parquet as pq
import torch
from typer.testing import CliRunner

import cream
from cream import testing
from cream.cli import app, quiet_libraries

ROOT = Path(__file__).resolve().parents[1]
QUICKSTART = "quickstart"

TOLERANCE = 1e-5
"""Relative; below 1, absolute. Losses have ten times as much. Enough on the machine that recorded;
another processor rounds otherwise, and training adds it up: there, ``--tolerance 1e-3``."""

MACHINE = re.compile(r"(^|_)(seconds|bytes|versions?|memory|threads|created|started)($|_)")
"""Keys whose values belong to the machine or the moment, with all below; the keys are kept."""
QUANTITY = re.compile(r"\d[\d.,]*(?=\s?(s|ms|min|h|B|kB|MB|GB)\b)")


@dataclass(frozen=True)
class Case:
    """One run to record."""

    recipe: Path
    overrides: tuple[str, ...] = ()
    method: Any = None
    """Composed in Python, in place of the recipe's."""


class AgainstM1:
    """Sample level: the likelihood per token of M_t against that of the model before."""

    name, fingerprint = "against_m1", "against_m1 v1"

    def parts(self, t: int) -> cream.MethodParts:
        parts = cream.parts
        reward = parts.LogpQuantity(unit="mean_likelihood", model=f"M{t}")
        witness = parts.LogpQuantity(unit="mean_likelihood", model="M1" if t > 1 else "M0")
        return cream.MethodParts(
            reward=reward,
            agreement=parts.Agreement(first=reward, second=witness, level="sample"),
            pairing=parts.BestWorst(truncated="keep"),
            objective=_objective("cream"),
        )


class PastAndFutureOfMine:
    """A past and a future model, by a method that does not have the name ``temporal``."""

    name, fingerprint = "past_and_future", "past_and_future v1"

    def parts(self, t: int) -> cream.MethodParts:
        parts = cream.parts
        return cream.MethodParts(
            reward=parts.LogpQuantity(unit="implicit", model=f"M{t}"),
            others=parts.PastAndFuture(past="M1", future=f"F{t + 1}"),
            pairing=parts.BestWorst(truncated="keep"),
            objective=_objective("srlm"),
        )


def _objective(smoke: str) -> Any:
    return cream.load_recipe(ROOT / "recipes" / "smoke" / f"{smoke}.yaml").method.objective  # type: ignore[union-attr]


def cases(work: Path) -> dict[str, Case]:
    """The runs by name; models and test data are written to `work` first."""
    testing.tiny_model_folder(work / "model")
    testing.tiny_reward_model_folder(work / "reward-model")
    testing.tiny_judge_folder(work / "judge")
    testing.tiny_steered_folder(work / "steered", work / "model")
    sums = [(a, b) for a, b in ((a, b) for b in range(6, 8) for a in range(6))]
    rows = [{"prompt": f"{a}+{b}=", "answer": str((a + b) % 2)} for a, b in sums]
    (work / "test.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    smoke = work / "smoke"
    shutil.copytree(ROOT / "recipes" / "smoke", smoke)
    common = (
        f"model.name={work / 'model'}",
        "model.device=cpu",
        "model.compute_dtype=float32",
        "sft.compute.precision=float32",
        "training.compute.precision=float32",
        "evaluation={max_completion_tokens: 4, num_samples: 2}",
        "iterations=2",
        "data.test={sources: [{source: file, verifier: exact_match, "
        f"path: {work / 'test.jsonl'}}}]}}",
    )
    own = {
        "reward_model": (f"method.reward_model.name={work / 'reward-model'}",),
        "steered": (f"method.steer.reward={work / 'steered'}",),
        "srlm_judge": (f"method.judge.model={work / 'judge'}", "iterations=1"),
        "temporal": ("data.test=null",),
    }
    found = {
        path.stem: Case(path, (*common, *own.get(path.stem, ())))
        for path in sorted(smoke.glob("*.yaml"))
    }
    calibrated = (
        "method={name: cream_cross, witness: other, use: smooth, below_half: allow, "
        "pairing: {truncated: keep}}",
        "witnesses={other: {seed_share: 0.25}}",
        "calibration={seed_share: 0.25}",
    )
    cream_recipe = smoke / "cream.yaml"
    found["calibrated"] = Case(cream_recipe, (*common, *calibrated))
    places = [
        f"data.{part}.sources.0.path={smoke}/data/{part}.jsonl" for part in ("seed", "prompts")
    ]
    found["python_sample"] = Case(cream_recipe, (*common, *places), AgainstM1())
    found["python_future"] = Case(
        cream_recipe, (*common, *places, "data.test=null"), PastAndFutureOfMine()
    )
    return found


def quickstart_case() -> Case:
    """A cut of the quickstart, in float32."""
    return Case(
        ROOT / "recipes" / "quickstart.yaml",
        (
            "model.compute_dtype=float32",
            "sft.compute.precision=float32",
            "training.compute.precision=float32",
            "model.device=cpu",
            "iterations=1",
            "data.seed.sources.0.count=96",
            "data.prompts.per_iteration=12",
            "data.test.sources.0.count=12",
            "sft.epochs=1",
            "sft.optimiser.batch_size=12",
            "training.optimiser.batch_size=4",
            "sampling.num_completions=4",
            "evaluation.num_samples=1",
        ),
    )


def record_case(name: str, case: Case, work: Path) -> dict[str, Any]:
    """Run one case and return everything that is kept of it."""
    root = work / name / "run"
    overrides = [*case.overrides, f"run_dir={root}"]
    with _stages_in_order(root) as stages:
        cream.run(case.recipe, overrides=overrides, base_dir=case.recipe.parent, method=case.method)
    # What was composed in Python stands in the run's own recipe only.
    planned = [root / "recipe.yaml"] if case.method else [case.recipe, *_sets(overrides)]
    record = {
        "stages": stages,
        "fingerprints": {stage: _stage(root, stage)["fingerprint"] for stage in stages},
        "inputs": {stage: _inputs(_stage(root, stage)["inputs"]) for stage in stages},
        "models": sorted(path.name for path in (root / "models").iterdir()),
        "pairs": _pairs(root),
        "losses": _losses(root),
        "summaries": {stage: _stage(root, stage)["summary"] for stage in stages},
        "status": _json("status", root),
        "status_text": _text("status", root),
        "plan": _json("plan", *planned, "--no-timing", "--quiet"),
        "plan_text": _text("plan", *planned, "--no-timing", "--quiet"),
        "explain": _explanations(root),
        "again": _json("pair", "--from", root, "--out", work / name / "again"),
        "again_srlm": _json(
            "pair", "--from", root, "--out", work / name / "srlm",
            "--set", "method={name: srlm, pairing: {truncated: keep}}",
        ),
        "again_pairs": _pairs(work / name, "again", "srlm"),
        "export_trl": _export("trl", root, work / name / "trl"),
        "export_flipped": _export("flipped", root, work / name / "flipped"),
        "card": _card(root),
        "report": _json("report", root),
    }  # fmt: skip
    return _plain(record, str(work))


def record_comparison(case: Case, work: Path) -> dict[str, Any]:
    """`cream compare` of two methods."""
    call = ["compare", case.recipe, "--methods", "cream_sample,srlm", "--out", work / "compare"]
    call += [*_sets(case.overrides), "--quiet"]
    return _plain({"compare": _json(*call), "compare_text": _text(*call)}, str(work))


def _sets(overrides: Sequence[str]) -> list[str]:
    return [word for text in overrides for word in ("--set", text)]


@contextmanager
def _stages_in_order(root: Path) -> Iterator[list[str]]:
    """Names of the stages that finish under a folder, in that order.

    The finished mark is renamed into place; Python tells of every renaming. Times of files would
    not do: two tiny stages finish in the same tick.
    """
    found: list[str] = []
    _LISTENERS[str(root)] = found
    try:
        yield found
    finally:
        del _LISTENERS[str(root)]


_LISTENERS: dict[str, list[str]] = {}


def _hear(event: str, arguments: Sequence[Any]) -> None:
    if event != "os.rename" or not _LISTENERS:
        return
    target = Path(os.fsdecode(arguments[1]))
    for root, found in _LISTENERS.items():
        if target.name == "stage.json" and target.is_relative_to(root):
            found.append(str(target.parent.relative_to(root)))


def _stage(root: Path, name: str) -> dict[str, Any]:
    return json.loads((root / name / "stage.json").read_text(encoding="utf-8"))


def _inputs(inputs: Mapping[str, Any]) -> dict[str, str]:
    """A short hash of each input of a stage, so that a moved fingerprint has a reason."""
    return {
        key: hashlib.blake2b(json.dumps(value, sort_keys=True).encode(), digest_size=3).hexdigest()
        for key, value in inputs.items()
    }


def _pairs(root: Path, *names: str) -> dict[str, list[list[Any]]]:
    """Chosen, rejected, consistency and weight by pair stage."""
    folders = [root / name for name in names] if names else [root]
    columns = ["chosen_id", "rejected_id", "consistency", "weight"]
    return {
        str(path.parent.relative_to(root)): [
            [row[column] for column in columns] for row in pq.read_table(path).to_pylist()
        ]
        for folder in folders
        for path in sorted(folder.rglob("pairs.parquet"))
    }


def _losses(root: Path) -> dict[str, list[float]]:
    return {
        str(path.parent.relative_to(root)): [
            json.loads(line)["loss"] for line in path.read_text(encoding="utf-8").splitlines()
        ]
        for path in sorted(root.rglob("metrics.jsonl"))
    }


def _explanations(root: Path) -> dict[str, Any]:
    """What is said of the first prompt with a pair, or trained on, and of the first without."""
    folder = root / "iteration-1" / "pair"
    if folder.exists():
        prompts = pq.read_table(folder / "prompts.parquet")["prompt_id"].to_pylist()
        paired = set(pq.read_table(folder / "pairs.parquet")["prompt_id"].to_pylist())
    else:
        rows = pq.read_table(folder.with_name("advantage") / "prompts.parquet").to_pylist()
        prompts = [row["prompt_id"] for row in rows]
        paired = {row["prompt_id"] for row in rows if row["outcome"] == "trained"}
    first = {prompt in paired: prompt for prompt in reversed(prompts)}
    told = {}
    for has_pair, prompt in sorted(first.items(), reverse=True):
        for question in ("pair", "consistency", "reward"):
            key = f"{question} of a prompt {'with' if has_pair else 'without'} a pair"
            call = ("explain", question, root, "--prompt", prompt)
            told[key] = _json(*call)
            if question == "pair":
                told[f"{key}, as text"] = _text(*call)
    return told


def _export(kind: str, root: Path, out: Path) -> dict[str, Any]:
    told = {"printed": _json("export", kind, root, "--out", out)}
    for path in sorted(out.glob("*.jsonl")):
        rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
        told["first_row"] = rows[0] if rows else None
        told["rows"] = [
            hashlib.blake2b(
                json.dumps([row["chosen"], row["rejected"]]).encode(), digest_size=3
            ).hexdigest()
            for row in rows
        ]
    return told


def _card(root: Path) -> list[str]:
    last = sorted(root.glob("models/M*/README.md"))[-1]
    return last.read_text(encoding="utf-8").splitlines()


def _invoke(*arguments: Any) -> tuple[str, str]:
    """What a command prints, and its error, empty if there is none."""
    result = CliRunner().invoke(app, [str(argument) for argument in arguments])
    if result.exception is None:
        return result.stdout, ""
    if isinstance(result.exception, SystemExit):
        return "", f"exit code {result.exit_code}: {result.output}"
    return "", f"{type(result.exception).__name__}: {result.exception}"


def _json(*arguments: Any) -> Any:
    printed, error = _invoke(*arguments, "--json")
    return {"error": error} if error else json.loads(printed)


def _text(*arguments: Any) -> list[str]:
    printed, error = _invoke(*arguments)
    return [_line(line) for line in (error or printed).splitlines()]


def _line(line: str) -> str:
    """A printed line without seconds and without the widths of columns."""
    if line.startswith("time:"):
        return "time: #"
    line = re.sub(r"(│ finished +│).*", r"\1 #", line)  # parts, and seconds
    # In the table of costs: seconds and seconds alone, before four counts of tokens.
    line = re.sub(r" [\d,]+ │ +[\d,]+ (?=│( +[\d,]+ *(│|$)){4})", " # │ # ", line)
    return re.sub(r"[━─┄ ]{2,}", " ", QUANTITY.sub("#", line)).strip()


def _plain(value: Any, work: str) -> Any:
    """Without what belongs to the machine; floats to seven digits."""
    match value:
        case Mapping():
            return {
                key: _hidden(inner) if MACHINE.search(str(key)) else _plain(inner, work)
                for key, inner in value.items()
            }
        case list() | tuple():
            return [_plain(inner, work) for inner in value]
        case float():
            return float(f"{value:.7g}")
        case str():
            return value.replace(work, "<work>")
        case _:
            return value


def _hidden(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _hidden(inner) for key, inner in value.items()}
    return None if value is None else "#"


# ---- comparing -------------------------------------------------------------------------------


def differences(
    before: Any, now: Any, where: str = "", tolerance: float = TOLERANCE
) -> Iterator[str]:
    """What is otherwise, one line each: keys gone and new, values, list items by their id."""
    if isinstance(before, Mapping) and isinstance(now, Mapping):
        for key in before.keys() - now.keys():
            yield f"{where}.{key}: gone"
        for key in now.keys() - before.keys():
            yield f"{where}.{key}: new"
        for key in before:
            if key in now:
                yield from differences(before[key], now[key], f"{where}.{key}", tolerance)
    elif isinstance(before, list) and isinstance(now, list):
        yield from _list_differences(before, now, where, tolerance)
    elif not _same(before, now, where, tolerance):
        yield f"{where}: {_short(before)} -> {_short(now)}"


def _list_differences(
    before: list[Any], now: list[Any], where: str, tolerance: float
) -> Iterator[str]:
    if all(isinstance(item, str) for item in (*before, *now)):
        if before != now:
            yield from _line_differences(before, now, where, tolerance)
        return
    identity = _identity(before, now)
    if identity is not None:
        keyed = [{f"[{item[identity]}]": item for item in items} for items in (before, now)]
        if list(keyed[0]) != list(keyed[1]) and keyed[0].keys() == keyed[1].keys():
            yield f"{where}: another order"
        yield from differences(*keyed, where, tolerance)
        return
    if len(before) != len(now):
        yield f"{where}: {len(before)} items -> {len(now)}"
    for index, (old, new) in enumerate(zip(before, now, strict=False)):
        yield from differences(old, new, f"{where}[{index}]", tolerance)


def _line_differences(
    before: list[str], now: list[str], where: str, tolerance: float
) -> Iterator[str]:
    """Texts line by line, numbers in them under the same tolerance."""
    pairs = zip(before, now, strict=False)
    if len(before) == len(now) and all(_same_line(*pair, tolerance) for pair in pairs):
        return
    gone = [line for line in before if line not in now]
    new = [line for line in now if line not in before]
    if not gone and not new:
        yield f"{where}: the same lines, in another order"
    yield from (f"{where}: - {_short(line)}" for line in gone)
    yield from (f"{where}: + {_short(line)}" for line in new)


NUMBER = re.compile(r"-?\d+\.\d+(?:e-?\d+)?")


def _same_line(before: str, now: str, tolerance: float) -> bool:
    """Equal but for numbers that are printed one apart in the last place."""
    if NUMBER.sub("#", before) != NUMBER.sub("#", now):
        return False
    pairs = zip(NUMBER.findall(before), NUMBER.findall(now), strict=True)
    return all(
        _close(float(old), float(new), tolerance)
        or abs(float(old) - float(new)) <= 1.01 * 10.0 ** -len(old.partition(".")[2])
        for old, new in pairs
    )


def _identity(before: list[Any], now: list[Any]) -> str | None:
    """Key by which the items of two lists are the same thing, if there is one."""
    both = [*before, *now]
    if not both or not all(isinstance(item, Mapping) for item in both):
        return None
    for key in ("stage", "completion_id", "model", "name", "iteration", "method", "prompt_id"):
        for items in (before, now):
            values = [str(item.get(key)) for item in items]
            if len(set(values)) != len(values) or not all(key in item for item in items):
                break
        else:
            return key
    return None


def _same(before: Any, now: Any, where: str, tolerance: float) -> bool:
    numbers = [isinstance(x, int | float) and not isinstance(x, bool) for x in (before, now)]
    if not all(numbers):
        return type(before) is type(now) and before == now
    return _close(before, now, 10 * tolerance if "loss" in where else tolerance)


def _close(before: float, now: float, tolerance: float) -> bool:
    return abs(before - now) <= tolerance * max(1.0, abs(before), abs(now))


def _short(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 90 else f"{text[:87]}..."


# ---- the two commands ------------------------------------------------------------------------


def outcomes(only: Sequence[str], work: Path) -> Iterator[tuple[str, Callable[[], dict[str, Any]]]]:
    """Name and maker of each record."""
    found = cases(work)
    makers = {
        name: (lambda n=name, c=case: record_case(n, c, work)) for name, case in found.items()
    }
    makers["compare"] = lambda: record_comparison(found["cream_sample"], work)
    if unknown := set(only) - makers.keys():
        sys.exit(f"no run is called {', '.join(sorted(unknown))}; there are {', '.join(makers)}")
    for name, maker in makers.items():
        if not only or name in only:
            yield name, maker


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("what", choices=["record", "check"])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--only", action="append", default=[], metavar="NAME")
    parser.add_argument("--model", action="store_true", help="the cut of the quickstart instead")
    parser.add_argument("--tolerance", type=float, default=TOLERANCE)
    parser.add_argument(
        "--lines", type=int, default=12, help="differences shown of each group of runs"
    )
    options = parser.parse_args()
    prepare()
    began, moved = time.monotonic(), {}
    with tempfile.TemporaryDirectory(prefix="cream-net-") as temporary:
        work = Path(temporary).resolve()
        if options.model:
            made = [(QUICKSTART, lambda: record_case(QUICKSTART, quickstart_case(), work))]
        else:
            made = outcomes(options.only, work)
        for name, make in made:
            path = options.folder / f"{name}.json"
            if options.what == "record":
                write_record(path, make())
            else:
                moved[name] = check(path, make, options.tolerance)
    tell(moved, options.lines)
    runs = sum(map(bool, moved.values()))
    outcome = "written" if options.what == "record" else f"{runs} of {len(moved)} runs moved"
    print(f"{options.what}: {outcome} ({time.monotonic() - began:.0f} s)")
    return int(runs > 0)


def prepare() -> None:
    """One thread, quiet libraries, an ear for finished stages."""
    torch.set_num_threads(1)
    quiet_libraries()
    sys.addaudithook(_hear)


def check(path: Path, make: Callable[[], dict[str, Any]], tolerance: float) -> list[str]:
    """What is otherwise in one run; a run that fails is one difference."""
    if not path.exists():
        return ["no record of this run"]
    before = json.loads(path.read_text(encoding="utf-8"))
    try:
        now = json.loads(json.dumps(make()))
    except Exception as error:
        return [f"the run failed: {type(error).__name__}: {error}"]
    moved = list(_moved_fingerprints(before, now))
    for record in (before, now):
        record.pop("fingerprints", None), record.pop("inputs", None)
    return [*moved, *differences(before, now, tolerance=tolerance)]


def _moved_fingerprints(before: Mapping[str, Any], now: Mapping[str, Any]) -> Iterator[str]:
    """One line for all: a moved stage moves all after it."""
    both = [s for s in before.get("stages", []) if s in now["fingerprints"]]
    moved = [s for s in both if before["fingerprints"][s] != now["fingerprints"][s]]
    if moved:
        old, new = before["inputs"][moved[0]], now["inputs"][moved[0]]
        changed = [key for key in {**old, **new} if old.get(key) != new.get(key)]
        yield (
            f".fingerprints: {len(moved)} of {len(both)} moved, first {moved[0]} "
            f"(changed inputs: {', '.join(changed) or 'none, so the fingerprint itself'})"
        )


def tell(found: Mapping[str, list[str]], lines: int) -> None:
    """Print what moved, once for all runs in which it did."""
    runs_of: dict[str, list[str]] = {}
    for name, moved in found.items():
        for line in moved:
            runs_of.setdefault(line, []).append(name)
    groups: dict[tuple[str, ...], list[str]] = {}
    for line, names in runs_of.items():
        groups.setdefault(tuple(names), []).append(line)
    for names, moved in groups.items():
        others = f" and {len(names) - 4} more" if len(names) > 4 else ""
        print(f"{', '.join(names[:4])}{others}: {len(moved)} differences")
        for line in moved[:lines]:
            print(f"  {line}")
        if len(moved) > lines:
            print(f"  ... and {len(moved) - lines} more (--lines {len(moved)} shows all)")


def write_record(path: Path, record: Mapping[str, Any]) -> None:
    """One line per part of the record, so that a diff can be read."""
    path.parent.mkdir(parents=True, exist_ok=True)
    parts = (
        f"{json.dumps(key)}:{json.dumps(value, ensure_ascii=False, separators=(',', ':'))}"
        for key, value in record.items()
    )
    path.write_text("{" + ",\n".join(parts) + "}\n", encoding="utf-8")


if __name__ == "__main__":
    sys.exit(main())
