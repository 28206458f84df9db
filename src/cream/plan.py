"""The plan of a run: every stage it will make, in running order, known before anything runs.

`cream.planner` builds the list once; it is what is executed (`cream.loop.iterations`), shown
(`cream plan`, progress), stored in the run directory and reported from. No stage exists that does
not stand in it.

Paper numbering: iteration t turns M_t into M_{t+1}; what comes before the loop has t = 0.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from cream.data.splits import POLICY
from cream.errors import RecipeError
from cream.recipe import Recipe
from cream.recipe.columns import FILLED_WITH, VERIFIER
from cream.recipe.parts import Calibrated, MethodParts
from cream.recipe.policy_gradient import PolicyGradient, TokenAdvantage
from cream.recipe.recipe import EvaluationConfig
from cream.records import StageSpec
from cream.runs.plan import StoredPlan, TokenCounts
from cream.sampled import Sampled, SampleSet
from cream.types import AddedTokens, EncodedPrompt, Message, Prompt, SeedExample

CALIBRATION = "calibration"
"""Part of the seed examples that no model is fine-tuned on, and the folder of their stages."""
CALIBRATION_MATRIX = f"{CALIBRATION}/matrix"
FROZEN_TEST, FROZEN_SEED = "data/test", "data/seed"
"""Stages that keep the test prompts, and the seed examples."""
TEST = "test"
"""Source of test prompts."""
PartsAt = Callable[[int], MethodParts]
"""Iteration t >= 1 to what the method reads and does in it."""


@dataclass(frozen=True)
class RunPlan:
    """The stages of a run, and the data that they work on."""

    stages: tuple[StageSpec, ...]
    """In running order; each name once."""
    sets: Mapping[str, SampleSet]
    """By the name of the stage that samples."""
    frozen: Mapping[str, tuple[Prompt, ...]]
    """Prompts that the run keeps a copy of, by the name of the stage that writes it."""
    told: Mapping[str, SampleSet]
    """Prompts under a goal that no stage samples for, by the source that plans count their tokens
    under."""
    seed_parts: Mapping[str, tuple[SeedExample, ...]]
    """Seed examples of the policy, of each witness, and those held out for calibration."""
    parts: PartsAt

    def at(self, t: int) -> list[StageSpec]:
        """Stages of iteration t, or those before the loop (0)."""
        return [spec for spec in self.stages if spec.t == t]

    def named(self, name: str) -> StageSpec:
        """The stage of that name."""
        return next(spec for spec in self.stages if spec.name == name)

    def maker(self, model: str) -> StageSpec:
        """The stage that makes a model of this run.

        Raises:
            KeyError: No stage makes it: it is M0, or no model of the run.
        """
        for spec in self.stages:
            if spec.result == model:
                return spec
        raise KeyError(model)

    def prompts(self, t: int) -> tuple[Prompt, ...]:
        """What M_t answers in iteration t."""
        own = next(spec for spec in self.at(t) if spec.kind == "sample")
        return self.sets[own.name].prompts

    def phase_parts(self, spec: StageSpec) -> MethodParts:
        """What the method does in the iteration or draft, of whose learner, a stage is part of."""
        parts = self.parts(spec.t)
        if spec.learner is not None and parts.along is not None:
            return parts.along
        return (parts.draft or parts) if spec.draft else parts

    def pairing(self, t: int) -> StageSpec:
        """The stage that makes the policy's pairs of iteration t, not those of its draft.

        Raises:
            RecipeError: The method makes none.
        """
        for spec in self.at(t):
            if spec.kind == "pair" and not spec.branch:
                return spec
        raise RecipeError(
            "this method makes no pairs: it weighs every sample, which `cream train` does first"
        )

    def measured(self) -> list[str]:
        """Models that are evaluated, in order: M0, M1, ..."""
        return [str(spec.model) for spec in self.stages if spec.kind == "evaluate"]

    def stored(self, iterations: int) -> StoredPlan:
        """What a run directory keeps of it."""
        parts = {t: self.parts(t) for t in range(1, iterations + 1)}
        return StoredPlan(stages=self.stages, parts=parts)


def columns(recipe: Recipe, parts: MethodParts, t: int) -> tuple[str, ...]:
    """Models whose log-probs iteration t needs, the learner first, M0 always (for the KL)."""
    reported = parts.reported_columns if recipe.scoring.report_consistency else ()
    reference = loss_reference(recipe, parts, t)
    wanted = (parts.model_at(t), *parts.logp_columns, *reported, reference, "M0")
    return tuple(dict.fromkeys(wanted))


def loss_reference(recipe: Recipe, parts: MethodParts, t: int) -> str:
    """Name of the model that is the reference of the loss at iteration t."""
    match recipe.training.loss_reference:
        case "policy_at_start":
            return parts.model_at(t)
        case "sft":
            return parts.model_at(1)
        case "seed":
            return "M0"


def models_kept_for(recipe: Recipe, parts: MethodParts, t: int) -> tuple[str, ...]:
    """Models of earlier stages that iteration t scores under or samples from."""
    past = (parts.others.past,) if parts.others else ()
    answering = parts.answered.witnesses if parts.answered else ()
    beside = models_kept_for(recipe, parts.along, t) if parts.along else ()
    return (*columns(recipe, parts, t), *past, *answering, *beside)


def unneeded_models(plan: RunPlan, recipe: Recipe, t: int) -> list[str]:
    """Models of the loop that nothing reads any more once iteration t is over."""
    # Needed is what the iteration after the last one would need too: T may be raised later.
    needed = models_kept_for(recipe, plan.parts(t + 1), t + 1)
    made = [
        spec.result
        for spec in plan.stages
        if spec.result is not None
        and spec.seed_part in (None, POLICY)  # witnesses are kept
        and (spec.t < t or (spec.t == t and spec.draft))
    ]
    return [name for name in made if name not in needed]


def token_counts(
    plan: RunPlan,
    encode_prompts: Callable[..., Sequence[EncodedPrompt]],
    encode_completion: Callable[[Sequence[Message], str], Sequence[int]],
) -> dict[str, TokenCounts]:
    """Mean lengths of the prompts of each source that the plan names."""
    counts: dict[str, TokenCounts] = {}
    for spec in plan.stages:
        if spec.source is None or spec.source in counts:
            continue
        examples = plan.seed_parts[spec.seed_part] if spec.seed_part is not None else ()
        asked = plan.sets.get(spec.name) or plan.told.get(spec.source)
        if examples:
            prompts = tuple(example.prompt for example in examples)
        elif asked is not None:
            prompts = asked.prompts
        else:  # evaluations alone read prompts that nothing else has
            prompts = plan.frozen[FROZEN_TEST]
        goal = None if asked is None else asked.goal
        lengths = [len(item.token_ids) for item in encode_prompts(prompts, goal=goal)]
        answers = [len(encode_completion(e.prompt.messages, e.completion)) for e in examples]
        counts[spec.source] = TokenCounts(
            prompt=sum(lengths) / len(lengths),
            completion=sum(answers) / len(answers) if answers else None,
        )
    return counts


def score_columns(parts: MethodParts) -> tuple[str, ...]:
    """Columns beside the log-probabilities: the verdicts always, others as the method says."""
    return tuple(dict.fromkeys((VERIFIER, *parts.score_columns)))


def stage_columns(parts: MethodParts) -> tuple[str, ...]:
    """Those whose stages fill them all, each once."""
    return tuple(dict.fromkeys(FILLED_WITH.get(name, name) for name in score_columns(parts)))


def is_calibrated(parts: MethodParts) -> bool:
    """Whether C comes from counts on held-out seed examples."""
    return parts.agreement is not None and isinstance(parts.agreement.level, Calibrated)


def with_answers(examples: Sequence[SeedExample], seed_name: tuple[str | int, ...]) -> SampleSet:
    """Prompts of seed examples, each with the completions that the data have for it."""
    prompts = {example.prompt.prompt_id: example.prompt for example in examples}
    answers: dict[str, list[str]] = {key: [] for key in prompts}
    for example in examples:
        answers[example.prompt.prompt_id].append(example.completion)
    return SampleSet(tuple(prompts.values()), answers, seed_name)


def weighing(
    recipe: Recipe,
    samples: Sampled,
    scores: Sequence[StageSpec],
    matrix: StageSpec,
    parts: MethodParts,
    result: str,
) -> Iterator[StageSpec]:
    """Weigh every sample by its reward against the others', and train M_t to `result`."""
    own, reference = samples.spec, loss_reference(recipe, parts, samples.spec.t)
    policy = f"M{own.t}"
    first = ("iteration-1/advantage",) if own.t > 1 else ()
    rule, cut = parts.advantage, parts.trajectory
    paid = isinstance(rule, TokenAdvantage) and rule.kl is not None
    if cut is not None and cut.per_action:
        first += tuple(spec.name for spec in scores if spec.kind == "segment")
        paid = cut.credit.beta > 0 and reference != policy
    under = [samples.tokens_under(model) for model in ((policy, reference) if paid else ())]
    yield from under
    read = (matrix.name, *first, *(spec.name for spec in under))
    weighed = samples.reader("advantage", "advantage", "weigh the samples", model=policy)
    weighed = weighed.model_copy(update={"reference": reference, "inputs": read})
    yield weighed
    tokens = []
    objective = parts.objective
    if isinstance(objective, PolicyGradient) and objective.kl and reference != policy:
        tokens.append(samples.tokens_under(reference))
    yield from tokens
    train = samples.reader("train", "train", f"train {policy} -> {result}", model=policy)
    yield train.model_copy(
        update={
            "result": result,
            "reference": reference,
            "inputs": (weighed.name, matrix.name, *(spec.name for spec in tokens)),
            "epochs": recipe.training.epochs,
            "examples": own.prompts,
        }
    )


