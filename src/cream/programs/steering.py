"""``cream steer fit|score``: a reward steered by a user's choices, trained and used."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from contextlib import closing
from itertools import combinations
from pathlib import Path
from typing import Any

import torch

from cream.algorithms.steering import disagreement, predicted
from cream.data.preferences import (
    GivenResponse,
    Preferences,
    Response,
    responses,
)
from cream.engines.embedder import Embedder
from cream.engines.steering import KnownChoices, read_choices
from cream.engines.texts import Text
from cream.errors import DataError, RunError
from cream.loop.context import ExternalSteering
from cream.models.artifacts import CONFIG
from cream.models.steered_reward import SteeredReward, save_steered_reward
from cream.preflight.models import embedding_identity, open_models
from cream.programs.embeddings import (
    Embedded,
    embed_for,
    embed_responses,
    hashed_user,
    numbered_choices,
)
from cream.protocols import Progress
from cream.recipe.load import apply_overrides, validate_section
from cream.recipe.steering import SteeringConfig
from cream.records import Count, Counts, Rate, Record
from cream.runs.files import replacing_file
from cream.stages.score import choice_texts, tally_scores
from cream.training.steering import fit_steering
from cream.types import Tally

SCORES = "scores.jsonl"


class FittedSteering(Record):
    """What was trained, and on what."""

    folder: str
    users: Count
    """Trained on."""
    rows: Tally
    """Rows of the file: ``kept``, ``tie``, ``duplicate``, ``same_text``."""
    choices: Tally
    """Of the kept ones: ``trained``, or the reason why a completion has no embedding."""
    completions: Count
    components: Count
    """Features of an embedding."""
    steps: Count
    loss: float
    """Of the steered reward over the last tenth of the steps, nats per choice."""
    pooled_loss: float
    """Of the reward without context."""
    unused: Counts
    """Rows per column that became nothing."""


class Question(Record):
    """A pair of answers worth asking the user about."""

    prompt: list[dict[str, str]]
    a: str
    b: str
    chance: Rate
    """That the user prefers a, by what is known."""
    deviation: float
    """Standard deviation of that chance over the users that this one may be."""


class SteeredScores(Record):
    """What was scored, for whom, and where it is."""

    folder: str
    scores_file: str
    user: str | None
    """Null: nobody in particular, C = 0."""
    context: Count
    """Choices that were read."""
    rows: Tally | None
    """Rows of the context's file."""
    unread: Count
    """Choices left out, since a completion of theirs has no embedding."""
    alike: float | None
    """How many of the users trained on could have made the choices: 1 / sum of squared
    probabilities. Null for a Gaussian form."""
    tally: Tally
    """Answers: ``scored``, or the reason why one has no score."""
    questions: list[Question]
    """Those that would tell most, first."""


def steering_config(values: Mapping[str, Any], overrides: Sequence[str]) -> SteeringConfig:
    """Settings with ``a.b=c`` changes.

    Raises:
        RecipeError: One is wrong.
    """
    given = apply_overrides(values, overrides)
    return validate_section(given, SteeringConfig, source="settings of the reward")


def fit_reward(
    pairs: Preferences, config: SteeringConfig, out: Path, *, cache_dir: Path, progress: Progress
) -> FittedSteering:
    """Train a steered reward and write it; given again after an interruption, it goes on.

    Raises:
        CreamError: The model, the choices or the folder cannot be used.
    """
    if (out / CONFIG).exists():
        raise RunError(f"{out} holds a reward already; choose another --out, or delete it")
    checkpoints, encoder = open_models(config.model, out, cache_dir)
    identity = embedding_identity(checkpoints, encoder)

    def embedder() -> Embedder:
        return Embedder(
            checkpoints.for_inference("M0"),
            encoder,
            token_budget=config.token_budget,
            context_length=checkpoints.context_length,
        )

    shown = list(responses(pairs.users))
    with closing(checkpoints):
        found = embed_responses(
            shown, embedder, identity, str(checkpoints.compute_dtype), out, progress
        )
    told = numbered_choices(pairs.users, found)
    users = [choices for choices in told.users if len(choices)]
    if not users:
        raise DataError(f"{pairs.name}: no choice is left; none of its completions can be read")
    progress.start("train the reward", 0, "steps")
    fit = fit_steering(found.vectors, users, config)
    names = [hashed_user(u.user_id) for u, c in zip(pairs.users, told.users, strict=True) if len(c)]
    trained = {"users": names, "loss": fit.loss, "pooled_loss": fit.pooled_loss}
    save_steered_reward(out, fit.reward, embedding=identity, trained=trained)
    progress.finish(f"{len(users)} users, loss {fit.loss:.3f} (pooled {fit.pooled_loss:.3f})")
    return FittedSteering(
        folder=str(out),
        users=len(users),
        rows=pairs.tally,
        choices=told.tally,
        completions=len(found.vectors),
        components=fit.reward.projection.shape[1],
        steps=config.steps,
        loss=fit.loss,
        pooled_loss=fit.pooled_loss,
        unused=pairs.unused,
    )


