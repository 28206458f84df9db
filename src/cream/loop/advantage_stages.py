"""The advantages of an iteration's samples, and the training examples made of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np
import pyarrow as pa

from cream.algorithms.advantages import Spread, collapse
from cream.algorithms.diagnostics import kl_from_seed
from cream.algorithms.statistics import Absent, Interval, wilson_interval
from cream.errors import RunError
from cream.loop.context import Context
from cream.loop.pairing import read_matrix
from cream.loop.stage_runner import run_step
from cream.loop.trajectory_stages import (
    ACTIONS,
    WEIGHED_TYPE,
    trajectories_of,
    weighed_actions,
)
from cream.recipe.columns import OF_TOKENS, VERIFIER, token_column
from cream.recipe.parts import MethodParts
from cream.recipe.policy_gradient import TokenAdvantage
from cream.recipe.recipe import SamplingConfig
from cream.recipe.trajectory import ProcessCredit
from cream.records import AdvantageSummary, Share, StageSpec
from cream.runs.files import read_table, write_table
from cream.runs.reader import ADVANTAGES, PROMPTS, rows_of
from cream.runs.store import Stage, StageRecord
from cream.runs.tables import LOGP_PREFIX, NUM_TOKENS
from cream.stages.action_advantage import Trajectory, action_summary, weigh_actions
from cream.stages.advantage import (
    TRAINED,
    Advantages,
    WeighedSample,
    of_tokens,
    sample_examples,
    weigh,
)
from cream.types import Example, Origin, counts

CREDIT = "token_advantages"
"""Column of lists: the advantage of every token, of methods that have one."""


def advantage_stage(context: Context, spec: StageSpec) -> StageRecord:
    """What each sample of an iteration is worth against the others of its prompt."""
    matrix_stage, *read = map(context.run.finished, spec.inputs)
    first = [made for made in read if made.spec.kind == "advantage"]
    tokens = [made for made in read if made.spec.kind == "score_tokens"]
    segmented = [made for made in read if made.spec.kind == "segment"]
    parts, policy = context.plan.parts(spec.t), str(spec.model)
    rule = parts.advantage
    assert rule is not None, "planned for methods with advantages"
    stage = context.stage(
        spec,
        {
            "matrix": matrix_stage.fingerprint,
            "first": [other.fingerprint for other in first],
            "reward": parts.reward.model_dump(mode="json"),
            "advantage": rule.model_dump(mode="json"),
            "reference": spec.reference if rule.kl else None,
            **({"tokens": [made.fingerprint for made in tokens]} if tokens else {}),
            **_credited(parts, segmented),
        },
    )

    def work() -> tuple[dict[str, Any], str, None]:
        matrix = read_matrix(matrix_stage, parts, spec.t, report_consistency=False)
        found = weigh(matrix, parts, policy=policy, reference=str(spec.reference))
        cut = _trajectories(segmented, tokens if segmented else [])
        if cut and parts.trajectory and isinstance(parts.trajectory.credit, ProcessCredit):
            found = weigh_actions(found, cut, parts.trajectory.credit)
        if not (found.outcome == TRAINED).any():
            raise RunError(_nothing_to_train_on(spec, found))
        by_token = None
        if isinstance(rule, TokenAdvantage):
            found, by_token = _of_tokens(found, rule, str(parts.reward), matrix_stage, tokens)
        write_table(stage.folder / ADVANTAGES, _sample_table(found, by_token))
        write_table(stage.folder / PROMPTS, _prompt_table(found))
        gap = _behaviour_gap(matrix_stage, policy)
        summary = _summary(found, spec.t, gap, context.recipe.sampling, first)
        if found.actions is not None:
            total = sum(len(own.actions) for own in cut.values())
            summary = summary.model_copy(update={"actions": action_summary(found, total)})
        for name, said in summary.warnings.items():
            context.progress.note(f"{name}: {said}")
        return summary.as_json(), outcome_in_words(summary), None

    return run_step(stage, context.progress, work)


def _of_tokens(
    found: Advantages, rule: TokenAdvantage, reward: str, matrix: Stage, tokens: Sequence[Stage]
) -> tuple[Advantages, dict[str, list[float]]]:
    """Advantages of tokens, from the matrix and, if a divergence is paid, from both models."""
    logps = None
    if rule.kl is not None:
        policy, reference = tokens[0], tokens[-1]  # one stage where both are the same model
        logps = lists_of(policy, OF_TOKENS), lists_of(reference, OF_TOKENS)
    return of_tokens(found, rule, lists_of(matrix, token_column(reward)), logps)


def _credited(parts: MethodParts, segmented: Sequence[Stage]) -> dict[str, Any]:
    """What the advantages of actions depend on beside those of samples."""
    if not segmented or parts.trajectory is None:
        return {}
    credit = parts.trajectory.credit.model_dump(mode="json")
    return {"actions": [made.fingerprint for made in segmented], "credit": credit}


def _trajectories(segmented: Sequence[Stage], tokens: Sequence[Stage]) -> dict[str, Trajectory]:
    """By completion id what was segmented, with log-ratios where their tokens were scored."""
    ratios = None
    if tokens:
        own, reference = (lists_of(made, OF_TOKENS) for made in tokens)
        ratios = {
            key: tuple(a - b for a, b in zip(logps, reference[key], strict=True))
            for key, logps in own.items()
        }
    return {k: v for made in segmented for k, v in trajectories_of(made, ratios).items()}


def outcome_in_words(summary: AdvantageSummary) -> str:
    """One line about the samples of an iteration."""
    parts = summary.tally.parts
    words = f"{parts[TRAINED]} of {summary.tally.total} prompts are trained on"
    left_out = counts(parts, without=[TRAINED])
    words += f" ({left_out})" if left_out else ""
    if summary.mean_reward is not None:
        words += f", {summary.reward} {summary.mean_reward:.3f}"
    if summary.right.share is not None:
        words += f", {100 * summary.right.share:.0f} % of {summary.right.n} samples right"
    return f"{words}, entropy {summary.entropy:.3f}"


def weighed_examples(
    context: Context, weighed: Stage, matrix: Stage, tokens: Stage | None
) -> list[Example]:
    """The prompts of an iteration with the samples that are trained on.

    Args:
        context: Of the run.
        weighed: The stage of the advantages.
        matrix: The score matrix, for the token ids.
        tokens: Token log-probabilities under the loss reference, if the objective reads them.
    """
    names = ("prompt_id", "completion_id", "reward", "advantage", "outcome")
    table = read_table(weighed.folder / ADVANTAGES)
    rows = rows_of(table, *names)
    actions = weighed_actions(table)
    samples = [
        WeighedSample(prompt, key, reward, advantage, actions.get(key))
        for prompt, key, reward, advantage, outcome in rows
        if outcome == TRAINED
    ]
    rule = context.plan.parts(weighed.spec.t).trajectory
    credit = None if rule is None else rule.credit
    shares = read_table(weighed.folder / PROMPTS, ["prompt_id", "vote_share"])
    return sample_examples(
        samples,
        lists_of(matrix, "token_ids"),
        context.encode_set(matrix.spec.inputs[0]),
        {
            key: float("nan") if value is None else value
            for key, value in rows_of(shares, "prompt_id", "vote_share")
        },
        None if tokens is None else lists_of(tokens, OF_TOKENS),
        _by_token(table) if CREDIT in table.column_names else None,
        phrases=not isinstance(credit, ProcessCredit) or credit.separator_credit == "own",
    )


def _by_token(table: pa.Table) -> dict[str, tuple[float, ...]]:
    told = rows_of(table, "completion_id", CREDIT)
    return {key: tuple(values) for key, values in told if values is not None}


def lists_of(stage: Stage, name: str) -> dict[str, tuple]:
    """A column of lists by completion id; not of completions without one."""
    return {
        key: tuple(values)
        for table in stage.tables(["completion_id", name])
        for key, values in rows_of(table, "completion_id", name)
        if values is not None
    }


def _nothing_to_train_on(spec: StageSpec, found: Advantages) -> str:
    reasons = counts(found.tally.parts)
    return (
        f"{spec.label}: none of {found.tally.total} prompts can be trained on ({reasons}). "
        "no_variance: all samples of a prompt have the same reward, so sample more of them, raise "
        "the temperature, or take prompts of another difficulty; unscored: see the score column; "
        "truncated: raise sampling.max_completion_tokens or set method.advantage.truncated: keep"
    )


def _sample_table(found: Advantages, by_token: Mapping[str, list[float]] | None) -> pa.Table:
    layout, present = found.layout, found.layout.groups.present
    prompt = np.nonzero(present)[0]
    columns = {
        "prompt_id": pa.array(layout.matrix.prompt_ids[prompt], pa.string()),
        "completion_id": pa.array(
            layout.matrix.completion_ids[layout.groups.rows[present]], pa.string()
        ),
        "reward": pa.array(found.reward[present], from_pandas=True),  # NaN becomes null
        "advantage": pa.array(found.advantage[present], from_pandas=True),
        "outcome": pa.array(found.sample_outcome[present], pa.string()),
    }
    if found.kl is not None:
        columns["kl"] = pa.array(found.kl[present], from_pandas=True)
    if by_token is not None:
        lists = [by_token.get(key) for key in columns["completion_id"].to_pylist()]
        columns[CREDIT] = pa.array(lists, pa.list_(pa.float64()))
    if found.actions is not None:
        own = [found.actions.get(key) for key in columns["completion_id"].to_pylist()]
        told = [None if row is None else [asdict(action) for action in row] for row in own]
        columns[ACTIONS] = pa.array(told, WEIGHED_TYPE)
    return pa.table(columns)


def _prompt_table(found: Advantages) -> pa.Table:
    groups = found.layout.groups
    return pa.table(
        {
            "prompt_id": pa.array(found.layout.matrix.prompt_ids, pa.string()),
            "num_completions": groups.present.sum(1),
            "num_distinct": groups.distinct.sum(1),
            "vote_share": pa.array(found.vote_share, from_pandas=True),
            "outcome": pa.array(found.outcome, pa.string()),
        }
    )


def _behaviour_gap(matrix: Stage, policy: str) -> float | None:
    """See `AdvantageSummary.behaviour_gap`; None where a sampler told no log-probability."""
    names = ("origin", "sampling_logp", LOGP_PREFIX + policy, NUM_TOKENS)
    gaps, tokens = 0.0, 0
    for table in matrix.tables(list(names)):
        for origin, drawn, scored, length in rows_of(table, *names):
            if origin != Origin.POLICY:
                continue
            if drawn is None or scored is None:
                return None
            gaps, tokens = gaps + drawn - scored, tokens + length
    return gaps / tokens


def _summary(
    found: Advantages,
    t: int,
    behaviour_gap: float | None,
    sampling: SamplingConfig,
    first: Sequence[Stage],
) -> AdvantageSummary:
    layout = found.layout
    matrix, present = layout.matrix, layout.groups.present
    trained, policy = found.sample_outcome == TRAINED, matrix.logps[f"M{t}"]
    tokens = int(matrix.num_tokens.sum())
    share = float(np.nanmean(found.vote_share)) if (found.vote_share > 0).any() else None
    spread = Spread(float(-policy.sum() / tokens), tokens / len(policy), share)
    right = matrix.scores[VERIFIER]
    known = right[~np.isnan(right)]
    ordered, ties = _reward_order(found)
    rewards = found.reward[~np.isnan(found.reward)]
    return AdvantageSummary(
        reward=str(layout.reward),
        tally=found.tally,
        completion_tally=found.sample_tally,
        mean_reward=float(rewards.mean()) if len(rewards) else None,
        mean_abs_advantage=float(np.abs(found.advantage[trained]).mean()),
        right=_share(int(known.sum()), len(known)),
        reward_order=_share(*ordered),
        reward_ties=ties,
        trained_tokens=int(layout.num_tokens[trained].sum()),
        entropy=spread.entropy,
        vote_share=share,
        behaviour_gap=behaviour_gap,
        kl_to_reference=None if found.kl is None else float(found.kl[present].mean()),
        kl_to_seed_per_token=_divergence(found, t, "M0"),
        kl_to_previous_per_token=_divergence(found, t, f"M{t - 1}"),
        noise=dict(matrix.noise),
        completions=len(policy),
        distinct=int(layout.groups.distinct.sum()),
        truncated=int(matrix.truncated.sum()),
        mean_completion_tokens=spread.tokens,
        warnings={**_off_policy(sampling), **collapse([*_first_spread(first), spread])},
    )


def _first_spread(first: Sequence[Stage]) -> list[Spread]:
    """What the samples of iteration 1 were like; nothing in iteration 1."""
    found = []
    for stage in first:
        record = stage.finished()
        assert record is not None, "inputs are finished"
        was = AdvantageSummary.read(record.summary, stage.folder)
        found.append(Spread(was.entropy, was.mean_completion_tokens, was.vote_share))
    return found


def _off_policy(sampling: SamplingConfig) -> dict[str, str]:
    if sampling.temperature == 1 and sampling.top_p == 1:
        return {}
    return {
        "off_policy": f"samples are drawn at temperature {sampling.temperature:g} and top-p "
        f"{sampling.top_p:g}, and the policy that is trained is scored at 1 and 1: the gradient is "
        "not that of its expected reward. Set both to 1, or compare `behaviour_gap`."
    }


def _reward_order(found: Advantages) -> tuple[tuple[int, int], int]:
    """Of pairs of one prompt, one right and one wrong: (in order, of these), and ties of reward."""
    groups, right = found.layout.groups, found.layout.matrix.scores[VERIFIER]
    in_order = decided = ties = 0
    for g in range(len(groups.rows)):
        there = groups.present[g] & ~np.isnan(found.reward[g])
        labels, rewards = right[groups.rows[g, there]], found.reward[g, there]
        gaps = rewards[labels == 1][:, None] - rewards[labels == 0][None, :]
        in_order += int((gaps > 0).sum())
        decided += int((gaps != 0).sum())
        ties += int((gaps == 0).sum())
    return (in_order, decided), ties


def _share(right: int, total: int) -> Share:
    found = wilson_interval(right, total)
    if not isinstance(found, Interval):
        return Share(share=None, low=None, high=None, n=0)
    return Share(share=found.estimate, low=found.low, high=found.high, n=total)


def _divergence(found: Advantages, t: int, model: str) -> float | None:
    """Mean log-ratio per token of M_t against a model; None if it was not scored."""
    matrix = found.layout.matrix
    if model not in matrix.logps:
        return None
    estimate = kl_from_seed(matrix.logps[f"M{t}"], matrix.logps[model], matrix.num_tokens)
    return None if isinstance(estimate, Absent) else estimate.per_token
