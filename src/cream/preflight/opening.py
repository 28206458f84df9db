"""Opening a run: everything that can be wrong is found before a model is loaded."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from importlib.metadata import version
from pathlib import Path

import torch

from cream import __version__
from cream.data.dataset import LoadedData, load_data
from cream.data.verifiers import PromptVerifier
from cream.engines.checkpoints import Checkpoints
from cream.engines.crew import ray_module
from cream.engines.crew_engine import open_crew
from cream.engines.engine import BY_NAME, EngineChoice, choose_engine, open_engine
from cream.errors import DataError, RecipeError, RunError
from cream.kernels.library import fit
from cream.loop.context import Context
from cream.loop.extensions import Extensions
from cream.loop.refusals import check_masks, check_objective, check_score_columns
from cream.models.devices import pick_compute_dtype
from cream.models.fingerprints import model_fingerprint, stored_parameters
from cream.plan import is_calibrated
from cream.planner import build_plan
from cream.preflight.encoding import check_lengths, check_seed_examples
from cream.preflight.models import check_trainings, open_models, open_scorers
from cream.protocols import Engine, Progress
from cream.recipe import Recipe
from cream.recipe.cluster import RayCluster
from cream.recipe.columns import LAST_ANSWER, VERIFIER
from cream.recipe.engine import VllmEngine
from cream.recipe.scir import Scir
from cream.runs.files import free_bytes, read_sealed, write_sealed
from cream.runs.manifest import (
    DECISIVE,
    RESULTS,
    MadeBy,
    build_manifest,
    last_made_by,
    record_opening,
)
from cream.runs.plan import refuse_old_run, refuse_other_recipe
from cream.runs.store import DONE, Run
from cream.runs.trackers import TrackedRun, check_installed, open_trackers

ENGINE = "engine.json"
"""Which engine the run samples with, and why; decided at the first opening."""
ACCEPT = "option --accept-changes, or `accept_changes=True`"
BYTES_PER_WEIGHT = 4
"""Checkpoints and the training state are float32."""


def may_change(key: str) -> bool:
    """Recipe keys that may differ from the run directory's: they do not touch finished stages."""
    return (
        key in ("iterations", "keep_checkpoints", "run_dir", "trackers")
        or key.startswith(("trackers.", "cluster."))
        or key.startswith("engine.")  # another engine is refused by what was begun
        or key == "scoring.ranks"
        or key.endswith((".save_state_every_minutes", ".compute.ranks", ".compute.nodes"))
    )


def open_context(
    recipe: Recipe,
    run: Run,
    progress: Progress,
    *,
    base_dir: Path,
    cache_dir: Path,
    extensions: Extensions | None = None,
    accept_changes: bool = False,
) -> Context:
    """Check recipe, data, tokenizer, run directory and disk; load no weights.

    Args:
        recipe: What to run.
        run: Where; held by the caller (`Run.locked`).
        progress: Shows what happens.
        base_dir: Folder that relative data paths start from.
        cache_dir: Where the embedded model is, or will be fetched to.
        extensions: Objects that the user brings; by default none.
        accept_changes: Go on though something computes that gives other results than what the run
            was made by so far.

    Raises:
        CreamError: One of the categories of exit code 2, naming what is wrong.
    """
    context = check_run(
        recipe,
        run,
        progress,
        base_dir=base_dir,
        cache_dir=cache_dir,
        extensions=extensions,
        accept_changes=accept_changes,
    )
    claim_run(context)  # last: a recipe found wrong can be mended in place
    return context


