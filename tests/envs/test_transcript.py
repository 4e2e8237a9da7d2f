"""The transcript: exact where the template is, and faithful to what was sampled where it is not."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokengym.envs import ByteTokenizer, ChatTokenizer, Transcript, Turn
from tokengym.envs.tokenizers import PLAIN_TEMPLATE

from .templates import chat

EXACT = {"bytes": ByteTokenizer(), **{name: chat(name) for name in ("smollm2", "qwen", "llama3", "plain")}}
TALK = [{"role": "user", "content": "two plus two?"}]
MORE = [{"role": "user", "content": "higher"}]

words = st.text(st.characters(exclude_categories=["Cs"]), max_size=12) | st.sampled_from(["the answer is four", "é🙂"])
# Templates may strip what an assistant said; white space at its start would melt into the line break before it.
said = words.map(str.strip)


def message(roles):
    return st.fixed_dictionaries({"role": st.sampled_from(roles), "content": words})


conversations = st.tuples(
    st.lists(message(["user"]), min_size=1, max_size=2),
    st.booleans(),
    st.lists(st.tuples(said, st.lists(message(["user", "tool"]), min_size=1, max_size=3)), max_size=4),
)


def at_once(tokenizer, messages):
    """The whole conversation, rendered and tokenised at once."""
    if isinstance(tokenizer, ByteTokenizer):
        return tokenizer.encode_prompt(messages)
    template = None if tokenizer.hf.chat_template else PLAIN_TEMPLATE
    return tokenizer.hf.apply_chat_template(
        messages, chat_template=template, add_generation_prompt=True, tokenize=True, return_dict=False
    )


def check(transcript):
    """What holds for every transcript."""
    assert len(transcript) == len(transcript.ids) == len(transcript.action_mask) == len(transcript.logprobs)
    inside = [0] * len(transcript)
    for turn in transcript.turns:
        inside[turn.start : turn.end] = [1] * (turn.end - turn.start)
    assert transcript.action_mask == inside
    assert transcript.num_actions == sum(inside)
    assert not any(p for p, mask in zip(transcript.logprobs, inside) if not mask)


@settings(max_examples=100)
@pytest.mark.parametrize("name", EXACT)
@given(conversations)
def test_prompt_turns_and_replies_are_the_template_of_the_whole(name, conversation):
    tokenizer = EXACT[name]
    opening, system, rounds = conversation
    messages = [{"role": "system", "content": "Be brief."}, *opening] if system else list(opening)
    transcript = Transcript(tokenizer, messages)
    check(transcript)
    expected = []
    for text, reply in rounds:
        ids = [*tokenizer.encode(text), tokenizer.end_id]
        expected += ids
        assert transcript.append_turn(ids, [-0.5] * len(ids)) == text
        transcript.append_reply(reply)
        messages += [{"role": "assistant", "content": text}, *reply]
        check(transcript)
    assert transcript.ids == at_once(tokenizer, messages)
    assert [i for i, mask in zip(transcript.ids, transcript.action_mask) if mask] == expected
    assert transcript.messages == messages


@settings(max_examples=60)
@pytest.mark.parametrize("name", EXACT)
@given(st.data())
def test_sampled_ids_are_kept(name, data):
    """Whatever was sampled, special tokens and halves of characters among it, stands in the transcript untouched."""
    tokenizer = EXACT[name]
    transcript = Transcript(tokenizer, TALK)
    for _ in range(data.draw(st.integers(1, 3))):
        start = len(transcript)
        ids = data.draw(st.lists(st.integers(0, tokenizer.vocab_size - 1), max_size=12))
        logprobs = [-0.25 * n for n in range(1, len(ids) + 1)]
        text = transcript.append_turn(ids, logprobs)
        assert transcript.turns[-1] == Turn(start, start + len(ids))
        assert transcript.ids[start:] == ids
        assert transcript.logprobs[start:] == logprobs
        assert transcript.messages[-1] == {"role": "assistant", "content": text}
        before = list(transcript.ids)
        reply = transcript.reply_ids(MORE)
        assert transcript.ids == before  # asking changes nothing
        transcript.append_reply(MORE, reply)
        assert transcript.ids == before + reply
        check(transcript)


@pytest.mark.parametrize("name", ["smollm2", "qwen", "llama3", "plain", "llama2"])
def test_another_tokenisation_of_the_same_text_is_kept(name):
    tokenizer = chat(name)
    canonical = tokenizer.encode("answer")
    split = [i for letter in "answer" for i in tokenizer.encode(letter)]
    assert len(canonical) < len(split) == 6
    transcript = Transcript(tokenizer, TALK)
    prompt = list(transcript.ids)
    assert transcript.append_turn([*split, tokenizer.end_id]) == "answer"
    transcript.append_reply(MORE)
    end = transcript.turns[0].end
    assert transcript.ids[:end] == [*prompt, *split, tokenizer.end_id]
    # What follows is what follows the canonical tokens.
    other = Transcript(tokenizer, TALK)
    other.append_turn([*canonical, tokenizer.end_id])
    other.append_reply(MORE)
    assert transcript.ids[end:] == other.ids[other.turns[0].end :]


@pytest.mark.parametrize("name", EXACT)
def test_a_turn_without_an_end_is_closed_by_the_template(name):
    tokenizer = EXACT[name]
    transcript = Transcript(tokenizer, TALK)
    ids = tokenizer.encode("the answer")
    transcript.append_turn(ids)
    end = len(transcript)
    transcript.append_reply(MORE)
    assert transcript.ids == at_once(tokenizer, transcript.messages)
    assert transcript.ids[end] == tokenizer.end_id
    assert transcript.action_mask[end] == 0
    assert transcript.num_actions == len(ids)


@pytest.mark.parametrize("name", EXACT)
@pytest.mark.parametrize("ended", [True, False])
def test_closing_without_a_reply(name, ended):
    """An empty reply closes the turn and opens no other."""
    tokenizer = EXACT[name]
    transcript = Transcript(tokenizer, TALK)
    transcript.append_turn([*tokenizer.encode("four"), *[tokenizer.end_id] * ended])
    transcript.append_reply([])
    rest = [] if isinstance(tokenizer, ByteTokenizer) else tokenizer.encode("" if name == "llama3" else "\n")
    assert transcript.ids[transcript.turns[-1].end :] == ([] if ended else [tokenizer.end_id]) + rest
    assert transcript.messages[-1]["role"] == "assistant"


def test_another_end_token_than_the_templates_stands_in_its_place():
    tokenizer = chat("chatml base")
    eos = tokenizer.hf.eos_token_id
    assert eos != tokenizer.end_id
    transcript = Transcript(tokenizer, TALK)
    assert transcript.append_turn([*tokenizer.encode("four"), eos]) == "four"
    transcript.append_reply(MORE)
    whole = at_once(tokenizer, transcript.messages)
    place = transcript.turns[0].end - 1
    assert whole[place] == tokenizer.end_id
    whole[place] = eos
    assert transcript.ids == whole
    check(transcript)


@pytest.mark.parametrize("cut", [True, False])
def test_white_space_between_the_text_and_the_end(cut):
    """Llama 2's template has a space on either side of an answer. The end must not come twice."""
    tokenizer: ChatTokenizer = chat("llama2")
    transcript = Transcript(tokenizer, TALK)
    transcript.append_turn([*tokenizer.encode(" four"), *[tokenizer.end_id] * (not cut)])
    transcript.append_reply(MORE)
    ending = " </s>" if cut else "</s>"
    expected = f"<s>[INST] two plus two? [/INST] four{ending}<s>[INST] higher [/INST]"
    assert tokenizer.decode_all(transcript.ids) == expected
    assert transcript.ids == tokenizer.encode(expected)


