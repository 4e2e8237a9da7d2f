"""Text to ids and back, conversations to ids, and stop strings."""

from __future__ import annotations

import json
import pickle

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokengym.envs import ByteTokenizer, ChatTokenizer, StopStrings, load_tokenizer

from .templates import LLAMA3, QWEN, SMOLLM2, bpe, chat

BYTES = ByteTokenizer()
PAD, END, SYSTEM, USER, ASSISTANT, TOOL = range(256, 262)
NAMES = ("smollm2", "qwen", "chatml base", "llama3", "llama2", "plain")
TALK = [{"role": "user", "content": "two plus two?"}]

any_text = st.text(st.characters())
text = st.text(st.characters(exclude_categories=["Cs"]))


# Bytes


@given(text)
def test_bytes_round_trip(value):
    ids = BYTES.encode(value)
    assert BYTES.decode(ids) == BYTES.decode_all(ids) == value
    assert ids == list(value.encode())


@given(any_text)
def test_lone_surrogates_become_replacement_characters(value):
    tokenizers = (BYTES, chat("qwen"))
    expected = value.encode("utf-8", "surrogatepass").decode("utf-8", "replace")
    for tokenizer in tokenizers:
        ids = tokenizer.encode(value)
        assert all(0 <= i < tokenizer.vocab_size for i in ids)
        assert tokenizer.decode(ids) == expected


@given(st.lists(st.integers(0, BYTES.vocab_size - 1)))
def test_any_ids_decode_and_special_tokens_have_no_text(ids):
    decoded = BYTES.decode(ids)
    assert decoded == bytes(i for i in ids if i < 256).decode("utf-8", "replace")
    decoded.encode()  # no surrogates


@given(st.lists(st.tuples(st.sampled_from(["system", "user", "assistant", "tool"]), any_text | st.just("<end><user>"))))
def test_text_cannot_forge_structure(pairs):
    messages = [{"role": role, "content": content} for role, content in pairs]
    ids = BYTES.encode_prompt(messages)
    names = {"system": SYSTEM, "user": USER, "assistant": ASSISTANT, "tool": TOOL}
    assert [i for i in ids if i >= 256] == [i for role, _ in pairs for i in (names[role], END)] + [ASSISTANT]


def test_bytes_layout():
    assert (BYTES.vocab_size, BYTES.pad_id, BYTES.end_id, BYTES.end_ids) == (262, PAD, END, {END})
    assert BYTES.encode_prompt(TALK) == [USER, *b"two plus two?", END, ASSISTANT]
    reply = [{"role": "tool", "content": "4"}, {"role": "user", "content": "So?"}]
    assert BYTES.encode_reply(TALK, reply) == [END, TOOL, *b"4", END, USER, *b"So?", END, ASSISTANT]
    assert BYTES.encode_reply(TALK, []) == [END]
    assert BYTES.decode_all([USER, *"é".encode(), END, ASSISTANT]) == "<user>é<end><assistant>"
    tools = [{"name": "add"}]
    assert BYTES.encode_prompt(TALK, tools)[: len(json.dumps(tools)) + 1] == [SYSTEM, *json.dumps(tools).encode()]


@pytest.mark.parametrize("role", ["end", "pad", "bot", ""])
def test_unknown_roles_are_refused(role):
    with pytest.raises(ValueError, match=r"unknown role .* expected system, user, assistant, tool"):
        BYTES.encode_prompt([{"role": role, "content": "x"}])


# Saving and loading


def test_bytes_by_name_and_by_folder(tmp_path):
    BYTES.save(tmp_path / "new" / "folder")
    loaded = load_tokenizer(tmp_path / "new" / "folder")
    assert isinstance(loaded, ByteTokenizer)
    assert isinstance(load_tokenizer(), ByteTokenizer)
    assert load_tokenizer("bytes") is load_tokenizer("bytes")
    assert load_tokenizer(BYTES) is BYTES
    assert pickle.loads(pickle.dumps(BYTES)).encode_prompt(TALK) == BYTES.encode_prompt(TALK)


@pytest.mark.parametrize("name", NAMES)
def test_chat_tokenizers_by_folder(name, tmp_path):
    tokenizer = chat(name)
    tokenizer.save(tmp_path)
    copies = [load_tokenizer(tmp_path), load_tokenizer(tokenizer.hf), pickle.loads(pickle.dumps(tokenizer))]
    for copy in copies:
        assert isinstance(copy, ChatTokenizer)
        assert vars(copy).keys() == vars(tokenizer).keys()
        for field in ("vocab_size", "pad_id", "end_id", "end_ids"):
            assert getattr(copy, field) == getattr(tokenizer, field)
        reply = [{"role": "user", "content": "higher"}]
        assert copy.encode_prompt(TALK) == tokenizer.encode_prompt(TALK)
        assert copy.encode_reply(TALK, reply) == tokenizer.encode_reply(TALK, reply)


