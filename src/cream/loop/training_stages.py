"""Stages that make models: supervised fine-tuning (M1, witnesses) and preference training."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from itertools import chain
from typing import Any

import pyarrow as pa

from cream.algorithms.diagnostics import course_warnings
from cream.algorithms.goals import GOOD_REJECTED
from cream.algorithms.objective import Needs, Objective
from cream.algorithms.optimism import ANSWER, IS_CHOSEN, IS_REJECTED
from cream.algorithms.preference import PAIR, supervised
from cream.data.splits import POLICY
from cream.errors import NotFiniteError, RecipeError, TrainingError
from cream.loop.card import model_card
from cream.loop.context import Context
from cream.loop.pairing import UNANIMOUS_FILE
from cream.loop.stage_runner import keeping_what_broke, stopwatch
from cream.loop.transform_stages import transformed_examples
from cream.pair_records import PairSummary
from cream.plan import columns, score_columns, unneeded_models
from cream.recipe.parts import MethodParts
from cream.records import StageSpec, TrainSummary
from cream.runs.files import read_table
from cream.runs.seeds import derive_seed
from cream.runs.store import GIVEN, Stage, StageRecord, fingerprint
from cream.runs.tables import LOGP_PREFIX, join_by_id, pairs_from_table
from cream.runs.trackers import JsonlTracker, logged_metrics
from cream.stages.train import (
    agreed_examples,
    pair_columns,
    pair_examples,
    replayed,
    seed_examples,
    with_answers,
)
from cream.training.loop import OnStep
from cream.training.train import TrainingSummary, train
from cream.types import Example, FinishReason, Origin, SetConsistency, Tally, TokenSequence

STATE = "state"
"""Folder of the resumable training state, removed when the stage is finished."""

OBJECTIVE = "objective.safetensors"
"""The objective's own modules, where it has any."""

NO_RESULT = {"compute": {"save_state_every_minutes"}}
"""Settings that do not touch the result and may change between attempts."""

TRUNCATED = "truncated"
"""Why an example has no answer: it was cut off, and pairing.truncated drops such."""

NO_PAIR_MARKS = {IS_CHOSEN, IS_REJECTED, GOOD_REJECTED}
"""Columns that say of a pair what is not so of an example without one."""

Train = Callable[[Any, OnStep], tuple[TrainingSummary, int | None]]
"""Trains a model in place, telling about each step; with the number of seed examples replayed, None
where none were to be."""


def fine_tune_stage(context: Context, spec: StageSpec) -> StageRecord:
    """M0 fine-tuned on a part of the seed examples: M1, or a witness in an order of its own."""
    part = str(spec.seed_part)
    examples = context.plan.seed_parts[part]
    seed_name = ("sft",) if part == POLICY else ("sft", part)
    stage = context.stage(
        spec,
        {
            "model": context.model_fingerprint("M0"),
            "examples": fingerprint([[e.prompt.prompt_id, e.completion] for e in examples]),
            "template": context.template_fingerprint,
            "settings": context.recipe.sft.model_dump(mode="json", exclude=NO_RESULT),
        },
    )

    def fine_tune(model: Any, on_step: OnStep) -> tuple[TrainingSummary, None]:
        encoder = context.encoder
        summary = train(
            model,
            seed_examples(examples, encoder.encode_prompt, encoder.encode_completion),
            supervised(),
            context.recipe.sft,
            seed=derive_seed(context.recipe.seed, *seed_name),
            state_dir=stage.folder / STATE,
            on_step=on_step,
            say=context.progress.note,
        )
        return summary, None

    return _train(context, stage, fine_tune)


