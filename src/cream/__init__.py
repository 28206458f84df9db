"""Cream: language models that improve on their own rankings, and know how far to trust them.

Everything below is public: ``from cream import run, load_recipe, ...``. A name is imported when it
is first asked for, so that ``import cream`` costs nothing; ``docs/python.md`` shows each at work.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from cream.algorithms import consistency as consistency
    from cream.algorithms import groups as groups
    from cream.algorithms import objectives as objectives
    from cream.algorithms import pairing as pairing
    from cream.algorithms import preference as preference
    from cream.algorithms import ranking as ranking
    from cream.algorithms import rewards as rewards
    from cream.algorithms.objective import Auxiliary as Auxiliary
    from cream.algorithms.objective import Needs as Needs
    from cream.algorithms.objective import Objective as Objective
    from cream.algorithms.objective import ObjectiveInputs as ObjectiveInputs
    from cream.api import console_progress as console_progress
    from cream.api import run as run
    from cream.cache import cache_dir as cache_dir
    from cream.engines.sampler import TorchSampler as TorchSampler
    from cream.engines.scorer import TorchScorer as TorchScorer
    from cream.engines.texts import Text as Text
    from cream.engines.texts import TextScore as TextScore
    from cream.engines.texts import TextScorer as TextScorer
    from cream.errors import CreamError as CreamError
    from cream.loop.extensions import Method as Method
    from cream.loop.extensions import OwnScorer as OwnScorer
    from cream.loop.extensions import OwnTransform as OwnTransform
    from cream.loop.extensions import OwnVerifier as OwnVerifier
    from cream.models.chat import ChatEncoder as ChatEncoder
    from cream.models.embedded import embedded_model as embedded_model
    from cream.models.loading import load_model as load_model
    from cream.models.loading import load_tokenizer as load_tokenizer
    from cream.protocols import LogpScorer as LogpScorer
    from cream.protocols import OwnSampler as OwnSampler
    from cream.protocols import Progress as Progress
    from cream.protocols import Sampler as Sampler
    from cream.protocols import SamplingParams as SamplingParams
    from cream.protocols import Verifier as Verifier
    from cream.recipe import Recipe as Recipe
    from cream.recipe import load_recipe as load_recipe
    from cream.recipe import parse_recipe as parse_recipe
    from cream.recipe import parts as parts
    from cream.recipe.parts import MethodParts as MethodParts
    from cream.report.summary import RunResult as RunResult
    from cream.report.summary import open_run as open_run
    from cream.runs.tables import hash_ids as hash_ids
    from cream.training.examples import completion_example as completion_example
    from cream.training.examples import pair_example as pair_example
    from cream.training.train import train as train
    from cream.types import Completion as Completion
    from cream.types import Example as Example
    from cream.types import FinishReason as FinishReason
    from cream.types import Message as Message
    from cream.types import Prompt as Prompt
    from cream.types import RankedPair as RankedPair
    from cream.types import SampledGroup as SampledGroup
    from cream.types import SampledTokens as SampledTokens
    from cream.types import SamplingRequest as SamplingRequest
    from cream.types import ScoringRequest as ScoringRequest
    from cream.types import TokenSequence as TokenSequence
    from cream.types import Transformed as Transformed
    from cream.types import Verdict as Verdict

__version__ = "0.2.0"

_PLACES = {
    "Auxiliary": "cream.algorithms.objective",
    "Needs": "cream.algorithms.objective",
    "Objective": "cream.algorithms.objective",
    "ObjectiveInputs": "cream.algorithms.objective",
    "console_progress": "cream.api",
    "run": "cream.api",
    "TorchSampler": "cream.engines.sampler",
    "TorchScorer": "cream.engines.scorer",
    "Text": "cream.engines.texts",
    "TextScore": "cream.engines.texts",
    "TextScorer": "cream.engines.texts",
    "CreamError": "cream.errors",
    "Method": "cream.loop.extensions",
    "OwnSampler": "cream.protocols",
    "OwnScorer": "cream.loop.extensions",
    "OwnTransform": "cream.loop.extensions",
    "OwnVerifier": "cream.loop.extensions",
    "ChatEncoder": "cream.models.chat",
    "embedded_model": "cream.models.embedded",
    "load_model": "cream.models.loading",
    "load_tokenizer": "cream.models.loading",
    "LogpScorer": "cream.protocols",
    "Progress": "cream.protocols",
    "Sampler": "cream.protocols",
    "SamplingParams": "cream.protocols",
    "Verifier": "cream.protocols",
    "load_recipe": "cream.recipe",
    "parse_recipe": "cream.recipe",
    "Recipe": "cream.recipe",
    "MethodParts": "cream.recipe.parts",
    "open_run": "cream.report.summary",
    "RunResult": "cream.report.summary",
    "cache_dir": "cream.cache",
    "hash_ids": "cream.runs.tables",
    "completion_example": "cream.training.examples",
    "pair_example": "cream.training.examples",
    "train": "cream.training.train",
    "Example": "cream.types",
    "TokenSequence": "cream.types",
    "RankedPair": "cream.types",
    "Transformed": "cream.types",
    "Completion": "cream.types",
    "FinishReason": "cream.types",
    "Message": "cream.types",
    "Prompt": "cream.types",
    "SampledTokens": "cream.types",
    "SampledGroup": "cream.types",
    "SamplingRequest": "cream.types",
    "ScoringRequest": "cream.types",
    "Verdict": "cream.types",
}
_MODULES = {
    "consistency": "cream.algorithms.consistency",
    "groups": "cream.algorithms.groups",
    "objectives": "cream.algorithms.objectives",
    "preference": "cream.algorithms.preference",
    "pairing": "cream.algorithms.pairing",
    "parts": "cream.recipe.parts",
    "ranking": "cream.algorithms.ranking",
    "rewards": "cream.algorithms.rewards",
}

__all__ = [
    "Auxiliary",
    "ChatEncoder",
    "Completion",
    "CreamError",
    "Example",
    "FinishReason",
    "LogpScorer",
    "Message",
    "Method",
    "MethodParts",
    "Needs",
    "Objective",
    "ObjectiveInputs",
    "OwnSampler",
    "OwnScorer",
    "OwnTransform",
    "OwnVerifier",
    "Progress",
    "Prompt",
    "RankedPair",
    "Recipe",
    "RunResult",
    "SampledGroup",
    "SampledTokens",
    "Sampler",
    "SamplingParams",
    "SamplingRequest",
    "ScoringRequest",
    "Text",
    "TextScore",
    "TextScorer",
    "TokenSequence",
    "TorchSampler",
    "TorchScorer",
    "Transformed",
    "Verdict",
    "Verifier",
    "__version__",
    "cache_dir",
    "completion_example",
    "consistency",
    "console_progress",
    "embedded_model",
    "groups",
    "hash_ids",
    "load_model",
    "load_recipe",
    "load_tokenizer",
    "objectives",
    "open_run",
    "pair_example",
    "pairing",
    "parse_recipe",
    "parts",
    "preference",
    "ranking",
    "rewards",
    "run",
    "train",
]


def __getattr__(name: str) -> Any:
    if name in _PLACES:
        return getattr(import_module(_PLACES[name]), name)
    if name in _MODULES:
        return import_module(_MODULES[name])
    raise AttributeError(f"module 'cream' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
