"""Who gets which data (iterations, policy, witnesses), and what may not meet: test and training."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from cream.algorithms.statistics import share_of
from cream.data.dedup import question_key
from cream.data.sources import Item
from cream.errors import DataError
from cream.runs.seeds import derive_seed
from cream.types import Prompt, SeedExample


def shuffled(prompts: Sequence[Prompt], *, seed: int, name: str) -> list[Prompt]:
    """Order prompts by a hash of the seed and their content.

    The order does not depend on the order given, so neither does anything sliced from it.
    """
    return sorted(prompts, key=lambda prompt: derive_seed(seed, "order", name, prompt.prompt_id))


def split_by_iteration(
    prompts: Sequence[Prompt], *, per_iteration: int, iterations: int, seed: int
) -> tuple[tuple[Prompt, ...], ...]:
    """Cut a pool into one slice per iteration, without overlap.

    Slice t is ``[(t - 1) * per_iteration, t * per_iteration)`` of the shuffled pool: it does not
    depend on `iterations`, which may therefore be raised later.

    Raises:
        DataError: The pool is too small for the number of iterations.
    """
    wanted = per_iteration * iterations
    if len(prompts) < wanted:
        enough_for = len(prompts) // per_iteration
        raise DataError(
            f"iteration {enough_for + 1} has not enough prompts: {iterations} iterations of "
            f"{per_iteration} need {wanted} distinct prompts, the sources hold {len(prompts)} "
            f"(enough for {enough_for}). Lower `prompts.per_iteration` or `iterations`, or add "
            "sources."
        )
    pool = shuffled(prompts, seed=seed, name="prompts")
    return tuple(
        tuple(pool[t * per_iteration : (t + 1) * per_iteration]) for t in range(iterations)
    )


POLICY = "policy"
"""Part of the seed examples that M1 is fine-tuned on."""


def split_seed(
    examples: Sequence[SeedExample], shares: Mapping[str, float], *, seed: int
) -> dict[str, tuple[SeedExample, ...]]:
    """Divide seed examples into parts that have no prompt in common; the rest is `POLICY`'s.

    Args:
        examples: In the order of their sources, which every part keeps.
        shares: Per part its share of the prompts, in (0, 1), rounded down. Their sum is below 1.
        seed: Seed of the run; with the prompts' ids it decides who gets which.

    Raises:
        DataError: A part would be empty.
    """
    prompts = {example.prompt.prompt_id: example.prompt for example in examples}
    pool = [p.prompt_id for p in shuffled(list(prompts.values()), seed=seed, name="seed_parts")]
    owner = dict.fromkeys(pool, POLICY)
    start = 0
    for name, share in shares.items():
        end = start + share_of(share, len(pool))
        owner |= dict.fromkeys(pool[start:end], name)
        start = end
    parts = {
        name: tuple(e for e in examples if owner[e.prompt.prompt_id] == name)
        for name in (POLICY, *shares)
    }
    empty = [name for name, part in parts.items() if not part]
    if empty and examples:
        raise DataError(
            f"{len(pool)} seed prompts leave none to {', '.join(empty)}; raise its seed_share, or "
            "add seed data"
        )
    return parts


def spread(count: int, parts: int) -> list[int]:
    """Divide `count` over `parts` evenly; the first ``count % parts`` get one more."""
    share, rest = divmod(count, parts)
    return [share + (part < rest) for part in range(parts)]


def check_leakage(test: Sequence[Item], training: Sequence[Item]) -> None:
    """Refuse test prompts that are also seed or training prompts.

    Compared without system messages, case and white space (`question_key`), because such a
    difference does not make a question unseen. Paraphrases are not found, nor is the same sum with
    its terms swapped.

    Raises:
        DataError: Counts the test prompts concerned and names the first five with both places.
    """
    seen: dict[str, Item] = {}
    for item in training:
        seen.setdefault(question_key(item.prompt.messages), item)
    leaks = [
        (item, seen[key]) for item in test if (key := question_key(item.prompt.messages)) in seen
    ]
    if leaks:
        shown = "; ".join(
            f"{item.prompt.prompt_id} ({item.where}, also {other.where})"
            for item, other in leaks[:5]
        )
        raise DataError(
            f"{len(leaks)} of {len(test)} test prompts are also training prompts: {shown}"
            f"{'; ...' if len(leaks) > 5 else ''}. Remove them from one side."
        )
