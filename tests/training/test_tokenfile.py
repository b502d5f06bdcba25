"""Tokenised rows on disk: what is read is what was written, whole or not at all, and the cache stays small."""

import os
import random
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from luthier.core.testing import FakeContext, arm
from luthier.models.template import Template
from luthier.models.testing import CHAT_TEMPLATE, tiny_model
from luthier.models.weights import load_tokenizer
from luthier.training import tokenfile
from luthier.training.method import Example
from luthier.training.methods.sft import Sft, SftSettings
from luthier.training.rows import Rows, read_split
from luthier.training.tokenfile import Damaged, Line, TokenFile, evict, size_bytes, writing


def line(name: str, lengths: list[int], seed: int = 0, **more) -> Line:
    rng = np.random.default_rng([seed, *name.encode()])
    n = sum(lengths)
    supervised = rng.integers(0, 2, n).astype(np.uint8)
    starts = np.cumsum([0, *lengths[:-1]])
    told = int(supervised.sum() - supervised[starts].sum())
    ids = rng.integers(0, 50_000, n).astype(np.int32)
    return Line(name, f"f.jsonl:{name}", "faq", 0.5, n, tuple(lengths), ids, supervised, told, **more)


def plain(rows: Rows) -> list:
    return [
        (
            row.id, row.weight, row.group, row.signal, row.answer, rows.origins[i], int(rows.tokens[i]), int(rows.supervised_tokens[i]),
            [(one.ids.tolist(), one.supervised.tolist()) for one in row.sequences],
        )
        for i, row in enumerate(rows)
    ]  # fmt: skip


rows_of_lines = st.lists(
    st.tuples(
        st.text("0123456789abcdef", min_size=1, max_size=6),
        st.lists(st.integers(1, 9), min_size=1, max_size=3),
        st.none() | st.floats(-5, 5),
        st.none() | st.text(max_size=5),
        st.booleans(),
    ),
    max_size=20,
    unique_by=lambda row: row[0],
)


@given(rows_of_lines, st.integers(1, 40), st.randoms(use_true_random=False))
@settings(deadline=None, max_examples=60)
def test_a_mapped_file_reads_as_the_rows_that_were_written(tmp_path_factory, given_rows, batch_tokens, rng):
    """Whatever the batches it was cut into and the order it was written in; equal to the same rows in memory."""
    lines = [
        Line(name, f"f:{name}", "", 1.0, 900)
        if too_long
        else line(name, lengths, signal=signal, answer=answer)
        for name, lengths, signal, answer, too_long in given_rows
    ]
    shuffled = rng.sample(lines, len(lines))
    path = tmp_path_factory.mktemp("tokens") / "a.arrow"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tokenfile, "BATCH_TOKENS", batch_tokens)
        with writing(path) as add:
            for one in shuffled:
                add(one)
    mapped, held = Rows(TokenFile.open(path)), Rows(TokenFile.of(iter(lines)))
    whole = sorted((one for one in lines if one.ids is not None), key=lambda one: one.id)
    want = [
        (one.id, 0.5, "faq", one.signal, one.answer, one.origin, one.tokens, one.supervised_tokens,
         [(part.tolist(), told.astype(bool).tolist())
          for part, told in zip(np.split(one.ids, np.cumsum(one.cuts)[:-1]), np.split(one.supervised, np.cumsum(one.cuts)[:-1]), strict=True)])
        for one in whole
    ]  # fmt: skip
    assert plain(mapped) == plain(held) == want
    assert mapped.too_long == {one.id: (one.origin, 900) for one in lines if one.ids is None} == held.too_long
    assert list(mapped.names) == [one.id for one in whole] == mapped.names[:]


def test_a_whole_column_and_single_values_agree():
    rows = Rows(
        TokenFile.of(line(f"{i:03d}", [3], answer=str(i)) for i in random.Random(0).sample(range(200), 200))
    )
    assert [rows.answers[i] for i in range(200)] == list(rows.answers) == [str(i) for i in range(200)]
    assert (len(rows.names), rows.names[5:7], rows.names[-1]) == (200, ["005", "006"], "199")
    few = rows.take([7, 3])
    assert [row.id for row in few] == ["007", "003"] and few.too_long == {}
    assert few.tokens.tolist() == [3, 3] and few.sources[0] == ["faq"]


def test_rows_may_be_read_from_several_threads(tmp_path):
    path = tmp_path / "a.arrow"
    with writing(path) as add:
        for i in range(300):
            add(line(f"{i:03d}", [i % 9 + 1, 4]))
    rows = Rows(TokenFile.open(path))
    want = plain(rows)

    def some(seed: int) -> bool:
        chosen = random.Random(seed).choices(range(300), k=300)
        return all(rows[i].sequences[0].ids.tolist() == want[i][-1][0][0] for i in chosen)

    with ThreadPoolExecutor(4) as pool:
        assert all(pool.map(some, range(8)))


def test_tokens_stay_in_the_file(tmp_path):
    """A row's arrays are views into the mapping: they can not be written, and own no memory."""
    path = tmp_path / "a.arrow"
    with writing(path) as add:
        add(line("a", [5]))
    one = Rows(TokenFile.open(path))[0].sequences[0]
    assert not one.ids.flags.owndata and not one.ids.flags.writeable and not one.supervised.flags.owndata
    assert one.supervised.dtype == np.bool_


