"""The model card: written beside every trained model, and in full where one is published.

What the card says is read from the recipe and the run's records. Beside the model, written before
it was measured, there are no results yet.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import yaml

from cream.cache import expanded
from cream.errors import RecipeError
from cream.recipe import Recipe
from cream.recipe.data import FileSource, HubSource, ReasoningGymSource, Source, StringTaskSource
from cream.recipe.load import parse_yaml
from cream.recipe.model import EMBEDDED_NAME
from cream.records import StageSpec
from cream.report.summary import RunSummary
from cream.report.table import markdown
from cream.report.tables import accuracy_table
from cream.runs.manifest import describe_environment, without_local_paths

PAPER = "https://arxiv.org/abs/2410.12735"


def model_card(
    made: StageSpec,
    recipe: Recipe,
    seed_model: str,
    *,
    results: RunSummary | None = None,
    repository: str | None = None,
) -> str:
    """Markdown that says what this model is, from what it was made, how, and how good it is.

    Args:
        made: The stage that makes the model.
        recipe: The run's recipe.
        seed_model: Where M0 came from.
        results: Summary of the run, or None before there is one.
        repository: ``owner/name`` that it is published under, or None.
    """
    licence = licence_of(seed_model)
    seed_model = without_local_paths(seed_model)
    sections = [_front_matter(recipe, seed_model, licence), f"# {recipe.name} {made.result}\n"]
    sections.append(_made(made, recipe, seed_model, licence))
    if results is not None:
        sections.append(_results(str(made.result), results))
    sections += [_loading(repository), _recipe(recipe)]
    return "\n".join(sections)


def _front_matter(recipe: Recipe, seed_model: str, licence: str | None) -> str:
    values: dict[str, Any] = {
        "library_name": "transformers",
        "pipeline_tag": "text-generation",
        "tags": list(dict.fromkeys(["cream", recipe.method.name])),
    }
    if licence is not None:
        values["license"] = licence
    if _on_hub(seed_model):
        values["base_model"] = seed_model
    return f"---\n{yaml.safe_dump(values, sort_keys=False)}---\n"


def _on_hub(seed_model: str) -> bool:
    return seed_model.count("/") == 1 and seed_model[0] not in ".<"


def _made(made: StageSpec, recipe: Recipe, seed_model: str, licence: str | None) -> str:
    how = (
        f"supervised fine-tuning of M0 ({seed_model}) on seed examples"
        if made.kind == "fine_tune"
        else f"preference training of {made.model} on pairs it sampled and ranked itself"
    )
    stated = (
        f"{licence}, as its card states" if licence else "not stated in its folder; see its page"
    )
    version = describe_environment()["cream"]
    data = recipe.data
    asked = [s for t in range(1, recipe.iterations + 1) for s in data.prompts.sources_of(t)]
    return f"""Made by [Cream]({PAPER}) {version}, without preference labels, by {how}.

- Seed model (M0): {seed_model}. Its licence and its limits apply to this model too.
- Licence of the seed model: {stated}.
- Method: {recipe.method.name}, {recipe.iterations} iterations; run seed {recipe.seed}.
- Seed examples: {_sources(data.seed.sources if data.seed else ())}.
- Unlabelled prompts: {_sources(asked)}; {data.prompts.per_iteration} per
  iteration.
- Test prompts, never trained on: {_sources(data.test.sources if data.test else ())}.
"""


def _sources(sources: Iterable[Source]) -> str:
    names = []
    for source in sources:
        match source:
            case FileSource():
                names.append(f"file {without_local_paths(source.path)}")
            case HubSource():
                names.append(f"{source.dataset} ({source.split})")
            case ReasoningGymSource():
                tasks = ", ".join(task.name for task in source.tasks)
                names.append(f"generated tasks of reasoning-gym ({tasks})")
            case StringTaskSource():
                ranges = (f"{t.name} of {t.lengths[0]} to {t.lengths[1]}" for t in source.tasks)
                names.append(f"generated tasks on strings ({', '.join(ranges)} characters)")
    return "; ".join(dict.fromkeys(names)) or "none"


def _results(name: str, results: RunSummary) -> str:
    rows = [("", row) for row in results.models if row.model in ("M0", "M1", name)]
    if not rows:
        return "## Results\n\nNot measured: the run has no finished evaluation.\n"
    return f"## Results\n\n{markdown(accuracy_table('', rows))}"


def _loading(repository: str | None) -> str:
    return f"""## Use

```python
from transformers import AutoModelForCausalLM, AutoTokenizer

name = "{repository or "path/to/this/folder"}"
model = AutoModelForCausalLM.from_pretrained(name)
tokenizer = AutoTokenizer.from_pretrained(name)
messages = [{{"role": "user", "content": "..."}}]
inputs = tokenizer.apply_chat_template(
    messages, add_generation_prompt=True, return_tensors="pt", return_dict=True
)
answer = model.generate(**inputs, max_new_tokens=64)
print(tokenizer.decode(answer[0, inputs["input_ids"].shape[1] :], skip_special_tokens=True))
```
"""


def _recipe(recipe: Recipe) -> str:
    values = recipe.model_dump(mode="json", exclude={"trackers"})
    text = yaml.safe_dump(without_local_paths(values), sort_keys=False, allow_unicode=True)
    return f"## Recipe\n\n```yaml\n{text}```\n"


EMBEDDED_LICENCE = "apache-2.0"
"""Of SmolLM2-135M-Instruct, which the embedded model is made from."""


def licence_of(name: str) -> str | None:
    """Licence of the model that a recipe names, as the hub spells it, or None if none is stated.

    Args:
        name: Embedded name, local folder, or hub id. Of a hub id nothing is known here: its card is
            not fetched with the weights.
    """
    if name == EMBEDDED_NAME:
        return EMBEDDED_LICENCE
    card = expanded(name) / "README.md"
    if not card.is_file():
        return None
    stated = _card_header(card.read_text(encoding="utf-8", errors="replace")).get("license")
    return stated if isinstance(stated, str) else None


def _card_header(text: str) -> dict[str, object]:
    if not text.startswith("---\n"):
        return {}
    try:
        values = parse_yaml(text[4:].partition("\n---")[0])
    except RecipeError:
        return {}
    return values if isinstance(values, dict) else {}
