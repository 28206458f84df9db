"""Which public datasets there are, where the hub has them, and which split plays which role.

Test splits are those whose sizes the paper's code evaluates on: ARC-Easy 2,376 questions,
ARC-Challenge 1,172, OpenBookQA 500, SIQA 1,954 (its validation split; the test answers are not
public) and GSM8K 1,319.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from cream.data.public import questions
from cream.data.public.questions import ReadQuestion
from cream.errors import DataError


@dataclass(frozen=True, slots=True)
class Part:
    """One configuration of a dataset, with the splits that are read."""

    task: str
    """Name under which accuracy is reported."""
    config_name: str | None
    """Configuration on the hub."""
    train: str
    """Split of the unlabelled prompts."""
    test: str
    """Split of the test prompts."""


@dataclass(frozen=True, slots=True)
class Questions:
    """A dataset of questions with answers: prompts and test."""

    hub_id: str
    parts: tuple[Part, ...]
    read: ReadQuestion
    """Row to question, or the reason why there is none."""


@dataclass(frozen=True, slots=True)
class Conversations:
    """A dataset of message trees: seed examples, and their prompts."""

    hub_id: str
    task: str
    split: str


PublicDataset = Questions | Conversations

DATASETS: Mapping[str, PublicDataset] = {
    "oasst1": Conversations("OpenAssistant/oasst1", task="oasst1", split="train"),
    "arc": Questions(
        "allenai/ai2_arc",
        (
            Part("arc_easy", "ARC-Easy", "train", "test"),
            Part("arc_challenge", "ARC-Challenge", "train", "test"),
        ),
        questions.labelled_choices("question"),
    ),
    "openbookqa": Questions(
        "allenai/openbookqa",
        (Part("openbookqa", "main", "train", "test"),),
        questions.labelled_choices("question_stem"),
    ),
    # The original repository (allenai/social_i_qa) is a loading script, which `datasets` 4 and
    # later refuse. This copy holds the same rows; lm-evaluation-harness compared them by hash.
    "siqa": Questions(
        "lighteval/siqa", (Part("siqa", None, "train", "validation"),), questions.siqa
    ),
    "gsm8k": Questions("openai/gsm8k", (Part("gsm8k", "main", "train", "test"),), questions.gsm8k),
}
"""By the names that `cream data prepare` takes."""


def dataset_named(name: str) -> PublicDataset:
    """Return the dataset of that name.

    Raises:
        DataError: There is none; the message lists the names.
    """
    if name not in DATASETS:
        raise DataError(f"no public dataset {name!r} is known; there are {', '.join(DATASETS)}")
    return DATASETS[name]
