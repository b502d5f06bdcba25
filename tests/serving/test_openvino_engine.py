"""OpenVINO's runtime on a tiny model, held against the plain engine over the very same weights: tokens, probabilities, labels, several
at once. Skipped where `openvino-genai` is not installed."""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
import threading
from dataclasses import replace

import pytest

from luthier.core.errors import MissingPart, ModelError, SpecError
from luthier.models import paged
from luthier.models.grammar import Grammar
from luthier.outputs.spec import AnsweringSpec
from luthier.serving.backend import Wish
from luthier.serving.engine import Cancelled, ContextLengthExceeded, Message, Refused, Request, Unavailable
from luthier.serving.opening import Opening
from luthier.serving.openvino_engine import OpenVinoEngine
from luthier.serving.package import PackageFacts
from luthier.serving.transformers_engine import TransformersEngine

pytestmark = pytest.mark.skipif(paged.version() is None, reason="openvino-genai is not installed")
LABELS = ("nine", "eight", "delivery", "8 über ✓ 😀")
ASK = (Message("user", "Please refund the second payment"),)
NO_FACTS = PackageFacts()
NEAR = 0.01  # keys and values in 8 bits, and sums in another order
NAMES = (None, "a", "b")


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """A base, two adapters that each change what it says, and beside each what a GGUF file of Q8_0 holds of it, as a whole model."""
    import torch

    from luthier.models import adapters, gguf, to_gguf
    from luthier.models.merge import merge
    from luthier.models.spec import LoraSpec
    from luthier.models.testing import tiny_model
    from luthier.models.weights import load

    place = tmp_path_factory.mktemp("openvino")
    base = tiny_model(place / "base", context=400)
    for n, name in enumerate(NAMES):
        whole = base
        if name is not None:
            model = adapters.Lora().attach(load(base), LoraSpec(kind="lora", rank=2, rslora=n == 1), seed=n)
            draw = torch.Generator().manual_seed(n)
            with torch.no_grad():
                for weight, parameter in adapters.Lora().trainable(model):
                    if "lora_B" in weight:
                        parameter.normal_(0, 0.2, generator=draw)
            (place / name).mkdir()
            adapters.Lora().save(model, place / name, "tiny")
            whole = place / f"{name}-merged"
            merge(base, place / name, whole, dtype="fp32")
        to_gguf.write(whole, place / f"{name}.gguf", "gguf-q8", {})
        (place / f"{name}-same").mkdir()
        gguf.convert(place / f"{name}.gguf", place / f"{name}-same", "fp32")
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
        settings={"streams": "4", "threads": "1", "precision": "f32", **settings},
    )


def opened(folders, adapter, facts=NO_FACTS, **settings):
    made = OpenVinoEngine.open(opening(folders, adapter, facts, **settings))
    made.load()
    return made


def plain(folders, adapter, facts=NO_FACTS):
    made = TransformersEngine(folders / f"{adapter}-same", facts=facts)
    made.load()
    return made


@pytest.fixture(scope="module")
def engines(folders):
    made = {name: opened(folders, name) for name in NAMES}
    yield made
    for one in made.values():
        one.close()


@pytest.fixture(scope="module")
def references(folders):
    return {name: plain(folders, name) for name in NAMES}


def text_of(chunks):
    return "".join(chunk.text for chunk in chunks)


def test_it_writes_what_the_plain_engine_writes_with_its_probabilities(engines, references):
    texts = set()
    for name, engine in engines.items():
        wish = Wish(tuple(engine.backend.template.prompt([ASK[0].plain()])), 24, logprobs=3)
        mine, theirs = (list(one.backend.write(wish, lambda: False)) for one in (engine, references[name]))
        assert [step.token_id for step in mine] == [step.token_id for step in theirs]
        for a, b in zip(mine, theirs, strict=True):
            assert a.logprob == pytest.approx(b.logprob, abs=NEAR)
            assert [p for _, p in a.top] == pytest.approx([p for _, p in b.top], abs=NEAR)
        assert (mine[-1].finish, "".join(one.text_delta for one in mine)) == (
            theirs[-1].finish,
            "".join(one.text_delta for one in theirs),
        )
        request = Request(ASK, max_tokens=16, temperature=0.0)
        whole, plainly = list(engine.generate(request)), list(references[name].generate(request))
        assert whole[-1].usage == plainly[-1].usage
        texts.add(text_of(whole))
    assert len(texts) == 3  # each adapter says something of its own


def test_labels_are_scored_as_the_plain_engine_scores_them(engines, references):
    for name, engine in engines.items():
        for _ in range(2):  # the second time the prompt is there
            mine, theirs = engine.score(ASK, LABELS), references[name].score(ASK, LABELS)
            assert mine == pytest.approx(theirs, abs=4 * NEAR)
            assert math.fsum(map(math.exp, mine)) == pytest.approx(1)


