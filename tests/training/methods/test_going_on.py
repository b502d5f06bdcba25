"""A run that is stopped and goes on ends in the bytes of one that was not, for methods that draw, estimate, keep or put
something of their own on the model; and what was prepared before the stop is not prepared again."""

import pytest

from luthier.core.errors import Interrupted
from luthier.models.testing import tiny_model
from luthier.training.methods import distill, kept, reference

WRITTEN = {
    "dpo": "dpo",
    "ipo": "ipo",
    "kto": {"kto": {"beta": 0.5}},
    "grpo": {"grpo": {"rewards": [{"length": {"max": 8}}], "generations": 3, "max_tokens": 6, "kl": 0.1}},
    "distill": {"distill": {"teacher": "x", "labels": 0.3}},
    "distill-answers": {"distill": {"teacher": "x", "level": "sequence", "max_tokens": 6}},
    "classify": "classify",
    "regress": "regress",
}


@pytest.fixture(scope="module")
def teacher(tmp_path_factory):
    return tiny_model(tmp_path_factory.mktemp("teacher") / "tiny", hidden=16, heads=2, kv_heads=1, seed=7)


@pytest.fixture
def work_for(new_work, make_record, teacher):
    """A Work on rows that have what the method of that name reads."""

    def told(name, i):
        record = make_record(i)
        *asked, answer = record["messages"]
        right = answer["content"]
        if name == "regress":
            record["messages"] = [*asked, {**answer, "content": str(10 * len(asked[-1]["content"]))}]
        wrong = {"billing": "delivery", "delivery": "billing"}[right]
        return {**record, "label": right, "rejected": wrong, "rating": float(i % 2)}

    def build(name, folder):
        rows = [told(name, i) for i in range(16)]
        work = new_work(f"{name}-{folder}", train=rows[:12], validation=rows[12:])
        if "distill" in name:
            work.others["teacher"] = teacher
        return work

    return build


@pytest.mark.parametrize("name", WRITTEN)
def test_stopped_and_gone_on_is_the_same_to_the_bit(work_for, name):
    wish = {"method": WRITTEN[name], "adapter": {"kind": "lora", "rank": 4, "dropout": 0.1}}
    wish |= {"batch": {"rows": 4, "micro_tokens": 150}, "epochs": 2}
    whole, work = (work_for(name, folder) for folder in ("whole", "stopped"))
    whole.run(**wish)
    for work.stop_after_checks in (3, 7):
        with pytest.raises(Interrupted):
            work.run(**wish)
    work.stop_after_checks = None
    work.run(**wish)
    assert work.told("resumed") and work.files() == whole.files()


@pytest.mark.parametrize(
    ("name", "checks"),
    [
        ("dpo", 3),  # the three blocks of a part and a half
        ("kto", 3),
        ("distill-answers", 2 + 3),  # the questions of both splits before them
    ],
)
def test_what_was_prepared_before_a_stop_is_not_prepared_again(work_for, monkeypatch, name, checks):
    monkeypatch.setattr(kept, "PART_ROWS", 4)
    monkeypatch.setattr(kept, "ROWS_AT_ONCE", 2)
    asked = []
    real_sums, real_write = reference.answer_logprobs, distill.Writer.write

    def sums(model, units, work):
        asked.append(len(units))
        return real_sums(model, units, work)

    def write(writer, rows):
        asked.append(len(rows))
        return real_write(writer, rows)

    monkeypatch.setattr(reference, "answer_logprobs", sums)
    monkeypatch.setattr(distill.Writer, "write", write)
    whole, work = (work_for(name, folder) for folder in ("whole", "stopped"))
    whole.run(method=WRITTEN[name])
    assert sum(asked) == 16
    asked.clear()
    work.stop_after_checks = 2 + checks  # tokenising both splits comes first
    with pytest.raises(Interrupted):
        work.run(method=WRITTEN[name])
    assert sum(asked) == 6  # a part of 4 and half of the next
    asked.clear()
    work.stop_after_checks = None
    work.run(method=WRITTEN[name])
    assert sum(asked) == 16 - 4 and work.files() == whole.files()
    prepared = [
        {path.name: path.read_bytes() for path in sorted((one.folder / "scratch").glob("*-0*"))}
        for one in (whole, work)
    ]
    assert len(prepared[0]) == 2 * 4 and prepared[0] == prepared[1]


def test_a_damaged_part_of_the_reference_is_told_and_computed_again(work_for):
    whole, work = (work_for("dpo", folder) for folder in ("whole", "stopped"))
    whole.run(method="dpo")
    work.stop_after_checks = 5  # two splits tokenised, two prepared, a validation begun
    with pytest.raises(Interrupted):
        work.run(method="dpo")
    work.stop_after_checks = None
    for path in (work.folder / "scratch").glob("reference-*.parquet"):
        data = bytearray(path.read_bytes())
        data[len(data) // 2] ^= 1
        path.write_bytes(data)
    work.run(method="dpo")
    assert [one["file"].partition("-")[0] for one in work.told("prepared.damaged")] == ["reference"] * 2
    assert work.files() == whole.files()
