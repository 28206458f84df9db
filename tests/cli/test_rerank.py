"""``cream rerank`` as a user calls it: two commands from a first-stage run to a better one."""

from __future__ import annotations

import json
import math
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from jsonschema import Draft202012Validator

from cream.cache import cache_dir
from cream.cli.documents import json_schema
from cream.data.candidates import read_groups, read_run
from cream.models.reranker import load_reranker
from cream.preflight.models import open_reranker
from cream.programs import reranking
from cream.programs.reranking import fit_reranker, reranker_config, score_candidates
from cream.recipe.model import ModelConfig
from cream.runs.store import Run
from cream.testing import tiny_model_folder
from kills import KillAt, Killed
from tiny_run import write_jsonl

Cream = Callable[..., Any]
SMALL = (
    *("--set", "windows.size=4", "--set", "windows.max_candidate_tokens=12"),
    *("--set", "model.compute_dtype=float32"),
)
FIT = (
    *SMALL,
    *("--set", "training.epochs=12", "--set", "training.head_learning_rate=0.05"),
)


def queries(count: int, candidates: int = 9, seed: int = 0) -> list[dict[str, Any]]:
    """Candidates whose label is how many a's they have, in a random order."""
    draw = random.Random(seed)
    rows = []
    for k in range(count):
        told = [(j % 5, f"{'a' * (j % 5)}{'bcdefghij'[j]}") for j in range(candidates)]
        draw.shuffle(told)
        listed = [{"id": f"d{k}.{i}", "text": t, "label": n} for i, (n, t) in enumerate(told)]
        rows.append({"query_id": f"q{k}", "query": f"number {k}", "candidates": listed})
    return rows


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_model_folder(tmp_path_factory.mktemp("models") / "tiny")


@pytest.fixture
def train(tmp_path: Path) -> Path:
    return write_jsonl(tmp_path / "train.jsonl", queries(6))


@pytest.fixture
def test_file(tmp_path: Path) -> Path:
    return write_jsonl(tmp_path / "test.jsonl", queries(5, seed=1))


def printed(cream: Cream, name: str, *arguments: object) -> Any:
    result = cream("rerank", name, *arguments, "--json", *(() if name == "eval" else ("--quiet",)))
    assert result.code == 0, result.err
    value = json.loads(result.out)
    Draft202012Validator(json_schema(f"rerank-{name}")).validate(value)
    return value


def test_fit_score_and_eval_on_labelled_groups(
    cream: Cream, tmp_path: Path, model: Path, train: Path, test_file: Path
):
    folder, scores = tmp_path / "reranker", tmp_path / "scores"
    fitted = printed(cream, "fit", train, "--model", model, "--out", folder, *FIT)
    assert (fitted["groups"], fitted["tally"]["parts"]["trained"]) == (6, 54)
    assert fitted["last"]["loss/point"] < 0.4 < fitted["first"]["loss/point"]
    assert not (folder / "state").exists()

    scored = printed(cream, "score", folder, test_file, "--out", scores)
    assert scored["tally"] == {"total": 45, "parts": {"scored": 45}}
    assert scored["tokens"] > 0

    found = printed(cream, "eval", scores)
    assert (found["queries"], found["candidates"], found["unscored"]) == (5, 45, {})
    figures = found["figures"]
    assert figures["pairs/point_across"]["mean"] > 0.85
    assert figures["pairs/point_across"]["n"] == 5
    assert figures["ndcg@10"]["low"] <= figures["ndcg@10"]["mean"] <= figures["ndcg@10"]["high"]
    assert set(found["identifier_bias"]) == set("ABC")
    assert sum(v["n"] for v in found["identifier_bias"].values()) == 45

    table = cream("rerank", "eval", scores)
    assert "pairs/across" in table.out
    assert "5 measured, 0 judged and not ranked" in table.out


