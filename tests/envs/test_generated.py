"""Random numbers and rows of generated problems."""

from __future__ import annotations

import threading

import numpy as np
import pytest
from tokengym.envs.tasks.generated import Draw, GeneratedRows, Problem, Remembered, is_test


def numbers(key, index, count):
    """From NumPy's own generator."""
    counter = np.array([0, 0, 0, index], np.uint64)
    philox = np.random.Philox(key=np.array(key, np.uint64), counter=counter)
    return [philox.random_raw() % 1000 for _ in range(count)]


def test_a_draw_is_numpys_stream_whatever_other_draws_do():
    key = (1 << 63, 3)
    draws = [Draw(key, index) for index in range(5)]
    found = [[draw.integer(0, 999) for draw in draws] for _ in range(70)]
    assert list(map(list, zip(*found))) == [numbers(key, index, 70) for index in range(5)]


def test_threads_do_not_meet():
    found = {}

    def draw(index):
        drawn = Draw((1, 2), index)
        found[index] = [drawn.integer(0, 999) for _ in range(500)]

    threads = [threading.Thread(target=draw, args=(index,)) for index in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == {index: numbers((1, 2), index, 500) for index in range(8)}


def test_samples_and_choices():
    draw = Draw((0, 0), 0)
    for _ in range(100):
        sample = draw.sample(range(10), 4)
        assert len(set(sample)) == 4
        assert draw.choice("abc") in "abc"


def one(draw):
    number = draw.integer(0, 999)
    return Problem(number, {"number": number}) if number % 2 else None


@pytest.mark.parametrize("split", ["train", "test"])
def test_rows_and_those_that_are_kept(split):
    rows = GeneratedRows("numbers", one, split)
    kept = Remembered(rows, count=3)
    assert len(kept) == len(rows) == {"train": 100_000, "test": 2_000}[split]
    for index in (5, 0, 7, 5, -1, 9, 5):
        assert kept[index] == rows[index]
        assert is_test(rows[index]["number"]) == (split == "test")
    assert kept[2:6] == rows[2:6]
    kept[1]["number"] = -1  # a copy
    assert kept[1] == rows[1]
    for index in (len(rows), -len(rows) - 1):
        with pytest.raises(IndexError):
            kept[index]


def test_too_few_problems():
    def never(draw):
        return None

    with pytest.raises(ValueError, match="too few problems"):
        GeneratedRows("nothing", never, "train")[0]
    with pytest.raises(ValueError, match="split of generated problems"):
        GeneratedRows("nothing", never, "all")
