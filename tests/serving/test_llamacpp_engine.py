"""llama.cpp on a tiny model, held against the plain engine: the same tokens, probabilities and labels; several streams and adapters in
one process; a killed process comes back. Skipped where `xllamacpp` is not installed."""

from __future__ import annotations

import json
import math
import os
import signal
import threading
import time
from dataclasses import replace

import pytest

from luthier.core.errors import ModelError, SpecError
from luthier.models import llamacpp
from luthier.models.grammar import Grammar
from luthier.outputs.spec import AnsweringSpec
from luthier.serving.backend import Wish
from luthier.serving.engine import Cancelled, ContextLengthExceeded, Message, Refused, Request, Unavailable
from luthier.serving.llamacpp_engine import LlamaCppEngine
from luthier.serving.opening import Opening
from luthier.serving.package import PackageFacts
from luthier.serving.transformers_engine import TransformersEngine

pytestmark = pytest.mark.skipif(llamacpp.version() is None, reason="xllamacpp is not installed")
LABELS = ("nine", "eight", "delivery", "8 über ✓ 😀")
ASK = (Message("user", "Please refund the second payment"),)
NO_FACTS = PackageFacts()
NEAR = 0.04  # weights, keys and values in 16 bits, and sums in another order


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """A base and two adapters, each of which changes what it says."""
    import torch

    from luthier.models import adapters
    from luthier.models.spec import LoraSpec
    from luthier.models.testing import tiny_model
    from luthier.models.weights import load

    place = tmp_path_factory.mktemp("llamacpp")
    base = tiny_model(place / "base", context=400)
    for n, name in enumerate(("a", "b")):
        model = adapters.Lora().attach(load(base), LoraSpec(kind="lora", rank=2, rslora=n == 1), seed=n)
        draw = torch.Generator().manual_seed(n)
        with torch.no_grad():
            for weight, parameter in adapters.Lora().trainable(model):
                if "lora_B" in weight:
                    parameter.normal_(0, 0.2, generator=draw)
        (place / name).mkdir()
        adapters.Lora().save(model, place / name, "tiny")
    return place


def opening(folders, adapter, facts=NO_FACTS, **settings):
    return Opening(
        folders / "base",
        folders / adapter if adapter else None,
        facts,
        "fp32",
        "cpu",
        base_digest="base",
        digest=adapter or "base",
        cache=folders / "cache",
        settings={"format": "f16", "streams": "4", "threads": "1", **settings},
    )


def opened(folders, adapter, facts=NO_FACTS, **settings):
    made = LlamaCppEngine.open(opening(folders, adapter, facts, **settings))
    made.load()
    return made


def plain(folders, adapter, facts=NO_FACTS):
    made = TransformersEngine(folders / "base", folders / adapter if adapter else None, facts=facts)
    made.load()
    return made


@pytest.fixture(scope="module")
def engines(folders):
    made = {name: opened(folders, name) for name in (None, "a", "b")}
    yield made
    for one in made.values():
        one.close()


@pytest.fixture(scope="module")
def references(folders):
    return {name: plain(folders, name) for name in (None, "a", "b")}


def text_of(chunks):
    return "".join(chunk.text for chunk in chunks)