def test_tools_reach_the_prompt():
    tools = [{"type": "function", "function": {"name": "add", "parameters": {}}}]
    transcript = Transcript(chat("qwen"), TALK, tools)
    assert '"name": "add"' in chat("qwen").decode_all(transcript.ids)
    transcript.append_turn(chat("qwen").encode("four"))
    transcript.append_reply([{"role": "tool", "content": "4"}])
    whole = chat("qwen").hf.apply_chat_template(
        transcript.messages, tools=tools, add_generation_prompt=True, tokenize=True, return_dict=False
    )
    assert transcript.ids == whole


def test_the_callers_messages_are_not_touched():
    messages = list(TALK)
    transcript = Transcript(ByteTokenizer(), messages)
    transcript.append_turn([65, 66])
    assert messages == TALK


def test_errors():
    transcript = Transcript(ByteTokenizer(), TALK)
    with pytest.raises(ValueError, match="replies to a turn of the policy, but the last message is not the policy's"):
        transcript.append_reply(MORE)
    with pytest.raises(ValueError, match="a turn of 2 tokens came with 1 log-probabilities"):
        transcript.append_turn([65, 66], [-1.0])
    assert transcript.turns == []
    check(transcript)
    transcript.append_turn([65])
    transcript.append_reply(MORE)
    with pytest.raises(ValueError, match="the last message is not the policy's"):
        transcript.reply_ids(MORE)