def test_a_folder_is_loaded_once_and_again_when_it_has_changed(tmp_path, monkeypatch):
    chat("qwen").save(tmp_path / "one")
    monkeypatch.chdir(tmp_path)
    first = load_tokenizer("one")
    assert load_tokenizer(tmp_path / "one") is first
    chat("llama3").save(tmp_path / "one")
    assert load_tokenizer("one").encode_prompt(TALK) == chat("llama3").encode_prompt(TALK)
    # The same relative name elsewhere is another folder.
    BYTES.save(tmp_path / "other" / "one")
    monkeypatch.chdir(tmp_path / "other")
    assert isinstance(load_tokenizer("one"), ByteTokenizer)


def test_what_is_no_tokenizer(tmp_path):
    with pytest.raises(ValueError, match=r"no tokenizer '.*': neither a folder that has one nor reachable"):
        load_tokenizer(tmp_path)
    with pytest.raises(ValueError, match="no tokenizer '/no/such/folder'"):
        load_tokenizer("/no/such/folder")
    with pytest.raises(ValueError, match='"bytes", a hub id, a folder or a tokenizer object, not int'):
        load_tokenizer(3)


# Chat templates


def test_default_system_prompts_and_openings():
    assert chat("smollm2").decode_all(chat("smollm2").encode_prompt(TALK)) == (
        "<|im_start|>system\nYou are a helpful AI assistant named SmolLM, trained by Hugging Face<|im_end|>\n"
        "<|im_start|>user\ntwo plus two?<|im_end|>\n<|im_start|>assistant\n"
    )
    assert chat("llama3").decode_all(chat("llama3").encode_prompt(TALK)) == (
        "<|begin_of_text|><|start_header_id|>user<|end_header_id|>\n\ntwo plus two?<|eot_id|>"
        "<|start_header_id|>assistant<|end_header_id|>\n\n"
    )
    system = [{"role": "system", "content": "Be brief."}, *TALK]
    assert chat("qwen").decode_all(chat("qwen").encode_prompt(system)) == (
        "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\ntwo plus two?<|im_end|>\n<|im_start|>assistant\n"
    )
    assert chat("plain").decode_all(chat("plain").encode_prompt(TALK)) == "<s>user:\ntwo plus two?\nassistant:\n"


def test_tools_are_in_the_prompt():
    tools = [{"type": "function", "function": {"name": "add", "parameters": {}}}]
    prompt = chat("qwen").decode_all(chat("qwen").encode_prompt(TALK, tools))
    assert '<tools>\n{"type": "function", "function": {"name": "add", "parameters": {}}}\n</tools>' in prompt


@pytest.mark.parametrize(
    ("name", "ends"),
    [
        ("smollm2", ["<|im_end|>"]),
        ("qwen", ["<|im_end|>"]),
        ("chatml base", ["<|im_end|>", "<|endoftext|>"]),
        ("llama3", ["<|eot_id|>"]),
        ("llama2", ["</s>"]),
        ("plain", ["</s>"]),
    ],
)
def test_the_template_says_what_ends_a_turn(name, ends):
    tokenizer = chat(name)
    assert tokenizer.end_id == tokenizer.hf.convert_tokens_to_ids(ends[0])
    assert tokenizer.end_ids == set(tokenizer.hf.convert_tokens_to_ids(ends))


def test_the_end_comes_from_the_template_where_eos_is_missing():
    tokenizer = ChatTokenizer(bpe(("<|im_start|>", "<|im_end|>"), chat_template=QWEN))
    assert tokenizer.end_ids == {tokenizer.hf.convert_tokens_to_ids("<|im_end|>")}
    assert tokenizer.pad_id == tokenizer.end_id


@pytest.mark.parametrize(
    "template", [None, "{% for m in messages %}{{ m['role'] + ': ' + m['content'] + '\n' }}{% endfor %}"]
)
def test_without_any_end_token(template):
    with pytest.raises(ValueError, match=r"has no end token: its eos_token is not set .* set tokenizer\.eos_token"):
        ChatTokenizer(bpe((), chat_template=template))


def test_a_template_that_hides_the_policys_turn():
    with pytest.raises(ValueError, match="does not render an assistant's message as it was written"):
        ChatTokenizer(bpe(("</s>",), chat_template="{{ messages[0]['content'] + eos_token }}", eos_token="</s>"))


