"""Conversations to token ids. The tiny tokenizer is byte-level, so every id is known by hand."""

from pathlib import Path
from typing import Any

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from cream.errors import ModelError
from cream.models import chat
from cream.models.chat import ChatEncoder, read_chat_template
from cream.testing import CHAT_TEMPLATE, tiny_tokenizer
from cream.types import Message

END, START, OTHER_END = 2, 1, 0
ASK = [Message("user", "Hi")]

DEFAULT_SYSTEM = (
    "{% if messages[0]['role'] != 'system' %}<|im_start|>system\nBe kind<|im_end|>\n{% endif %}"
    + CHAT_TEMPLATE
)
TRIMMING = CHAT_TEMPLATE.replace("message['content']", "message['content'] | trim")
WITH_BOS = (
    "{{ bos_token }}{% for m in messages %}{% if m['role'] == 'user' %}User: {{ m['content'] }}\n"
    "{% else %}Assistant:{{ m['content'] }}{{ eos_token }}\n{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}Assistant:{% endif %}"
)
THINKING_PROMPT = CHAT_TEMPLATE.replace("assistant\n{% endif %}", "assistant\n<think>\n{% endif %}")
DROPS_THOUGHTS = CHAT_TEMPLATE.replace(
    "message['content']", "message['content'].split('</think>')[-1]"
)
NO_GENERATION_PROMPT = CHAT_TEMPLATE.split("{% if add_generation_prompt")[0]
NO_STOP = (
    "{% for m in messages %}{{ m['role'] }}: {{ m['content'] }}\n{% endfor %}"
    "{% if add_generation_prompt %}assistant: {% endif %}"
)
REFUSES_SYSTEM = (
    "{% if messages[0]['role'] == 'system' %}{{ raise_exception('no system role') }}{% endif %}"
    + CHAT_TEMPLATE
)


def ids(text: str) -> tuple[int, ...]:
    """Byte-level ids without any special token."""
    assert "<|" not in text
    return tuple(tiny_tokenizer()(text, add_special_tokens=False)["input_ids"])


def bos_adding_tokenizer() -> Any:
    from tokenizers import processors

    tokenizer = tiny_tokenizer()
    tokenizer.backend_tokenizer.post_processor = processors.TemplateProcessing(
        single="<|im_start|> $A", pair=None, special_tokens=[("<|im_start|>", START)]
    )
    assert tokenizer("a")["input_ids"][0] == START
    return tokenizer


