"""What of a method's parts does not go together; a method with such parts is refused when made."""

from __future__ import annotations

from typing import TYPE_CHECKING

from cream.recipe.columns import HEAD, TOKEN_REWARDS
from cream.recipe.objectives import ChosenNll, Dpo
from cream.recipe.pairing import BestWorst, EditedOriginal, MajorityVote, RandomPair
from cream.recipe.policy_gradient import PolicyGradient, TokenAdvantage

if TYPE_CHECKING:
    from cream.recipe.parts import MethodParts

OF_PAIRS = (
    "tie_break",
    "agreement",
    "reported",
    "smoothing",
    "answered",
    "others",
    "transform",
    "goals",
    "sampled_goal",
)
"""Parts that only methods with pairs have."""


def refuse_misfits(parts: MethodParts) -> None:
    """Refuse parts that would be ignored, or contradict one another.

    Raises:
        ValueError: Two do; which.
    """
    _refuse_pairs_beside_advantages(parts)
    _refuse_edits(parts)
    if parts.pairing is None:
        return
    if parts.agreement and parts.smoothing:
        raise ValueError("C comes from agreement or from smoothing, not from both")
    if isinstance(parts.pairing, MajorityVote) and not parts.reward.kind == "votes":
        raise ValueError("pairing.rule: majority_vote pairs by votes; the reward is no vote")
    if parts.pairing.unanimous == "nll" and not parts.objective.trains_chosen_alone:
        raise ValueError(
            "pairing.unanimous: nll trains by likelihood alone, and this objective has no "
            "likelihood term; give it one (objective.nll), or leave unanimous at drop"
        )
    if parts.objective.orders_pairs == isinstance(parts.pairing, RandomPair):
        raise ValueError(
            "pairing.rule: random makes pairs without a label, for objective scir, and scir "
            f"takes no others; objective {parts.objective.name} and rule {parts.pairing.rule} "
            "do not go together"
        )
    _refuse_lost_answer(parts)
    _refuse_goals(parts)
    if parts.others and not isinstance(parts.pairing, BestWorst):
        raise ValueError("completions of other models are paired by pairing.rule: best_worst")
    compared = parts.agreement
    if compared and compared.speaks_of_pairs and compared.first != parts.reward:
        raise ValueError(
            f"the witness is asked about pairs that {parts.reward} picks, and compared with "
            f"{compared.first}: filter: agreeing and the pair level speak of the ranking that "
            "picks the pairs"
        )
    if parts.transform and parts.objective.additions:
        raise ValueError(
            f"transform {parts.transform!r} makes the examples, and "
            f"{parts.objective.additions[0].key} adds to those of pairs; take one of them"
        )
    if parts.others and parts.agreement:
        raise ValueError("C would compare rankings of completions that M_t did not sample")


def _refuse_pairs_beside_advantages(parts: MethodParts) -> None:
    """A method makes pairs, or weighs every sample."""
    if (parts.pairing is None) == (parts.advantage is None):
        raise ValueError(
            "a method either makes pairs (pairing) or weighs every sample (advantage); it has "
            + ("neither" if parts.pairing is None else "both")
        )
    if isinstance(parts.objective, PolicyGradient) != (parts.advantage is not None):
        raise ValueError(
            f"objective {parts.objective.name} does not train on "
            + ("pairs" if parts.advantage is None else "advantages; take policy_gradient")
        )
    if isinstance(parts.advantage, TokenAdvantage):
        _refuse_lost_tokens(parts)
    given = [name for name in OF_PAIRS if getattr(parts, name) is not None]
    given += ["prompts: seed"] if parts.prompts == "seed" else []
    if parts.trajectory is not None and parts.advantage is None:
        raise ValueError("trajectory would be ignored: pairs are of whole completions")
    if parts.advantage is not None and given:
        raise ValueError(
            f"{', '.join(given)} would be ignored: an advantage is of M_t's own samples, all "
            "of them, and no pair is made"
        )


def _refuse_lost_tokens(parts: MethodParts) -> None:
    """An advantage per token needs a reward per token, and a ratio per token to weigh."""
    read = parts.reward
    if read.kind != "score" or read.column not in TOKEN_REWARDS:
        raise ValueError(
            f"an advantage of every token needs a reward of every token, {', '.join(TOKEN_REWARDS)}"
            f"; {read} is one of completions"
        )
    if isinstance(parts.objective, PolicyGradient) and parts.objective.ratio != "token":
        raise ValueError(
            f"objective.ratio: {parts.objective.ratio} is of completions and would weigh all "
            "tokens by the advantage of the first; set it to token"
        )


def _refuse_edits(parts: MethodParts) -> None:
    """Edits are made of M_t's own samples; masks and heads are of what they touched."""
    paired = isinstance(parts.pairing, EditedOriginal)
    if paired and parts.editing is None:
        raise ValueError("pairing.rule: edited_original needs edits, and `editing` makes none")
    if parts.editing is not None and (parts.others is not None or parts.prompts == "seed"):
        raise ValueError("editing is of completions that M_t sampled, and others are in its groups")
    if parts.head is not None and parts.editing is None:
        raise ValueError("head learns from edits, and `editing` makes none")
    if parts.head is not None and HEAD not in parts.score_columns:
        raise ValueError(f"head would be ignored: no quantity reads the column {HEAD}")
    if parts.tokens == "all":
        return
    plain = isinstance(parts.objective, Dpo) and not parts.objective.terms
    if not (paired and plain and parts.shape is None):
        raise ValueError(
            "tokens: edited trains on the tokens that an edit touched: pairing.rule: "
            "edited_original, objective dpo without nll, degree or optimism, no transform, no goals"
        )


def _refuse_goals(parts: MethodParts) -> None:
    """Goals make examples of pairs, and nothing else may."""
    if parts.sampled_goal is not None and parts.goals is None:
        raise ValueError("sampled_goal is told as `goals` say, and there are none")
    if parts.goals is None:
        return
    if parts.transform is not None:
        raise ValueError(f"transform {parts.transform!r} and goals both make the examples")
    if parts.objective.additions:
        raise ValueError(
            f"goals make the examples, and {parts.objective.additions[0].key} adds to those of "
            "pairs; take one of them"
        )
    if parts.paired_by.unanimous == "nll":
        raise ValueError("goals are told of pairs; leave pairing.unanimous at drop")
    if isinstance(parts.objective, ChosenNll):
        raise ValueError("goals reverse pairs, and the objective nll reads no pair")


def _refuse_lost_answer(parts: MethodParts) -> None:
    """Optimism reads an answer beside each pair."""
    given, makes = parts.objective.optimism, parts.shape
    if given and makes is not None:
        raise ValueError(
            f"objective.optimism reads an answer of M_t beside each pair, and examples that "
            f"{makes} make have none; leave one of the two out"
        )
    if given and given.by_consistency and not (parts.agreement or parts.smoothing):
        raise ValueError(
            "objective.optimism.by_consistency weighs by 1 - C, and this method trusts every "
            "pair fully; leave it out"
        )