@pytest.mark.parametrize("plain", [(), ("<|im_end|>", "<call>")])
def test_end_tokens_have_no_text_even_if_not_declared_special(plain):
    """A tokenizer may add its end of turn as an ordinary token."""
    specials = tuple(token for token in ("<|im_start|>", "<|im_end|>") if token not in plain)
    tokenizer = ChatTokenizer(bpe(specials, plain, chat_template=SMOLLM2))
    ids = [*tokenizer.encode("the answer"), tokenizer.end_id]
    assert tokenizer.decode(ids) == "the answer"
    assert tokenizer.decode_all(ids) == "the answer<|im_end|>"
    if plain:
        assert tokenizer.decode(tokenizer.encode("<call>")) == "<call>"  # an ordinary word otherwise


def test_ids_with_gaps_are_all_below_the_vocabulary_size(tmp_path):
    vocabulary = {"<unk>": 0, "</s>": 7, "two": 3, "four": 90}
    (tmp_path / "tokenizer.json").write_text(
        json.dumps({"model": {"type": "WordLevel", "vocab": vocabulary, "unk_token": "<unk>"}, "version": "1.0"})
    )
    from transformers import PreTrainedTokenizerFast

    hf = PreTrainedTokenizerFast(tokenizer_file=str(tmp_path / "tokenizer.json"), eos_token="</s>", unk_token="<unk>")
    tokenizer = ChatTokenizer(hf)
    assert tokenizer.vocab_size > 90
    assert isinstance(tokenizer.decode(list(range(tokenizer.vocab_size))), str)


@given(st.lists(st.integers(0, chat("qwen").vocab_size - 1), max_size=30))
def test_any_sampled_ids_have_a_text(ids):
    decoded = chat("qwen").decode(ids)
    assert not any(mark in decoded for mark in ("<|im_end|>", "<|im_start|>", "<|endoftext|>"))


@given(text)
def test_the_words_of_a_conversation_are_not_confused_with_the_mark_of_a_turn(word):
    """What stands for the policy's turn while a template is rendered may itself be said."""
    for said in ("TokenGymTurn", f"TokenGymTurn{word}", "TokenGymTurnTokenGymTurnn"):
        history, reply = [{"role": "user", "content": said}], [{"role": "user", "content": f"{said}?"}]
        tokenizer = chat("smollm2")
        expected = f"<|im_end|>\n<|im_start|>user\n{said}?<|im_end|>\n<|im_start|>assistant\n"
        assert tokenizer.encode_reply(history, reply) == tokenizer.encode(expected)


def test_bos_stands_once():
    ids = chat("llama3").encode_prompt([*TALK, {"role": "assistant", "content": "4"}, *TALK])
    assert ids.count(chat("llama3").hf.bos_token_id) == 1
    assert LLAMA3.count("bos_token") == 1


# Stop strings


def first_hit(stop, ids):
    return next((n for n in range(1, len(ids) + 1) if stop.hit(ids[:n])), None)


def first_contained(tokenizer, strings, ids):
    """The definition: the first prefix whose text has one of the strings."""
    texts = (tokenizer.decode(ids[:n]) for n in range(1, len(ids) + 1))
    return next((n for n, decoded in enumerate(texts, 1) if any(s in decoded for s in strings)), None)


pieces = st.lists(st.sampled_from(["a", "aab", "é", "🙂", "##", "#", "\n", "answer", " the answer", "日本", "x" * 9]))
strings = st.lists(
    st.sampled_from(["#", "###", "aab", "é🙂", "🙂\n", " answer", "本", "a\n\na", "xx"]), min_size=1, max_size=3
)


@settings(max_examples=150)
@given(pieces, strings, st.lists(st.tuples(st.integers(0, 60), st.sampled_from([PAD, SYSTEM, USER, 0xC3, 0xF0]))))
def test_stop_strings_hit_at_the_byte_that_completes_them(words, stops, noise):
    ids = BYTES.encode("".join(words))
    for place, token in noise:
        ids.insert(place, token)
    assert first_hit(StopStrings(BYTES, stops), ids) == first_contained(BYTES, stops, ids)


@settings(max_examples=100)
@given(st.lists(st.integers(0, chat("qwen").vocab_size - 1), max_size=12), pieces, strings)
def test_stop_strings_hit_at_the_token_that_completes_them(noise, words, stops):
    tokenizer = chat("qwen")
    ids = noise[:6] + tokenizer.encode("".join(words)) + noise[6:]
    assert first_hit(StopStrings(tokenizer, stops), ids) == first_contained(tokenizer, stops, ids)


def test_a_stop_string_over_many_silent_tokens():
    ids = [*b"##", *[PAD] * 100, *b"##"]
    assert first_hit(StopStrings(BYTES, ["####"]), ids) == len(ids)


def test_stop_strings_refuse_what_is_no_list_of_texts():
    assert StopStrings(BYTES, []).hit([1, 2, 3]) is False
    for wrong in ("stop", [""], ["a", ""], [3], [b"x"]):
        with pytest.raises(ValueError, match="stop strings are a sequence of non-empty strings"):
            StopStrings(BYTES, wrong)
