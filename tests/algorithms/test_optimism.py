"""Optimism beside a preference: worked values, gradients, and what a wrong implementation would do.

Notation as in `cream.algorithms.optimism`: x is the margin, D the log-ratio of a sequence.
"""

from __future__ import annotations

import math

import pytest
import torch
from pydantic import TypeAdapter, ValidationError

from cream.algorithms.objective import Objective, ObjectiveInputs, SequenceInputs
from cream.algorithms.optimism import IS_CHOSEN, IS_REJECTED, large_share, optimism
from cream.recipe.objectives import ConstantNll, Cream, Dpo, ObjectiveConfig, SimPo
from cream.recipe.optimism import Optimism
from cream.recipe.parts import BestWorst, LogpQuantity, MethodParts

D_CHOSEN, D_REJECTED, D_APART = 2.0, -3.0, 1.5
"""Log-ratios of the worked values: beta 0.1, so x = 0.1 (2 + 3) = 0.5."""


def sequence(ratio: float | None, tokens: int = 1) -> SequenceInputs:
    """One example whose log-ratio is given, spread over some tokens; the reference gave -4."""
    logps = torch.full((1, tokens), 0.0 if ratio is None else (ratio - 4.0) / tokens)
    return SequenceInputs(
        torch.full((1, tokens), ratio is not None),
        logps.requires_grad_(),
        torch.tensor([ratio is not None]),
        torch.tensor([0.0 if ratio is None else -4.0]),
    )


def example(*, apart: float | None = None, place: str = "", tokens: int = 1, c: float = 1.0):
    """A pair of the worked values; its answer apart, or the completion at `place`, or none."""
    return ObjectiveInputs(
        {
            "chosen": sequence(D_CHOSEN),
            "rejected": sequence(D_REJECTED),
            "optimism": sequence(apart, tokens),
        },
        {
            "consistency": torch.tensor([c]),
            IS_CHOSEN: torch.tensor([float(place == "chosen")]),
            IS_REJECTED: torch.tensor([float(place == "rejected")]),
        },
    )


def selm(**options) -> Objective:
    return Dpo(beta=0.1, optimism=Optimism(**{"alpha": 0.05, **options})).build()


def loss_and_gradients(objective: Objective, inputs: ObjectiveInputs):
    loss = objective.loss(inputs).sum()
    loss.backward()
    found = {role: one.token_logps.grad for role, one in inputs.sequences.items()}
    return loss.item(), {r: 0.0 if g is None else float(g.sum()) for r, g in found.items()}


def test_worked_values_of_an_answer_that_is_neither_completion():
    """softplus(-0.5) = 0.474077, term 0.05 * 0.1 * 1.5 = 0.0075; DPO's gradient 0.1 (s(.5) - 1)."""
    loss, gradients = loss_and_gradients(selm(), example(apart=D_APART))

    assert loss == pytest.approx(0.481577, abs=1e-6)
    assert gradients["chosen"] == pytest.approx(-0.037754, abs=1e-6)
    assert gradients["rejected"] == pytest.approx(0.037754, abs=1e-6)
    assert gradients["optimism"] == pytest.approx(0.05 * 0.1, abs=1e-7)


def test_worked_values_of_an_answer_that_is_a_completion_of_the_pair():
    """Chosen: 0.474077 + 0.005 * 2; rejected: 0.474077 - 0.005 * 3; the gradient is 0.005 more."""
    loss, gradients = loss_and_gradients(selm(), example(place="chosen"))
    assert loss == pytest.approx(0.484077, abs=1e-6)
    assert gradients["chosen"] == pytest.approx(-0.032754, abs=1e-6)
    assert gradients["rejected"] == pytest.approx(0.037754, abs=1e-6)

    loss, gradients = loss_and_gradients(selm(), example(place="rejected"))
    assert loss == pytest.approx(0.459077, abs=1e-6)
    assert gradients["chosen"] == pytest.approx(-0.037754, abs=1e-6)
    assert gradients["rejected"] == pytest.approx(0.042754, abs=1e-6)


def test_the_weight_of_the_papers_algorithm_box_has_no_beta():
    """0.474077 + 0.05 * 1.5."""
    loss, _ = loss_and_gradients(selm(scale="alpha"), example(apart=D_APART))
    assert loss == pytest.approx(0.549077, abs=1e-6)


def test_an_answer_in_the_place_of_a_completion_is_what_it_would_be_as_a_row():
    for place, ratio in (("chosen", D_CHOSEN), ("rejected", D_REJECTED)):
        in_place, a = loss_and_gradients(selm(), example(place=place))
        as_row, b = loss_and_gradients(selm(), example(apart=ratio))
        assert in_place == pytest.approx(as_row, abs=1e-6)
        assert a[place] == pytest.approx(b[place] + b["optimism"], abs=1e-6)