def check_run(
    recipe: Recipe,
    run: Run,
    progress: Progress,
    *,
    base_dir: Path,
    cache_dir: Path,
    data: LoadedData | None = None,
    extensions: Extensions | None = None,
    accept_changes: bool = False,
) -> Context:
    """`open_context` for a run that is not to be recorded yet; writes nothing. See there.

    Args:
        recipe: What to run.
        run: Where; held by the caller if it is recorded afterwards (`claim_run`).
        progress: Shows what happens.
        base_dir: Folder that relative data paths start from.
        cache_dir: Where the embedded model is.
        data: What is loaded already of this very data section, seed and number of iterations, by
            a run with this model that has encoded its seed examples.
        extensions: Objects that the user brings.
        accept_changes: See `open_context`.
    """
    own = extensions or Extensions()
    check_installed(recipe.trackers)
    refuse_old_run(run.root)
    refuse_other_recipe(run.root, recipe.model_dump(mode="json"), may_change=may_change)
    encode_seed = data is None
    asked = {"seed": recipe.seed, "iterations": recipe.iterations}
    data = data or load_data(recipe.data, **asked, base_dir=base_dir)
    for t in range(1, recipe.iterations + 1):
        own.refuse_missing_transform(own.parts(recipe, t))
    plan = build_plan(recipe, data, partial(own.parts, recipe))
    before = last_made_by(run.root)
    checkpoints, encoder = open_models(recipe.model, run.root / "models", cache_dir, before)
    check_trainings(recipe, checkpoints, own_objective=own.objective is not None)
    for text in (*data.notes, *encoder.notes):
        progress.note(text)
    choice = choose_engine(recipe.engine, checkpoints.device, _begun_with(run))
    context = Context(
        recipe=recipe,
        run=run,
        data=data,
        plan=plan,
        encoder=encoder,
        checkpoints=checkpoints,
        engine=_engine(recipe, run, choice, checkpoints, own),
        engine_choice=choice,
        progress=progress,
        seed_model_fingerprint=model_fingerprint(checkpoints.seed_folder),
        trackers=open_trackers(
            recipe.trackers,
            TrackedRun(recipe.name, run.root, recipe.model_dump(mode="json")),
            progress.note,
        ),
        verifier=PromptVerifier(own.verifier),
        extensions=own,
        scorers=open_scorers(recipe, checkpoints, encoder, cache_dir),
    )
    checkpoints.check, checkpoints.say = context.check_model, progress.note
    _settle_changes(context, before, accept=accept_changes)
    _check_calibration(context)
    _check_dropout(context)
    check_score_columns(context)
    check_masks(context)
    check_objective(context)
    check_lengths(context)
    if encode_seed:
        check_seed_examples(context)
    _check_verifiers(context)
    _check_answers(context)
    _check_disk(context)
    _say_what_computes(context)
    return context


def _engine(
    recipe: Recipe, run: Run, choice: EngineChoice, checkpoints: Checkpoints, own: Extensions
) -> Engine:
    """What samples and scores: in this process, or workers of a cluster."""
    budget, ranks = recipe.scoring.token_budget, recipe.scoring.ranks
    gpus = torch.cuda.device_count() if checkpoints.device.type == "cuda" else None
    if ranks > 1 and gpus is not None and ranks > gpus:
        raise RecipeError(
            f"scoring.ranks: {ranks} ranks, and this machine has {gpus} GPUs; set at most {gpus}"
        )
    if not isinstance(recipe.cluster, RayCluster):
        return open_engine(choice, checkpoints, token_budget=budget, own=own.sampler, ranks=ranks)
    return open_crew(
        recipe.cluster,
        choice,
        checkpoints,
        token_budget=budget,
        ranks=ranks,
        run_dir=run.root,
        brings_sampler=own.sampler is not None,
    )


def _say_what_computes(context: Context) -> None:
    own, choice, progress = context.extensions.sampler, context.engine_choice, context.progress
    sampled_by = f"{type(own).__name__}, given" if own else choice
    progress.note(f"completions are sampled by {sampled_by}")
    if isinstance(choice.settings, VllmEngine):
        progress.note("log-probabilities come from torch, which scores for every engine")
    checkpoints = context.checkpoints
    if checkpoints.fast.reason:
        which = (
            "all"
            if checkpoints.fast.tokens == 0
            else f"longer than {checkpoints.fast.tokens} tokens"
        )
        progress.note(
            f"sequences ({which}) run through the model's own forward, right and slower: "
            f"{checkpoints.fast.reason}"
        )


def claim_run(context: Context) -> None:
    """Record the recipe and the manifest of a run that was checked.

    Raises:
        DependencyError: It needs Ray, without which it can be planned and not run.
    """
    if context.crew is not None:
        ray_module()
    resolved, run = context.recipe.model_dump(mode="json"), context.run
    run.claim(resolved, context.plan.stored(context.recipe.iterations), may_change=may_change)
    inputs = {
        "M0": context.seed_model_fingerprint,
        "template": context.template_fingerprint,
        **context.scorers.fingerprints,
        **context.extensions.fingerprints,
    }
    record_opening(run.root, build_manifest(resolved, inputs, made_by(context)))
    write_sealed(run.root / ENGINE, context.engine_choice.record)


def made_by(context: Context) -> MadeBy:
    """What computes the stages that this opening makes."""
    checkpoints = context.checkpoints
    precision = context.recipe.training.compute.precision
    probe = torch.empty(0, dtype=checkpoints.compute_dtype, device=checkpoints.device)
    return MadeBy(
        cream=__version__,
        results=RESULTS,
        torch=torch.__version__,
        transformers=version("transformers"),
        engine=context.engine.name,
        dtype=_name(checkpoints.compute_dtype),
        training_dtype=_name(pick_compute_dtype(checkpoints.device, precision).dtype),
        device=str(checkpoints.device),
        threads=torch.get_num_threads(),
        kernels=fit(probe),
    )


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def _settle_changes(context: Context, before: MadeBy | None, *, accept: bool) -> None:
    """Say what computes otherwise than at the last opening; refuse what changes results."""
    root, now = context.run.root, made_by(context)
    context.run.made_by = now
    if before is None or all((root / spec.name / DONE).exists() for spec in context.plan.stages):
        return
    changes = before.changes(now)
    decisive = [text for key, text in changes.items() if key in DECISIVE]
    if decisive and not accept:
        raise RunError(
            f"{root} would go on with {', '.join(decisive)}, so that its stages could no longer be "
            "compared with each other; go on as before (its manifest.json says how), set run_dir "
            f"to a new folder, or accept it ({ACCEPT})"
        )
    if changes:
        context.progress.note(
            f"this run goes on with {', '.join(changes.values())}; what is made from now on may "
            "differ from what an uninterrupted run would have made"
        )


