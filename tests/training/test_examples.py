"""Masks, token columns, further rows, hidden states: what an objective reads is what one sequence
at a time through the model gives, in every layout and form."""

from dataclasses import replace

import pytest
import torch
from training_items import random_ids

from cream.algorithms.objective import Needs, Objective
from cream.errors import DataError
from cream.models.fused_decoder import fused_decoder
from cream.recipe.training import ComputeConfig, SftConfig, SftOptimiserConfig
from cream.testing import tiny_model
from cream.training.examples import BatchLayout
from cream.training.forward import Route, by_hidden, by_logits, inference_behaviour
from cream.training.fused_training import FusedTraining
from cream.training.train import train
from cream.types import Example, TokenSequence

NEEDS = Needs(
    ("answer", "verdict"),
    read=("draft",),
    optional=("draft", "verdict"),
    columns=("trust",),
    token_columns={"answer": ("advantage",)},
    hidden={"draft": "last", "answer": "tokens"},
)


def make(count, *, seed=0):
    """An answer with a mask and advantages, a verdict under a prompt of its own, a draft that is
    only read; every third example lacks the verdict, every fourth the draft. Ids 0 and 2 (start of
    nothing, pad and end) stand inside prompts and completions."""
    g = torch.Generator().manual_seed(seed)
    examples = []
    for i in range(count):
        answer = (*random_ids(g, 2 + i % 4), 2, *random_ids(g, 1), 2)
        sequences = {
            "answer": TokenSequence(
                answer,
                loss_mask=tuple(j % 3 != i % 3 for j in range(len(answer))),
                token_columns={"advantage": tuple(0.5 * j - i for j in range(len(answer)))},
            )
        }
        if i % 3:
            own = (*random_ids(g, 4 + i % 2), 2, 0)
            sequences["verdict"] = TokenSequence((*random_ids(g, 1), 2), prompt_token_ids=own)
        if i % 4:
            sequences["draft"] = TokenSequence((*random_ids(g, 1 + i % 3), 2))
        prompt = (*random_ids(g, 2 + i % 3), 2, *random_ids(g, 1))
        examples.append(Example(f"e{i}", prompt, sequences, {"trust": 0.1 * i}))
    return examples


def alone(model, example, role):
    """Log-probabilities of a sequence's tokens, and the last hidden states after them."""
    prompt, ids = example.prompt_of(role), example.sequences[role].token_ids
    output = model(input_ids=torch.tensor([prompt + ids]), output_hidden_states=True)
    logps = output.logits[0, len(prompt) - 1 : -1].log_softmax(-1)
    picked = logps.gather(1, torch.tensor(ids)[:, None])[:, 0]
    return picked, output.hidden_states[-1][0, len(prompt) :]


def through(model, form):
    if form != "fused":
        return model, Route(by_hidden if form == "hidden" else by_logits, "hidden", "shared")
    decoder = fused_decoder(model)
    assert decoder is not None
    return FusedTraining(model, decoder, torch.float32), Route(
        by_hidden, "hidden", "shared", decoder
    )


@pytest.mark.parametrize("shared", [True, False])
@pytest.mark.parametrize(
    ("architecture", "form"),
    [("llama", "fused"), ("llama", "hidden"), ("gpt2", "hidden"), ("gemma", "logits")],
)
def test_inputs_equal_one_sequence_at_a_time(architecture, form, shared):
    model, examples = tiny_model(architecture=architecture), make(7)
    batch = BatchLayout(NEEDS, shared).batch(examples)
    computing, route = through(model, form)
    with torch.no_grad():
        computed = route.forward(computing, batch.tokens)
    inputs = batch.inputs(computed.token_logps, computed.states)

    torch.testing.assert_close(inputs.columns["trust"], torch.arange(7) * 0.1)
    assert not inputs["draft"].mask.any()
    for i, example in enumerate(examples):
        for role in NEEDS.roles:
            got = inputs[role]
            assert bool(got.present[i]) == (role in example.sequences)
            if role not in example.sequences:
                assert got.logps[i] == 0
                continue
            with torch.no_grad():
                logps, hidden = alone(model, example, role)
            n = len(logps)
            if role == "draft":
                assert got.hidden is not None
                torch.testing.assert_close(got.hidden[i], hidden[-1], rtol=1e-4, atol=1e-4)
                continue
            mask = example.sequences[role].loss_mask or (True,) * n
            assert tuple(got.mask[i, :n].tolist()) == mask
            assert not got.mask[i, n:].any()
            expected = torch.where(torch.tensor(mask), logps, 0)
            torch.testing.assert_close(got.token_logps[i, :n], expected, rtol=1e-4, atol=1e-4)
            if role == "answer":
                assert got.hidden is not None
                torch.testing.assert_close(got.hidden[i, :n], hidden, rtol=1e-4, atol=1e-4)
                column = got.token_columns["advantage"][i]
                given = example.sequences[role].token_columns["advantage"]
                assert tuple(column[:n].tolist()) == given
                assert not column[n:].any()
                assert not got.hidden[i, n:].any()


