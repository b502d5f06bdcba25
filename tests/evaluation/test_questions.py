"""What is asked, with a template that writes every word as one token: the masks can be counted."""

from dataclasses import dataclass

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from luthier.core.errors import DataError
from luthier.data.records import RECORD
from luthier.evaluation.questions import Asked, Question, Skipped, asked, disliked, read, records
from luthier.models.template import TooLong


@dataclass(frozen=True)
class Words:
    ids: list
    supervised: list


class WordTemplate:
    """Each message is its role and its words; an answer ends with a token of its own."""

    def __init__(self, context=20):
        self.context = context

    def prompt(self, messages):
        return [*self._words(messages)[0], "assistant"]

    def encode(self, messages):
        ids, mask = self._words(messages)
        if len(ids) > self.context:
            raise TooLong(len(ids), self.context)
        return Words(ids, mask)

    @staticmethod
    def _words(messages):
        ids, mask = [], []
        for m in messages:
            words = [m["role"], *m["content"].split()] + ["end"] * (m["role"] == "assistant")
            ids += words
            mask += [m["role"] == "assistant" and i > 0 for i in range(len(words))]
        return ids, mask

    def encode_text(self, text):
        return Words(text.split(), [True] * len(text.split()))


USER = {"role": "user", "content": "one two"}
EARLIER = ({"role": "user", "content": "hi"}, {"role": "assistant", "content": "hello"})


def test_only_the_reference_answer_is_supervised_and_not_earlier_turns():
    (found,) = asked(WordTemplate(), [Question("1", (*EARLIER, USER), "three")], [], room=3)
    # user hi assistant hello end user one two assistant | three end
    assert found.prompt_ids == ["user", "hi", "assistant", "hello", "end", "user", "one", "two", "assistant"]
    supervised = [t for t, on in zip(found.encoded.ids, found.encoded.supervised, strict=True) if on]
    assert supervised == ["three", "end"]


def test_what_does_not_fit_is_skipped_with_its_size_and_never_cut():
    short, long = Question("s", (USER,), "x"), Question("l", ({"role": "user", "content": "w " * 17},), "x")
    kept, skipped = asked(WordTemplate(context=20), [short, long], [], room=2)
    assert isinstance(kept, Asked)
    # 17 words, two roles, room for 2
    assert skipped == Skipped("l", "21 tokens, and the context holds 20")


def test_a_reference_that_does_not_fit_skips_the_row_too():
    (found,) = asked(WordTemplate(context=20), [Question("1", (USER,), "w " * 30)], [], room=2)
    # user one two assistant, 30 words, end
    assert found == Skipped("1", "35 tokens, and the context holds 20")


def test_plain_texts_are_read_whole_and_take_no_examples():
    text = Question("1", None, "some plain text")
    (found,) = asked(WordTemplate(), [text], [], room=2)
    assert found.prompt_ids == [] and sum(found.encoded.supervised) == 3
    assert list(asked(WordTemplate(), [text], list(EARLIER), room=2)) == []


def _write(path, rows):
    pq.write_table(pa.Table.from_pylist(rows, RECORD), path)


def test_questions_are_sorted_by_id_and_bounded(tmp_path):
    messages = [USER, {"role": "assistant", "content": "x"}]
    _write(tmp_path / "t.parquet", [{"id": i, "messages": messages} for i in "cab"])
    assert [q.id for q in read(tmp_path / "t.parquet", rows=2)] == ["a", "b"]


@pytest.mark.parametrize(
    ("rows", "told"),
    [([], "the test split is empty"), ([{"id": "1", "messages": [USER]}], "ends with a message of 'user'")],
)
def test_a_split_without_questions_says_so(tmp_path, rows, told):
    _write(tmp_path / "t.parquet", rows)
    with pytest.raises(DataError, match=told):
        read(tmp_path / "t.parquet")


def test_answers_that_were_disliked_are_no_references(tmp_path):
    messages = [USER, {"role": "assistant", "content": "x"}]
    ratings = {"a": 0.0, "b": 1.0, "c": None, "d": -1.0, "e": 0.5}
    _write(tmp_path / "t.parquet", [{"id": i, "messages": messages, "rating": r} for i, r in ratings.items()])
    assert [q.id for q in read(tmp_path / "t.parquet")] == ["b", "c", "e"]
    assert [q.id for q in read(tmp_path / "t.parquet", rows=1)] == ["b"]
    assert [record["id"] for record in records(tmp_path / "t.parquet")] == ["b", "c", "e"]
    assert disliked(tmp_path / "t.parquet") == 2


def test_a_split_of_disliked_answers_alone_says_so(tmp_path):
    messages = [USER, {"role": "assistant", "content": "x"}]
    _write(tmp_path / "t.parquet", [{"id": i, "messages": messages, "rating": 0.0} for i in "ab"])
    with pytest.raises(DataError, match=r"all 2 rows of the test split are rated 0 or less"):
        read(tmp_path / "t.parquet")