def trec(tmp_path: Path, rows: list[dict[str, Any]]) -> list[object]:
    """The same groups as a TREC run, with texts in TSV and JSONL, and judgements."""
    run, texts, passages = (tmp_path / n for n in ("bm25.run", "queries.tsv", "corpus.jsonl"))
    lines, judged = [], []
    for row in rows:
        for rank, one in enumerate(row["candidates"], start=1):
            lines.append(f"{row['query_id']} Q0 {one['id']} {rank} {20 - rank} bm25\n")
            judged.append(f"{row['query_id']}\t0\t{one['id']}\t{one['label']}\n")
    run.write_text("".join(lines))
    texts.write_text("".join(f"{row['query_id']}\t{row['query']}\n" for row in rows))
    told = [{"_id": c["id"], "text": c["text"]} for row in rows for c in row["candidates"]]
    write_jsonl(passages, [*told, {"_id": "unasked", "title": "t", "text": "x"}])
    (tmp_path / "qrels.tsv").write_text("".join(judged))
    return [run, "--queries", texts, "--passages", passages]


def test_a_trec_run_with_judgements_gives_the_same_reranker_and_the_same_scores(
    cream: Cream, tmp_path: Path, model: Path, train: Path
):
    folders = [tmp_path / "of-jsonl", tmp_path / "of-trec"]
    given = trec(tmp_path, queries(6))
    printed(cream, "fit", train, "--model", model, "--out", folders[0], *FIT)
    qrels = ("--qrels", tmp_path / "qrels.tsv")
    printed(cream, "fit", *given, *qrels, "--model", model, "--out", folders[1], *FIT)
    heads = [load_reranker(f).heads_digest for f in folders]
    assert heads[0] == heads[1]

    runs = []
    for candidates, out in ((given, "a"), ([train], "b")):
        printed(cream, "score", folders[0], *candidates, "--out", tmp_path / out)
        runs.append((tmp_path / out / "run.trec").read_text())
    assert runs[0] == runs[1]
    first = runs[0].splitlines()[0].split()
    assert (first[0], first[1], first[3], first[5]) == ("q0", "Q0", "1", "cream")

    by_run = printed(cream, "eval", tmp_path / "a" / "run.trec", *qrels)
    by_folder = printed(cream, "eval", tmp_path / "a", *qrels)
    assert by_run["figures"]["ndcg@10"] == by_folder["figures"]["ndcg@10"]
    assert "pairs/across" not in by_run["figures"], "a run file tells no windows"


def test_eval_by_hand(cream: Cream, tmp_path: Path):
    """q1: grades 0, 2 as ranked; q2: not judged; q3: nothing relevant; q4: judged, not ranked."""
    run, qrels = tmp_path / "x.run", tmp_path / "qrels"
    run.write_text(
        "q1 Q0 a 2 1.0 t\nq1 Q0 b 1 2.0 t\nq2 Q0 a 1 1.0 t\nq3 Q0 a 1 1 t\n", encoding="utf-8"
    )
    qrels.write_text("q1 0 a 2\nq3 0 a 0\nq4 0 a 1\n")
    found = printed(cream, "eval", run, "--qrels", qrels)

    assert (found["queries"], found["not_ranked"], found["not_judged"]) == (2, 1, 1)
    assert found["figures"]["mrr@10"]["mean"] == 0.5
    assert found["figures"]["ndcg@10"]["mean"] == pytest.approx(1 / math.log2(3))
    assert found["figures"]["ndcg@10"]["n"] == 1
    stricter = printed(cream, "eval", run, "--qrels", qrels, "--relevant", 3)
    assert stricter["figures"]["mrr@10"]["mean"] is None
    assert stricter["figures"]["mrr@10"]["reason"] == "one_class"


def test_judgements_of_beir_have_a_header_and_three_columns(cream: Cream, tmp_path: Path):
    run, qrels = tmp_path / "x.run", tmp_path / "qrels.tsv"
    run.write_text("q1 Q0 a 1 1.0 t\n")
    qrels.write_text("query-id\tcorpus-id\tscore\nq1\ta\t1\n")

    assert printed(cream, "eval", run, "--qrels", qrels)["figures"]["mrr@10"]["mean"] == 1.0


