"""Record what the code of the CREAM paper decides on a small fixture, as an outside reference.

Run once by hand, in an environment that has this package, ``loguru``, ``pytz``, ``scipy`` and
``simple-parsing``, on a checkout of ``github.com/Raibows/CREAM``:

    python scripts/record_cream_golden.py CHECKOUT tests/golden/cream_reference.json

Three parts of that code run as they are: ``rewarding.calculate_rewards`` (log-probabilities, on a
model whose token log-probabilities are given), ``cal_consistency.py`` (as a command: rates and
pairs) and ``data.preprocess_dataset`` (C of each pair). Only the subtraction of the reference
score, which stands inside a function that loads models, is written again here. Nothing of Cream
takes part.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections import UserDict
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy
import scipy
import torch
import torch.distributed as dist

HASH_SEED = "0"
"""That code walks through a set of strings, so where C is joined wrongly depends on this."""

# id: tokens, log pi_0, log pi_1 - log pi_0, log pi_2 - log pi_0 of each completion
PROMPTS: dict[str, tuple[list, list, list, list]] = {
    "p01": ([4, 6, 8, 5, 7], [-10, -12, -20, -8, -15], [3, 1, -2, 4, 0], [5, 2, -3, 4, 1]),
    "k-tied": ([4, 4, 4, 4, 4], [-8, -8, -8, -9, -12], [1, 2, 3, 4, 5], [5, 4, 3, 2, 1]),
    "p03": ([5, 5, 6, 6, 7], [-10, -11, -12, -13, -14], [2, 2, 2, -1, 3], [1, 4, 2, 3, 0]),
    "j-tied": ([3, 9, 6, 5, 4], [-9, -30, -12, -11, -10], [0, 4, 1, 2, -3], [2, -1, 2, 2, 5]),
    "copies-best": ([4, 5, 6, 5, 7], [-9, -11, -13, -11, -16], [1, 4, 2, 4, 0], [2, 3, 5, 3, -1]),
    "copies-worst": (
        [5, 6, 7, 8, 5],
        [-7, -12, -15, -18, -7],
        [-2, 1, 3, 2, -2],
        [-1, 3, 4, 0, -1],
    ),
    "k-all-tied": ([4, 5, 6, 7, 8], [-8, -10, -12, -14, -16], [3, 1, 0, 2, -1], [1, 2, 3, 4, 5]),
    "reversed": ([5, 5, 5, 5, 5], [-10, -12, -14, -16, -18], [1, 2, 3, 4, 5], [5, 4, 3, 2, 1]),
    "truncated": ([3, 4, 20, 5, 6], [-6, -9, -60, -12, -11], [0, -1, 5, 1, 2], [1, 0, 4, -2, 2]),
    "p10": ([6, 6, 6, 6, 6], [-20, -18, -16, -14, -13], [-1, 0, 1, 2, 3], [-2, -1, 0, 1, 2]),
    "p11": ([9, 3, 5, 7, 4], [-25, -7, -14, -15, -9], [4, 0, 2, 2, 1], [3, -2, 1, 0, 1]),
    "p12": (
        [2, 3, 4, 5, 6],
        [-6, -8, -9, -13, -17],
        [0.5, -0.5, 1.5, 2.5, -1.5],
        [1.5, 0.5, -0.5, 2.5, -2.5],
    ),
    "best-tied": ([5, 5, 5, 5, 5], [-9, -9, -9, -9, -9], [1, 2, 3, 4, 5], [1, 3, 2, 3, 0]),
    "all-tied": ([5, 5, 5, 5, 5], [-9, -9, -9, -9, -9], [5, 4, 3, 2, 1], [1, 1, 1, 1, 1]),
    "unequal-copies": ([5, 5, 5], [-9, -9, -9], [1, 2, 3], [2, 2.5, 3]),
    "close": ([4, 4, 4], [-9, -9, -9], [1, 2, 3], [1, 1.125, 1.25]),
    "same-ends": ([5, 5, 5, 5], [-9, -9, -9, -9], [3, 1, 2, 4], [2, 1, 3, 4]),
    "other-ends": ([5, 5, 5, 5], [-9, -9, -9, -9], [2, 1, 4, 3], [2, 4, 1, 3]),
    "witness-missing": ([5, 5, 5], [-9, -9, -9], [1, None, 3], [1, 2, 3]),
    "reward-missing": ([5, 5, 5], [-9, -9, -9], [1, 2, 3], [1, None, 3]),
}
COPIES = {"copies-best": (1, 3), "copies-worst": (0, 4), "unequal-copies": (0, 2)}
TRUNCATED = {"truncated": (2,)}
TWELVE = list(PROMPTS)[:12]
# name: t, statistic, prompts
CASES: dict[str, tuple[int, str, list[str]]] = {
    "plain, t = 1": (1, "kendall", TWELVE),
    "plain, t = 2": (2, "kendall", TWELVE),
    "best tied": (2, "kendall", ["p01", "p10", "best-tied"]),
    "all tied": (2, "kendall", ["p01", "reversed", "all-tied"]),
    "unequal copies": (2, "kendall", ["p01", "p10", "unequal-copies"]),
    "close": (2, "kendall", ["p01", "p10", "close"]),
    "witness missing": (2, "kendall", ["p01", "reversed", "p10", "p12", "witness-missing"]),
    "reward missing": (2, "kendall", ["p01", "p10", "reward-missing"]),
    "top order": (2, "toporder", ["same-ends", "other-ends"]),
}


def completions(name: str) -> list[dict[str, Any]]:
    """The completions of a prompt with their log-probabilities, nats; None where not scored."""
    columns = zip(*PROMPTS[name], strict=True)
    first, second = COPIES.get(name, (None, None))
    return [
        {
            "text": f"completion {first if k == second else k}",
            "num_tokens": tokens,
            "truncated": k in TRUNCATED.get(name, ()),
            "M0": seed,
            "M1": None if gain_1 is None else seed + gain_1,
            "M2": None if gain_2 is None else seed + gain_2,
        }
        for k, (tokens, seed, gain_1, gain_2) in enumerate(columns)
    ]


class GivenModel:
    """A "model" that gives each completion token an equal share of a given log-probability."""

    device = "cpu"

    def eval(self) -> GivenModel:
        """Nothing to switch."""
        return self

    def __call__(self, token_logps: torch.Tensor, **_: Any) -> dict[str, torch.Tensor]:
        """Logits over three tokens: 0 is every completion token, 2 is padding."""
        other = torch.log1p(-token_logps.exp())
        return {"logits": torch.stack([token_logps, other, other - 1e3], dim=-1)}


class Batch(UserDict):
    """Tensors that say they moved."""

    def to(self, device: str) -> Batch:
        """Stay."""
        return self


def scores(calculate: Any, group: Any, name: str, model: str, *, per_token: bool) -> list:
    """What their code makes of one model's log-probabilities of one prompt's completions."""
    batches = []
    for k, item in enumerate(completions(name)):
        if item[model] is None:
            continue
        length = item["num_tokens"] + 1  # one prompt token
        batches.append(
            {
                "uuid": [name],
                "response_id": [k],
                "prompt": [name],
                "response": [item["text"]],
                "tensor_inputs": Batch(
                    token_logps=torch.full(
                        (1, length), item[model] / item["num_tokens"], dtype=torch.float64
                    ),
                    labels=torch.tensor([[2] + [0] * item["num_tokens"]]),
                ),
            }
        )
    args = SimpleNamespace(common=SimpleNamespace(rank=0, world_size=1))
    tokenizer = SimpleNamespace(pad_token_id=2)
    found = calculate(
        args, group, batches, GivenModel(), tokenizer, "", normalized_by_length=per_token
    )
    row: list[float | None] = [None] * len(completions(name))
    for item in found:
        # Their sums over equal shares round in the 16th digit, which would break the ties.
        row[item["response_id"]] = round(item["score"], 9)
    return row


def rewards(calculate: Any, group: Any, names: list[str], model: str) -> dict[str, list]:
    """Rewards by the rule of ``rewarding.main``: M0 has no reference, the others have M0."""
    if model == "M0":
        return {n: scores(calculate, group, n, model, per_token=True) for n in names}
    found = {}
    for name in names:
        policy = scores(calculate, group, name, model, per_token=False)
        reference = scores(calculate, group, name, "M0", per_token=False)
        found[name] = [None if p is None else p - r for p, r in zip(policy, reference, strict=True)]
    return found


def reward_file(found: dict[str, list]) -> dict[str, Any]:
    """As ``rewarding.main`` writes it."""
    return {
        name: {
            "prompt": [{"role": "user", "content": name}],
            "response": [
                [
                    {"role": "user", "content": name},
                    {"role": "assistant", "content": item["text"]},
                ]
                for item in completions(name)
            ],
            "reward": values,
        }
        for name, values in found.items()
    }


class CharacterTokenizer:
    """One token per character; what ``preprocess_dataset`` asks of a tokenizer."""

    pad_token_id = 0

    def apply_chat_template(self, conversations: list, *, return_dict: bool = False, **_: Any):
        """Token ids of each conversation."""
        ids = [[ord(c) for turn in talk for c in turn["content"]] for talk in conversations]
        return {"input_ids": ids, "attention_mask": ids} if return_dict else ids


def decide(checkout: Path, statistic: str, first: dict, second: dict) -> dict[str, Any]:
    """Run ``cal_consistency.py`` on two reward files and ``preprocess_dataset`` on its output."""
    import config

    import data

    with tempfile.TemporaryDirectory() as folder:
        paths = [Path(folder, name) for name in ("first.json", "second.json", "pairs.json")]
        for path, found in zip(paths, (first, second), strict=False):
            path.write_text(json.dumps(reward_file(found)), encoding="utf-8")
        options = zip(("--file1", "--file2", "--output"), map(str, paths), strict=True)
        command = [sys.executable, "cal_consistency.py", "--method", statistic]
        done = subprocess.run(
            [*command, *(word for option in options for word in option)],
            cwd=checkout,
            env={**os.environ, "PYTHONHASHSEED": HASH_SEED},
            capture_output=True,
            text=True,
        )
        if done.returncode:
            return {"error": done.stderr.strip().splitlines()[-1]}
        pairs = json.loads(paths[2].read_text(encoding="utf-8"))
        of_level = {
            level: dict(
                sorted(
                    (row["uuid"], row["consistency"])
                    for row in data.preprocess_dataset(
                        SimpleNamespace(value=paths[2]),
                        config.TrainStageEnum.dpo,
                        CharacterTokenizer(),
                        2048,
                        method,
                    )
                )
            )
            for level, method in (
                ("set", config.DPOMethodEnum.consistency_avg),
                ("sample", config.DPOMethodEnum.consistency_dyn),
            )
        }
    return {
        "chosen": {n: p["selected"][-1]["content"] for n, p in pairs.items()},
        "rejected": {n: p["rejected"][-1]["content"] for n, p in pairs.items()},
        "rate": {n: p["consistency"] for n, p in pairs.items()},
        "consistency": of_level,
    }


def main() -> None:
    """Write the file named on the command line."""
    checkout, target = Path(sys.argv[1]).resolve(), Path(sys.argv[2])
    os.environ["DISABLE_LOG"] = "1"
    sys.path.insert(0, str(checkout))
    from rewarding import calculate_rewards

    with tempfile.TemporaryDirectory() as folder:
        dist.init_process_group("gloo", init_method=f"file://{folder}/x", rank=0, world_size=1)
        group = dist.new_group(backend="gloo")
        cases = []
        for name, (t, statistic, names) in CASES.items():
            first = rewards(calculate_rewards, group, names, f"M{t}")
            second = rewards(calculate_rewards, group, names, f"M{t - 1}")
            decided = decide(checkout, statistic, first, second)
            cases.append({"name": name, "t": t, "first": first, "second": second, **decided})
        dist.destroy_process_group()
    commit = subprocess.run(
        ["git", "-C", str(checkout), "rev-parse", "HEAD"],
        capture_output=True,
        text=True,
        check=True,
    ).stdout.strip()
    versions = {
        "python": sys.version.split()[0],
        "numpy": numpy.__version__,
        "scipy": scipy.__version__,
        "hash_seed": HASH_SEED,
    }
    prompts = ",\n".join(f"  {json.dumps(n)}: {json.dumps(completions(n))}" for n in PROMPTS)
    listed = ",\n".join(f"  {json.dumps(case)}" for case in cases)
    head = json.dumps({"commit": commit, "versions": versions})[:-1]
    target.write_text(
        f'{head}, "prompts": {{\n{prompts}\n}}, "cases": [\n{listed}\n]}}\n', encoding="utf-8"
    )


if __name__ == "__main__":
    main()
