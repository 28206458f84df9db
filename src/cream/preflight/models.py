"""Finding the models that a recipe names, with their tokenizers and templates; no weights yet."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from cream.cache import expanded
from cream.data.preferences import read_context
from cream.engines.checkpoints import Checkpoints
from cream.engines.embedder import POOLING
from cream.errors import ModelError
from cream.loop.context import (
    Context,
    ExternalJudge,
    ExternalReranker,
    ExternalRewardModel,
    ExternalSteering,
    ScorerModels,
    empty_question,
)
from cream.models.chat import ChatEncoder, read_chat_template
from cream.models.conversations import ConversationEncoder
from cream.models.devices import pick_compute_dtype, pick_device
from cream.models.fingerprints import model_fingerprint
from cream.models.folders import resolve_model
from cream.models.loading import (
    check_reward_model,
    empty_model,
    generation_eos_ids,
    load_config,
    load_tokenizer,
)
from cream.models.positions import context_length, fast_reach
from cream.models.reranker import is_reranker, load_reranker
from cream.models.steered_reward import load_steered_reward, require_same_embedding
from cream.recipe import Recipe
from cream.recipe.cluster import RayCluster
from cream.recipe.model import ModelConfig
from cream.recipe.reranking import RerankerConfig, RerankerSource, WindowConfig
from cream.recipe.scorers import (
    OWN_MODELS,
    JudgeConfig,
    PairwiseJudgeConfig,
    RewardModelConfig,
    SteerConfig,
)
from cream.recipe.training import TrainingSettings
from cream.runs.manifest import MadeBy
from cream.runs.store import fingerprint
from cream.runs.verification import refuse_damaged_model
from cream.stages.score import choice_texts
from cream.training.launch import number_of_ranks
from cream.training.lora import refuse_unfit
from cream.types import Message


def open_models(
    config: ModelConfig, folder: Path, cache_dir: Path, begun_with: MadeBy | None = None
) -> tuple[Checkpoints, ChatEncoder]:
    """Find M0 and examine its tokenizer and template.

    Args:
        config: The recipe's model section.
        folder: Where trained models go.
        cache_dir: Cream's cache.
        begun_with: What computed the run so far; ``compute_dtype: auto`` follows it whatever this
            machine would rather have.
    """
    seed_folder = resolve_model(config, cache_dir)
    refuse_damaged_model(seed_folder)
    template = read_chat_template(config.chat_template)
    shape = load_config(seed_folder, trust_remote_code=config.trust_remote_code)
    tokenizer = load_tokenizer(
        seed_folder, chat_template=template, trust_remote_code=config.trust_remote_code
    )
    empty_model(seed_folder, trust_remote_code=config.trust_remote_code)  # refused now, if at all
    device = pick_device(config.device)
    dtype: Any = config.compute_dtype
    if dtype == "auto" and begun_with is not None:
        dtype = begun_with.dtype
    checkpoints = Checkpoints(
        folder=folder,
        seed_folder=seed_folder,
        seed_name=config.name,
        tokenizer=tokenizer,
        device=device,
        compute_dtype=pick_compute_dtype(device, dtype).dtype,
        context_length=context_length(shape),
        fast=fast_reach(shape),
        trust_remote_code=config.trust_remote_code,
    )
    return checkpoints, ChatEncoder(tokenizer, template, eos_ids=generation_eos_ids(seed_folder))


def check_trainings(
    recipe: Recipe, checkpoints: Checkpoints, *, own_objective: bool = False
) -> None:
    """Refuse, by the configuration of M0, what a training would refuse after hours.

    Raises:
        RecipeError: Ranks that there cannot be.
        ModelError: Adapters that this model cannot have, or rows that it cannot share; the message
            begins with the section at fault.
    """
    for name, lora in (("sft", recipe.sft.lora), ("training", recipe.training.lora)):
        if lora is not None:
            with _section(name):
                model = empty_model(
                    checkpoints.seed_folder, trust_remote_code=checkpoints.trust_remote_code
                )
                refuse_unfit(model, lora)
    _trainings(recipe, checkpoints.device, own_objective=own_objective)
    if recipe.training.compute.pair_layout == "shared" and checkpoints.fast.tokens == 0:
        raise ModelError(
            "training.compute.pair_layout: this model cannot have chosen and rejected in one row: "
            f"{checkpoints.fast.reason}. Set pair_layout to auto or separate."
        )


def planned_trainings(context: Context) -> list[tuple[str, TrainingSettings, int]]:
    """Section, settings and number of ranks of each training of a run."""
    own = context.extensions.objective is not None
    return _trainings(context.recipe, context.checkpoints.device, own_objective=own)


def _trainings(
    recipe: Recipe, device: torch.device, *, own_objective: bool
) -> list[tuple[str, TrainingSettings, int]]:
    reaches = isinstance(recipe.cluster, RayCluster)
    named = (("sft", recipe.sft, True), ("training", recipe.training, not own_objective))
    return [
        (
            name,
            settings,
            number_of_ranks(settings.compute, device, divisible=divisible, reaches_nodes=reaches),
        )
        for name, settings, divisible in named
    ]


def open_scorers(
    recipe: Recipe, checkpoints: Checkpoints, encoder: ChatEncoder, cache_dir: Path
) -> ScorerModels:
    """Find and examine what the recipe's method ranks by; load no weights.

    Args:
        recipe: Whole recipe; its ``model`` section says device and arithmetic of a judge.
        checkpoints: Models of the run.
        encoder: Template of the run.
        cache_dir: Cream's cache.

    Raises:
        ModelError: No such model, it cannot be used, or the judge's context is too short to be
            asked anything; the message begins with the section at fault.
    """
    scorer, device = recipe.method.scorer, recipe.model.device
    with _section(recipe.method.scorer_section):
        if scorer is None:
            return ScorerModels()
        if isinstance(scorer, RerankerSource):
            return _open_own_reranker(scorer, recipe.model, checkpoints.folder, cache_dir)
        if isinstance(scorer, RewardModelConfig):
            return ScorerModels(reward_model=_open_reward_model(scorer, device, cache_dir))
        if isinstance(scorer, SteerConfig):
            return ScorerModels(steering=_open_steer(scorer, device, checkpoints.folder, cache_dir))
        own = scorer.model in OWN_MODELS
        outside = None if own else _open_judge(scorer, recipe.model, checkpoints.folder, cache_dir)
        asked = (
            (checkpoints, encoder) if outside is None else (outside.checkpoints, outside.encoder)
        )
        _check_rubric_fits(scorer, asked[1], asked[0].context_length)
        return ScorerModels(judge=outside)


def _open_judge(
    judge: JudgeConfig | PairwiseJudgeConfig, model: ModelConfig, folder: Path, cache_dir: Path
) -> ExternalJudge:
    config = ModelConfig(
        name=judge.model,
        revision=judge.revision,
        chat_template=judge.chat_template,
        trust_remote_code=judge.trust_remote_code,
        device=model.device,
        compute_dtype=model.compute_dtype,
    )
    checkpoints, encoder = open_models(config, folder, cache_dir)
    return ExternalJudge(checkpoints, encoder, model_fingerprint(checkpoints.seed_folder))


def open_reranker(name: str, model: ModelConfig, folder: Path, cache_dir: Path) -> ExternalReranker:
    """Find a reranker that ``cream rerank fit`` wrote, or a model that reranks without training.

    Args:
        name: Folder of a reranker; or a model's, a hub id or the embedded name.
        model: Device and arithmetic; of a model without a reranker its template too.
        folder: Where models of a run go; nothing is written there.
        cache_dir: Cream's cache.

    Raises:
        ModelError: It cannot be used, or the model is another than the heads were trained on.
    """
    path = expanded(name)
    if not is_reranker(path):
        plain = model.model_copy(update={"name": name, "revision": None, "from_scratch": None})
        config = RerankerConfig(model=plain, windows=WindowConfig())
        checkpoints, encoder = open_models(config.model, folder, cache_dir)
        return ExternalReranker(
            checkpoints, encoder, config, model_fingerprint(checkpoints.seed_folder)
        )
    found = load_reranker(path)
    run_as = {"device": model.device, "compute_dtype": model.compute_dtype}
    if found.model_folder is not None:
        run_as |= {"name": str(found.model_folder), "revision": None}
    config = found.config.model_copy(update={"model": found.config.model.model_copy(update=run_as)})
    checkpoints, encoder = open_models(config.model, folder, cache_dir)
    if model_fingerprint(checkpoints.seed_folder) != found.fingerprint:
        raise ModelError(
            f"{name} was trained on another model than {config.model.name} is now, so its heads "
            "mean nothing here. Bring that model back, or fit the reranker again."
        )
    both = fingerprint([found.fingerprint, found.heads_digest])
    return ExternalReranker(checkpoints, encoder, config, both, found.heads)


def _open_own_reranker(
    source: RerankerSource, model: ModelConfig, folder: Path, cache_dir: Path
) -> ScorerModels:
    found, windows = None, source.windows or WindowConfig()
    if source.model not in OWN_MODELS:
        found = open_reranker(source.model, model, folder, cache_dir)
        windows = found.windows(source.windows)
    if windows.scale == "affine":
        raise ModelError(
            "windows.scale: affine ties a window whose views disagree (its slope would be "
            "negative), so C would count agreement alone. Set scale: offset or none."
        )
    return ScorerModels(reranker=found)


def _check_rubric_fits(
    judge: JudgeConfig | PairwiseJudgeConfig, encoder: ChatEncoder, limit: int | None
) -> None:
    rubric = len(encoder.encode_prompt([Message("user", empty_question(judge))]))
    if limit is not None and rubric + judge.max_judgement_tokens >= limit:
        raise ModelError(
            f"the rubric alone has {rubric} tokens; with max_judgement_tokens "
            f"{judge.max_judgement_tokens} nothing is left of the judge's context of {limit}. "
            "Lower max_judgement_tokens, or name a judge with a longer context."
        )


def _open_reward_model(
    reward: RewardModelConfig, device_name: str, cache_dir: Path
) -> ExternalRewardModel:
    config = ModelConfig(
        name=reward.name, revision=reward.revision, trust_remote_code=reward.trust_remote_code
    )
    folder = resolve_model(config, cache_dir)
    shape = load_config(folder, trust_remote_code=reward.trust_remote_code)
    check_reward_model(folder, shape)
    template = read_chat_template(reward.chat_template)
    tokenizer = load_tokenizer(
        folder, chat_template=template, trust_remote_code=reward.trust_remote_code
    )
    device = pick_device(device_name)
    return ExternalRewardModel(
        folder=folder,
        encoder=ConversationEncoder(tokenizer, template),
        fingerprint=model_fingerprint(folder),
        context_length=context_length(shape),
        device=device,
        compute_dtype=pick_compute_dtype(device, reward.compute_dtype).dtype,
        trust_remote_code=reward.trust_remote_code,
    )


def open_steering(
    folder: Path, model: str | None, device: str, models: Path, cache_dir: Path
) -> ExternalSteering:
    """Find a steered reward that ``cream steer fit`` wrote, and the model that it reads.

    Args:
        folder: Of the reward.
        model: Where the model is now; None: where it was.
        device: What the model runs on.
        models: Where models of a run go; nothing is written there.
        cache_dir: Cream's cache.

    Raises:
        ModelError: It cannot be used, or the model is another than it was fitted on.
    """
    fitted = load_steered_reward(folder)
    config = fitted.module.config.model.model_copy(update={"device": device})
    if model is not None:
        config = config.model_copy(update={"name": model, "revision": None})
    checkpoints, encoder = open_models(config, models, cache_dir)
    require_same_embedding(fitted, embedding_identity(checkpoints, encoder))
    return ExternalSteering(checkpoints, encoder, fitted)


def _open_steer(steer: SteerConfig, device: str, models: Path, cache_dir: Path) -> ExternalSteering:
    known = None if steer.context is None else read_context(expanded(steer.context))
    opened = open_steering(expanded(steer.reward), steer.model, device, models, cache_dir)
    return replace(opened, context=choice_texts(known.users[0]) if known else ())


def embedding_identity(checkpoints: Checkpoints, encoder: ChatEncoder) -> dict[str, str]:
    """What decides an embedding, beside rounding."""
    return {
        "model": model_fingerprint(checkpoints.seed_folder),
        "template": fingerprint([encoder.template, list(encoder.stop_ids)]),
        "pooling": POOLING,
    }


@contextmanager
def _section(name: str) -> Iterator[None]:
    """Say whose model an error is about: messages about models speak of ``model``."""
    try:
        yield
    except ModelError as error:
        raise ModelError(f"{name}: {error}") from error
