"""Why one prompt got its pair, or none: everything the store knows about it. Loads no model.

Rewards and rankings are computed again from the score matrix by the same code that decided; the
pair, its C and the outcome are read from what was stored.
"""

from __future__ import annotations

import difflib
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
from pydantic import Field
from rich.console import Console
from rich.text import Text

from cream.errors import RunError
from cream.recipe import Recipe
from cream.recipe.pairing import Penalise, RandomPair
from cream.recipe.parts import Advantage, MethodParts, TokenAdvantage
from cream.recipe.trajectory import ProcessCredit
from cream.records import Record
from cream.report.ranked import (
    Asked,
    Decided,
    ExplainedCompletion,
    ExplainedPair,
    RankedSet,
    Turn,
    WitnessAnswer,
    read_asked,
    read_ranked_set,
)
from cream.report.table import Table, figure, terminal
from cream.report.terminal import printable
from cream.report.training_rows import training_words
from cream.report.trajectories import action_words
from cream.runs.reader import PROMPTS, RunReader, rows_of

Question = Literal["consistency", "pair", "reward"]
SHOWN_IDS = 5
"""How many prompt ids an error names."""
OUTCOMES: Mapping[str, str] = {
    "paired": "it has a pair",
    "single": "it has fewer than two completions",
    "all_duplicates": "all completions have the same tokens",
    "unscored": "fewer than two distinct completions have a reward",
    "truncated": "fewer than two distinct completions are left once truncated ones are dropped "
    "(raise sampling.max_completion_tokens, or see `truncated` of pairing and of advantage)",
    "tied": "no two rewards differ by more than the noise of scoring",
    "no_edit": "none of its completions was edited; `cream export edits` tells why of each",
    "below_min_gap": "no gap of rewards reaches method.pairing.min_gap",
    "no_majority": "the most voted answer has too small a share (method.pairing.min_share)",
    "below_half": "C is below 1/2, and method.below_half drops such pairs",
    "witness_disagrees": "the witness orders the pair the other way, or answers something else",
    "witness_silent": "the witness has no order for the pair, or no answer",
    "unanimous": "all completions say the same, which is trained on by likelihood alone",
    "trained": "its samples are trained on",
    "no_variance": "all its samples have the same reward, so none is better than another",
}
"""What an outcome says about a prompt."""
UNDEFINED: Mapping[str, str] = {
    "single": "fewer than two distinct completions count",
    "unscored": "fewer than two completions have a value in both rankings",
    "first_tied": "all completions are tied in the first ranking",
    "second_tied": "all completions are tied in the second ranking",
    "shared_decides": "the term that both ratings hold orders one of them alone",
    "": "no two rankings were compared",
}
"""Why two rankings of a prompt cannot be compared."""


class Explanation(Record):
    """What a run knows about one prompt."""

    question: Question
    prompt_id: str
    iteration: Annotated[int, Field(ge=1)]
    method: str
    prompt: list[Turn]
    answer: str | None
    completions: list[ExplainedCompletion]
    outcome: str
    correlation: float | None
    """Of the two rankings that were compared; see `definedness`."""
    definedness: str
    """``defined``, why the rankings cannot be compared, or empty if none were."""
    pairs: list[ExplainedPair]
    words: list[str]


def explain(question: Question, root: Path, prompt: str, t: int | None) -> Explanation:
    """What the store knows about one prompt.

    Args:
        question: What the words are about; the figures are the same but for the rankings shown.
        root: Run directory.
        prompt: Id of the prompt, or the beginning of one.
        t: Iteration; None for the first that has the prompt.

    Raises:
        RunError: No run, no pairs yet, or no such prompt (close ones are named).
    """
    run = RunReader(root)
    t, prompt_id = find_prompt(run, prompt, t)
    ranked = read_ranked_set(run, t)
    told = read_asked(run.asked(t))[prompt_id]
    return explained(question, run, ranked, prompt_id, told, ranked.completions(prompt_id))


