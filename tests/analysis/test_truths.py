"""Advice on studies whose truth is known is seldom wrong: a small part of what ``docs/advice.md`` tells."""

import re
from pathlib import Path

import numpy as np
import pytest

from tests.truths import KINDS, NAMES, NEXT, SENTENCES, count, gain_beyond, make_truth, total

DOCUMENT = (Path(__file__).parents[2] / "docs" / "advice.md").read_text()
STUDIES, SIZES = 3, (25,)
BOUND = 0.15
"""Of the sentences that are printed in bold: how many may be wrong. With so few studies none is far off by chance."""


@pytest.fixture(scope="module")
def counted():
    return count(STUDIES, SIZES, seed=500)  # a sentence without a rule raises


def test_what_is_printed_in_bold_is_seldom_wrong(counted):
    certain = [total(sizes) for (_, bold), sizes in counted.items() if bold]
    said, wrong = (sum(pair[index] for pair in certain) for index in (0, 1))
    assert said >= 8
    assert wrong <= BOUND * said


def test_the_next_space_seldom_leaves_out_the_best(counted):
    said, wrong = total(counted[NEXT, False])
    assert said == STUDIES * len(SIZES) * len(KINDS)
    assert wrong <= BOUND * said


def test_the_document_has_a_rate_for_each_sentence_that_can_be_wrong():
    told = set(re.findall(r"^\| \**([^|*]+?)\** \| .*\d% \(", DOCUMENT, re.MULTILINE))
    assert {said for said, (_, words, _) in SENTENCES.items() if words} | {NEXT} == told


def test_a_range_is_too_narrow_where_the_truth_says_so():
    def most(kind):
        truth = make_truth(kind, np.random.default_rng(0))
        return max(gain_beyond(truth, name, end) for name in NAMES for end in ("low", "high"))

    assert most("edge") > 0.1
    assert most("near") < 0.05
