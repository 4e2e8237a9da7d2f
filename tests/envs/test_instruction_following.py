"""InstructionFollowing-v0."""

from __future__ import annotations

import json

import pytest
from tokengym.envs.tasks.instruction_following import InstructionFollowingEnv
from tokengym.rewards import InstructionFollowing
from tokengym.rewards.instructions import KINDS, instructions_of

IFEVAL = {
    "key": 1,
    "prompt": "Write about rain. Do not use any commas. Use at least 3 sentences.",
    "instruction_id_list": ["punctuation:no_comma", "length_constraints:number_sentences"],
    "kwargs": [{}, {"num_sentences": 3, "relation": "at least"}],
}


@pytest.mark.parametrize("count", [1, 2, 4])
def test_requests_say_what_is_asked_and_can_be_followed(count):
    env = InstructionFollowingEnv(count=count)
    seen = set()
    for index in range(60):
        row = env.rows[index]
        instructions = instructions_of(row)
        assert len(instructions) == count
        seen |= {instruction.id for instruction in instructions}
        assert all(instruction.describe() in row["prompt"] for instruction in instructions)
        [shown] = env.demonstration(row)
        env.reset(options={"row": index})
        _, reward, terminated, _, info = env.step(shown["content"])
        assert (reward, terminated, info["score_parts"]["followed"]) == (1.0, True, 1.0)
    assert len(seen) > len(KINDS) / 2


def test_a_part_of_the_instructions_is_not_enough():
    env = InstructionFollowingEnv([IFEVAL], split="all")
    share = InstructionFollowingEnv([IFEVAL], split="all", reward=InstructionFollowing("share"))
    for text, strict, part in [
        ("It rains. It pours. It stops.", 1.0, 1.0),
        ("It rains, it pours. It stops. Then again.", 0.0, 0.5),
        ("It rains", 0.0, 0.5),
        ("Rain, rain", 0.0, 0.0),
    ]:
        env.reset(seed=0)
        share.reset(seed=0)
        result = env.step(text)
        assert (result[1], result[4]["score_parts"]["followed"]) == (strict, part)
        assert share.step(text)[1] == part


def test_kinds_can_be_chosen():
    env = InstructionFollowingEnv(kinds=["punctuation:no_comma", "change_case:english_lowercase"], count=[1, 2])
    ids = [tuple(sorted(env.rows[i]["instruction_id_list"])) for i in range(40)]
    assert set(ids) == {
        ("punctuation:no_comma",),
        ("change_case:english_lowercase",),
        ("change_case:english_lowercase", "punctuation:no_comma"),
    }


def test_mistakes(tmp_path):
    for options, message in [
        ({"count": 0}, "count is from 1"),
        ({"count": []}, "not none"),
        ({"count": 99}, "count is from 1"),
        ({"kinds": ["punctuation:no_coma"]}, "no_comma"),
        ({"kinds": ["punctuation:no_comma"], "count": 2}, "count is from 1 to 1"),
        ({"held_out": 0.1}, "held_out belongs to a dataset"),
        ({"dataset": [IFEVAL], "count": 1}, "count and kinds are those of generated requests"),
        ({"dataset": [{"prompt": "?"}]}, "instruction_id_list"),
    ]:
        with pytest.raises(ValueError, match=message):
            InstructionFollowingEnv(**options)
    file = tmp_path / "ifeval.jsonl"
    file.write_text(json.dumps(IFEVAL) + "\n" + json.dumps({**IFEVAL, "instruction_id_list": ["no:kind", "x"]}) + "\n")
    with pytest.raises(ValueError, match=r"ifeval.jsonl:2"):
        InstructionFollowingEnv(str(file), split="all")