def test_every_release_over_a_base_is_answered_by_one_process_as_the_plain_engine_answers(
    engines, references
):
    assert len({one.backend.pid for one in engines.values()}) == 1
    texts = set()
    for name, engine in engines.items():
        wish = Wish(tuple(engine.backend.template.prompt([ASK[0].plain()])), 16, logprobs=3)
        mine, theirs = (list(one.backend.write(wish, lambda: False)) for one in (engine, references[name]))
        ids, wanted = ([step.token_id for step in steps] for steps in (mine, theirs))
        # a near tie may turn, as rounding has it, and after it their questions differ
        same = next((n for n, (a, b) in enumerate(zip(ids, wanted, strict=False)) if a != b), len(wanted))
        assert same >= 8
        for a, b in zip(mine[:same], theirs[:same], strict=True):
            assert a.logprob == pytest.approx(b.logprob, abs=NEAR)
            assert [p for _, p in a.top] == pytest.approx([p for _, p in b.top], abs=NEAR)
        if same < len(wanted):
            assert mine[same].logprob == pytest.approx(theirs[same].logprob, abs=NEAR)
        else:
            assert mine[-1].finish == theirs[-1].finish
        request = Request(ASK, max_tokens=16, temperature=0.0)
        whole, plainly = list(engine.generate(request)), list(references[name].generate(request))
        assert whole[-1].usage == plainly[-1].usage
        texts.add(text_of(whole))
    assert len(texts) == 3  # each adapter says something of its own


def test_llama_cpp_reads_again_what_another_tenant_asked(folders):
    engine = opened(folders, None, streams="1")
    try:
        base, ids = engine.backend._base, list(range(40, 80))

        def read(salt):
            with base.seat(None, ids, 50, lambda: False, salt) as seat:
                asked = {"prompt": ids, "n_predict": 1, "temperature": 0.0}
                return [seat.ask(asked)["timings"]["prompt_n"] for _ in range(2)]

        assert read("a") == [40, 1]
        assert read("a") == [1, 1]
        assert read("b") == [40, 1]
        assert read("") == [40, 1]
        assert read("") == [1, 1]
        asked = Request(ASK, max_tokens=4, temperature=0.0)
        texts = {text_of(engine.generate(replace(asked, cache_salt=salt))) for salt in ("a", "b", "a")}
        assert len(texts) == 1
    finally:
        engine.close()


def test_labels_are_scored_as_the_plain_engine_scores_them(engines, references):
    for name, engine in engines.items():
        mine, theirs = engine.score(ASK, LABELS), references[name].score(ASK, LABELS)
        assert mine == pytest.approx(theirs, abs=3 * NEAR)
        assert sorted(LABELS, key=lambda one: mine[LABELS.index(one)]) == sorted(
            LABELS, key=lambda one: theirs[LABELS.index(one)]
        )
        assert math.fsum(map(math.exp, mine)) == pytest.approx(1)


def test_an_adapters_prompt_is_not_read_from_another_ones_cache(engines, references):
    """ggml-org/llama.cpp#26207: who leaves adapters out of a request answers from what another adapter has read."""
    for name in (None, "a", None, "b", "a", None):
        assert engines[name].score(ASK, LABELS[:2]) == pytest.approx(
            references[name].score(ASK, LABELS[:2]), abs=NEAR
        )


def test_the_packages_way_is_the_same(folders, references):
    facts = PackageFacts("Route it.", labels=LABELS[:3], constrain=True, temperature=2.0, abstain_below=0.2)
    mine, theirs = opened(folders, "a", facts), plain(folders, "a", facts)
    (one,), (other,) = mine.generate(Request(ASK)), theirs.generate(Request(ASK))
    assert (one.text, one.refusal, one.usage) == (other.text, other.refusal, other.usage)
    assert one.probability == pytest.approx(other.probability, abs=NEAR)
    with pytest.raises(Refused, match="same tokens"):
        list(mine.generate(Request(ASK, constrain=("x", "x"))))
    mine.close()