def merging_tokenizer() -> Any:
    """Like the tiny tokenizer, but two line ends in a row are one token, wherever they stand."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    special = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocab = {token: i for i, token in enumerate([*special, *alphabet, "ĊĊ"])}
    core: Any = Tokenizer(models.BPE(vocab=vocab, merges=[("Ċ", "Ċ")]))
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    core.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(
        tokenizer_object=core, bos_token="<|im_start|>", eos_token="<|im_end|>"
    )


def test_prompt_and_completion_are_the_template_byte_for_byte():
    encoder = ChatEncoder(tiny_tokenizer())
    prompt = (START, *ids("user\nHi"), END, *ids("\n"), START, *ids("assistant\n"))
    assert encoder.encode_prompt(ASK) == prompt
    # The line end that the template writes after <|im_end|> is never sampled, so it is cut.
    assert encoder.encode_completion(ASK, "ok") == (*ids("ok"), END)


def test_prompt_plus_completion_is_a_prefix_of_the_whole_conversation():
    tokenizer = tiny_tokenizer()
    encoder = ChatEncoder(tokenizer)
    whole = tokenizer.apply_chat_template(
        [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "ok"}],
        tokenize=True,
        return_dict=False,
    )
    ours = encoder.encode_prompt(ASK) + encoder.encode_completion(ASK, "ok")
    assert tuple(whole) == ours + ids("\n")


def test_earlier_turns_belong_to_the_prompt():
    encoder = ChatEncoder(tiny_tokenizer())
    talk = [*ASK, Message("assistant", "Hello"), Message("user", "Bye")]
    prompt = encoder.encode_prompt(talk)
    assert prompt.count(START) == 4
    assert encoder.encode_completion(talk, "Bye!") == (*ids("Bye!"), END)


def test_default_system_prompt_is_in_the_prompt_and_not_in_the_completion():
    encoder = ChatEncoder(tiny_tokenizer(chat_template=DEFAULT_SYSTEM))
    assert encoder.encode_prompt(ASK)[: 1 + len(ids("system\nBe kind"))] == (
        START,
        *ids("system\nBe kind"),
    )
    assert encoder.encode_completion(ASK, "ok") == (*ids("ok"), END)


def test_recipe_template_replaces_the_tokenizers():
    encoder = ChatEncoder(tiny_tokenizer(chat_template=DEFAULT_SYSTEM), CHAT_TEMPLATE)
    assert encoder.encode_prompt(ASK) == ChatEncoder(tiny_tokenizer()).encode_prompt(ASK)
    assert encoder.template == CHAT_TEMPLATE


def test_trimming_template_is_followed():
    encoder = ChatEncoder(tiny_tokenizer(chat_template=TRIMMING))
    assert encoder.encode_completion(ASK, "  ok \n") == (*ids("ok"), END)


def test_white_space_of_a_completion_is_kept_otherwise():
    encoder = ChatEncoder(tiny_tokenizer())
    assert encoder.encode_completion(ASK, " ok\n") == (*ids(" ok\n"), END)


def test_empty_completion_is_the_end_token_alone():
    assert ChatEncoder(tiny_tokenizer()).encode_completion(ASK, "") == (END,)


def test_template_that_writes_bos_gets_no_second_one_from_the_tokenizer():
    encoder = ChatEncoder(bos_adding_tokenizer(), WITH_BOS)
    assert encoder.encode_prompt(ASK) == (START, *ids("User: Hi\nAssistant:"))
    assert encoder.encode_completion(ASK, " ok") == (*ids(" ok"), END)
    assert encoder.notes == ()


def test_template_that_writes_bos_twice_is_refused():
    with pytest.raises(ModelError, match=r"begin token '<\|im_start\|>' twice"):
        ChatEncoder(tiny_tokenizer(), "{{ bos_token }}" + WITH_BOS)


def test_template_without_the_bos_its_tokenizer_wants_is_noted():
    encoder = ChatEncoder(bos_adding_tokenizer(), WITH_BOS.removeprefix("{{ bos_token }}"))
    assert encoder.encode_prompt(ASK)[0] != START
    assert len(encoder.notes) == 1
    assert "bos_token" in encoder.notes[0]


def test_template_with_todays_date_is_noted():
    dated = "{% if strftime_now is defined %}{% set d = strftime_now('%d') %}{% endif %}"
    assert "today's date" in ChatEncoder(tiny_tokenizer(), dated + CHAT_TEMPLATE).notes[0]


def test_missing_template_says_what_to_set():
    with pytest.raises(ModelError, match=r"model\.chat_template"):
        ChatEncoder(tiny_tokenizer(chat_template=None))


def test_template_that_opens_a_thought_only_when_asked_is_refused():
    with pytest.raises(ModelError, match="not prefix preserving"):
        ChatEncoder(tiny_tokenizer(chat_template=THINKING_PROMPT))


def test_template_that_drops_thoughts_is_refused_where_it_drops():
    encoder = ChatEncoder(tiny_tokenizer(chat_template=DROPS_THOUGHTS))
    assert encoder.encode_completion(ASK, "4") == (*ids("4"), END)
    with pytest.raises(ModelError, match="drops or changes"):
        encoder.encode_completion(ASK, "2 and 2</think>4")


def test_template_without_stop_token_is_refused():
    with pytest.raises(ModelError, match="would not learn to stop"):
        ChatEncoder(tiny_tokenizer(chat_template=NO_STOP))


def test_template_that_ignores_the_generation_prompt_is_refused():
    """Else the assistant's header counts as completion (trap 6 of the method)."""
    with pytest.raises(ModelError, match="ignores add_generation_prompt"):
        ChatEncoder(tiny_tokenizer(chat_template=NO_GENERATION_PROMPT))


