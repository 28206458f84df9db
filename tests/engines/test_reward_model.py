"""A reward model's scores are those of a plain forward, whatever shares the batch."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from cream.engines.reward_model import RewardModel
from cream.engines.texts import Text, TextScore
from cream.errors import ModelError
from cream.models.conversations import ConversationEncoder
from cream.models.loading import load_reward_model, load_tokenizer
from cream.testing import tiny_model_folder, tiny_reward_model_folder
from cream.types import Message

TEXTS = [
    Text("g", "short", (Message("user", "Hi"),), "Ho"),
    Text("g", "long", (Message("user", "Tell me a story."),), "Once upon a time " * 6),
    Text("g", "system", (Message("system", "Brief."), Message("user", "2+2=")), "4"),
    Text("g", "empty", (Message("user", "Say nothing."),), ""),
]
ENDS_WITH_PAD = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{{ message['content'] }}"
    "<|im_end|>{% endfor %}"
)
"""No newline after the last turn, so the last token is the end token, which is also the pad."""


@pytest.fixture(scope="module", params=["llama", "gpt2", "bert"])
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp(request.param) / "reward"
    return tiny_reward_model_folder(place, architecture=request.param)


def opened(
    folder: Path, *, template: str | None = None, budget: int = 4096, limit: int | None = 512
) -> RewardModel:
    encoder = ConversationEncoder(load_tokenizer(folder), template)
    return RewardModel(
        load_reward_model(folder), encoder, token_budget=budget, context_length=limit
    )


def values_of(model: RewardModel, texts: list[Text]) -> dict[str, float | None]:
    scores = list(model.score(texts))
    assert len(scores) == len(texts)
    return {score.text_id: score.value for score in scores}


def turns(text: Text) -> list[dict[str, str]]:
    rows = [{"role": m.role, "content": m.content} for m in text.messages]
    return [*rows, {"role": "assistant", "content": text.response}]


def plain_score(folder: Path, text: Text) -> float:
    """Transformers alone, one conversation at a time, read where its forward reads."""
    model: Any = AutoModelForSequenceClassification.from_pretrained(folder, dtype=torch.float32)
    tokenizer: Any = AutoTokenizer.from_pretrained(folder)
    inputs = tokenizer.apply_chat_template(
        turns(text), tokenize=True, return_tensors="pt", return_dict=True
    )
    with torch.inference_mode():
        logits = model.eval()(input_ids=inputs["input_ids"]).logits
    assert logits.shape == (1, 1)
    return float(logits)


def test_scores_equal_a_plain_forward_of_transformers(folder: Path):
    found = values_of(opened(folder), TEXTS)

    expected = {text.text_id: plain_score(folder, text) for text in TEXTS}
    assert found == pytest.approx(expected, abs=1e-5)
    assert len({round(value, 3) for value in expected.values()}) == len(TEXTS)


def test_a_score_does_not_depend_on_batch_padding_or_order(folder: Path):
    """Budget 64 puts every text into a batch of its own, 4096 all of them into one."""
    together = values_of(opened(folder), TEXTS)

    assert values_of(opened(folder, budget=64), TEXTS[::-1]) == pytest.approx(together, abs=1e-5)
    for text in TEXTS:
        alone = values_of(opened(folder), [text])
        assert alone[text.text_id] == pytest.approx(together[text.text_id], abs=1e-5)


@pytest.mark.parametrize("architecture", ["llama", "gpt2"])
def test_the_score_is_read_at_the_last_token_even_if_that_is_the_pad_token(
    architecture: str, tmp_path: Path
):
    """The head on the last hidden state of the whole conversation, computed by hand.

    Transformers' own forward looks for the last id that is not the pad id and so reads one token
    early here; the difference is large for random weights.
    """
    folder = tiny_reward_model_folder(tmp_path / "reward", architecture=architecture)
    found = values_of(opened(folder, template=ENDS_WITH_PAD), TEXTS)
    model: Any = AutoModelForSequenceClassification.from_pretrained(folder, dtype=torch.float32)
    tokenizer: Any = AutoTokenizer.from_pretrained(folder)

    for text in TEXTS:
        rendered = tokenizer.apply_chat_template(
            turns(text), chat_template=ENDS_WITH_PAD, tokenize=False
        )
        ids = torch.tensor([tokenizer(rendered, add_special_tokens=False)["input_ids"]])
        assert ids[0, -1] == tokenizer.pad_token_id
        with torch.inference_mode():
            hidden = model.eval().base_model(input_ids=ids).last_hidden_state
            by_position = model.score(hidden)[0, :, 0]
            by_pad_id = float(model(input_ids=ids).logits)
        assert found[text.text_id] == pytest.approx(float(by_position[-1]), abs=1e-5)
        assert by_pad_id == pytest.approx(float(by_position[-2]), abs=1e-5)
        assert abs(by_pad_id - float(by_position[-1])) > 1e-3


def test_texts_that_do_not_fit_or_spell_a_special_token_have_a_reason(folder: Path):
    encoder = ConversationEncoder(load_tokenizer(folder))
    limit = len(encoder.encode(TEXTS[0].messages, "Ho"))
    forged = Text("g", "forged", TEXTS[0].messages, "<|im_end|>")
    longer = Text("g", "longer", TEXTS[0].messages, "Hoo")

    scores = {s.text_id: s for s in opened(folder, limit=limit).score([forged, longer, TEXTS[0]])}

    assert scores["forged"] == TextScore("forged", None, "special_token", 0)
    assert scores["longer"] == TextScore("longer", None, "too_long", 0)
    assert scores["short"].value is not None
    assert scores["short"].count == 1


def test_a_score_that_is_no_number_is_absent(tmp_path: Path):
    folder = tiny_reward_model_folder(tmp_path / "reward")
    model = load_reward_model(folder)
    with torch.no_grad():
        model.get_parameter("score.weight").fill_(float("inf"))
    broken = RewardModel(
        model,
        ConversationEncoder(load_tokenizer(folder)),
        token_budget=4096,
        context_length=None,
    )

    assert [score.reason for score in broken.score(TEXTS)] == ["not_finite"] * len(TEXTS)


def test_bfloat16_weights_are_read_by_a_float32_head(tmp_path: Path):
    """Scores stay finer than bfloat16, whose neighbours are 2^-8 of the value apart."""
    folder = tiny_reward_model_folder(tmp_path / "reward")
    exact = values_of(opened(folder), TEXTS)
    coarse = RewardModel(
        load_reward_model(folder, dtype=torch.bfloat16),
        ConversationEncoder(load_tokenizer(folder)),
        token_budget=4096,
        context_length=None,
    )
    found = values_of(coarse, TEXTS)

    assert found == pytest.approx(exact, abs=0.15)
    rounded = [float(torch.tensor(value).bfloat16()) for value in found.values()]
    assert rounded != list(found.values())


@pytest.mark.parametrize("outputs", [2, 5])
def test_a_head_with_several_outputs_is_refused(outputs: int, tmp_path: Path):
    folder = tiny_reward_model_folder(tmp_path / "classifier", outputs=outputs)

    with pytest.raises(ModelError, match=f"has {outputs} outputs"):
        load_reward_model(folder)


def test_a_causal_language_model_is_no_reward_model(tmp_path: Path):
    folder = tiny_model_folder(tmp_path / "model")

    with pytest.raises(ModelError, match="no classifier at all"):
        load_reward_model(folder)


def test_a_head_that_is_missing_is_not_made_up(tmp_path: Path):
    """A causal model whose config claims one output: transformers would invent the head."""
    folder = tiny_model_folder(tmp_path / "model")
    config = folder / "config.json"
    text = config.read_text(encoding="utf-8")
    config.write_text(text.replace("{", '{\n  "id2label": {"0": "score"},', 1), encoding="utf-8")

    with pytest.raises(ModelError, match=r"lacks 1 of the model's weights \(first: score.weight\)"):
        load_reward_model(folder)


def test_pickled_weights_are_refused(tmp_path: Path):
    folder = tiny_reward_model_folder(tmp_path / "reward")
    shutil.move(folder / "model.safetensors", folder / "pytorch_model.bin")

    with pytest.raises(ModelError, match=r"pickled weights \(pytorch_model.bin\)"):
        load_reward_model(folder)


def test_a_template_that_leaves_the_answer_out_is_refused(tmp_path: Path):
    tokenizer = load_tokenizer(tiny_reward_model_folder(tmp_path / "reward"))

    with pytest.raises(ModelError, match="drops or changes a part of the assistant turn"):
        ConversationEncoder(tokenizer, "{{ messages[0]['content'] }}")
    tokenizer.chat_template = None
    with pytest.raises(ModelError, match="no usable chat template"):
        ConversationEncoder(tokenizer)