def explained(
    question: Question,
    run: RunReader,
    ranked: RankedSet,
    prompt_id: str,
    asked: Asked,
    completions: Sequence[ExplainedCompletion],
) -> Explanation:
    """What is known of a prompt of an iteration that was read; for the terminal and the page."""
    decided, pairs = ranked.decided[prompt_id], ranked.pairs.get(prompt_id, [])
    shown = list(completions)
    if question == "reward":
        reward, others = str(ranked.parts.reward), set(ranked.values)
        hidden = others - {reward}
        shown = [_without(one, hidden) for one in shown]
    return Explanation(
        question=question,
        prompt_id=prompt_id,
        iteration=ranked.t,
        method=run.recipe.method.name,
        prompt=list(asked.turns),
        answer=asked.answer,
        completions=shown,
        outcome=decided.outcome,
        correlation=decided.correlation,
        definedness=decided.definedness,
        pairs=pairs,
        words=_words(question, run, ranked, prompt_id, shown),
    )


def _without(one: ExplainedCompletion, hidden: Collection[str]) -> ExplainedCompletion:
    """A completion without some rankings."""
    return one.model_copy(
        update={
            "figures": {name: v for name, v in one.figures.items() if name not in hidden},
            "ranks": {name: v for name, v in one.ranks.items() if name not in hidden},
        }
    )


def find_prompt(run: RunReader, prompt: str, t: int | None) -> tuple[int, str]:
    """Iteration and whole id of the one prompt that `prompt` means.

    Raises:
        RunError: None, or several. The ids that are meant or close are named.
    """
    paired = {i: stage for i, stage in run.decisions.items() if t in (None, i)}
    if not paired:
        which = "no iteration" if t is None else f"iteration {t}"
        said = f"{run.root}: {which} has pairs yet; `cream status {run.root}` shows what is done"
        raise RunError(said)
    known: dict[str, int] = {}
    for i, stage in reversed(paired.items()):
        ids = rows_of(stage.file(PROMPTS, ("prompt_id",)), "prompt_id")
        known |= {key: i for (key,) in ids}
    if prompt in known:
        return known[prompt], prompt
    matches = sorted(key for key in known if key.startswith(prompt)) if prompt else []
    if len(matches) == 1:
        return known[matches[0]], matches[0]
    if matches:
        raise RunError(f"{len(matches)} prompts begin with {prompt!r}: {_some(matches)}")
    close = difflib.get_close_matches(prompt, known, n=SHOWN_IDS, cutoff=0.5)
    hint = f"close: {_some(close)}" if close else f"there are: {_some(sorted(known))}"
    raise RunError(f"no prompt {prompt!r} in iteration {', '.join(map(str, paired))}; {hint}")


def _some(ids: Sequence[str]) -> str:
    shown = ", ".join(ids[:SHOWN_IDS])
    return f"{shown}, ..." if len(ids) > SHOWN_IDS else shown


def _words(
    question: Question,
    run: RunReader,
    ranked: RankedSet,
    prompt_id: str,
    completions: Sequence[ExplainedCompletion],
) -> list[str]:
    decided, pairs = ranked.decided[prompt_id], ranked.pairs.get(prompt_id, [])
    match question:
        case "reward":
            return _reward_words(ranked, prompt_id)
        case "consistency":
            return _consistency_words(run.recipe, ranked, decided, pairs)
        case "pair" if ranked.parts.advantage is not None:
            words = _advantage_words(ranked.parts.advantage, ranked.parts, decided)
            return [*words, *action_words(run, ranked.t, completions)]
        case "pair":
            answers = ranked.witness_answers(prompt_id)
            words = _pair_words(ranked.parts, decided, completions, pairs, answers)
            words += training_words(run, ranked.t, prompt_id, pairs, completions)
            along = ranked.parts.along
            asked = [f"witness: {along.model_at(ranked.t)}, which learns along"] if along else []
            return [*asked, *words, *_further_words(run, ranked.t, pairs)]