def test_where_the_answer_is_chosen_the_pull_reverses_beyond_logit_of_one_minus_alpha():
    """dL/dD_w = -beta (sigmoid(-x) - alpha): 0 at x = logit(0.95) = 2.944; and 6.907, 9.210."""
    for alpha, fixed in ((0.05, 2.944439), (1e-3, 6.906755), (1e-4, 9.210240), (0.1, 2.197225)):
        x = torch.tensor([fixed], dtype=torch.float64, requires_grad=True)
        ratio = x / 0.1  # D of the chosen completion, that of the rejected one 0
        loss = torch.nn.functional.softplus(-x) + optimism(ratio, weight=alpha * 0.1)
        (gradient,) = torch.autograd.grad(loss.sum(), x)
        assert float(gradient) == pytest.approx(0.0, abs=1e-6)


def test_weight_0_is_the_preference_itself_bit_for_bit():
    from cream.algorithms.optimism import optimism_term

    plain = Dpo(beta=0.1).build()
    nothing = plain + optimism_term("", plain, weight=0.0)
    for inputs in (example(apart=D_APART), example(place="rejected"), example()):
        assert torch.equal(nothing.loss(inputs), plain.loss(inputs))


def test_without_an_answer_the_term_is_0_and_the_metrics_say_so():
    objective = selm()
    assert torch.equal(objective.loss(example()), Dpo(beta=0.1).build().loss(example()))
    found = objective.metrics(example())
    assert all(v.isnan().all() for name, v in found.items() if name.startswith("optimism/"))


def test_at_the_reference_the_loss_is_ln_2_for_every_alpha():
    same = ObjectiveInputs(
        {role: sequence(0.0) for role in ("chosen", "rejected", "optimism")},
        example().columns,
    )
    for alpha in (1e-3, 0.5, 5.0):
        assert selm(alpha=alpha).loss(same).item() == pytest.approx(math.log(2), abs=1e-6)


def test_every_token_of_the_answer_is_pushed_alike_and_length_divides_on_request():
    inputs = example(apart=D_APART, tokens=3)
    loss_and_gradients(selm(), inputs)
    grad = inputs["optimism"].token_logps.grad
    assert grad is not None
    torch.testing.assert_close(grad, torch.full((1, 3), 0.005))

    inputs = example(apart=D_APART, tokens=3)
    loss_and_gradients(selm(length_normalised=True), inputs)
    grad = inputs["optimism"].token_logps.grad
    assert grad is not None
    torch.testing.assert_close(grad, torch.full((1, 3), 0.005 / 3))


def test_below_the_floor_the_term_is_constant():
    for ratio, gradient in ((-4.9, 0.005), (-5.1, 0.0)):
        inputs = example(apart=ratio)
        loss, found = loss_and_gradients(selm(floor_nats=5.0), inputs)
        assert found["optimism"] == pytest.approx(gradient, abs=1e-7)
        assert loss == pytest.approx(0.474077 + 0.005 * max(ratio, -5.0), abs=1e-6)


def test_cs_factor_acts_on_the_margin_and_leaves_the_term_alone_unless_asked():
    """CREAM adds (1 - C) x = 0.1 at C = 0.8; on request the term is times 2 (1 - C) = 0.4."""
    given = Optimism(alpha=0.05)
    plain = Cream(beta=0.1, optimism=given).build().loss(example(apart=D_APART, c=0.8))
    assert plain.item() == pytest.approx(0.474077 + 0.1 + 0.0075, abs=1e-6)
    softened = Cream(beta=0.1, optimism=given.model_copy(update={"by_consistency": True})).build()
    loss = softened.loss(example(apart=D_APART, c=0.8))
    assert loss.item() == pytest.approx(0.474077 + 0.1 + 0.4 * 0.0075, abs=1e-6)


def test_it_stands_beside_any_preference_and_the_likelihood_of_the_chosen():
    """Chosen NLL per token: 2 nats; the sums of both terms."""
    inputs = example(apart=D_APART)
    both = Dpo(
        beta=0.1, nll=ConstantNll(kind="constant", weight=1.0), optimism=Optimism(alpha=0.05)
    ).build()
    assert both.loss(inputs).item() == pytest.approx(0.474077 + 2.0 + 0.0075, abs=1e-6)
    simpo = SimPo(optimism=Optimism(alpha=0.05)).build().loss(inputs) - SimPo().build().loss(inputs)
    assert simpo.item() == pytest.approx(0.05 * 2.0 * 1.5, abs=1e-6)


