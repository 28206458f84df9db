"""Pairs to goal-conditioned examples: rows, goals, what is left out, and that nothing is cut."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from cream.algorithms.goals import LOW_GOAL, goal_conditioned
from cream.engines.scorer import TorchScorer
from cream.errors import DataError, ModelError
from cream.models.chat import ChatEncoder
from cream.recipe.goals import GivenScale, Goals
from cream.recipe.objectives import Dpo
from cream.stages.goals import GoalRows
from cream.stages.transform import score_examples, transform_pairs, with_references
from cream.testing import tiny_model, tiny_tokenizer
from cream.training.examples import BatchLayout
from cream.training.forward import choose_route
from cream.types import Completion, FinishReason, Message, Prompt, RankedPair

TEXT = "score {goal}"
SCALE = GivenScale(kind="given", lowest=1, highest=10)


@pytest.fixture(scope="module")
def encoder() -> ChatEncoder:
    return ChatEncoder(tiny_tokenizer())


def pair(encoder: ChatEncoder, key: str, chosen: float, rejected: float, **changes) -> RankedPair:
    prompt = Prompt(key, (Message("user", f"{key}?"),))
    chosen_side, rejected_side = (
        Completion(
            key,
            f"{key}-{k}",
            encoder.encode_completion(prompt.messages, text),
            text,
            FinishReason.STOP,
            0,
        )
        for k, text in enumerate(("yes", "no no"))
    )
    made = RankedPair(
        f"{key}-0>{key}-1",
        prompt,
        encoder.encode_prompt(prompt.messages),
        chosen_side,
        rejected_side,
        chosen,
        rejected,
        0.75,
        1.0,
        -3.0,
        -9.0,
    )
    return replace(made, **changes)


def rows(*pairs: RankedPair, encoder: ChatEncoder, max_tokens: int = 512, **options):
    goals = Goals(text=TEXT, scale=options.pop("scale", SCALE), **options)
    made = GoalRows(goals, seed=0, max_tokens=max_tokens)
    return transform_pairs(pairs, made, encoder)


def test_the_low_row_is_the_high_row_with_its_completions_exchanged(encoder):
    given = pair(encoder, "a", 9.0, 2.0)
    (example,), tally = rows(given, encoder=encoder)

    def asked(goal: int) -> tuple[int, ...]:
        messages = [Message("system", f"score {goal}"), Message("user", "a?")]
        return encoder.encode_prompt(messages)

    assert dict(tally.parts) == {"transformed": 1}
    assert (example.example_id, example.weight) == (given.pair_id, 1.0)
    sequences = example.sequences
    assert example.prompt_of("chosen") == example.prompt_of("rejected") == asked(9)
    assert {example.prompt_of(role) for role in LOW_GOAL.values()} == {asked(2)}
    assert sequences["chosen"].token_ids == given.chosen.token_ids
    assert sequences["low_goal_chosen"].token_ids == given.rejected.token_ids
    assert sequences["low_goal_rejected"].token_ids == given.chosen.token_ids
    assert all(one.reference_logps is None for one in sequences.values())  # scored afterwards
    assert example.columns["consistency"] == 0.75
    assert (example.columns["high_goal"], example.columns["low_goal"]) == (9.0, 2.0)


def test_the_same_two_rows_come_of_a_pair_given_the_other_way_round(encoder):
    """Each row is a prompt with the answer it prefers and the one it does not."""
    given = pair(encoder, "a", 9.0, 2.0)
    turned = replace(
        given,
        chosen=given.rejected,
        rejected=given.chosen,
        chosen_reward=given.rejected_reward,
        rejected_reward=given.chosen_reward,
    )

    def as_rows(one: RankedPair) -> set[tuple]:
        (example,), _ = rows(one, encoder=encoder)
        sides = (("chosen", "rejected"), (LOW_GOAL["chosen"], LOW_GOAL["rejected"]))
        return {
            (example.prompt_of(w), example.sequences[w].token_ids, example.sequences[r].token_ids)
            for w, r in sides
        }

    assert as_rows(given) == as_rows(turned)


def test_equal_goals_and_small_gaps_leave_the_pair_out(encoder):
    """8.4 and 8.2 are both told as 8."""
    pairs = [
        pair(encoder, "a", 8.4, 8.2),
        pair(encoder, "b", 9.0, 8.0),
        pair(encoder, "c", 9.0, 2.0),
    ]
    assert dict(rows(*pairs, encoder=encoder)[1].parts) == {"transformed": 2, "equal_goals": 1}
    found = rows(*pairs, encoder=encoder, min_gap=2)[1]
    assert dict(found.parts) == {"transformed": 1, "equal_goals": 2}


def test_quantiles_are_over_both_sides_of_all_pairs(encoder):
    """Scores 5, -3.1, 0.2, 0.2 of two pairs: 8.875, 2.125 and twice 5.5, told as 9, 2 and 6, 6."""
    pairs = [pair(encoder, "a", 5.0, -3.1), pair(encoder, "b", 0.2, 0.2)]
    (example,), tally = rows(*pairs, encoder=encoder, scale="quantile")
    assert (example.columns["high_goal"], example.columns["low_goal"]) == (9.0, 2.0)
    assert dict(tally.parts) == {"transformed": 1, "equal_goals": 1}


def test_a_goal_text_is_never_cut_but_the_pair_left_out(encoder):
    long = pair(encoder, "a" * 300, 9.0, 2.0)
    short = pair(encoder, "b", 9.0, 2.0)
    examples, tally = rows(long, short, encoder=encoder, max_tokens=300)
    assert dict(tally.parts) == {"transformed": 1, "too_long": 1}
    whole, _ = rows(long, encoder=encoder, max_tokens=600)
    told = encoder.tokenizer.decode(list(whole[0].prompt_of("chosen")))
    assert "score 9" in told
    assert [e.example_id for e in examples] == [short.pair_id]


def test_scores_out_of_the_given_range_stop_the_run(encoder):
    with pytest.raises(DataError, match=r"goals\.scale: 1 scores are out of the range 1 to 10, 11"):
        rows(pair(encoder, "a", 11.0, 2.0), encoder=encoder)


def test_a_template_without_system_turns_is_refused_for_goals_in_them(encoder):
    plain = (
        "{% for m in messages %}{% if m.role == 'system' %}{{ raise_exception('no system') }}"
        "{% endif %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
        "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
    )
    strict = ChatEncoder(tiny_tokenizer(chat_template=plain))
    given = pair(encoder, "a", 9.0, 2.0)
    with pytest.raises(ModelError, match="refuses a conversation of roles"):
        rows(given, encoder=strict)
    (example,), _ = rows(given, encoder=strict, place="user")
    assert "score 9\n\na?" in strict.tokenizer.decode(list(example.prompt_token_ids))


def test_only_a_share_is_told_goals_and_the_rest_keeps_its_prompt_and_sums(encoder):
    pairs = [pair(encoder, chr(97 + i), 9.0, 2.0) for i in range(10)]
    examples, tally = rows(*pairs, encoder=encoder, share=0.5)
    plain = [e for e in examples if len(e.sequences) == 2]

    assert (len(plain), tally.parts["transformed"]) == (5, 10)
    for example in plain:
        given = next(p for p in pairs if p.pair_id == example.example_id)
        assert example.prompt_token_ids == given.prompt_token_ids
        assert example.sequences["chosen"].reference_logps == -3.0
    again, _ = rows(*reversed(pairs), encoder=encoder, share=0.5)
    assert {e.example_id for e in again if len(e.sequences) == 2} == {e.example_id for e in plain}


def test_no_share_is_plain_dpo_on_every_pair(encoder):
    given = [pair(encoder, "a", 9.0, 2.0), pair(encoder, "b", 9.0, 9.0)]
    examples, _ = rows(*given, encoder=encoder, share=0)

    assert [e.prompt_token_ids for e in examples] == [p.prompt_token_ids for p in given]
    assert all(set(e.sequences) == {"chosen", "rejected"} for e in examples)
    with pytest.raises(ValueError, match="no goal would ever be told"):
        Goals(share=0, evaluate=[])


def test_high_rows_alone_are_dpo_with_a_longer_prompt(encoder):
    (example,), _ = rows(pair(encoder, "a", 9.0, 2.0), encoder=encoder, rows="high")
    assert set(example.sequences) == {"chosen", "rejected"}


@pytest.mark.parametrize("shared", [True, False])
def test_under_a_constant_text_the_gradients_of_both_rows_cancel_at_the_reference(encoder, shared):
    """And only with both rows in one step. Gradients are compared: AdamW would make a full step of
    a rounding residue."""
    model = tiny_model()
    (example,), _ = rows(pair(encoder, "a", 9.0, 2.0), encoder=encoder)
    same = {
        role: replace(one, prompt_token_ids=example.prompt_token_ids)
        for role, one in example.sequences.items()
    }
    (constant,) = with_references(
        [e := replace(example, sequences=same)], score_examples([e], TorchScorer(model))
    )
    both, high = goal_conditioned(Dpo().build(), beta=0.1), Dpo().build()

    def gradient(objective) -> torch.Tensor:
        layout = BatchLayout(objective.needs, shared)
        route = choose_route(
            model,
            layout="shared" if shared else "separate",
            longest_row=max(layout.row_lengths(constant)),
            fused=False,
        )
        batch = layout.batch([constant])
        inputs = batch.inputs(route.forward(model, batch.tokens).token_logps)
        model.zero_grad()
        objective.loss(inputs).sum().backward()
        return torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None])

    assert gradient(both).norm() < 1e-5 * gradient(high).norm()
