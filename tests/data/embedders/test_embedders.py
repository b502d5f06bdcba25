"""What vectors must be: whole, the same in any company, near for like texts; the server's side by a server of the test."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from luthier.core.errors import DataError
from luthier.data.embedders.embedder import EmbedderSpec
from luthier.data.embedders.endpoint import Endpoint, EndpointSpec
from luthier.data.embedders.hashed import Hashed, HashedSpec
from luthier.data.spec import RulesSpec
from luthier.data.testing import HOSTILE
from luthier.data.vectors import cosines, floats, lengths, quantised

texts = st.lists(st.text(st.sampled_from("abcdefgh éß字.\n"), max_size=40), max_size=8)


@given(texts, st.sampled_from([32, 100, 1024]))
@settings(max_examples=60, deadline=None)
def test_a_vector_does_not_depend_on_the_texts_beside_it(told: list[str], size: int) -> None:
    embedder = Hashed(HashedSpec(size=size))
    whole = embedder.embed(told)
    assert (whole.shape, whole.dtype) == ((len(told), size), np.int8)
    alone = [embedder.embed([text])[0] for text in told]
    assert all(np.array_equal(a, b) for a, b in zip(whole, alone, strict=True))
    assert whole.size == 0 or whole.min() >= -127


def test_hostile_texts_are_vectors_too() -> None:
    found = Hashed(HashedSpec()).embed([*HOSTILE, "x" * 3_000_000, "word " * 400_000])
    assert not found[HOSTILE.index("")].any() and found[-1].any()


def test_like_spelling_is_near_and_blank_is_near_nothing() -> None:
    said = [
        "The delivery of my parcel is delayed",
        "My parcel's deliveries are delayed",
        "Reset the password of an account",
        "",
    ]
    near = cosines(*[Hashed(HashedSpec()).embed(said)] * 2)
    assert near[0, 1] > 0.6 > 0.4 > near[0, 2]
    assert near[3].tolist() == [0, 0, 0, 0]
    assert np.allclose(np.diag(near)[:3], 1)


@pytest.mark.parametrize("size", [1040, 1041, 3072])
def test_products_are_exact(size: int) -> None:
    """The largest there can be: 127 * 127 * size, which float32 holds up to 2^24 = 16,777,216."""
    full = np.full((1, size), 127, np.int8)
    assert int((floats(full) @ floats(full).T)[0, 0]) == 127 * 127 * size
    assert lengths(full)[0] == pytest.approx(127 * size**0.5)
    draw = np.random.default_rng(0).normal(size=(2, size))
    exact = draw[0] @ draw[1] / np.linalg.norm(draw[0]) / np.linalg.norm(draw[1])
    assert cosines(*quantised(draw)[:, None]) == pytest.approx(exact, abs=0.002)


def test_static_vectors_are_averaged(tmp_path: Path) -> None:
    """By hand: the sum of a, a, b is (2, 1, 0) times 1; of weights 1 and 4, (2, 4, 0)."""
    save = pytest.importorskip("safetensors.numpy").save_file
    tokenizers = pytest.importorskip("tokenizers")
    words = tokenizers.models.WordLevel({"[UNK]": 0, "a": 1, "b": 2}, unk_token="[UNK]")
    tokenizer = tokenizers.Tokenizer(words)
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    table = np.array([[0, 0, 0], [1, 0, 0], [0, 1, 0]], np.float32)
    wish = EmbedderSpec.model_validate({"static": {"folder": str(tmp_path)}})
    with pytest.raises(DataError, match=r"model\.safetensors is not there"):
        wish.mark()
    save({"embeddings": table}, str(tmp_path / "model.safetensors"))
    mark = wish.mark()
    assert wish.made().embed(["a b a", "", "odd"]).tolist() == [[127, 64, 0], [0, 0, 0], [0, 0, 0]]
    other = tmp_path / "weighed"
    other.mkdir()
    (other / "tokenizer.json").write_bytes((tmp_path / "tokenizer.json").read_bytes())
    save(
        {"embeddings": table[1:], "weights": np.array([0, 1, 4], np.float32), "mapping": np.array([0, 0, 1])},
        str(other / "model.safetensors"),
    )
    weighed = EmbedderSpec.model_validate({"static": {"folder": str(other)}})
    assert weighed.made().embed(["a b a"]).tolist() == [[64, 127, 0]]
    assert weighed.mark() != mark
    save({"odd": table}, str(other / "model.safetensors"))
    with pytest.raises(DataError, match="no table `embeddings`, but odd"):
        type(weighed.made())(weighed.settings)  # type: ignore[call-arg]


class Server(ThreadingHTTPServer):
    """Answers with (characters, 1) for each text, in the wrong order; fails as often as it is told."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.seen: list[tuple[list[str], str | None]] = []
        self.failures: list[int] = []
        self.answer: Any = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}/v1"