def test_the_expected_gradient_under_the_reference_is_0_only_at_the_reference():
    """E of log pi under (0.6, 0.3, 0.1): gradient in the logits is pi_ref - pi. One answer, the
    mode, is pushed from the start: e_y - pi. At pi = (0.5, 0.3, 0.2) the expected log-ratio is
    0.6 ln(5/6) + 0.1 ln 2 = -0.040078 = -KL(reference || policy)."""
    reference = torch.tensor([0.6, 0.3, 0.1], dtype=torch.float64)

    def gradient(policy, answers):
        logits = policy.log().requires_grad_()
        ratio = logits.log_softmax(-1) - reference.log()
        (found,) = torch.autograd.grad((answers * optimism(ratio, weight=1.0)).sum(), logits)
        return found.tolist()

    greedy = torch.tensor([1.0, 0.0, 0.0], dtype=torch.float64)
    assert gradient(reference, reference) == pytest.approx([0, 0, 0], abs=1e-12)
    assert gradient(reference, greedy) == pytest.approx([0.4, -0.3, -0.1])
    moved = torch.tensor([0.5, 0.3, 0.2], dtype=torch.float64)
    assert gradient(moved, reference) == pytest.approx([0.1, 0, -0.1])
    value = (reference * optimism((moved / reference).log(), weight=1.0)).sum()
    assert value.item() == pytest.approx(-0.040078, abs=1e-6)


def test_descent_on_the_term_lowers_the_answer_and_raises_entropy():
    """The wrong sign would do the opposite."""
    logits = torch.tensor([1.0, 0.0, -1.0], requires_grad=True)
    start = logits.detach().log_softmax(-1)
    for _ in range(5):
        term = optimism(logits.log_softmax(-1)[:1] - start[:1], weight=1.0).sum()
        (gradient,) = torch.autograd.grad(term, logits)
        logits = (logits - 0.3 * gradient).detach().requires_grad_()
    end = logits.detach().log_softmax(-1)

    assert end[0] < start[0] - 0.3
    assert -(end.exp() * end).sum() > -(start.exp() * start).sum()


def test_answers_of_other_prompts_give_another_loss():
    """A mis-join would go unseen only if all answers had one log-ratio."""
    losses = [selm().loss(example(apart=ratio)).item() for ratio in (1.5, -2.0)]
    assert losses[0] != pytest.approx(losses[1], abs=1e-3)


def test_metrics_tell_the_term_and_its_share():
    found = selm().metrics(example(apart=D_APART))

    assert found["optimism/log_ratio"].item() == pytest.approx(1.5)
    assert found["optimism/term"].item() == pytest.approx(0.0075)
    assert found["optimism/share_of_loss"].item() == pytest.approx(0.0075 / 0.481577, abs=1e-6)
    assert found["optimism/is_chosen"].item() == 0.0
    assert selm().metrics(example(place="chosen"))["optimism/is_chosen"].item() == 1.0


def test_a_term_that_is_most_of_the_loss_is_warned_about():
    """Looked at is the last third of the steps."""
    quiet, loud = {"optimism/share_of_loss": 0.1}, {"optimism/share_of_loss": 0.8}
    assert large_share([loud, loud, quiet]) == ()
    (said,) = large_share([quiet, quiet, loud])
    assert said.startswith("the optimism term is 80 % of the loss")
    assert large_share([]) == ()


def test_a_term_that_is_not_there_is_not_written():
    """So that runs made before it existed keep their fingerprints."""
    parse = TypeAdapter(ObjectiveConfig).validate_python
    assert "optimism" not in Dpo().model_dump()
    written = Dpo(optimism=Optimism(alpha=0.2)).model_dump(mode="json")
    assert parse(written).optimism == Optimism(alpha=0.2)


def test_what_would_not_act_is_refused():
    with pytest.raises(ValidationError, match="alpha"):
        Optimism(alpha=0.0)
    with pytest.raises(ValidationError, match="optimism"):
        TypeAdapter(ObjectiveConfig).validate_python({"name": "nll", "optimism": {"alpha": 1.0}})
    common = {"reward": LogpQuantity(unit="implicit", model="M1"), "pairing": BestWorst()}
    trusting = Dpo(optimism=Optimism(alpha=1.0, by_consistency=True))
    with pytest.raises(ValidationError, match="by_consistency weighs by 1 - C, and this method"):
        MethodParts(objective=trusting, **common)
    with pytest.raises(ValidationError, match="examples that polite make have none"):
        MethodParts(objective=Dpo(optimism=Optimism(alpha=1.0)), transform="polite", **common)
