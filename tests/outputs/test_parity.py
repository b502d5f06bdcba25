"""What is measured is what is served: the same questions through the evaluation's way and the server's engine, on a tiny model."""

from dataclasses import replace

import pytest

from luthier.core.testing import FakeContext
from luthier.evaluation.predictions import line
from luthier.evaluation.questions import Question, asked
from luthier.evaluation.refining import Refining, second
from luthier.evaluation.tasks import Answer
from luthier.evaluation.tasks.chat import ChatTask
from luthier.evaluation.tasks.classify import ClassifyTask
from luthier.models.grammar import Grammar
from luthier.models.template import Template
from luthier.models.testing import tiny_model
from luthier.models.weights import describe, load, load_tokenizer
from luthier.outputs.other import LocalOther
from luthier.outputs.spec import AnsweringSpec
from luthier.serving.engine import Message, Refused, Request
from luthier.serving.package import PackageFacts
from luthier.serving.transformers_engine import TransformersEngine

LABELS = ("nine", "eight", "delivery")
TEXTS = (
    "where is the parcel?",
    "Mail me at jo@firm.com",
    "nine or eight",
    "[1] refund",
    "please charge it once",
)
MOST = 14
BELIEF = {"temperature": 1.0, "isotonic": [[0.0, 1.0], [0.1, 0.9]], "rows": 100, "why": None}
FREE = {
    "plain": {},
    "steps": {"answers": ["normalize", "redact", {"banned": {"patterns": ["[0-9]"]}}, {"snap": {"labels": ["a", "b"], "otherwise": "keep"}}]},
    "regex": {"constrain": {"regex": "(nine|eight)( [a-z]{1,3})?"}, "answers": [{"banned": {"words": ["nine"]}}]},
    "schema": {"constrain": {"json_schema": {"type": "object", "properties": {"n": {"type": "integer"}}, "required": ["n"], "additionalProperties": False}}, "answers": ["json"]},
    "vote": {"vote": {"samples": 4, "temperature": 1.2, "seed": 3}, "constrain": {"regex": "[ab]{1,2}"}},
    "fallback": {"constrain": {"regex": "[ab]{2}"}, "answers": [{"banned": {"patterns": ["ab", "ba"]}}], "fallback": {"to": "big", "below": 0.45}},
}  # fmt: skip
LABELLED = {
    "plain": {"constrain": "labels"},
    "steps": {"constrain": "labels", "answers": ["snap", {"banned": {"words": ["eight"]}}]},
    "fallback": {"constrain": "labels", "fallback": {"to": "big", "below": 0.5}},
}


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    folder = tiny_model(tmp_path_factory.mktemp("tiny") / "model", context=200)
    other = tiny_model(tmp_path_factory.mktemp("other") / "model", context=200, seed=9)
    return folder, other, load(folder), Template(load_tokenizer(folder), describe(folder).context)


def measured(tiny, wish, task, part, tmp_path):
    """Row by row the line of predictions.parquet."""
    _, other_folder, model, template = tiny
    refining = Refining.of(AnsweringSpec.model_validate(wish), task, MOST, BELIEF)
    questions = [
        Question(str(n), ({"role": "user", "content": text},), "nine") for n, text in enumerate(TEXTS)
    ]
    sheet = list(asked(template, questions, [], MOST))
    lines = [
        line(one.question, "tuned", refining.told(answer, said, one.question), part)
        for one, (answer, said) in zip(
            sheet, refining.ask(model, template, sheet, part, False, True), strict=True
        )
    ]
    if refining.spec.fallback:
        held = LABELS if wish["constrain"] == "labels" else None
        other = LocalOther(
            other_folder, None, dtype="fp32", device="cpu", labels=held, grammar=refining.spec.grammar()
        )
        lines = second(lines, refining, other, questions, part, tmp_path, FakeContext(tmp_path))
    return refining, lines


def served(tiny, refining, task):
    folder, other_folder, _, _ = tiny
    spec = refining.spec
    facts = PackageFacts(
        labels=task["labels"] and tuple(task["labels"]),
        constrain=spec.constrain == "labels",
        isotonic=refining.answering.belief.knots,
        answering=spec,
    )
    other = None
    if spec.fallback:
        held = LABELS if spec.constrain == "labels" else None
        other = LocalOther(
            other_folder, None, dtype="fp32", device="cpu", labels=held, grammar=spec.grammar()
        )
    engine = TransformersEngine(folder, facts=facts, other=other, longest_answer=MOST)
    engine.load()
    found = []
    for text in TEXTS:
        most = None if spec.constrain == "labels" else MOST
        chunks = list(
            engine.generate(Request((Message("user", text),), max_tokens=most, temperature=0, top_logprobs=1))
        )
        found.append(("".join(chunk.text for chunk in chunks), chunks[-1], chunks))
    engine.close()
    return found