def train_stage(context: Context, spec: StageSpec) -> StageRecord:
    """M_{t+1}, or the future model: M_t trained on the pairs of iteration t, or of its draft."""
    parts = context.plan.phase_parts(spec)
    own, settings = context.extensions.objective, context.recipe.training
    # Left out where it is None, so that runs made before it existed keep their fingerprints.
    without: dict[str, Any] = {**NO_RESULT, **({} if settings.replay else {"replay": True})}
    paired, matrix, *further = map(context.run.finished, spec.inputs)
    transformed = [made for made in further if made.spec.kind in ("transform", "score_examples")]
    greedy = [made for made in further if made.spec.kind in ("sample", "score")]
    stage = context.stage(
        spec,
        {
            "model": context.model_fingerprint(str(spec.model)),
            "pairs": paired.fingerprint,
            **{made.spec.kind: made.fingerprint for made in transformed},
            **({"greedy": greedy[-1].fingerprint} if greedy else {}),
            "reference": spec.reference,
            "objective": _objective_inputs(own) if own else parts.objective.model_dump(mode="json"),
            "settings": settings.model_dump(mode="json", exclude=without),
        },
    )

    draft = ("draft",) if spec.draft else ()
    explored: list[Tally] = []

    def prefer(model: Any, on_step: OnStep) -> tuple[TrainingSummary, int | None]:
        objective = own or parts.build_objective()
        c = _set_consistency(parts, paired)
        examples = (
            transformed_examples(*transformed)
            if transformed
            else _training_pairs(context, spec, paired, matrix, objective.needs)
        )
        if parts.transform is None and parts.goals is None:
            examples += _agreed(context, spec, paired, matrix)
        if ANSWER in objective.needs.roles:
            answers = _answers(context, spec, matrix, greedy)
            examples, tally = with_answers(examples, _prompts_of(paired), answers)
            explored.append(tally)
        by_epoch = _replayed(context, spec, len(examples))
        marks = dict.fromkeys(set(objective.needs.columns) & NO_PAIR_MARKS, 0.0)
        again = [replace(e, columns={**marks, **e.columns}) for e in chain(*by_epoch)]
        summary = train(
            model,
            examples + again,
            objective,
            settings,
            seed=derive_seed(context.recipe.seed, "train", spec.t, *draft),
            only_in={e.example_id: t for t, epoch in enumerate(by_epoch) for e in epoch},
            scale=None if own else parts.objective.stage_scale(c),
            state_dir=stage.folder / STATE,
            objective_file=stage.folder / OBJECTIVE,
            on_step=on_step,
            say=context.progress.note,
        )
        return summary, len(again) if settings.replay else None

    return _train(context, stage, prefer, explored)


def _objective_inputs(objective: Objective) -> dict[str, str]:
    """A user's objective as an input of the stage that trains under it."""
    return {GIVEN: objective.name, "fingerprint": objective.fingerprint}


def _training_pairs(
    context: Context, spec: StageSpec, paired: Stage, matrix: Stage, needs: Needs
) -> list[Example]:
    reference = LOGP_PREFIX + str(spec.reference)
    further = [
        name
        for name in matrix_columns(context, spec)
        if any(f"{role}_{name}" in needs.columns for role in PAIR)
    ]
    wanted = dict.fromkeys(["prompt_id", "completion_id", "token_ids", reference, *further])
    completions = pa.concat_tables(matrix.tables(list(wanted)))
    return pair_examples(
        pairs_from_table(read_table(paired.folder / "pairs.parquet")),
        completions,
        context.encode_set(matrix.spec.inputs[0]),
        reference_column=reference,
        columns=needs.columns,
    )


def _agreed(context: Context, spec: StageSpec, paired: Stage, matrix: Stage) -> list[Example]:
    """Examples of what unanimous groups say, where the method trains on it."""
    agreed = _unanimous(paired)
    if not agreed:
        return []
    reference = LOGP_PREFIX + str(spec.reference)
    return agreed_examples(
        agreed,
        pa.concat_tables(matrix.tables(["completion_id", "token_ids", reference])),
        context.encode_set(matrix.spec.inputs[0]),
        reference_column=reference,
    )


def _unanimous(paired: Stage) -> dict[str, str]:
    """Completion id by prompt id of what unanimous groups say; empty without any."""
    path = paired.folder / UNANIMOUS_FILE
    if not path.exists():
        return {}
    agreed = read_table(path)
    return dict(zip(*(agreed[n].to_pylist() for n in agreed.column_names), strict=True))


