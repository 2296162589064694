"""Phrasings: what is filled in, and in which order its words are said."""

from __future__ import annotations

from collections import Counter

import numpy as np

from projects.llava_sam2.datasets.templates import Templates

TEMPLATES = Templates(
    questions=["segment {expression} ."],
    answers=["sure it is [SEG] {words} ."],
    absent=["no {phrase} here ."],
)


def test_the_words_behind_seg_come_in_every_order_equally_often():
    generator = np.random.default_rng(0)
    said = Counter(
        TEMPLATES.draw("the small red circle", generator)[1].removeprefix("sure it is [SEG] ")
        for _ in range(6000)
    )
    assert len(said) == 6  # 3! orders of the phrase; the determiner is none of its words
    assert all(set(order.split()) == {"small", "red", "circle", "."} for order in said)
    assert all(850 < count < 1150 for count in said.values())


def test_the_first_answer_keeps_the_order_of_the_phrase():
    question, answer = TEMPLATES.first("the small red circle")
    assert question == "segment the small red circle ."
    assert answer == "sure it is [SEG] small red circle ."


def test_braces_of_an_expression_stay_as_they_are():
    question, answer = TEMPLATES.draw("the {phrase}", np.random.default_rng(0))
    assert (question, answer) == (
        "segment the {phrase} .",
        "sure it is [SEG] {phrase} .",
    )
    assert (
        TEMPLATES.draw("a {x} b", np.random.default_rng(0), present=False)[1] == "no {x} b here ."
    )