def test_more_labels_than_fit_beside_each_other(engines, references):
    labels = tuple(f"section {n} of {n * 7}" for n in range(40))
    assert engines["a"].score(ASK, labels) == pytest.approx(references["a"].score(ASK, labels), abs=6 * NEAR)


def test_the_packages_way_is_the_same(folders, references):
    facts = PackageFacts("Route it.", labels=LABELS[:3], constrain=True, temperature=2.0, abstain_below=0.2)
    mine, theirs = opened(folders, "a", facts), plain(folders, "a", facts)
    (one,), (other,) = mine.generate(Request(ASK)), theirs.generate(Request(ASK))
    assert (one.text, one.refusal, one.usage) == (other.text, other.refusal, other.usage)
    assert one.probability == pytest.approx(other.probability, abs=NEAR)
    with pytest.raises(Refused, match="same tokens"):
        list(mine.generate(Request(ASK, constrain=("x", "x"))))
    mine.close()


def test_grammars_hold_and_a_seed_fixes_the_answer(engines, references):
    engine, held = engines["a"], Grammar("regex", "[0-9]{3}/(é|ü)😀")
    request = Request(ASK, max_tokens=40, constrain=held, seed=4, top_logprobs=0)
    chunks = list(engine.generate(request))
    text = text_of(chunks)
    assert text[:3].isdigit() and text[3] == "/" and text[4] in "éü" and text[5] == "😀"
    assert chunks[-1].finish == "stop"
    told = [token for chunk in chunks for token in chunk.tokens]
    assert len(told) == chunks[-1].usage.completion_tokens - 1
    assert all(token.chosen.logprob < 0 for token in told)
    assert text_of(engine.generate(request)) == text
    likeliest = replace(request, temperature=0.0)
    mine, theirs = (list(one.generate(likeliest)) for one in (engine, references["a"]))
    assert text_of(mine) == text_of(theirs)
    assert [t.chosen.logprob for c in mine for t in c.tokens] == pytest.approx(
        [t.chosen.logprob for c in theirs for t in c.tokens], abs=4 * NEAR
    )
    schema = Grammar.of_schema(
        {
            "type": "object",
            "properties": {"n": {"type": "integer"}},
            "required": ["n"],
            "additionalProperties": False,
        }
    )
    ended = 0
    for seed in range(6):
        answer = list(
            engine.generate(Request(ASK, max_tokens=60, temperature=3.0, constrain=schema, seed=seed))
        )
        if answer[-1].finish == "stop":
            ended += 1
            assert isinstance(json.loads(text_of(answer))["n"], int)
    assert ended
    with pytest.raises(Refused, match="cannot be held to"):
        next(engine.generate(Request(ASK, constrain=Grammar.of_schema({"not": {}}))))


def test_draws_have_the_models_own_shares(engines, references):
    """The first token of many draws, against the plain engine's probabilities of it."""
    engine, ids = engines[None], None
    ids = tuple(engine.backend.template.prompt([ASK[0].plain()]))
    [step] = references[None].backend.write(Wish(ids, 1, logprobs=5), lambda: False)
    counts = dict.fromkeys((token for token, _ in step.top), 0)
    drawn = 400
    for seed in range(drawn):
        [one] = engine.backend.write(Wish(ids, 1, temperature=0.3, seed=seed), lambda: False)
        if one.token_id in counts:
            counts[one.token_id] += 1
    wanted = [math.exp(p / 0.3) for _, p in step.top]
    for n, (a, b) in enumerate(zip(counts.values(), wanted, strict=True)):
        share, other = a / max(1, sum(counts.values())), b / sum(wanted)
        assert abs(share - other) < 0.12, n


def test_a_vote_is_the_same_when_it_is_asked_again(folders):
    spec = AnsweringSpec.model_validate(
        {"vote": {"samples": 3, "temperature": 1.2}, "constrain": {"regex": "[ab]{1,2}"}}
    )
    engine = opened(folders, "a", PackageFacts(answering=spec))
    first, second = (list(engine.generate(Request(ASK, max_tokens=9)))[-1] for _ in range(2))
    assert first == second
    assert set(first.text) <= {"a", "b"}
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
    with pytest.raises(ContextLengthExceeded):
        engine.score(ASK, ("word " * 400, "nine"))


def test_several_streams_at_once_give_what_each_gives_alone(engines):
    engine = engines["a"]
    asks = [Request((Message("user", f"{n} parcels"),), max_tokens=12, temperature=0.0) for n in range(8)]
    alone = [text_of(engine.generate(ask)) for ask in asks]
    found = [""] * len(asks)

    def one(n):
        found[n] = text_of(engine.generate(asks[n]))

    threads = [threading.Thread(target=one, args=(n,)) for n in range(len(asks))]
    [thread.start() for thread in threads]
    [thread.join(60) for thread in threads]
    # near ties may turn when rows share a batch: nearly all are the same to the letter
    assert sum(a == b for a, b in zip(alone, found, strict=True)) >= 6
    assert all(found)