def test_template_whose_assistant_turn_has_no_header_needs_no_generation_prompt():
    instruct = (
        "{% for m in messages %}{% if m['role'] == 'user' %}[INST] {{ m['content'] }} [/INST]"
        "{% else %} {{ m['content'] }}{{ eos_token }}{% endif %}{% endfor %}"
    )
    encoder = ChatEncoder(tiny_tokenizer(chat_template=instruct))
    assert encoder.encode_prompt(ASK) == ids("[INST] Hi [/INST]")
    assert encoder.encode_completion(ASK, "ok") == (*ids(" ok"), END)


def test_refusal_of_the_template_names_the_roles():
    encoder = ChatEncoder(tiny_tokenizer(chat_template=REFUSES_SYSTEM))
    with pytest.raises(ModelError, match=r"roles \(system, user\): no system role"):
        encoder.encode_prompt([Message("system", "Be kind"), *ASK])


def test_template_that_is_no_jinja_is_refused():
    with pytest.raises(ModelError, match="refuses a conversation"):
        ChatEncoder(tiny_tokenizer(), "{% for %}")


def test_conversation_without_messages_is_refused():
    with pytest.raises(ModelError, match="without messages"):
        ChatEncoder(tiny_tokenizer()).encode_prompt([])


@pytest.mark.parametrize("end", ["<|im_end|>", "<|endoftext|>"])
def test_completion_with_a_stop_token_inside_is_refused(end: str):
    encoder = ChatEncoder(tiny_tokenizer(), eos_ids=(OTHER_END,))
    with pytest.raises(ModelError, match="contains the stop token"):
        encoder.encode_completion(ASK, f"one{end}two")


def test_completion_that_merges_with_the_prompt_is_refused():
    encoder = ChatEncoder(merging_tokenizer(), CHAT_TEMPLATE)
    assert encoder.encode_completion(ASK, "a\n\nb")[-1] == END
    with pytest.raises(ModelError, match="merges with the end of the prompt"):
        encoder.encode_completion(ASK, "\nok")


def test_stop_ids_are_end_of_turn_then_the_generation_configs():
    assert ChatEncoder(tiny_tokenizer()).stop_ids == (END,)
    assert ChatEncoder(tiny_tokenizer(), eos_ids=(OTHER_END, END)).stop_ids == (END, OTHER_END)


def test_end_of_turn_is_found_where_the_tokenizers_eos_is_another_token():
    """As in Qwen's base models: eos is <|endoftext|>, the template ends turns with <|im_end|>."""
    tokenizer = tiny_tokenizer()
    tokenizer.eos_token = "<|endoftext|>"
    encoder = ChatEncoder(tokenizer)
    assert encoder.end_of_turn_id == END
    assert encoder.stop_ids == (END, OTHER_END)


@settings(max_examples=60, deadline=None)
@given(st.text(st.characters(codec="utf-8"), max_size=30))
def test_decoding_gives_the_text_back(text: str):
    encoder = ChatEncoder(tiny_tokenizer())
    # Spelled out in a text, a special token becomes that token, and decoding leaves those out.
    assume(not any(token in text for token in encoder.tokenizer.all_special_tokens))
    completion = encoder.encode_completion(ASK, text)
    assert completion[-1] == END
    assert END not in completion[:-1]
    assert encoder.decode(completion) == text


def test_recipe_template_may_be_text_or_a_file(tmp_path: Path):
    file = tmp_path / "chat.jinja"
    file.write_text(CHAT_TEMPLATE, encoding="utf-8")
    assert read_chat_template(str(file)) == CHAT_TEMPLATE
    assert read_chat_template(CHAT_TEMPLATE) == CHAT_TEMPLATE
    assert read_chat_template(None) is None
    with pytest.raises(ModelError, match="cannot be read"):
        read_chat_template(str(tmp_path / "none.jinja"))


@pytest.mark.parametrize("room", [0, 5, 1 << 20])
def test_what_is_remembered_is_what_is_encoded(monkeypatch, room):
    monkeypatch.setattr(chat, "REMEMBERED_IDS", room)
    encoder = ChatEncoder(tiny_tokenizer())
    for text in 2 * ("one", "two", "one two"):
        messages = [Message("user", text)]
        said = f"user\n{text}"
        prompt = (START, *ids(said), END, *ids("\n"), START, *ids("assistant\n"))
        assert encoder.encode_prompt(messages) == prompt
        for answer in ("one", text):
            assert encoder.encode_completion(messages, answer) == (*ids(answer), END)