def everything(inputs):
    """A loss through every place an objective can read."""
    answer, verdict, draft = (inputs[role] for role in NEEDS.roles)
    weighted = (answer.token_logps * answer.token_columns["advantage"]).sum(-1)
    read = answer.hidden.square().mean((1, 2)) + draft.hidden.square().mean(1)
    return -weighted - inputs.columns["trust"] * verdict.logps + 0.3 * read


EVERYTHING = Objective("everything", "v1", NEEDS, everything)


def gradients_of(architecture, form, shared, parts):
    """The gradient of the summed loss, with the examples cut into parts."""
    model, examples = tiny_model(architecture=architecture), make(7)
    computing, route = through(model, form)
    with inference_behaviour(model, gradient_checkpointing=False):
        for part in parts:
            batch = BatchLayout(NEEDS, shared).batch([examples[i] for i in part])
            # One width for all cuts: the loss above takes a mean over it.
            computed = route.forward(computing, batch.tokens)
            inputs = batch.inputs(computed.token_logps, computed.states)
            scale = inputs["answer"].mask.shape[1]
            answer = replace(inputs["answer"], hidden=inputs["answer"].hidden * scale**0.5)
            everything(
                replace(inputs, sequences={**inputs.sequences, "answer": answer})
            ).sum().backward()
    return {name: p.grad.clone() for name, p in model.named_parameters()}


@pytest.mark.parametrize(
    ("form", "shared", "parts"),
    [
        ("fused", True, [range(7)]),
        ("fused", False, [[3], [0, 6], [1, 2, 4, 5]]),
        ("hidden", True, [[i] for i in range(7)]),
        ("hidden", False, [range(7)]),
        ("logits", True, [[6, 5, 4], [0, 1, 2, 3]]),
    ],
)
def test_forms_layouts_and_cuts_give_one_gradient_with_pad_and_end_inside_prompts(
    form, shared, parts
):
    """The pad id's row of the embedding is trained by the prompts that hold it, in every form."""
    expected = gradients_of("llama", "logits", False, [[i] for i in range(7)])
    got = gradients_of("llama", form, shared, parts)
    for name, gradient in expected.items():
        error = (got[name] - gradient).norm() / gradient.norm().clamp_min(1e-6)
        assert error < 1e-5, name
    assert expected["model.embed_tokens.weight"][2].abs().max() > 0


@pytest.mark.parametrize("normalised_by", ["example", "token"])
def test_cutting_a_step_changes_nothing_whatever_it_is_divided_by(normalised_by):
    objective = Objective(
        "masked", "v1", NEEDS, lambda i: -i["answer"].logps - i["verdict"].logps, normalised_by
    )
    results = []
    for budget in (1, 60, 4096):
        model = tiny_model()
        settings = SftConfig(
            epochs=1,
            optimiser=SftOptimiserConfig(learning_rate=1e-3, batch_size=7),
            compute=ComputeConfig(precision="float32", micro_batch_tokens=budget),
        )
        (step,) = train(model, make(7), objective, settings, seed=0).metrics
        results.append(step)
    total = sum(
        -torch.where(
            torch.tensor(s.loss_mask or (True,) * len(s.token_ids)), alone(tiny_model(), e, r)[0], 0
        )
        .sum()
        .item()
        for e in make(7)
        for r, s in e.sequences.items()
        if r != "draft"
    )
    tokens = sum(
        sum(s.loss_mask or (True,) * len(s.token_ids))
        for e in make(7)
        for r, s in e.sequences.items()
        if r != "draft"
    )
    expected = total / (7 if normalised_by == "example" else tokens)
    for step in results:
        assert step["loss"] == pytest.approx(expected, rel=1e-5)
        assert step["grad_norm"] == pytest.approx(results[0]["grad_norm"], rel=1e-4)


def test_needs_are_checked_and_named():
    (example,) = make(1)
    settings = SftConfig(epochs=1)
    for needs, says in [
        (Needs(("chosen",)), "has no sequence 'chosen'"),
        (Needs(("answer",), columns=("consistency",)), "has no column 'consistency'"),
        (Needs(("answer",), references=("answer",)), "'answer' under the loss reference"),
        (Needs(("answer",), token_columns={"answer": ("r",)}), "token column 'r' of 'answer'"),
    ]:
        objective = Objective("x", "x", needs, lambda i: i["answer"].logps)
        with pytest.raises(DataError, match=says):
            train(tiny_model(), [example], objective, settings, seed=0)


def test_a_mask_or_column_of_another_length_is_refused():
    with pytest.raises(DataError, match="loss_mask: 1 values for 2 tokens"):
        TokenSequence((5, 6), loss_mask=(True,))
    with pytest.raises(DataError, match="advantage: 3 values for 2 tokens"):
        TokenSequence((5, 6), token_columns={"advantage": (0.0, 1.0, 2.0)})


def test_needs_join_and_a_role_that_one_demands_is_no_longer_optional():
    one = Needs(("a",), read=("b",), optional=("b",), columns=("x",))
    other = Needs(("b",), token_columns={"b": ("t",)}, start_logps=True)
    joined = one | other
    assert joined == Needs(
        ("a", "b"), columns=("x",), token_columns={"b": ("t",)}, start_logps=True
    )