def _begun_with(run: Run) -> dict[str, str] | None:
    path = run.root / ENGINE
    if not path.exists():
        return None
    record = read_sealed(path, required=False)
    if record.get("engine") not in BY_NAME or not isinstance(record.get("engine_reason"), str):
        raise RunError(
            f"{path} names no engine; it was changed by hand: set run_dir to a new folder"
        )
    return record


def _check_calibration(context: Context) -> None:
    """A method whose C is calibrated needs something to calibrate it on."""
    if is_calibrated(context.plan.parts(1)) and context.recipe.calibration is None:
        raise RecipeError(
            f"method {context.recipe.method.name} calibrates C on held-out seed examples and there "
            "are none; add a section `calibration: {seed_share: 0.2}`"
        )


def _check_dropout(context: Context) -> None:
    """Two judges of one model must not differ by what drops out."""
    lora = context.recipe.training.lora
    objective = context.plan.parts(1).objective
    if isinstance(objective, Scir) and lora is not None and lora.dropout > 0:
        raise RecipeError(
            f"objective scir compares two readings of one model, and training.lora.dropout "
            f"{lora.dropout:g} would make them differ by chance; set dropout: 0"
        )


def _check_verifiers(context: Context) -> None:
    """A verifier that is named and not there is missed now, not after sampling."""
    batches = (context.data.test, *context.data.iterations)
    first_of_its_kind = {p.metadata.get("verifier"): p for batch in batches for p in batch}
    for prompt in first_of_its_kind.values():
        context.verifier.verify(prompt, "")


def _check_answers(context: Context) -> None:
    """A method that ranks by the verifier needs prompts that can be verified."""
    for t in range(1, context.recipe.iterations + 1):
        if not {VERIFIER, LAST_ANSWER} & {*context.plan.parts(t).score_columns}:
            continue
        prompts = context.plan.prompts(t)
        if all(context.verifier.verify(prompt, "") is None for prompt in prompts):
            raise DataError(
                f"method {context.recipe.method.name} ranks by the verifier, and none of the "
                f"{len(prompts)} prompts of iteration {t} can be verified; give the sources of "
                "data.prompts a `verifier` and their rows an answer"
            )


def _check_disk(context: Context) -> None:
    refuse_full_disk(context.run.root, disk_need(context))


@dataclass(frozen=True, slots=True)
class DiskNeed:
    """What a run, or a comparison, will write, as far as it is large."""

    checkpoint: int
    """Bytes of one."""
    missing: int
    """Checkpoints that are still to be written, witnesses among them."""

    @property
    def training_state(self) -> int:
        """Bytes of parameters and two moments, while a stage trains."""
        return 3 * self.checkpoint

    @property
    def total(self) -> int:
        """Bytes of everything."""
        return self.missing * self.checkpoint + self.training_state


def disk_need(context: Context) -> DiskNeed:
    """What this run needs beside what it holds already."""
    weights = stored_parameters(context.checkpoints.seed_folder) * BYTES_PER_WEIGHT
    witnesses = len(context.recipe.witnesses)  # kept whatever keep_checkpoints says
    made = sum(spec.result is not None for spec in context.plan.stages) - witnesses
    at_once = 4 if context.recipe.training.loss_reference == "sft" else 3  # M_{t-1} to M_{t+1}
    if any(spec.draft for spec in context.plan.stages):
        at_once += 2  # the future model and the past one
    if any(spec.learner for spec in context.plan.stages):
        at_once += 2  # of the witness that learns along
    kept = made if context.recipe.keep_checkpoints == "all" else min(made, at_once)
    existing = len(list(context.checkpoints.folder.glob("*")))
    return DiskNeed(weights, max(kept + witnesses - existing, 0))


def refuse_full_disk(folder: Path, need: DiskNeed) -> None:
    """Refuse to begin what the disk has no room for.

    Raises:
        RunError: Less than is needed is free where `folder` is.
    """
    free = free_bytes(folder)
    if free < need.total:
        raise RunError(
            f"{folder} needs about {need.total / 1e9:.1f} GB for {need.missing} checkpoints and "
            f"the training state, {free / 1e9:.1f} GB are free; free some, or set "
            "keep_checkpoints: last"
        )