def added_tokens(parts: MethodParts) -> AddedTokens | None:
    """What training runs beside the tokens of a pair: what options add, an answer, its low row."""
    found = [section.added_tokens for section in parts.objective.additions]
    if parts.answer is not None:
        found.append(AddedTokens(completions=1.0))
    if parts.goals is not None and parts.goals.rows == "both":
        found.append(AddedTokens(prompts=1.0, completions=2.0))
    return sum(found[1:], found[0]) if found else None


def evaluations(
    settings: EvaluationConfig,
    model: str,
    folder: str,
    t: int,
    *,
    prompts: int,
    under: Sequence[int],
) -> Iterator[StageSpec]:
    """The evaluation of a model without a goal, and one under each of some goals."""
    plain = StageSpec(
        name=f"{folder}/evaluate",
        kind="evaluate",
        label=f"evaluate {model}",
        t=t,
        model=model,
        inputs=(FROZEN_TEST,),
        source=TEST,
        prompts=prompts,
        completions=prompts * (1 + settings.num_samples),
        max_completion_tokens=settings.max_completion_tokens,
    )
    yield plain
    for goal in under:
        name, label = f"{folder}/goal-{goal}/evaluate", f"evaluate {model} under goal {goal}"
        told = {"name": name, "kind": "evaluate_goal", "label": label, "column": str(goal)}
        yield plain.model_copy(update=told)


def refuse_missing_models(recipe: Recipe, stages: Sequence[StageSpec]) -> None:
    """A method that names a model which the run will not have fails now, not after sampling.

    Raises:
        RecipeError: A stage needs a model that no stage before it makes.
    """
    made = ["M0"]
    for spec in stages:
        if spec.model is not None and spec.model not in made:
            witnesses = ", ".join(recipe.witnesses) or "none"
            raise RecipeError(
                f"method {recipe.method.name} asks {spec.model} at iteration {spec.t}; models "
                f"there: M0 to M{spec.t}, and the witnesses of the recipe ({witnesses}). Add it "
                "under `witnesses`"
            )
        if spec.result is not None:
            made.append(spec.result)


def frozen_prompts(t: int) -> str:
    """Stage that keeps the unlabelled prompts of iteration t."""
    return f"data/prompts-{t}"