def _prompts_of(paired: Stage) -> dict[str, str]:
    """Prompt id by example id, of pairs and of what unanimous groups say."""
    pairs = pairs_from_table(read_table(paired.folder / "pairs.parquet"))
    found = {pair.pair_id: pair.prompt_id for pair in pairs.rows()}
    return found | {key: prompt for prompt, key in _unanimous(paired).items()}


def _answers(
    context: Context, spec: StageSpec, matrix: Stage, greedy: Sequence[Stage]
) -> dict[str, TokenSequence | str]:
    """By prompt id the answer, greedy or the first that M_t drew, or why there is none."""
    reference = LOGP_PREFIX + str(spec.reference)
    names = ["prompt_id", "completion_id", "token_ids", "finish_reason", "origin"]
    if greedy:
        sampled, scored = greedy
        sums = pa.concat_tables(scored.tables(["completion_id", reference]))
        table = join_by_id(pa.concat_tables(sampled.tables(names)), sums, [reference])
    else:
        table = pa.concat_tables(matrix.tables([*names, reference]))
    drops = context.plan.phase_parts(spec).pairing.truncated == "drop"
    found: dict[str, TokenSequence | str] = {}
    for row in table.to_pylist():
        if row["prompt_id"] in found or row["origin"] not in (Origin.POLICY, Origin.GREEDY):
            continue
        cut = drops and row["finish_reason"] == FinishReason.LENGTH
        answer = TokenSequence(tuple(row["token_ids"]), row[reference])
        found[row["prompt_id"]] = TRUNCATED if cut else answer
    return found


def _replayed(context: Context, spec: StageSpec, beside: int) -> list[list[Example]]:
    """Seed examples of M1 that this training takes beside its own, by epoch."""
    settings, encoder = context.recipe.training, context.encoder
    config = settings.replay
    if config is None:
        return []
    draft = ("draft",) if spec.draft else ()
    return replayed(
        context.plan.seed_parts[POLICY],
        config,
        beside=beside,
        epochs=settings.epochs,
        seed=derive_seed(context.recipe.seed, "replay", spec.t, *draft),
        encode_prompt=encoder.encode_prompt,
        encode_completion=encoder.encode_completion,
    )


def matrix_columns(context: Context, spec: StageSpec) -> tuple[str, ...]:
    """Columns of numbers in the score matrix that a stage of training reads."""
    parts = context.plan.phase_parts(spec)
    models = (LOGP_PREFIX + model for model in columns(context.recipe, parts, spec.t))
    return (*models, *score_columns(parts))


def check_objective(context: Context) -> None:
    """An objective that examples of this run cannot feed is refused now, not after sampling.

    Raises:
        RecipeError: The user's objective names a column that examples of this run do not have, or
            seed examples are to be replayed under one that no chosen completion alone can train.
    """
    own = context.extensions.objective
    first = context.plan.parts(1)
    beside = [*(a.key for a in first.objective.additions)]
    beside += ["optimism"] if first.answer else []
    beside += ["goals"] if first.goals else []
    if own is not None and beside:
        raise RecipeError(
            f"objective {own.name}, given in Python, takes the place of the recipe's, whose "
            f"{beside[0]} would be ignored; remove it from the recipe"
        )
    for spec in context.plan.stages:
        if spec.kind != "train":
            continue
        parts = context.plan.phase_parts(spec)
        if own is not None and parts.transform is None:
            known = pair_columns(matrix_columns(context, spec))
            unknown = [name for name in own.needs.columns if name not in known]
            if unknown:
                raise RecipeError(
                    f"objective {own.name} reads the column {', '.join(unknown)}, and the "
                    f"pairs of {spec.label} have {', '.join(known)}"
                )
        if context.recipe.training.replay is not None:
            _check_replay(parts, own)