def score_responses(
    reward: ExternalSteering,
    given: Sequence[GivenResponse],
    context: Preferences | None,
    out: Path,
    *,
    questions: int,
    progress: Progress,
) -> SteeredScores:
    """Score answers for one user, and say what to ask that user next.

    Args:
        reward: What scores.
        given: Answers.
        context: The user's choices; None: nobody in particular.
        out: Folder to write. The same one for another user reads the answers' embeddings again.
        questions: How many pairs to name.
        progress: Shows what happens.

    Raises:
        RunError: The folder holds embeddings of something else.
    """
    module = reward.fitted.module
    user = context.users[0] if context is not None else None
    with closing(reward.checkpoints):
        found = embed_for(reward, [one.response for one in given], out, progress)
        pairs = choice_texts(user) if user else ()
        known = _known(module, reward, pairs)
    most = module.config.context_max
    if len(known.winners) > most:
        progress.note(
            f"{len(known.winners)} choices are more than the {most} that the reward was trained "
            "with; what it makes of so many is untried (fit with a larger context_max)"
        )
    with torch.no_grad():
        features = module.features(torch.from_numpy(found.vectors))
        values = module.score(features, module.told(known.winners, known.losers)).tolist()
        latents, weights = module.types(known.winners, known.losers)
        asked = _questions(module, features, found, given, (latents, weights), questions)
    rows = [_score_row(one, found, values) for one in given]
    with replacing_file(out / SCORES) as temporary:
        lines = (json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
        temporary.write_text("".join(lines), encoding="utf-8")
    return SteeredScores(
        folder=str(out),
        scores_file=str(out / SCORES),
        user=user.user_id if user else None,
        context=len(known.winners),
        rows=context.tally if context else None,
        unread=known.unread,
        alike=float(1 / weights.square().sum()) if len(module.population) else None,
        tally=tally_scores([row["reason"] for row in rows]),
        questions=asked,
    )


def _known(
    module: SteeredReward, reward: ExternalSteering, pairs: Sequence[tuple[Text, Text]]
) -> KnownChoices:
    if pairs:
        return read_choices(module, reward.embedder(), pairs)
    none = torch.empty(0, module.projection.shape[1])
    return KnownChoices(none, none, 0)


def _score_row(one: GivenResponse, found: Embedded, values: Sequence[float]) -> dict[str, Any]:
    key = one.response.completion_id
    number = found.numbers.get(key)
    return {
        "completion_id": one.name or key,
        "score": None if number is None else values[number],
        "reason": found.reasons.get(key),
    }


def _questions(
    module: SteeredReward,
    features: torch.Tensor,
    found: Embedded,
    given: Sequence[GivenResponse],
    types: tuple[torch.Tensor, torch.Tensor],
    count: int,
) -> list[Question]:
    """Pairs of answers to one prompt on which the users that this one may be differ most."""
    groups: dict[tuple[Any, ...], dict[int, Response]] = {}
    for one in given:
        number = found.numbers.get(one.response.completion_id)
        if number is not None:
            groups.setdefault(one.response.prompt, {})[number] = one.response
    pairs = [(a, b, group) for group in groups.values() for a, b in combinations(group, 2)]
    if not pairs or not count:
        return []
    first, second = features[[a for a, _, _ in pairs]], features[[b for _, b, _ in pairs]]
    margins = module.margins(first, second, types[0])
    value, chance = disagreement(margins, types[1]), predicted(margins, types[1])
    return [
        Question(
            prompt=[{"role": m.role, "content": m.content} for m in group[a].prompt],
            a=group[a].text,
            b=group[b].text,
            chance=min(max(chance[k].item(), 0.0), 1.0),
            deviation=value[k].clamp(min=0).sqrt().item(),
        )
        for k in value.argsort(descending=True, stable=True)[:count].tolist()
        for a, b, group in (pairs[k],)
    ]