class Handler(BaseHTTPRequestHandler):
    server: Server

    def do_POST(self) -> None:
        told = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        assert self.path == "/v1/embeddings" and told["model"] == "m"
        self.server.seen.append((told["input"], self.headers["Authorization"]))
        code = self.server.failures.pop() if self.server.failures else 200
        self.send_response(code)
        if code == 302:
            self.send_header("Location", self.server.url + "/elsewhere")
        self.end_headers()
        data = [{"index": n, "embedding": [len(text), 1.0]} for n, text in enumerate(told["input"])]
        self.wfile.write(json.dumps(self.server.answer or {"data": data[::-1]}).encode())

    def log_message(self, *args: Any) -> None: ...


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    monkeypatch.setattr("luthier.data.embedders.endpoint.WAITS_S", (0.0, 0.0))
    monkeypatch.setenv("no_proxy", "*")
    found = Server()
    threading.Thread(target=found.serve_forever, daemon=True).start()
    yield found
    found.shutdown()
    found.server_close()


def at(server: Server, **wish: Any) -> Endpoint:
    return Endpoint(EndpointSpec(url=server.url, model="m", **wish))


def test_a_server_is_asked_once_for_each_text_in_batches(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KEY", "s3cret")
    embedder = at(server, batch=2, longest=4, key="${KEY}")
    found = embedder.embed(["ab", "", "ab", "abcdef", "abc"])
    assert found.tolist() == quantised(np.array([[2, 1], [0, 0], [2, 1], [4, 1], [3, 1]])).tolist()
    assert embedder.embed(["abc", "abcdxx"]).tolist() == found[[4, 3]].tolist()
    assert server.seen == [(["ab", "abcd"], "Bearer s3cret"), (["abc"], "Bearer s3cret")]
    assert at(server).embed(["", ""]).tolist() == [[0, 0], [0, 0]]


def test_a_cache_outlives_the_process(server: Server, tmp_path: Path) -> None:
    cache = str(tmp_path / "vectors.sqlite")
    first = at(server, cache=cache).embed(["ab", "c"])
    assert at(server, cache=cache).embed(["c", "ab"]).tolist() == first[::-1].tolist()
    assert len(server.seen) == 1
    with pytest.raises(DataError, match="vectors cannot be kept there"):
        at(server, cache=str(tmp_path / "none" / "vectors.sqlite")).embed(["ab"])


def test_what_fails_for_a_while_is_asked_again_and_then_told(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KEY", "s3cret")
    server.failures = [429, 500]
    assert at(server).embed(["ab"]).tolist() == [[127, 64]]  # 1 / 2 of 127 is 63.5, and half goes to even
    for failures, seen, says in (
        ([500] * 3, 3, "answers 500"), ([401], 1, "answers 401"), ([302], 1, "sends requests on to another place"),
    ):  # fmt: skip
        server.failures, server.seen = list(failures), []
        with pytest.raises(DataError, match=says) as told:
            at(server, key="${KEY}").embed(["ab"])
        assert "s3cret" not in str(told.value) and len(server.seen) == seen
    server.answer = {"data": [{"index": 0, "embedding": [1]}]}
    with pytest.raises(DataError, match="not one vector for each of 2 texts"):
        at(server).embed(["a", "b"])
    with pytest.raises(DataError, match="more than 1 texts were to be sent"):
        at(server, at_most=1).embed(["a", "b"])


FAR = {"url": "https://h/v1", "model": "m", "allow_host": "h"}


def test_texts_do_not_leave_before_private_data_has_gone() -> None:
    rank = {"to": "goal.txt", "n": 5, "method": "embedding", "embedder": {"endpoint": FAR}}
    with pytest.raises(ValidationError, match="rank sends rows to h before redact"):
        RulesSpec.model_validate({"relevance": [{"rank": rank}], "quantity": ["redact"]})
    RulesSpec.model_validate({"quality": ["redact"], "relevance": [{"rank": rank}]})


@pytest.mark.parametrize(
    ("wish", "says"),
    [
        ({"url": "file:///etc/passwd", "model": "m"}, "no URL of a server"),
        ({"url": "http://u:p@h/v1", "model": "m"}, "holds no password"),
        ({"url": "http://localhost/v1", "model": "m", "key": "abc"}, "refer to an environment variable"),
        ({"url": "http://localhost/v1", "model": "m", "cache": "a.sqlite"}, "not a whole path"),
        ({"url": "http://h/v1", "model": "m"}, "write allow_host: h"),
        ({"url": "http://h/v1", "model": "m", "allow_host": "g"}, "allow_host is 'g'"),
    ],
)
def test_settings_are_refused_early(wish: dict[str, Any], says: str) -> None:
    with pytest.raises(ValidationError, match=says):
        EmbedderSpec.model_validate({"endpoint": wish})
    with pytest.raises(ValidationError, match="not a whole path"):
        EmbedderSpec.model_validate({"static": {"folder": "models"}})
    with pytest.raises(ValidationError, match="did you mean"):
        EmbedderSpec.model_validate("hash")