def _check_replay(parts: MethodParts, own: Objective | None) -> None:
    if own is None and not parts.objective.trains_chosen_alone:
        raise RecipeError(
            "training.replay trains seed examples by likelihood, and the objective "
            f"{parts.objective.name} has no likelihood term; give it one (method.objective.nll), "
            "or leave replay out"
        )
    objective = own or parts.build_objective()
    needs = objective.needs
    demanded = {role for role in needs.roles if role not in needs.optional}
    columns = {*needs.columns} - {"consistency", *NO_PAIR_MARKS}
    if not demanded <= {"chosen"} or "chosen" not in needs.scored or columns:
        raise RecipeError(
            f"training.replay gives the objective {objective.name} seed examples, which have a "
            "chosen sequence and C = 1 and nothing else; it needs "
            f"{', '.join(sorted(demanded | columns))}. Leave replay out, or make the rest optional"
        )


def _set_consistency(parts: MethodParts, paired: Stage) -> SetConsistency | None:
    """The C of the whole set, for objectives that act on it."""
    agreement = parts.agreement
    record = paired.finished()
    found = PairSummary.read(record.summary, paired.folder) if record else None
    measured = found.consistency if found else None
    if agreement is None or measured is None:
        return None
    return SetConsistency(
        rate=measured.rate,
        low=measured.low,
        high=measured.high,
        level=agreement.level_name,
    )


def _train(
    context: Context, stage: Stage, train: Train, explored: Sequence[Tally] = ()
) -> StageRecord:
    """Load the model, train it (which may fill `explored`), save it, and finish the stage."""
    log = JsonlTracker(stage.folder / "metrics.jsonl")
    name, start, result = stage.spec.name, str(stage.spec.model), str(stage.spec.result)
    done = stage.finished()
    if done is not None:
        context.trackers.course(name, logged_metrics(log.path))  # one that was added since
        return done
    stage.begin()
    log.clear()  # lines of an interrupted attempt; the whole course is written at the end
    context.progress.start(stage.spec.label, 0, "steps")

    def on_step(step: int, total: int, metrics: Mapping[str, float]) -> None:
        log.log(metrics, step=step, stage=name)
        context.trackers.live(name, step, metrics)
        context.progress.advance_to(step, total, metrics)

    with stopwatch() as seconds:
        model = context.checkpoints.for_training(start)
        try:
            with keeping_what_broke(stage):
                summary, replayed_count = train(model, on_step)
        except NotFiniteError:
            raise
        except TrainingError as error:
            raise TrainingError(f"stage {name}: {error}") from error
        context.checkpoints.save(
            model, result, model_card(stage.spec, context.recipe, context.checkpoints.seed_name)
        )
    log.clear()
    for step, metrics in enumerate(summary.metrics, start=1):
        log.log(metrics, step=step, stage=name)
    context.trackers.course(name, summary.metrics)
    shutil.rmtree(stage.folder / STATE, ignore_errors=True)
    record = stage.finish(_figures(summary, replayed_count, *explored), seconds())
    beside = f", {replayed_count} seed examples replayed" if replayed_count is not None else ""
    path = context.checkpoints.path(result)
    context.progress.finish(f"{summary.steps} steps{beside}, saved {path}")
    for warning in (*summary.warnings, *course_warnings(summary.metrics).values()):
        context.progress.note(warning)
    return record


def _figures(
    summary: TrainingSummary, replayed_count: int | None, answers: Tally | None = None
) -> dict[str, Any]:
    last = summary.metrics[-1] if summary.metrics else {}
    return TrainSummary(
        steps=summary.steps,
        tally=summary.tally,
        replayed=replayed_count,
        precision=summary.precision,
        layout=summary.layout,
        learning_rate_scale=summary.learning_rate_scale,
        skipped=summary.skipped,
        steps_at_rounding=summary.steps_at_rounding,
        relative_movement=summary.relative_movement,
        warnings=list(summary.warnings),
        last_step=dict(last),
        answers=answers,
    ).as_json()


def remove_unneeded(context: Context, t: int) -> None:
    """After iteration t, delete models no later stage needs (``keep_checkpoints: last``)."""
    if context.recipe.keep_checkpoints == "all":
        return
    for name in unneeded_models(context.plan, context.recipe, t):
        context.run.finished(context.plan.maker(name).name).remove_model("keep_checkpoints: last")