def _reward_words(ranked: RankedSet, prompt_id: str) -> list[str]:
    parts = ranked.parts
    noises = ranked.layout.quantity(parts.reward).noise[ranked.place(prompt_id)]
    noise = np.nanmax(noises, initial=0.0)
    lines = [f"ranked by {parts.reward}: higher is better, rank 1 is best"]
    if noise:
        lines.append(f"values that differ by no more than {noise:.2g} (noise of scoring) are tied")
    if isinstance(parts.rule.truncated, Penalise):
        lines.append(f"a truncated completion has paid {parts.rule.truncated.penalty:g} of it")
    return [*lines, "no rank: a duplicate, truncated where these are dropped, or without a value"]


def _consistency_words(
    recipe: Recipe, ranked: RankedSet, decided: Decided, pairs: Sequence[ExplainedPair]
) -> list[str]:
    spec, parts = ranked.compared, ranked.parts
    if spec is None:
        return [f"method {recipe.method.name} compares no rankings"]
    lines = [f"compared: {spec.first} and {spec.second}, by {spec.statistic}"]
    value = decided.correlation
    if value is None:
        lines.append(f"no value: {UNDEFINED[decided.definedness]}")
    elif spec.statistic == "top_order":
        lines.append(f"C of this prompt: {value:.3f}")
    else:
        lines.append(
            f"tau {value:+.3f}, so C of this prompt is (tau + 1) / 2 = {(value + 1) / 2:.3f}"
        )
    if parts.agreement is None:
        return [*lines, f"method {recipe.method.name} reports C and trusts every pair fully"]
    levels = {"set": "the mean over prompts", "sample": "by prompt", "pair": "by pair"}
    level = f"{levels[parts.agreement.level_name]} (level {parts.agreement.level_name})"
    if not pairs:
        return [*lines, f"C in the loss is {level}; this prompt has no pair: {_why(decided)}"]
    shown = ", ".join(f"{pair.consistency:.3f}" for pair in pairs)
    return [*lines, f"C in the loss, {level}: {shown}"]


def _pair_words(
    parts: MethodParts,
    decided: Decided,
    completions: Sequence[ExplainedCompletion],
    pairs: Sequence[ExplainedPair],
    answers: Sequence[WitnessAnswer],
) -> list[str]:
    lines = [f"pairing: {parts.paired_by.rule} by {parts.reward}"]
    number = {one.completion_id: i for i, one in enumerate(completions, start=1)}
    lines += [_answered(answer, number) for answer in answers]
    for pair in pairs:
        gap = pair.chosen_reward - pair.rejected_reward
        if isinstance(parts.pairing, RandomPair):
            lines.append(
                f"#{number[pair.chosen_id]} and #{number[pair.rejected_id]}, in a drawn order: "
                f"{parts.objective.name} labels the pair anew at every step"
            )
            continue
        lines.append(
            f"chosen #{number[pair.chosen_id]} ({pair.chosen_reward:.3f}), rejected "
            f"#{number[pair.rejected_id]} ({pair.rejected_reward:.3f}): gap {gap:.3f}, "
            f"C {pair.consistency:.3f}, weight {pair.weight:.3f}"
        )
    return lines if pairs else [*lines, f"no pair: {_why(decided)}"]


def _answered(answer: WitnessAnswer, number: Mapping[str, int]) -> str:
    given = [f"#{number[key]}" for key in answer.given_by]
    said = f"as {', '.join(given)} do" if given else "as no completion does"
    return f"witness {answer.witness} answers {answer.text!r}, {said}"


def _further_words(run: RunReader, t: int, pairs: Sequence[ExplainedPair]) -> list[str]:
    """Sequences that an option of the objective, or a transform, gave these pairs."""
    from cream.algorithms.preference import PAIR  # loads torch, which other questions do without

    made, wanted = run.sole("transform", t), {f"{p.chosen_id}>{p.rejected_id}" for p in pairs}
    if made is None:
        return []
    found = dict(row for row in made.rows("example_id", "sequences") if row[0] in wanted)
    return [
        f"beside {key}: "
        + (
            ", ".join(
                f"{one['role']} ({len(one['token_ids'])} tokens)"
                for one in sequences
                if one["role"] not in PAIR
            )
            or "nothing"
        )
        for key, sequences in found.items()
    ]