@pytest.mark.parametrize("name", FREE)
def test_free_answers(tiny, name, tmp_path):
    task = {"kind": "chat", "labels": None}
    refining, lines = measured(tiny, FREE[name], task, ChatTask(None, MOST), tmp_path)
    for row, (text, last, chunks) in zip(lines, served(tiny, refining, task), strict=True):
        assert text == row["prediction"]
        assert last.refusal == row["refusal"]
        if row["probability"] is not None:
            assert last.probability == pytest.approx(row["probability"], abs=1e-4)
        if refining.answering.whole:
            assert all(not chunk.text for chunk in chunks[:-1])
        if text != row["raw"]:
            assert not last.tokens  # nothing is told of a text that is another one
    if name == "fallback":
        assert {row["asked_for"] for row in lines} & {"refused", "below"}
        assert any(row["other"] is not None for row in lines)
    if name == "regex":
        assert any(row["refusal"] for row in lines) or all("nine" not in row["raw"] for row in lines)


def test_what_is_made_of_known_answers_stays_beside_what_is_written(tiny):
    """Of pairs the loss of the rejected answer too, or nothing could be said of preferences where answers are voted on."""
    _, _, model, template = tiny

    class Part(ChatTask):
        def ask(self, model, template, sheet, with_loss, with_text=True):
            assert with_loss and not with_text
            return [Answer(None, loss=(2.0, 4), rejected=(3.0, 5)) for _ in sheet]

    refining = Refining.of(AnsweringSpec.model_validate(FREE["vote"]), {"kind": "chat", "labels": None}, MOST)
    question = Question("a", ({"role": "user", "content": "which?"},), "nine", rejected="eight")
    sheet = list(asked(template, [question], [], MOST))
    [(answer, said)] = refining.ask(model, template, sheet, Part(None, MOST), True, True)
    assert (answer.loss, answer.rejected) == ((2.0, 4), (3.0, 5))
    assert answer.text == said[0].text and len(said) == 4


def test_an_answer_that_may_be_declined_is_drawn_as_it_was_measured(tiny):
    """Greedily, though nothing but a bound stands between what is said and the answer."""
    engine = TransformersEngine(tiny[0], facts=PackageFacts(abstain_below=1e-6), longest_answer=MOST)
    engine.load()
    request = Request((Message("user", TEXTS[0]),), max_tokens=MOST)
    texts = {"".join(chunk.text for chunk in engine.generate(request)) for _ in range(4)}
    likeliest = "".join(chunk.text for chunk in engine.generate(replace(request, temperature=0)))
    engine.close()
    assert texts == {likeliest}


@pytest.mark.parametrize("name", LABELLED)
def test_labels(tiny, name, tmp_path):
    task = {"kind": "classify", "labels": list(LABELS)}
    refining, lines = measured(tiny, LABELLED[name], task, ClassifyTask(LABELS, MOST), tmp_path)
    for row, (text, last, _) in zip(lines, served(tiny, refining, task), strict=True):
        assert (text, last.refusal) == (row["prediction"], row["refusal"])
        if row["probability"] is not None:
            assert last.probability == pytest.approx(row["probability"], abs=1e-4)


def test_a_label_may_be_written_freely_and_snapped(tiny, tmp_path):
    task = {"kind": "classify", "labels": list(LABELS)}
    wish = {"constrain": {"regex": " ?(NINE|eihgt|delivery)[.]?"}, "answers": ["snap"]}
    refining, lines = measured(tiny, wish, task, ClassifyTask(LABELS, MOST), tmp_path)
    assert {row["prediction"] for row in lines} <= {*LABELS, ""}
    assert [row["prediction"] for row in lines] == [text for text, _, _ in served(tiny, refining, task)]


def test_a_request_may_bring_its_own_grammar(tiny):
    engine = TransformersEngine(tiny[0], facts=PackageFacts(labels=LABELS, constrain=True))
    engine.load()
    ask = (Message("user", "x"),)
    chunks = list(engine.generate(Request(ask, constrain=Grammar("regex", "[0-9]{3}"), seed=1)))
    text = "".join(chunk.text for chunk in chunks)
    assert len(text) == 3 and text.isdigit() and chunks[-1].finish == "stop"
    assert sum(bool(chunk.text) for chunk in chunks) > 1  # it streams
    cut = list(engine.generate(Request(ask, constrain=Grammar("regex", "[0-9]{30}"), max_tokens=4)))
    assert cut[-1].finish == "length"
    with pytest.raises(Refused, match="cannot be held to") as error:
        list(engine.generate(Request(ask, constrain=Grammar.of_schema({"not": {}}))))
    assert (error.value.param, error.value.code) == ("response_format", "invalid_value")


def test_what_is_not_sure_enough_is_not_said(tiny):
    facts = PackageFacts(isotonic=((0.0, 1.0), (0.1, 0.9)), abstain_below=0.95)
    engine = TransformersEngine(tiny[0], facts=facts)
    engine.load()
    request = Request((Message("user", "x"),), max_tokens=5)
    *_, last = chunks = list(engine.generate(request))
    assert "not sure enough" in last.refusal and not any(chunk.text for chunk in chunks)
    assert last.probability <= 0.9
