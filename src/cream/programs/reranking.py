"""``cream rerank fit|score``: a reranker trained on graded groups, and candidates scored by one.

What is scored is kept part by part, like a stage of a run, so a job that was killed goes on where
it was. Without a trained reranker a language model scores candidates by its own answers.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pyarrow as pa

from cream.algorithms.judging import conversation
from cream.data.candidates import Candidate, CandidateGroup, run_lines
from cream.engines.texts import Text
from cream.engines.window import DETAILS, WindowScorer
from cream.errors import RecipeError, RunError
from cream.loop.context import ExternalReranker
from cream.loop.stage_runner import batched, run_shards
from cream.models.artifacts import CONFIG
from cream.models.fingerprints import model_fingerprint
from cream.models.reranker import MODEL, save_reranker
from cream.models.saving import save_model
from cream.models.window_text import WindowEncoder
from cream.preflight.models import open_models
from cream.protocols import Progress
from cream.recipe.columns import VERIFIER
from cream.recipe.load import apply_overrides, validate_section
from cream.recipe.reranking import RerankerConfig
from cream.records import Count, Record, StageSpec
from cream.report.ranked import read_asked
from cream.runs.files import remove_folder, replacing_file
from cream.runs.reader import RunReader
from cream.runs.store import Run, Stage, fingerprint
from cream.stages.score import tally_scores
from cream.training.reranking import GradedGroup, fit_heads
from cream.types import Message, Tally, counts

SCORES, RUN_FILE = "scores", "run.trec"
"""Stage with a row per candidate, and the TREC run made of it, in the folder of a scoring."""
QUERIES_PER_PART = 16
STATE = "state"
"""Folder of an unfinished training, in that of its reranker."""
SCHEMA = pa.schema(
    [
        ("query_id", pa.string()),
        ("candidate_id", pa.string()),
        ("label", pa.float64()),
        ("score", pa.float64()),
        ("reason", pa.string()),
        *((name, pa.float64()) for name in DETAILS),
    ]
)


class FittedReranker(Record):
    """What was trained, and on what."""

    folder: str
    groups: Count
    """Queries trained on."""
    tally: Tally
    """Candidates, by what became of them: ``trained``; ``unlabelled``; ``no_contrast``, of a query
    whose labels are all equal or that has one candidate."""
    cut: Count
    """Candidates trained on that were cut."""
    steps: Count
    tokens: Count
    """Run through the model by this call."""
    seconds: float
    first: dict[str, float]
    """Metrics of the first step."""
    last: dict[str, float]
    """Metrics of the last step."""


class ScoredCandidates(Record):
    """What was scored, and where it is."""

    folder: str
    run_file: str
    queries: Count
    tally: Tally
    """Candidates: ``scored``, or the reason why one has no score and is not in the run file."""
    cut: Count
    tokens: Count
    """Run through the model by this call."""


def groups_of_run(root: Path) -> list[CandidateGroup]:
    """Prompts of a run's last scored iteration, their completions labelled by the verifier.

    Raises:
        RunError: It holds no run, or no iteration was scored.
    """
    run = RunReader(root)
    found = [stage for stage in run.of("matrix") if stage.spec.t and not stage.spec.branch]
    if not found:
        raise RunError(f"{root} has no scored iteration yet; `cream status {root}` shows how far")
    matrix = found[-1]
    asked = read_asked(run.asked(matrix.spec.t))
    groups: dict[str, CandidateGroup] = {}
    for prompt, completion, text, label in matrix.rows(
        "prompt_id", "completion_id", "text", VERIFIER
    ):
        turns = [Message(turn.role, turn.content) for turn in asked[prompt].turns]
        before = groups.get(prompt, CandidateGroup(prompt, conversation(turns), ()))
        one = Candidate(completion, text, label)
        groups[prompt] = replace(before, candidates=(*before.candidates, one))
    return list(groups.values())


def reranker_config(values: Mapping[str, Any], overrides: Sequence[str]) -> RerankerConfig:
    """Settings with ``a.b=c`` changes.

    Raises:
        RecipeError: One is wrong.
    """
    given = apply_overrides(values, overrides)
    return validate_section(given, RerankerConfig, source="settings of the reranker")


def fit_reranker(
    groups: Sequence[CandidateGroup],
    config: RerankerConfig,
    out: Path,
    *,
    cache_dir: Path,
    progress: Progress,
) -> FittedReranker:
    """Train a reranker and write it; given again after an interruption, it goes on.

    Raises:
        CreamError: The model, the groups or the folder cannot be used.
    """
    if (out / CONFIG).exists():
        raise RunError(f"{out} holds a reranker already; choose another --out, or delete it")
    checkpoints, chat = open_models(config.model, out, cache_dir)
    encoder = WindowEncoder(chat.tokenizer, chat.template, config.windows, trained=True)
    labelled = [[c for c in g.candidates if c.label is not None] for g in groups]
    used = [k for k, own in enumerate(labelled) if len({c.label for c in own}) > 1]
    graded = [_graded(groups[k], labelled[k], encoder) for k in used]
    total = sum(len(g.candidates) for g in groups)
    trained, known = sum(len(labelled[k]) for k in used), sum(map(len, labelled))
    parts = {"trained": trained, "unlabelled": total - known, "no_contrast": known - trained}
    adapted = config.training.lora is not None
    progress.start("train the reranker", 0, "steps")
    with closing(checkpoints):
        take = checkpoints.for_training if adapted else checkpoints.for_inference
        model = take("M0")
        heads, done = fit_heads(
            model,
            graded,
            encoder,
            config,
            state_dir=out / STATE,
            on_step=lambda step, steps, values: progress.advance_to(step, steps, values),
            say=progress.note,
        )
        if adapted:
            remove_folder(out / MODEL)  # left by an attempt that was killed before the heads
            save_model(model, checkpoints.tokenizer, out / MODEL)
    reads = out / MODEL if adapted else checkpoints.seed_folder
    told = {"groups": len(graded), "candidates": parts, "last": dict(done.metrics[-1])}
    save_reranker(out, heads, config, fingerprint=model_fingerprint(reads), what=told)
    remove_folder(out / STATE)
    progress.finish(f"{len(graded)} queries, {trained} candidates")
    return FittedReranker(
        folder=str(out),
        groups=len(graded),
        tally=Tally(total, parts),
        cut=sum(encoder.candidate(c.text)[1] for k in used for c in labelled[k]),
        steps=len(done.metrics),
        tokens=done.real_tokens,
        seconds=done.seconds,
        first=dict(done.metrics[0]),
        last=dict(done.metrics[-1]),
    )


def _graded(
    group: CandidateGroup, labelled: Sequence[Candidate], encoder: WindowEncoder
) -> GradedGroup:
    return GradedGroup(
        group.query_id,
        encoder.query(group.query),
        tuple(encoder.candidate(c.text)[0] for c in labelled),
        tuple(c.label for c in labelled if c.label is not None),
    )


def score_candidates(
    groups: Sequence[CandidateGroup],
    reranker: ExternalReranker,
    overrides: Sequence[str],
    out: Path,
    *,
    progress: Progress,
) -> ScoredCandidates:
    """Score candidates and write a TREC run of them; an interrupted scoring goes on.

    Args:
        groups: Queries with candidates, in the order of the first stage.
        reranker: What scores them.
        overrides: ``a.b=c`` changes of its windows and seed.
        out: Folder to write.
        progress: Shows what happens.

    Raises:
        RecipeError: A setting is wrong, or training has decided it.
        RunError: The folder holds scores of something else.
    """
    config = _scoring_config(reranker, overrides)
    spec = StageSpec(name=SCORES, kind="text_score", label="rerank", prompts=len(groups))
    stage = Run(out).stage(spec, _inputs(groups, reranker, config))
    made: list[WindowScorer] = []

    def work(shard: Sequence[CandidateGroup]) -> pa.Table:
        if not made:
            made.append(reranker.scorer(config.windows, config.seed))
        return pa.Table.from_pylist(_rows(shard, made[0]), schema=SCHEMA)

    with closing(reranker.checkpoints):
        record = run_shards(
            stage,
            progress,
            label=spec.label,
            unit="queries",
            shards=batched(groups, QUERIES_PER_PART),
            work=work,
            summarise=_summarise,
        )
    _write_run(stage, out / RUN_FILE)
    return ScoredCandidates(
        folder=str(out),
        run_file=str(out / RUN_FILE),
        queries=len(groups),
        tally=Tally(**record.summary["tally"]),
        cut=record.summary["cut"],
        tokens=sum(scorer.tokens for scorer in made),
    )


def _inputs(
    groups: Sequence[CandidateGroup], reranker: ExternalReranker, config: RerankerConfig
) -> dict[str, Any]:
    """What decides scores: another of these is another scoring."""
    told = [
        [g.query_id, g.query, [[c.candidate_id, c.text, c.label] for c in g.candidates]]
        for g in groups
    ]
    return {
        "candidates": fingerprint(told),
        "reranker": reranker.fingerprint,
        "windows": config.windows.model_dump(mode="json", exclude={"token_budget"}),
        "seed": config.seed,
        "dtype": str(reranker.checkpoints.compute_dtype),
        "template": fingerprint(reranker.encoder.template),
    }


def _summarise(stage: Stage) -> tuple[dict[str, Any], str]:
    table = pa.concat_tables(stage.tables(["reason", "cut"]))
    tally = tally_scores(table["reason"].to_pylist())
    cut = sum(value == 1 for value in table["cut"].to_pylist())
    words = counts(tally.parts)
    return {"tally": asdict(tally), "cut": cut}, words


def _scoring_config(reranker: ExternalReranker, overrides: Sequence[str]) -> RerankerConfig:
    for override in overrides:
        key = override.partition("=")[0]
        if key != "seed" and not key.startswith("windows."):
            raise RecipeError(f"--set {key}: scores do not read it; windows.* and seed may be set")
    config = reranker_config(reranker.config.model_dump(mode="json"), overrides)
    reranker.windows(config.windows)
    return config


def _rows(groups: Sequence[CandidateGroup], scorer: WindowScorer) -> list[dict[str, Any]]:
    """A row per candidate, in the order given; texts are named by their place, joined by it."""
    texts = [
        Text(g.query_id, f"{g.query_id} {c.candidate_id}", (Message("user", g.query),), c.text)
        for g in groups
        for c in g.candidates
    ]
    found = {score.text_id: score for score in scorer.score(texts)}
    assert found.keys() == {text.text_id for text in texts}
    return [
        {
            "query_id": g.query_id,
            "candidate_id": c.candidate_id,
            "label": c.label,
            "score": score.value,
            "reason": score.reason,
            **score.details,
        }
        for g in groups
        for c in g.candidates
        for score in (found[f"{g.query_id} {c.candidate_id}"],)
    ]


def _write_run(stage: Stage, path: Path) -> None:
    ranking: dict[str, dict[str, float]] = {}
    for table in stage.tables(["query_id", "candidate_id", "score"]):
        for row in table.to_pylist():
            if row["score"] is not None:
                ranking.setdefault(row["query_id"], {})[row["candidate_id"]] = row["score"]
    with replacing_file(path) as temporary:
        temporary.write_text("".join(run_lines(ranking)), encoding="utf-8")
