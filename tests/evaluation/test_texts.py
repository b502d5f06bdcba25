"""sacrebleu's and rouge-score's numbers, on the sample and on resamples."""

import numpy as np
import pytest
import sacrebleu
from hypothesis import given
from hypothesis import strategies as st
from rouge_score.rouge_scorer import RougeScorer

from luthier.evaluation import compare, texts

word = st.sampled_from(["the", "cat", "sat", "on", "a", "mat", "and", "dog", "ran", "é", "漢字", "."])
sentence = st.lists(word, min_size=1, max_size=8).map(" ".join)
pairs = st.lists(st.tuples(sentence, sentence), min_size=1, max_size=8)


def _plain(pairs):
    references, said = zip(*pairs, strict=True)
    rouge = RougeScorer(["rougeL"])
    return {
        "rouge_l": np.mean([rouge.score(r, s)["rougeL"].fmeasure for r, s in pairs]),
        "chrf": np.mean([sacrebleu.sentence_chrf(s, [r]).score for r, s in pairs]) / 100,
        "bleu": sacrebleu.corpus_bleu(list(said), [list(references)]).score / 100,
        "length_error": abs(sum(map(len, said)) / sum(map(len, references)) - 1),
        "refused": 0.0,
    }


@given(pairs)
def test_the_numbers_are_the_libraries(drawn):
    references, said = zip(*drawn, strict=True)
    found = compare.at_sample(texts.statistics(references, said), len(drawn))
    assert found == pytest.approx(_plain(drawn), abs=1e-9)


def test_every_resample_equals_the_plain_twin():
    told = [
        ("the cat sat on a mat", "the cat sat on the mat"),
        ("a dog ran", "the dog ran and ran"),
        ("x", "y"),
    ]
    statistics = texts.statistics(*zip(*told, strict=True))
    drawn = compare.resampled(statistics, 3, 20, seed=1)
    for r, index in enumerate(np.concatenate(list(compare.draws(3, 20, 1)))):
        plain = _plain([told[i] for i in index])
        assert {name: drawn[name][r] for name in plain} == pytest.approx(plain, abs=1e-9)


def test_a_row_without_an_answer_counts_nowhere():
    with_gap = compare.at_sample(texts.statistics(["a b c", "x"], ["a b d", None]), 2)
    assert with_gap == pytest.approx(compare.at_sample(texts.statistics(["a b c"], ["a b d"]), 1))


@pytest.mark.parametrize(
    ("text", "declines"),
    [
        ("I'm sorry, but I cannot help with that request.", True),
        ("I’m unable to provide medical advice.", True),
        ("As an AI language model, I have no opinions.", True),
        ("I am sorry for the delay; your parcel arrives on Monday.", False),
        ("You can't return opened software.", False),
        ("The answer is 4.", False),
        ("Long story. " * 40 + "I cannot help with that.", False),  # refusals stand at the beginning
    ],
)
def test_refusals(text, declines):
    assert texts.refuses(text) is declines