# -- whole or not at all ------------------------------------------------------------------------------------------------


def test_a_file_that_was_not_finished_is_none(tmp_path):
    path = tmp_path / "a.arrow"
    with pytest.raises(ZeroDivisionError), writing(path) as add:
        add(line("a", [5]))
        raise ZeroDivisionError
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(FileNotFoundError):
        TokenFile.open(path)
    with arm("tokenfile.rename", OSError(28, "No space left on device")), pytest.raises(Exception, match="disk"), writing(path) as add:  # fmt: skip
        add(line("a", [5]))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("what", ["cut", "flip", "longer", "digest", "empty"])
def test_damage_is_seen(tmp_path, what):
    path = tmp_path / "a.arrow"
    with writing(path) as add:
        for i in range(20):
            add(line(f"{i}", [50]))
    data = bytearray(path.read_bytes())
    if what == "cut":
        data = data[:-10]
    elif what == "flip":
        data[len(data) // 2] ^= 1
    elif what == "longer":
        data += b"\0"
    elif what == "empty":
        data = bytearray()
    else:
        path.with_suffix(".json").write_text("{")
    path.write_bytes(data)
    with pytest.raises(Damaged):
        TokenFile.open(path)


@given(st.integers(0), st.integers(1, 255))
@settings(deadline=None, max_examples=50)
def test_any_changed_byte_is_seen(tmp_path_factory, at, change):
    path = tmp_path_factory.mktemp("tokens") / "a.arrow"
    with writing(path) as add:
        add(line("a", [5]))
    data = bytearray(path.read_bytes())
    data[at % len(data)] ^= change
    path.write_bytes(data)
    with pytest.raises(Damaged, match="bytes are not those that were written"):
        TokenFile.open(path)


def test_a_damaged_file_is_made_again_and_told(tmp_path, dataset, base):
    template = Template(load_tokenizer(base), 512)
    at = FakeContext(tmp_path)

    def read() -> Rows:
        return read_split(
            dataset / "train.parquet", Sft(SftSettings()), template, {"dataset": "d"}, tmp_path, at
        )

    want = plain(read())
    (path,) = tmp_path.glob("*.arrow")
    path.write_bytes(path.read_bytes()[:-100])
    assert plain(read()) == want
    (told,) = [event.data for event in at.events if event.kind == "tokens.damaged"]
    assert (
        told["file"] == path.name
        and "bytes and not" in told["reason"]
        and "tokenised again" in told["reason"]
    )
    assert plain(read()) == want and len(at.events) == 1


# -- what tokens follow from ----------------------------------------------------------------------------------------------


class Shouting(Sft):
    """Another way to encode, in another file than sft's."""

    def encode(self, record, template):
        return Example([template.encode_text("loud")])


def test_tokens_are_shared_by_bases_with_one_tokenizer_and_by_nobody_else(tmp_path, dataset, base):
    def files(folder, method=Sft, context=512, **identity) -> set[str]:
        template = Template(load_tokenizer(folder), context)
        read_split(dataset / "train.parquet", method(method.spec()), template, {"dataset": "d", **identity}, tmp_path / "t", FakeContext(tmp_path))  # fmt: skip
        return {path.name for path in (tmp_path / "t").glob("*.arrow")}

    first = files(base)
    bigger = tiny_model(tmp_path / "bigger", hidden=32, layers=3)
    assert files(bigger) == first
    assert len(files(tiny_model(tmp_path / "words", vocabulary=320))) == 2
    changed = tiny_model(tmp_path / "template", chat_template=CHAT_TEMPLATE + "{{ '' }}")
    assert len(files(changed)) == 3
    assert len(files(base, Shouting)) == 4
    assert len(files(base, context=256)) == 5
    assert len(files(base, dataset="another")) == 6
    assert len(files(base, method=Sft)) == 6


# -- the cache ----------------------------------------------------------------------------------------------------------


def test_what_was_used_longest_ago_goes_first(tmp_path):
    assert size_bytes(tmp_path / "none") == 0
    for i in range(4):
        with writing(tmp_path / f"{i}.arrow") as add:
            add(line("a", [5]))
        os.utime(tmp_path / f"{i}.json", (1000 + i, 1000 + i))
    one = (tmp_path / "0.arrow").stat().st_size
    assert size_bytes(tmp_path) == 4 * one
    assert evict(tmp_path, keep_bytes=2 * one, now_s=2000) == []  # all of it was used within the hour
    TokenFile.open(tmp_path / "0.arrow")  # used just now
    assert evict(tmp_path, keep_bytes=2 * one, now_s=5000) == ["1.arrow", "2.arrow"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["0.arrow", "0.json", "3.arrow", "3.json"]
    # What is mapped stays readable though its name is gone.
    rows = Rows(TokenFile.open(tmp_path / "0.arrow"))
    os.utime(tmp_path / "0.json", (1000, 1000))
    assert evict(tmp_path, keep_bytes=0, now_s=9000) == ["0.arrow", "3.arrow"]
    assert rows[0].sequences[0].ids.tolist() == line("a", [5]).ids.tolist()


def test_what_a_killed_process_left_is_cleared_away(tmp_path):
    left = tmp_path / ".a.arrow.1.partial"
    left.write_bytes(b"half")
    evict(tmp_path)
    assert left.exists()  # it may be another process's, at work
    evict(tmp_path, now_s=left.stat().st_mtime + 90_000)
    assert not left.exists()
