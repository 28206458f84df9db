"""Tokens that options of an objective add to a pair, counted in rows, against the formula of their
page and against what the plan says."""

from __future__ import annotations

import pytest

from cream.algorithms.judging import verdict_question
from cream.inspect.plan import LETTER_TOKENS
from cream.models.chat import ChatEncoder
from cream.protocols import Addition
from cream.recipe.degree import PreferenceDegree
from cream.recipe.likelihood import AddingSection, ObjectiveSection
from cream.recipe.objectives import Dpo, Scir
from cream.stages.additions import extend_pairs
from cream.stages.degrees import Degrees
from cream.stages.verdicts import Verdicts
from cream.testing import tiny_tokenizer
from cream.training.examples import BatchLayout
from cream.types import AddedTokens, Completion, Example, FinishReason, Message, Prompt, RankedPair

ENCODER = ChatEncoder(tiny_tokenizer())
ANSWERS = (
    "the bridge of grey stone on a hill and the long road of a far village in the north of it ",
    "an owl in the old tower and a mouse of the mill on the river at the green field of a lord",
)


def a_pair(key: str) -> RankedPair:
    asked = (Message("user", "tell me of a place in the country, please, in a sentence: " + key),)
    sides = [
        Completion(
            "p", f"{key}{i}", ENCODER.encode_completion(asked, text), text, FinishReason.STOP, 0
        )
        for i, text in enumerate(ANSWERS)
    ]
    known = {f"{s}_logps_{m}": v for s, v in (("chosen", 1.0), ("rejected", 2.0)) for m in ("M0",)}
    known |= {"chosen_logps_M1": len(key) + 1.0, "rejected_logps_M1": 0.0}
    ids = ENCODER.encode_prompt(asked)
    one, other = sides
    return RankedPair(
        key, Prompt("p", asked), ids, one, other, 0.0, 0.0, 1.0, 1.0, -1.0, -1.0, known
    )


def tokens(examples: list[Example], objective: ObjectiveSection) -> float:
    layout = BatchLayout(objective.build().needs, shared=True)
    return sum(sum(layout.row_lengths(example)) for example in examples) / len(examples)


@pytest.mark.parametrize("option", ["sampled", "all", "scir"])
def test_the_tokens_of_a_step_are_those_of_the_formula(option: str) -> None:
    pairs = [a_pair("x" * i) for i in range(1, 41)]
    section: AddingSection
    addition: Addition
    objective: ObjectiveSection
    if option == "scir":
        section = objective = Scir()
        addition = Verdicts(special=(), policy="M1")
    else:
        section = PreferenceDegree.model_validate(
            {"versions": option, "replace": "filler", "filler": "it"}
        )
        objective, addition = Dpo(degree=section), Degrees(section, seed=1)
    examples = extend_pairs(pairs, [addition], ENCODER).examples
    ratio = tokens(examples, objective) / tokens(examples, Dpo())

    p = sum(len(pair.prompt_token_ids) for pair in pairs) / len(pairs)
    both = sum(len(s.token_ids) for pair in pairs for s in (pair.chosen, pair.rejected))
    answer = both / len(pairs) / 2
    question = len(ENCODER.encode_prompt(verdict_question((), "", "")))
    formula = {
        "sampled": (p + 4 * answer) / (p + 2 * answer),
        "all": (p + 2 * answer + 2 * 4 * answer) / (p + 2 * answer),
        "scir": 3 + 2 * (question + 2 * LETTER_TOKENS) / (p + 2 * answer),
    }[option]
    assert ratio == pytest.approx(formula, rel=0.15)
    added: AddedTokens = section.added_tokens
    planned = (
        (1 + added.prompts) * p
        + (2 + added.completions) * answer
        + added.verdicts * (question + 2 * LETTER_TOKENS)
    ) / (p + 2 * answer)
    assert planned == pytest.approx(formula, rel=0.01)
