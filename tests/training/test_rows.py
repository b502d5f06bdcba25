import json

import numpy as np
import pytest

from luthier.core.errors import DataError, ModelError, SpecError
from luthier.core.testing import FakeContext
from luthier.models.template import Template
from luthier.models.weights import load_tokenizer
from luthier.training.methods.sft import Sft, SftSettings
from luthier.training.rows import read_split


@pytest.fixture
def template(base):
    return Template(load_tokenizer(base), 512)


def test_rows_are_the_templates_and_are_read_back_the_second_time(tmp_path, dataset, template, make_record):
    at = FakeContext(tmp_path)
    rows = read_split(dataset / "train.parquet", Sft(SftSettings()), template, {"dataset": "d"}, tmp_path, at)
    assert len(rows) == 48 and list(rows.names) == sorted(rows.names)
    for i in (0, 17, 47):
        encoded = template.encode(make_record(i)["messages"])
        assert (
            rows[i].sequences[0].ids.tolist() == encoded.ids
            and rows[i].sequences[0].supervised.tolist() == encoded.supervised
        )
        assert rows[i].id == make_record(i)["id"] and rows.origins[i] == make_record(i)["origin"]
        assert rows.tokens[i] == len(encoded.ids) and rows.supervised_tokens[i] == sum(encoded.supervised)

    template.encode = None  # a second tokenising would fail
    again = read_split(
        dataset / "train.parquet", Sft(SftSettings()), template, {"dataset": "d"}, tmp_path, at
    )
    assert list(again.names) == list(rows.names)
    for one, other in zip(rows, again, strict=True):
        assert np.array_equal(one.sequences[0].ids, other.sequences[0].ids)
        assert np.array_equal(one.sequences[0].supervised, other.sequences[0].supervised)
    with pytest.raises(TypeError):
        read_split(
            dataset / "train.parquet", Sft(SftSettings()), template, {"dataset": "another"}, tmp_path, at
        )


def test_an_empty_split_has_no_rows(tmp_path, new_work, template):
    folder = new_work("none").dataset
    rows = read_split(
        folder / "validation.parquet", Sft(SftSettings()), template, {}, tmp_path, FakeContext(tmp_path)
    )
    assert len(rows) == 0 and rows.supervised_tokens.tolist() == []


def long(make_record, i):
    return make_record(
        i, messages=[{"role": "user", "content": "error " * 600}, {"role": "assistant", "content": "billing"}]
    )


def test_too_long_rows_are_refused_by_name(new_work, make_record):
    work = new_work("long", train=[make_record(0), *(long(make_record, i) for i in range(1, 8))])
    with pytest.raises(DataError) as told:
        work.run()
    message = str(told.value)
    assert "7 of 8 rows are longer than 512 tokens" in message
    assert "tickets.jsonl:2 (" in message and "and 2 more" in message and "nothing was trained" in message
    assert "train.too_long: skip" in message and "rule `length`" in message


def test_the_remedy_names_the_limit_only_where_it_can_be_raised(new_work, make_record):
    work = new_work("limit", train=[make_record(i) for i in range(20)])
    with pytest.raises(DataError, match=r"raise train.longest \(the model's context is 512\)"):
        work.run(longest=40)
    with pytest.raises(SpecError, match="longest is 600"):
        work.run(longest=600)


def test_skipped_rows_are_told_and_written_down(new_work, make_record):
    import pyarrow.parquet as pq

    work = new_work(
        "skip", train=[*(make_record(i) for i in range(8)), long(make_record, 8)], validation=[make_record(9)]
    )
    work.run(too_long="skip", epochs=2)
    (told,) = work.told("rows.skipped")
    assert (told["rows"], told["of"], told["limit"]) == (1, 10, 512) and "tickets.jsonl:9" in told["first"]
    lines = pq.read_table(work.out / "rows.parquet").to_pylist()
    skipped = [line for line in lines if line["skipped"]]
    assert [line["id"] for line in skipped] == [make_record(8)["id"]]
    assert skipped[0]["skipped"] == f"{skipped[0]['tokens']} tokens, limit 512" and skipped[0]["seen"] == 0
    assert [line["split"] for line in lines] == ["train"] * 9 + ["validation"]
    best = work.history()["best_step"]
    assert {line["seen"] for line in lines if line["split"] == "train" and not line["skipped"]} == {best}


def test_rows_without_anything_to_learn_are_refused(new_work, make_record):
    work = new_work("empty", train=[make_record(0), make_record(1, messages=None, text="")])
    with pytest.raises(DataError, match=r"1 train rows have no token to learn: tickets.jsonl:2"):
        work.run()
    work = new_work("weight", train=[make_record(0), make_record(1, weight=0.0)])
    with pytest.raises(
        DataError, match=r"1 train rows have a weight that is not a positive number: tickets.jsonl:2"
    ):
        work.run()
    with pytest.raises(DataError, match="there is no row to train on"):
        new_work("nothing").run()


def test_a_token_that_the_weights_do_not_have_is_told(new_work, make_record, tmp_path):
    from luthier.models.testing import tiny_model

    work = new_work("odd", train=[make_record(i) for i in range(4)])
    work.base = tiny_model(tmp_path / "odd-base", hidden=16, heads=2, kv_heads=1)
    path = work.base / "tokenizer.json"
    told = json.loads(path.read_text())
    told["added_tokens"].append({**told["added_tokens"][0], "id": 506, "content": "Route", "special": False})
    path.write_text(json.dumps(told))
    with pytest.raises(ModelError, match=r"train rows hold token 506 .* its weights have 506 tokens"):
        work.run()


def test_a_row_that_the_template_cannot_render_is_named(new_work, make_record):
    work = new_work(
        "odd", train=[make_record(0), make_record(1, messages=[{"role": "user", "content": "?"}])]
    )
    with pytest.raises(ModelError, match=r"^tickets.jsonl:2: the conversation has no assistant message"):
        work.run()


def test_plain_text_is_learnt_whole(new_work, make_record):
    import pyarrow.parquet as pq

    work = new_work("text", train=[make_record(i, messages=None, text="error page twice") for i in range(4)])
    work.run()
    for line in pq.read_table(work.out / "rows.parquet").to_pylist():
        assert line["supervised"] == line["tokens"] - 1  # all but the first, which nothing precedes


def test_judgements_that_a_method_does_not_read_are_told(new_work, make_record):
    rated = [make_record(i, rating=float(i % 3 > 0)) for i in range(12)]
    work = new_work("rated", train=rated)
    work.run(max_steps=1)
    (told,) = work.told("warning")
    assert told["message"] == (
        "12 of 12 training rows have a rating, which the method sft does not read: "
        "it learns the answers of 4 rows rated 0 or less like all others"
    )
    work.run(max_steps=1, method="kto", batch={"rows": 4})
    assert work.told("warning") == []
    work = new_work("pairs", train=[make_record(i, rejected="other") for i in range(12)])
    work.run(max_steps=1)
    assert "have a rejected, which the method sft does not read" in work.told("warning")[0]["message"]