def _advantage_words(
    rule: Advantage | TokenAdvantage, parts: MethodParts, decided: Decided
) -> list[str]:
    """How the advantage of each sample comes about."""
    baselines = {
        "leave_one_out": "the mean of the other samples",
        "group_mean": "the mean of all samples",
        "none": "nothing",
    }
    lines = [f"advantage: {parts.reward} less {baselines[rule.baseline]}"]
    if isinstance(rule, TokenAdvantage):
        lines = [
            f"advantage of every token: its {parts.reward} reward and, by {rule.discount:g} times "
            f"{rule.decay:g} a token, those after it, less {baselines[rule.baseline]}; shown is "
            "the mean"
        ]
    if parts.trajectory is not None and isinstance(parts.trajectory.credit, ProcessCredit):
        over = parts.trajectory.credit.baseline
        lines = [f"advantage: of every action by itself, baseline {over}; here the mean of them"]
    if rule.scale == "group_std":
        lines.append("divided by the standard deviation of the group's rewards")
    if rule.kl is not None:
        lines.append(f"{rule.kl.beta:g} times the divergence is taken off the {rule.kl.place}")
    return [*lines, f"this prompt: {_why(decided)}", "no advantage: the sample is not trained on"]


def _why(decided: Decided) -> str:
    return OUTCOMES[decided.outcome]


def _coloured(row: ExplainedCompletion) -> Text:
    """The text; rewards of its tokens are red below 0, green above, bold from half the largest."""
    told = row.token_rewards
    if told is None:
        return Text(printable(row.text, limit=SHOWN_CHARACTERS))
    shown, start, most = Text(), 0, max(map(abs, told.rewards), default=0.0)
    for end, reward in zip(told.ends, told.rewards, strict=True):
        style = ("red" if reward < 0 else "green") if reward else ""
        strong = "bold " if reward and abs(reward) >= most / 2 else ""
        shown.append(printable(row.text[start:end]), style=f"{strong}{style}")
        start = end
    if len(shown) > SHOWN_CHARACTERS:
        shown.truncate(SHOWN_CHARACTERS, overflow="ellipsis")
    return shown


SHOWN_CHARACTERS = 300
"""Of a completion on the terminal; `--json` has the whole text."""


def print_explanation(console: Console, told: Explanation) -> None:
    """Print what `cream explain` found about a prompt."""
    title = f"prompt {told.prompt_id}, iteration {told.iteration}, method {told.method}"
    console.print(Text(printable(title), style="bold"))
    for message in told.prompt:
        console.print(Text(f"{message.role}: {printable(message.content)}"), soft_wrap=True)
    if told.answer is not None:
        console.print(Text(f"answer: {printable(told.answer)}"), soft_wrap=True)
    for number, row in enumerate(told.completions, start=1):
        notes = f" ({', '.join(row.notes)})" if row.notes else ""
        console.print(Text(f"#{number}{notes}: ") + _coloured(row), soft_wrap=True)
    console.print(terminal(figures_table(told.completions)))
    for line in told.words:
        console.print(Text(printable(line)), soft_wrap=True)


def figures_table(completions: Sequence[ExplainedCompletion]) -> Table:
    """Log-probs, values and ranks of a prompt's completions."""
    names = tuple(completions[0].figures)
    rows = [
        (f"#{number}", *(_ranked(row, name) for name in names), str(row.num_tokens))
        for number, row in enumerate(completions, start=1)
    ]
    title = "figures, nats; in brackets the rank, 1 is best"
    return Table(title, ("", *names, "tokens"), tuple(rows))


def _ranked(row: ExplainedCompletion, name: str) -> str:
    words, rank = figure(row.figures[name], ".3f"), row.ranks.get(name)
    return words if rank is None else f"{words} ({rank:g})"