def test_equal_scores_are_ordered_as_trec_eval_orders_them(cream: Cream, tmp_path: Path):
    run, qrels = tmp_path / "x.run", tmp_path / "qrels"
    run.write_text("q1 Q0 a 1 1.0 t\nq1 Q0 b 2 1.0 t\n")
    qrels.write_text("q1 0 b 1\n")

    assert printed(cream, "eval", run, "--qrels", qrels)["figures"]["mrr@10"]["mean"] == 1.0


def test_a_model_without_training_scores_by_its_answers(
    cream: Cream, tmp_path: Path, model: Path, test_file: Path
):
    settings = ("--set", "windows.size=4", "--set", "windows.max_candidate_tokens=12")
    scored = printed(cream, "score", model, test_file, "--out", tmp_path / "s", *settings)
    assert scored["tally"]["parts"] == {"scored": 45}
    rotated = printed(
        cream, "score", model, test_file, "--out", tmp_path / "r", *settings,
        "--set", "windows.rotations=4",
    )  # fmt: skip
    assert rotated["tokens"] > 2 * scored["tokens"]


def opened(model: Path, out: Path) -> Any:
    return open_reranker(str(model), ModelConfig(compute_dtype="float32"), out, cache_dir())


def test_a_killed_scoring_goes_on_and_ends_as_one_that_was_not(
    tmp_path: Path, model: Path, test_file: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(reranking, "QUERIES_PER_PART", 2)
    groups = read_groups(test_file)
    settings = ["windows.size=4", "windows.max_candidate_tokens=12"]

    def run(out: str, progress: Any) -> Any:
        folder = tmp_path / out
        return score_candidates(groups, opened(model, folder), settings, folder, progress=progress)

    whole = run("whole", KillAt("none", 1))
    with pytest.raises(Killed):
        run("cut", KillAt("kept", 2))
    kept = sorted(p.name for p in (tmp_path / "cut/scores").glob("part-*"))
    assert kept == ["part-00000.parquet", "part-00001.parquet"]
    assert not (tmp_path / "cut/run.trec").exists()
    rest = run("cut", KillAt("none", 1))

    assert 0 < rest.tokens < whole.tokens
    tables = [
        pa.concat_tables(Run(tmp_path / out).finished("scores").tables()).to_pylist()
        for out in ("whole", "cut")
    ]
    assert tables[0] == tables[1]
    assert (tmp_path / "whole/run.trec").read_text() == (tmp_path / "cut/run.trec").read_text()
    assert run("cut", KillAt("none", 1)).tokens == 0, "finished: nothing runs again"


def test_a_killed_fit_goes_on_to_the_same_heads(tmp_path: Path, model: Path, train: Path):
    given = {"model": {"name": str(model), "compute_dtype": "float32"}}
    config = reranker_config(
        given,
        ["windows.size=4", "training.optimiser.batch_size=2", "windows.max_candidate_tokens=12",
         "training.compute.save_state_every_minutes=0"],
    )  # fmt: skip
    groups = read_groups(train)

    def fit(out: str, progress: Any) -> Any:
        folder = tmp_path / out
        return fit_reranker(groups, config, folder, cache_dir=cache_dir(), progress=progress)

    fit("whole", KillAt("none", 1))
    with pytest.raises(Killed):
        fit("cut", KillAt("kept", 4))
    assert (tmp_path / "cut/state").exists()
    fit("cut", KillAt("none", 1))

    heads = [load_reranker(tmp_path / out).heads_digest for out in ("whole", "cut")]
    assert heads[0] == heads[1]


def test_adapters_make_a_folder_that_carries_its_model(
    cream: Cream, tmp_path: Path, model: Path, train: Path, test_file: Path
):
    folder = tmp_path / "adapted"
    lora = ("--set", "training.lora={rank: 2, alpha: 4, dropout: 0.0}")
    short = ("--set", "training.epochs=1")
    printed(cream, "fit", train, "--model", model, "--out", folder, *SMALL, *lora, *short)
    assert (folder / "model" / "model.safetensors").exists()

    scored = printed(cream, "score", folder, test_file, "--out", tmp_path / "s")
    assert scored["tally"]["parts"] == {"scored": 45}


def test_a_run_of_cream_is_graded_groups(
    cream: Cream, tmp_path: Path, finished_run: Path, model: Path
):
    groups = reranking.groups_of_run(finished_run)
    labels = [c.label for g in groups for c in g.candidates]
    assert groups
    assert set(labels) <= {0.0, 1.0, None}
    assert all(len(g.candidates) > 1 and g.query for g in groups)

    out = tmp_path / "reranker"
    result = cream("rerank", "fit", finished_run, "--model", model, "--out", out, "--quiet", *SMALL)
    assert result.code == 0 or "nothing to train on" in result.err


def bad(tmp_path: Path, name: str, text: str) -> Path:
    path = tmp_path / name
    path.write_text(text, encoding="utf-8")
    return path


ROW = '{"query_id": "q", "query": "x", "candidates": %s}\n'
BAD_GROUPS = {
    "empty": ("", "holds no query"),
    "no json": ("{\n", "line 1 is not valid JSON"),
    "no list": (ROW % "3", "`candidates` must be a list"),
    "no object": (ROW % "[3]", "candidate 1 must be an object"),
    "no text": (ROW % '[{"id": "a"}]', "`text` must be a text"),
    "id with space": (ROW % '[{"id": "a b", "text": "x"}]', "without spaces"),
    "twice": (ROW % '[{"id": "a", "text": "x"}, {"id": "a", "text": "y"}]', "occurs twice"),
    "label": (ROW % '[{"id": "a", "text": "x", "label": "good"}]', "must be a number"),
    "unknown": (ROW % '[{"id": "a", "text": "x", "score": 1}]', "`score`, which is not read"),
    "query twice": (2 * (ROW % '[{"id": "a", "text": "x"}]'), "two lines"),
}


@pytest.mark.parametrize("name", BAD_GROUPS)
def test_bad_groups_are_one_sentence(cream: Cream, tmp_path: Path, model: Path, name: str):
    text, message = BAD_GROUPS[name]
    path = bad(tmp_path, "in.jsonl", text)
    result = cream("rerank", "score", model, path, "--out", tmp_path / "out", "--quiet")

    assert result.code == 2
    assert message in result.err
    assert "Traceback" not in result.err


BAD_RUNS = {
    "columns": ("q1 Q0 d1 1 2.0\n", "line 1 has 5 columns"),
    "number": ("q1 Q0 d1 1 high t\n", "'high' is not a number"),
    "nan": ("q1 Q0 d1 1 nan t\n", "'nan' is not a number"),
    "twice": ("q1 Q0 d1 1 2 t\nq1 Q0 d1 2 1 t\n", "occurs twice"),
    "empty": ("", "holds no candidate"),
}


@pytest.mark.parametrize("name", BAD_RUNS)
def test_bad_runs_are_one_sentence(cream: Cream, tmp_path: Path, name: str):
    text, message = BAD_RUNS[name]
    path, qrels = bad(tmp_path, "x.run", text), bad(tmp_path, "qrels", "q1 0 d1 1\n")
    result = cream("rerank", "eval", path, "--qrels", qrels)

    assert result.code == 2
    assert message in result.err


def test_what_does_not_fit_together_is_refused(
    cream: Cream, tmp_path: Path, model: Path, train: Path
):
    run = bad(tmp_path, "x.run", "q1 Q0 d1 1 2 t\n")
    texts = bad(tmp_path, "t.tsv", "q2\tx\n")
    out = ("--out", tmp_path / "out")
    cases: list[tuple[tuple[object, ...], str]] = [
        (("score", model, run, *out), "--queries and --passages"),
        (("score", model, train, "--queries", texts, *out), "go with a TREC run"),
        (("score", model, run, "--queries", texts, "--passages", texts, *out), "'q1' among them"),
        (("score", model, tmp_path / "none.jsonl", *out), "does not exist"),
        (("score", model, train, *out, "--set", "training.epochs=1"), "do not read it"),
        (("score", model, train, *out, "--set", "windows.size=1"), "greater than or equal to 2"),
        (("fit", train, "--model", model, *out, "--set", "training.epoch=1"), "epochs"),
        (("eval", run), "--qrels"),
        (("eval", run, "--qrels", bad(tmp_path, "a", "q9 0 d1 1\n")), "is judged"),
        (("eval", run, "--qrels", bad(tmp_path, "b", "q1 d1\n")), "2 columns"),
        (("eval", run, "--qrels", bad(tmp_path, "c", "q1 0 d1 1\nq1 0 d1 2\n")), "judged twice"),
        (("eval", tmp_path), "not finished"),
    ]
    for arguments, message in cases:
        result = cream("rerank", *arguments)
        assert (result.code, message in result.err) == (2, True), (arguments, result.err)
        assert "Traceback" not in result.err


def test_groups_without_contrast_are_counted_and_alone_are_refused(
    cream: Cream, tmp_path: Path, model: Path
):
    rows = queries(3)
    for one in rows[1]["candidates"]:
        one["label"] = 1
    del rows[2]["candidates"][0]["label"]
    given = write_jsonl(tmp_path / "some.jsonl", rows)
    short = ("--set", "training.epochs=1")
    fitted = printed(cream, "fit", given, "--model", model, "--out", tmp_path / "a", *SMALL, *short)
    assert fitted["tally"] == {
        "total": 27,
        "parts": {"trained": 17, "unlabelled": 1, "no_contrast": 9},
    }
    again = cream("rerank", "fit", given, "--model", model, "--out", tmp_path / "a", *SMALL)
    assert (again.code, "holds a reranker already" in again.err) == (2, True)

    alone = write_jsonl(tmp_path / "none.jsonl", [rows[1]])
    result = cream("rerank", "fit", alone, "--model", model, "--out", tmp_path / "b", *SMALL)
    assert (result.code, "nothing to train on" in result.err) == (2, True)


def test_heads_are_refused_with_another_model_and_other_settings(
    cream: Cream, tmp_path: Path, train: Path
):
    model = tiny_model_folder(tmp_path / "m")
    short = ("--set", "training.epochs=1")
    out = tmp_path / "reranker"
    printed(cream, "fit", train, "--model", model, "--out", out, *SMALL, *short)
    scores = ("--out", tmp_path / "s")
    decided = cream(
        "rerank", "score", out, train, *scores, "--set", "windows.max_candidate_tokens=9"
    )
    assert (decided.code, "training has decided it" in decided.err) == (2, True)
    printed(cream, "score", out, train, *scores)
    other = cream("rerank", "score", out, train, *scores, "--set", "windows.size=3")
    assert (other.code, "made from other inputs" in other.err) == (2, True)

    tiny_model_folder(tmp_path / "other", seed=1).joinpath("model.safetensors").replace(
        model / "model.safetensors"
    )
    result = cream("rerank", "score", out, train, "--out", tmp_path / "t")
    assert (result.code, "trained on another model" in result.err) == (2, True)


def test_scores_of_a_run_file_are_read_back_as_written(tmp_path: Path):
    from cream.data.candidates import run_lines

    scores = {"q": {"a": 0.1 + 0.2, "b": -1e-17, "c": 0.1 + 0.2}}
    path = tmp_path / "x.run"
    path.write_text("".join(run_lines(scores)))

    assert read_run(path) == scores
    assert [line.split()[2] for line in path.read_text().splitlines()] == ["c", "a", "b"]