def test_grammars_hold_and_a_seed_fixes_the_answer(engines):
    engine = engines["a"]
    request = Request(
        ASK, max_tokens=40, constrain=Grammar("regex", "[0-9]{3}/(é|ü)😀"), seed=4, top_logprobs=0
    )
    chunks = list(engine.generate(request))
    text = text_of(chunks)
    assert text[:3].isdigit() and text[3] == "/" and text[4] in "éü" and text[5] == "😀"
    assert chunks[-1].finish == "stop"
    told = [token for chunk in chunks for token in chunk.tokens]
    assert len(told) in (chunks[-1].usage.completion_tokens, chunks[-1].usage.completion_tokens - 1)
    assert all(token.chosen.logprob < 0 for token in told)  # parts of characters, too
    assert text_of(engine.generate(request)) == text
    schema = Grammar.of_schema(
        {
            "type": "object",
            "properties": {"n": {"type": "integer"}},
            "required": ["n"],
            "additionalProperties": False,
        }
    )
    for seed in range(3):
        answer = list(
            engine.generate(Request(ASK, max_tokens=60, temperature=3.0, constrain=schema, seed=seed))
        )
        text = text_of(answer)
        assert text.startswith(('{"n":', '{"n": '))  # and never blanks without end
        if answer[-1].finish == "stop":
            assert isinstance(json.loads(text)["n"], int)
    with pytest.raises(Refused, match="cannot be held to"):
        next(engine.generate(Request(ASK, constrain=Grammar.of_schema({"not": {}}))))


def test_parts_of_characters_have_the_plain_engines_probabilities(engines, references):
    held = Grammar("regex", "é😀中")
    request = Request(ASK, max_tokens=30, temperature=0.0, constrain=held, top_logprobs=1)
    mine, theirs = (
        [token.chosen.logprob for chunk in engine.generate(request) for token in chunk.tokens]
        for engine in (engines["b"], references["b"])
    )
    least = min(len(mine), len(theirs))
    assert least > 3
    assert mine[:least] == pytest.approx(theirs[:least], abs=3 * NEAR)


def test_an_answer_that_is_cut_in_a_character_counts_its_parts(engines):
    held = Grammar("regex", "(中|文){9}")
    for most in (4, 5):  # a character is three tokens or two
        request = Request(ASK, max_tokens=most, temperature=0.0, constrain=held, top_logprobs=0)
        chunks = list(engines["a"].generate(request))
        assert chunks[-1].finish == "length"
        assert chunks[-1].usage.completion_tokens == most
        told = [token.chosen.logprob for chunk in chunks for token in chunk.tokens]
        assert len(told) == most and all(one < 0 for one in told)


def test_a_vote_is_the_same_when_it_is_asked_again(folders):
    spec = AnsweringSpec.model_validate(
        {"vote": {"samples": 3, "temperature": 1.2}, "constrain": {"regex": "[ab]{1,2}"}}
    )
    engine = opened(folders, "a", PackageFacts(answering=spec))
    first, second = (list(engine.generate(Request(ASK, max_tokens=9)))[-1] for _ in range(2))
    assert first == second
    assert set(first.text) <= {"a", "b"}
    assert first.probability in (1 / 3, 2 / 3, 1.0)
    engine.close()


