"""A recipe to the plan of its run: the stages written down in the order of the loop.

Read it like the loop itself (`_Planner.opening`, `_Planner.iteration`): M0 is measured, fine-tuning
makes M1 and the witnesses, then each iteration samples, scores, pairs, trains and evaluates.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

from cream.algorithms.goals import HIGHEST
from cream.data.dataset import LoadedData
from cream.data.splits import POLICY, split_seed
from cream.plan import (
    CALIBRATION,
    CALIBRATION_MATRIX,
    FROZEN_SEED,
    FROZEN_TEST,
    PartsAt,
    RunPlan,
    added_tokens,
    columns,
    evaluations,
    frozen_prompts,
    is_calibrated,
    loss_reference,
    refuse_missing_models,
    score_columns,
    stage_columns,
    weighing,
    with_answers,
)
from cream.recipe import Recipe
from cream.recipe.columns import HEAD, IMPLICIT, VERIFIER
from cream.recipe.editing import Editing
from cream.recipe.pairing import most_pairs
from cream.recipe.parts import MethodParts
from cream.recipe.policy_gradient import refuse_silent_divergence
from cream.records import StageSpec
from cream.sampled import HEAD_READS, Sampled, SampleSet
from cream.types import Origin


def build_plan(recipe: Recipe, data: LoadedData, parts: PartsAt) -> RunPlan:
    """Every stage that a recipe asks for, finished or not.

    Args:
        recipe: What to run.
        data: Its data.
        parts: Of its method, which may be composed in Python.

    Raises:
        RecipeError: A stage needs a model that no stage before it makes.
    """
    planner = _Planner(recipe, data, parts)
    stages = [*planner.opening()]
    for t in range(1, recipe.iterations + 1):
        stages += planner.iteration(t)
    once: dict[str, StageSpec] = {}
    for spec in stages:  # what a draft has scored already is not scored again
        once.setdefault(spec.name, spec)
    plan = RunPlan(
        tuple(once.values()),
        planner.sets,
        planner.frozen,
        planner.told,
        planner.seed_parts,
        parts,
    )
    refuse_silent_divergence(parts(1).advantage, recipe.training.loss_reference)
    refuse_missing_models(recipe, plan.stages)
    return plan


class _Planner:
    """Writes the stages down, in the order of the loop."""

    def __init__(self, recipe: Recipe, data: LoadedData, parts: PartsAt) -> None:
        self.recipe, self.data, self.parts = recipe, data, parts
        self.sets: dict[str, SampleSet] = {}
        self.told: dict[str, SampleSet] = {}
        prompts = {t: data.prompts_for(t) for t in range(1, recipe.iterations + 1)}
        self.frozen = {frozen_prompts(t): items for t, items in prompts.items()}
        self.frozen[FROZEN_TEST] = data.test
        shares = {name: witness.seed_share for name, witness in recipe.witnesses.items()}
        if recipe.calibration is not None:
            shares[CALIBRATION] = recipe.calibration.seed_share
        self.seed_parts = split_seed(data.seed_examples, shares, seed=recipe.seed)

    def opening(self) -> Iterator[StageSpec]:
        """What comes before the loop: data, M0, M1, witnesses, calibration."""
        yield from self._freeze()
        yield from self._evaluate("M0", "seed-model", 0)
        yield self._fine_tune("M1", POLICY, "sft/train")
        yield from self._evaluate("M1", "sft", 0)
        for name in self.recipe.witnesses:
            yield self._fine_tune(name, name, f"witnesses/{name}/train")
        if self.recipe.calibration is not None:
            held_out = with_answers(self.seed_parts[CALIBRATION], (CALIBRATION,))
            samples = self._sample(CALIBRATION, CALIBRATION, "M1", held_out, 0)
            yield samples.spec
            scores = [samples.score(m) for m in ("M1", "M0", *self.recipe.witnesses)]
            yield from scores
            yield self._matrix(CALIBRATION, [samples], scores, draft=False)

    def iteration(self, t: int) -> Iterator[StageSpec]:
        """Iteration t: sample from M_t, score, pair, train M_{t+1}, evaluate it.

        Then the same for a witness that learns along, not evaluated.
        """
        parts = self.parts(t)
        yield from self._round(f"iteration-{t}", f"iteration {t}", parts, t)
        yield from self._evaluate(f"M{t + 1}", f"iteration-{t}", t)
        if parts.along is not None:
            name = parts.along.learner
            place = f"witnesses/{name}/iteration-{t}", f"iteration {t}, {name}"
            for spec in self._round(*place, parts.along, t):
                yield spec.model_copy(update={"learner": name})

    def _round(self, folder: str, label: str, parts: MethodParts, t: int) -> Iterator[StageSpec]:
        """What one learner does in an iteration.

        A method that pairs completions of other models has these sampled too; one of them, the
        future model, is trained here first, from the pairs of a draft of the iteration.
        """
        learner, asked = parts.model_at(t), self._prompts(parts, t)
        own = self._sample(folder, label, learner, asked, t, source=f"iteration-{t}")
        sets, others = [own], parts.others
        greedy = [*self._greedy(own, parts)] if parts.answer == "greedy" else []
        if others is not None:
            sets.append(self._other(own, others.past, Origin.PAST))
            if others.future is not None and parts.draft is not None:
                yield from (samples.spec for samples in sets)
                yield from greedy
                draft = f"{folder}/draft", f"{label}, draft"
                yield from self._learn(*draft, sets, parts.draft, others.future, greedy, draft=True)
                sets.append(self._other(own, others.future, Origin.FUTURE))
        yield from (samples.spec for samples in sets)
        yield from greedy
        if parts.editing is not None:
            sets = [self._edited(own, parts.editing)]
            yield sets[0].spec
        if parts.head is not None:
            yield sets[0].reader(HEAD, "token_head", "fit a head on the edits", model=HEAD_READS)
        result = parts.model_at(t + 1)
        yield from self._learn(folder, label, sets, parts, result, greedy, draft=False)

    def _learn(
        self,
        folder: str,
        label: str,
        sets: Sequence[Sampled],
        parts: MethodParts,
        result: str,
        greedy: Sequence[StageSpec],
        *,
        draft: bool,
    ) -> Iterator[StageSpec]:
        """Score the sets, pair, and train the learner to `result`."""
        own, scores = sets[0].spec, list[StageSpec]()
        t, learner = own.t, parts.model_at(own.t)
        for samples in sets:
            scores += [samples.score(model) for model in columns(self.recipe, parts, t)]
            scores += [self._score_column(samples, name, parts) for name in stage_columns(parts)]
        if IMPLICIT in score_columns(parts):
            yield from (sets[0].tokens_under(model) for model in (learner, "M0"))
        yield from scores
        matrix = self._matrix(folder, sets, scores, draft=draft)
        yield matrix
        if parts.advantage is not None:
            yield from weighing(self.recipe, sets[0], scores, matrix, parts, result)
            return
        calibrated = (CALIBRATION_MATRIX,) if is_calibrated(self.parts(1)) else ()
        pairs = StageSpec(
            name=f"{folder}/pair",
            kind="pair",
            label=f"{label}: pair",
            t=t,
            draft=draft,
            inputs=(matrix.name, *calibrated),
            source=own.source,
            prompts=own.prompts,
            completions=sets[0].completions * len(sets),
        )
        yield pairs
        transformed = [*self._transform(folder, label, parts, pairs, matrix)]
        yield from transformed
        reference = loss_reference(self.recipe, parts, t)
        masks = [sets[0].tokens_under(reference)] if parts.tokens == "edited" else []
        yield from masks
        group = self.recipe.sampling.num_completions * len(sets)
        most = own.prompts * most_pairs(parts.paired_by, group)
        yield StageSpec(
            name=f"{folder}/train",
            kind="train",
            label=f"{label}: train {learner} -> {result}",
            t=t,
            draft=draft,
            model=learner,
            result=result,
            reference=reference,
            inputs=(
                pairs.name,
                matrix.name,
                *(spec.name for spec in (*transformed, *masks)),
                *(spec.name for spec in greedy if spec.kind in ("sample", "score")),
            ),
            source=transformed[0].source if transformed else own.source,
            prompts=own.prompts,
            completions=2 * most + self._replayed(parts, most),
            epochs=self.recipe.training.epochs,
            added=added_tokens(parts),
        )

    def _replayed(self, parts: MethodParts, beside: int) -> int:
        """Seed examples that a training takes beside so many pairs."""
        replay = self.recipe.training.replay
        own = len(self.seed_parts.get(parts.learner or POLICY, ()))
        return 0 if replay is None else min(replay.beside(beside), own)

    def _transform(
        self, folder: str, label: str, parts: MethodParts, pairs: StageSpec, matrix: StageSpec
    ) -> Iterator[StageSpec]:
        """Examples of another shape than pairs, or with more, and their second scoring pass."""
        what = parts.shape or ", ".join(section.key for section in parts.objective.additions)
        if not what:
            return
        reference = loss_reference(self.recipe, parts, pairs.t)
        rows = 1 if parts.goals is None or parts.goals.rows == "high" else 2
        made = pairs.model_copy(
            update={
                "name": f"{folder}/transform",
                "kind": "transform",
                "label": f"{label}: transform the pairs ({what})",
                "reference": reference,
                "column": parts.transform,
                "inputs": (pairs.name, matrix.name),
                "prompts": rows * pairs.prompts,
                "completions": 2 * rows * pairs.prompts,
                "source": self._source_under_goals(folder, parts, matrix) or pairs.source,
            }
        )
        yield made
        if not (parts.shape or any(s.scored for s in parts.objective.additions)):
            return
        yield made.model_copy(
            update={
                "name": f"{folder}/score-examples",
                "kind": "score_examples",
                "label": f"{label}: score the examples under {reference}",
                "model": reference,
                "reference": None,
                "column": None,
                "inputs": (made.name,),
            }
        )

    def _source_under_goals(self, folder: str, parts: MethodParts, matrix: StageSpec) -> str | None:
        """Name under which plans count prompts with a goal, where there are any."""
        if parts.goals is None:
            return None
        source, longest = f"{folder}/goals", parts.goals.told(HIGHEST)
        self.told[source] = replace(self.sets[matrix.inputs[0]], goal=longest)
        return source

    def _freeze(self) -> Iterator[StageSpec]:
        examples = len(self.data.seed_examples)
        for name, items in self.frozen.items():
            yield StageSpec(name=name, kind="freeze_prompts", label=name, prompts=len(items))
        name = FROZEN_SEED
        yield StageSpec(name=name, kind="freeze_seed", label=name, prompts=examples)
        if len(self.seed_parts) > 1:
            name = "data/seed-parts"
            yield StageSpec(name=name, kind="freeze_seed_parts", label=name, prompts=examples)

    def _evaluate(self, model: str, folder: str, t: int) -> Iterator[StageSpec]:
        if not self.data.test:
            return
        goals = self.parts(max(t, 1)).goals
        under = () if goals is None else goals.evaluate
        count = len(self.data.test)
        yield from evaluations(self.recipe.evaluation, model, folder, t, prompts=count, under=under)

    def _fine_tune(self, result: str, part: str, name: str) -> StageSpec:
        examples = len(self.seed_parts[part])
        return StageSpec(
            name=name,
            kind="fine_tune",
            label=f"fine-tune M0 -> {result}",
            model="M0",
            result=result,
            seed_part=part,
            source=f"seed/{part}",
            prompts=examples,
            completions=examples,
            epochs=self.recipe.sft.epochs,
        )

    def _prompts(self, parts: MethodParts, t: int) -> SampleSet:
        """Unlabelled prompts, or M1's seed prompts beside their completions."""
        seed_name = ("sample", t, *([parts.learner] if parts.learner else []))
        if parts.prompts == "unlabelled":
            told = parts.goals and parts.sampled_goal and parts.goals.told(parts.sampled_goal)
            return SampleSet(self.data.prompts_for(t), {}, seed_name, goal=told or None)
        return with_answers(self.seed_parts[POLICY], seed_name)

    def _asked(self, t: int) -> str:
        """Stage that keeps what is answered in iteration t, or before the loop (0)."""
        unlabelled = t > 0 and self.parts(t).prompts == "unlabelled"
        return frozen_prompts(t) if unlabelled else FROZEN_SEED

    def _sample(
        self,
        folder: str,
        label: str,
        model: str,
        samples: SampleSet,
        t: int,
        origin: Origin = Origin.POLICY,
        source: str | None = None,
    ) -> Sampled:
        settings, count = self.recipe.sampling, len(samples.prompts)
        drawn = count * (1 if samples.greedy else settings.num_completions)
        spec = StageSpec(
            name=f"{folder}/sample",
            kind="sample",
            label=f"{label}: sample from {model}",
            t=t,
            model=model,
            origin=origin,
            inputs=(self._asked(t),),
            source=source or folder,
            prompts=count,
            completions=drawn,
            max_completion_tokens=settings.max_completion_tokens,
        )
        self.sets[spec.name] = samples
        brought = sum(map(len, samples.answers.values()))
        return Sampled(spec, folder, label, drawn + brought)

    def _greedy(self, own: Sampled, parts: MethodParts) -> Iterator[StageSpec]:
        """What the learner answers greedily to the prompts of an iteration, scored and verified."""
        samples, spec = self.sets[own.spec.name], own.spec
        seed_name = (*samples.seed_name, Origin.GREEDY)
        asked = replace(samples, answers={}, seed_name=seed_name, greedy=True)
        answers = self._sample(
            f"{own.folder}/{Origin.GREEDY}",
            f"{own.label}, {Origin.GREEDY}",
            str(spec.model),
            asked,
            spec.t,
            Origin.GREEDY,
            spec.source,
        )
        yield answers.spec
        yield answers.score(loss_reference(self.recipe, parts, spec.t))
        yield self._score_column(answers, VERIFIER, parts)

    def _other(self, own: Sampled, model: str, origin: Origin) -> Sampled:
        """Completions of another model for the prompts of an iteration, as many as of M_t."""
        samples, source = self.sets[own.spec.name], own.spec.source
        named = replace(samples, seed_name=(*samples.seed_name, origin))
        folder, label = f"{own.folder}/{origin}", f"{own.label}, {origin}"
        return self._sample(folder, label, model, named, own.spec.t, origin, source)

    def _edited(self, own: Sampled, settings: Editing) -> Sampled:
        """The completions of M_t with the edits that are made of them."""
        by, both = settings.editor.by, replace(own, completions=2 * own.completions)
        words, model = f"edit what is wrong ({by})", own.spec.model if by == "model" else None
        spec = both.reader("edit", "edit", words, model=model)
        self.sets[spec.name] = self.sets[own.spec.name]
        return replace(both, spec=spec)

    def _score_column(self, samples: Sampled, name: str, parts: MethodParts) -> StageSpec:
        return samples.score_column(name, parts, self.recipe.sampling.max_completion_tokens)

    def _matrix(
        self, folder: str, sets: Sequence[Sampled], scores: Sequence[StageSpec], *, draft: bool
    ) -> StageSpec:
        read = (*(samples.spec for samples in sets), *scores)
        return StageSpec(
            name=f"{folder}/matrix",
            kind="matrix",
            label=f"{sets[0].label}: score matrix",
            t=sets[0].spec.t,
            draft=draft,
            inputs=tuple(spec.name for spec in read),
            source=sets[0].spec.source,
            prompts=sets[0].spec.prompts,
            completions=sets[0].completions,
        )
