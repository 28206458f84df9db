"""Prompts, seed examples, test sets and verifiers: what a run learns from and is measured by."""

from cream.data.dataset import LoadedData, load_data
from cream.data.dedup import prompt_id, question_key
from cream.data.snapshot import read_prompts, read_seed, write_prompts, write_seed
from cream.data.verifiers import (
    ChoiceLetter,
    ConstantAnswer,
    ExactMatch,
    LastNumber,
    MathVerify,
    PromptVerifier,
    ReasoningGymVerifier,
    StatedNumber,
    constant_baseline,
    verifier_named,
)

__all__ = [
    "ChoiceLetter",
    "ConstantAnswer",
    "ExactMatch",
    "LastNumber",
    "LoadedData",
    "MathVerify",
    "PromptVerifier",
    "ReasoningGymVerifier",
    "StatedNumber",
    "constant_baseline",
    "load_data",
    "prompt_id",
    "question_key",
    "read_prompts",
    "read_seed",
    "verifier_named",
    "write_prompts",
    "write_seed",
]
