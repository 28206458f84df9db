"""An exported dataset on disk: a data file, and a card with the numbers and the command."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Literal

import pyarrow.parquet as pq

from cream.errors import RunError
from cream.report.export import ExportedPairs
from cream.runs.files import read_yaml, replacing_folder
from cream.runs.manifest import describe_environment
from cream.runs.store import RECIPE

FileFormat = Literal["jsonl", "parquet"]

COLUMNS = """| column | meaning |
|---|---|
| `prompt`, `chosen`, `rejected` | lists of messages; the last two hold one assistant turn |
| `pair_id`, `prompt_id`, `task` | ids of the run, and the task of the prompt |
| `consistency` | C that enters CREAM's loss of this pair, in [0, 1]; 1 trusts the order fully |
| `weight` | factor on the loss of this pair |
| `margin` | reward gap, chosen minus rejected, in the unit of the reward |
| `chosen_reward`, `rejected_reward` | the quantity that picked the pair |
| `chosen_tokens`, `rejected_tokens` | length in tokens of the policy, end token included |
| `chosen_truncated`, `rejected_truncated` | cut off at the token limit |
| `chosen_logps_M*`, `rejected_logps_M*` | sum of token log-probabilities under that model, nats |
| other `chosen_*`, `rejected_*` | scores of the run, such as `verifier`; null where absent |
"""

PLAIN = """Order and C are apart here: a plain DPO trainer reads the three message columns and
trusts every pair fully (SRLM); a trainer that knows label smoothing takes 1 - `consistency`."""

FLIPPED = """Each pair was turned with probability 1 - C (`flipped`), so that a plain DPO trainer,
which knows no C, minimises CREAM's loss in expectation. For a turned row all `chosen_*` and
`rejected_*` have changed sides and `margin` its sign."""


def write_export(
    pairs: ExportedPairs, root: Path, out: Path, *, file_format: FileFormat, command: str, seed: int
) -> dict[str, Any]:
    """Write ``train.<format>`` and ``README.md`` into a new folder, whole or not at all.

    Args:
        pairs: What to write.
        root: Run directory that they come from.
        out: Folder that does not exist yet.
        file_format: Of the data file.
        command: What was given on the command line, for the card.
        seed: Of the flips; not used if nothing was flipped.

    Returns:
        What was written, as JSON values.

    Raises:
        RunError: `out` exists.
    """
    if out.exists():
        raise RunError(f"{out} exists already; remove it or choose another folder (--out)")
    name = f"train.{file_format}"
    with replacing_folder(out) as temporary:
        if file_format == "parquet":
            pq.write_table(pairs.table, temporary / name, compression="zstd")
        else:
            with (temporary / name).open("w", encoding="utf-8") as stream:
                for row in pairs.table.to_pylist():
                    stream.write(json.dumps(row, ensure_ascii=False, allow_nan=False) + "\n")
        card = dataset_card(pairs, read_yaml(root / RECIPE), name, command, seed)
        (temporary / "README.md").write_text(card, encoding="utf-8")
    return {
        "kind": "trl" if pairs.flipped is None else "flipped",
        "run": str(root),
        "iteration": pairs.iteration,
        "file": str(out / name),
        "card": str(out / "README.md"),
        "pairs": pairs.table.num_rows,
        "tally": pairs.summary["tally"],
        "mean_consistency": _mean(pairs.table["consistency"].to_pylist()),
        "flipped": pairs.flipped,
        "seed": None if pairs.flipped is None else seed,
    }


def dataset_card(
    pairs: ExportedPairs, recipe: dict[str, Any], name: str, command: str, seed: int
) -> str:
    """Markdown that says what the rows are, how they were made, and with which command."""
    t, count = pairs.iteration, pairs.table.num_rows
    lines = [
        f"- {count} pairs of iteration {t}, from {pairs.summary['tally']['total']} prompts; the "
        f"completions are of M{t}, nobody labelled them",
        f"- Method: {recipe['method']['name']}; M0: {recipe['model']['name']}; run seed "
        f"{recipe['seed']}; Cream {describe_environment()['cream']}",
        f"- Mean C of the pairs: {_mean(pairs.table['consistency'].to_pylist()):.3f}",
        *_measured(pairs.summary),
    ]
    if pairs.flipped is not None:
        share = 100 * pairs.flipped / count
        lines.append(f"- Turned: {pairs.flipped} of {count} ({share:.1f} %), seed {seed}")
    kind = "cream-pairs" if pairs.flipped is None else "cream-pairs, flipped"
    return f"""---
tags: [preference, dpo, trl, cream]
configs:
- config_name: default
  data_files: {name}
---

# {recipe["name"]}, iteration {t} ({kind})

Preference pairs in TRL's conversational format, made by Cream without preference labels.

{chr(10).join(lines)}

{PLAIN if pairs.flipped is None else FLIPPED}

Made with:

```sh
{command}
```

{COLUMNS}"""


def _measured(summary: Any) -> list[str]:
    lines, rate, accuracy = [], summary["consistency"], summary["pair_accuracy"]
    if rate:
        lines.append(
            f"- Consistency rate of the iteration: {rate['rate']:.3f} [{rate['low']:.3f}, "
            f"{rate['high']:.3f}], {rate['n']} prompts (95 % interval)"
        )
    if accuracy["n"]:
        lines.append(
            f"- Right pairs: {100 * accuracy['accuracy']:.1f} % of the {accuracy['n']} that have "
            "exactly one correct completion by the verifier (read by method `oracle` only)"
        )
    return lines


def _mean(values: list[float]) -> float:
    return sum(values) / len(values)