def test_stop_bounds_and_context(engines):
    engine = engines["b"]
    whole = text_of(engine.generate(Request(ASK, max_tokens=12, temperature=0.0)))
    stop = whole[len(whole) // 2 :][:2]
    chunks = list(engine.generate(Request(ASK, max_tokens=12, temperature=0.0, stop=(stop,))))
    assert text_of(chunks) == whole[: whole.index(stop)]
    assert chunks[-1].finish == "stop"
    with pytest.raises(ContextLengthExceeded):
        next(engine.generate(Request((Message("user", "word " * 500),))))


def test_several_streams_at_once_give_what_each_gives_alone(engines):
    asks = [Request((Message("user", f"{n} parcels"),), max_tokens=12, temperature=0.0) for n in range(8)]
    names = [None, "a", "b", "a"] * 2
    alone = [text_of(engines[name].generate(ask)) for name, ask in zip(names, asks, strict=True)]
    found = [""] * len(asks)

    def one(n):
        found[n] = text_of(engines[names[n]].generate(asks[n]))

    threads = [threading.Thread(target=one, args=(n,)) for n in range(len(asks))]
    [thread.start() for thread in threads]
    [thread.join(60) for thread in threads]
    # near ties may turn when rows share a batch: nearly all are the same to the letter
    assert sum(a == b for a, b in zip(alone, found, strict=True)) >= 6
    assert all(found)


def test_hanging_up_frees_the_stream(engines):
    backend = engines["a"].backend
    answers = [engines["a"].generate(Request(ASK, max_tokens=300)) for _ in range(4)]
    for answer in answers:
        next(answer)
    with pytest.raises(Cancelled):
        next(engines["b"].generate(Request(ASK, max_tokens=4), lambda: True))
    for answer in answers:
        answer.close()
    began = time.monotonic()
    assert list(engines["b"].generate(Request(ASK, max_tokens=1)))
    assert time.monotonic() - began < 5
    running = backend._base._running
    assert (running.under_way, len(running.free), running.left) == (0, 4, backend._base.tokens)


def test_a_killed_process_loses_what_was_under_way_and_comes_back(folders):
    engine = opened(folders, "a", streams="2")
    answer = engine.generate(Request(ASK, max_tokens=300, temperature=0.0, stop=()))
    next(answer)
    before = engine.backend.pid
    os.kill(before, signal.SIGKILL)
    with pytest.raises(Unavailable):
        list(answer)
    deadline = time.monotonic() + 60
    seen = set()
    while not (engine.health().ready and engine.backend.pid != before) and time.monotonic() < deadline:
        seen.add(engine.health().detail)
        time.sleep(0.02)
    assert any("killed by signal 9" in one for one in seen)
    assert list(engine.generate(Request(ASK, max_tokens=2)))
    pid = engine.backend.pid
    engine.close()
    assert not engine.health().ready
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


def test_the_process_sees_no_secret(engines, monkeypatch, folders):
    monkeypatch.setenv("SECRET_TOKEN", "hush")
    engine = opened(folders, "a", streams="1")
    with open(f"/proc/{engine.backend.pid}/environ", "rb") as told:
        names = {one.partition(b"=")[0].decode() for one in told.read().split(b"\0") if one}
    assert names <= {*llamacpp.PASSED_ON, "LC_CTYPE"}
    with open(f"/proc/{engine.backend.pid}/cmdline", "rb") as told:
        assert engine.backend._base._running.process._key.encode() not in told.read()
    engine.close()


def test_what_it_cannot_serve_is_refused(folders, tmp_path):
    with pytest.raises(SpecError, match="no setting 'stream'"):
        LlamaCppEngine.open(opening(folders, "a", stream="3"))
    with pytest.raises(SpecError, match="format is 'q2'"):
        LlamaCppEngine.open(opening(folders, "a", format="q2"))
    with pytest.raises(SpecError, match="streams is '0'"):
        LlamaCppEngine.open(opening(folders, "a", streams="0"))
    import shutil

    shutil.copytree(folders / "a", tmp_path / "a")
    config = json.loads((tmp_path / "a" / "adapter_config.json").read_text())
    (tmp_path / "a" / "adapter_config.json").write_text(json.dumps({**config, "use_dora": True}))
    with pytest.raises(ModelError, match="DoRA"):
        LlamaCppEngine.open(replace(opening(folders, "a"), adapter_folder=tmp_path / "a", digest="dora"))
    (tmp_path / "a" / "head.safetensors").touch()
    with pytest.raises(ModelError, match="head of its own"):
        LlamaCppEngine.open(replace(opening(folders, "a"), adapter_folder=tmp_path / "a", digest="head"))


def test_a_file_that_llamacpp_does_not_read_is_told_in_its_words(folders, tmp_path):
    broken = tmp_path / "broken.gguf"
    broken.write_bytes(b"GGUF nonsense")
    engine = LlamaCppEngine.open(replace(opening(folders, None), gguf={"gguf": broken}))
    with pytest.raises(ModelError, match=r"llama.cpp does not load broken.gguf"):
        engine.load()
    assert not engine.health().ready
