"""Which of a conversation's tokens are learnt."""

from __future__ import annotations

from luthier.models.template import Template
from luthier.models.testing import tiny_model
from luthier.models.weights import load_tokenizer
from luthier.training.methods.sft import Sft, SftSettings
from luthier.training.spec import MethodSpec

TURNS = [("user", "one?"), ("assistant", "two"), ("user", "three?"), ("assistant", "four five")]


def learnt(template, said, **settings):
    record = {
        "messages": [{"role": role, "content": content} for role, content in said],
        "text": None,
        "tools": None,
    }
    (encoded,) = Sft(SftSettings(**settings)).encode(record, template).sequences
    return template.tokenizer.decode(
        [t for t, on in zip(encoded.ids, encoded.supervised, strict=True) if on]
    ), encoded.ids


def test_all_answers_are_learnt_or_the_last_alone(tmp_path):
    template = Template(load_tokenizer(tiny_model(tmp_path / "tiny")), 512)
    everything, ids = learnt(template, TURNS)
    last, same = learnt(template, TURNS, turns="last")
    assert (everything, last) == ("two<|im_end|>four five<|im_end|>", "four five<|im_end|>")
    assert ids == same
    # rows up to each answer, the last one learnt, teach what the whole conversation teaches, token for token
    assert learnt(template, TURNS[:2], turns="last")[0] + last == everything


def test_all_turns_is_what_there_always_was():
    assert (
        MethodSpec.model_validate({"sft": {"turns": "all"}}).plain()
        == MethodSpec.model_validate("sft").plain()
        == {"sft": {}}
    )
