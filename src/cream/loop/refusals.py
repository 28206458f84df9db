"""What a method reads and the run cannot give is refused before anything runs."""

from __future__ import annotations

from cream.algorithms.objective import Objective
from cream.errors import RecipeError
from cream.loop.context import Context
from cream.loop.training_examples import NO_PAIR_MARKS, matrix_columns
from cream.recipe.columns import (
    EDITED,
    FILLED_WITH,
    FROM_DATA,
    HEAD,
    IMPLICIT,
    LABELS,
    LAST_ANSWER,
    SELF_CERTAINTY,
    VERDICT,
    VERIFIER,
)
from cream.recipe.parts import MethodParts
from cream.stages.train import pair_columns


def check_score_columns(context: Context) -> None:
    """A column that the run cannot fill is refused now, not after sampling.

    Raises:
        RecipeError: The method reads a score column that does not exist, or that needs a section
            which this method does not have.
    """
    method = context.recipe.method
    fillable = {VERIFIER, SELF_CERTAINTY, IMPLICIT}
    fillable |= {method.scorer.column} if method.scorer else set()
    fillable |= {VERDICT} if context.recipe.scoring.verdicts else set()
    fillable |= context.extensions.scorers.keys()
    fillable |= {EDITED, LABELS} if context.plan.parts(1).editing else set()
    fillable |= {HEAD} if context.plan.parts(1).head else set()
    fillable |= {FROM_DATA} if context.plan.parts(1).prompts == "seed" else set()
    fillable |= {LAST_ANSWER} if context.plan.parts(1).trajectory else set()
    fillable |= {name for name, other in FILLED_WITH.items() if other in fillable}
    for t in range(1, context.recipe.iterations + 1):
        parts = context.plan.parts(t)
        known = fillable | (parts.answered.columns.keys() if parts.answered else set())
        wrong = [name for name in parts.score_columns if name not in known]
        if wrong:
            raise RecipeError(
                f"method {method.name} reads the score column {', '.join(wrong)} at iteration {t}, "
                f"which this run cannot fill; it has {', '.join(sorted(fillable))}. `judge` comes "
                "with methods srlm_judge, temporal and rloo, `reward_model` with reward_model, "
                "temporal and rloo, `steer` with steered, `listwise` and `pointwise` with "
                "cream_views, any other with "
                "cream.run(..., scorers=...)"
            )


def check_masks(context: Context) -> None:
    """What of a seed completion is not trained on holds in fine-tuning, and in nothing else.

    Raises:
        RecipeError: The method makes pairs of seed completions, which would be trained on whole.
    """
    masked = sum(bool(example.masked) for example in context.data.seed_examples)
    if masked and context.plan.parts(1).prompts == "seed":
        raise RecipeError(
            f"method {context.recipe.method.name} makes pairs of seed completions, and {masked} of "
            "them have spans that are not to be trained on (completion_spans with train: false); "
            "take the spans out, or another method"
        )


def check_objective(context: Context) -> None:
    """An objective that examples of this run cannot feed is refused now, not after sampling.

    Raises:
        RecipeError: The user's objective names a column that examples of this run do not have, or
            seed examples are to be replayed under one that no chosen completion alone can train.
    """
    own = context.extensions.objective
    first = context.plan.parts(1)
    if own is not None and first.advantage is not None:
        raise RecipeError(
            f"objective {own.name} was given in Python, and method {context.recipe.method.name} "
            "trains on samples with advantages under its own; leave objective out, or take a "
            "method that makes pairs"
        )
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