def test_hanging_up_and_closing(folders):
    engine = opened(folders, "b", streams="2")
    answer = engine.generate(Request(ASK, max_tokens=300))
    next(answer)
    answer.close()
    with pytest.raises(Cancelled):
        next(
            engine.generate(Request(ASK, max_tokens=300, constrain=Grammar("regex", "a{200}")), lambda: True)
        )
    assert list(engine.generate(Request(ASK, max_tokens=1)))
    assert engine.health().ready
    engine.close()
    engine.close()
    assert not engine.health().ready
    with pytest.raises(Unavailable):
        next(engine.generate(Request(ASK)))
    engine.load()
    assert list(engine.generate(Request(ASK, max_tokens=1)))
    engine.close()


def test_what_it_makes_is_kept_and_a_packages_own_file_is_used(folders, monkeypatch):
    opened(folders, "a").close()
    monkeypatch.setattr(paged, "made", lambda *_: pytest.fail("made again"))
    OpenVinoEngine.open(opening(folders, "a"))
    seen = []
    monkeypatch.setattr(paged, "made", lambda gguf, out: (seen.append(gguf), out.mkdir()))
    own = folders / "None.gguf"
    OpenVinoEngine.open(replace(opening(folders, None), digest="packaged", gguf={"gguf-q8": own}))
    assert seen == [own]
    assert not [one for one in (folders / "cache").iterdir() if one.name.startswith(".making-")]


def test_nothing_is_told_to_anybody(folders, tmp_path):
    """Importing OpenVINO makes an id in the home and sends an event, where nothing keeps it from that."""
    script = (
        "import sys; from pathlib import Path; from luthier.models import paged\n"
        f"paged.made(Path({str(folders / 'None.gguf')!r}), Path({str(tmp_path / 'graph')!r}))\n"
        f"paged.Paged(Path({str(tmp_path / 'graph')!r}), tokens=64, threads=1)\n"
        "print([one for one in sys.modules if 'telemetry' in one and sys.modules[one] is not None])"
    )
    environ = {
        "HOME": str(tmp_path / "home"),
        "PATH": os.environ["PATH"],
        "PYTHONPATH": os.environ.get("PYTHONPATH", ""),
    }
    (tmp_path / "home").mkdir()
    told = subprocess.run(
        [sys.executable, "-c", script], env=environ, capture_output=True, text=True, check=True
    )
    assert told.stdout.strip().splitlines()[-1] == "[]"
    assert list((tmp_path / "home").iterdir()) == []


def test_without_the_library_it_says_so_before_it_writes(folders, monkeypatch):
    monkeypatch.setattr(paged, "version", lambda: None)
    before = sorted(folders.glob("cache/*"))
    with pytest.raises(MissingPart, match="openvino"):
        OpenVinoEngine.open(replace(opening(folders, "a"), digest="fresh"))
    assert sorted(folders.glob("cache/*")) == before


def test_the_plain_precision_is_the_processors_own(folders):
    engine = opened(folders, None, precision="auto")
    assert "OpenVINO" in engine.backend.told and "8 streams" not in engine.backend.told
    assert list(engine.generate(Request(ASK, max_tokens=4)))
    engine.close()


def test_what_it_cannot_serve_is_refused(folders, tmp_path):
    with pytest.raises(SpecError, match="no setting 'stream'"):
        OpenVinoEngine.open(opening(folders, "a", stream="3"))
    with pytest.raises(SpecError, match="precision is 'fp8'"):
        OpenVinoEngine.open(opening(folders, "a", precision="fp8"))
    with pytest.raises(SpecError, match="streams is '0'"):
        OpenVinoEngine.open(opening(folders, "a", streams="0"))
    import shutil

    shutil.copytree(folders / "a", tmp_path / "a")
    (tmp_path / "a" / "head.safetensors").touch()
    with pytest.raises(ModelError, match="head of its own, which OpenVINO"):
        OpenVinoEngine.open(replace(opening(folders, "a"), adapter_folder=tmp_path / "a", digest="head"))
    broken = tmp_path / "broken.gguf"
    broken.write_bytes(b"GGUF nonsense")
    with pytest.raises(ModelError, match="OpenVINO does not read"):
        OpenVinoEngine.open(replace(opening(folders, None), digest="broken", gguf={"gguf-q8": broken}))
    assert not [one for one in (folders / "cache").iterdir() if one.name.startswith(".making-")]
