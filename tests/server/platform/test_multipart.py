"""Forms with a file, read as they arrive: whole, in any pieces, and the ones that two readers could take differently."""

from __future__ import annotations

import asyncio
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st
from starlette.requests import Request

from luthier.server.errors import ApiError
from luthier.server.platform.multipart import PIECE_BYTES, read_form

FIELDS = ("purpose", "expires_after[seconds]")


def part(disposition: str, data: bytes, more: str = "") -> bytes:
    return f"--B\r\nContent-Disposition: form-data; {disposition}\r\n{more}\r\n".encode() + data + b"\r\n"


def file(data: bytes, name: str = "rows.jsonl") -> bytes:
    return part(f'name="file"; filename="{name}"', data, "Content-Type: application/octet-stream\r\n")


END = b"--B--\r\n"
PURPOSE = part('name="purpose"', b"fine-tune")


def read(body: bytes, cuts=(), content_type="multipart/form-data; boundary=B", most=1_000_000, headers=()):
    places = [0, *sorted(set(cuts) & set(range(len(body)))), len(body)]
    pieces = [body[a:b] for a, b in pairwise(places)]

    async def receive():
        return {"type": "http.request", "body": pieces.pop(0) if pieces else b"", "more_body": bool(pieces)}

    scope = {
        "type": "http",
        "headers": [(b"content-type", content_type.encode()), *headers],
        "method": "POST",
    }
    got = bytearray()
    form = asyncio.run(
        read_form(Request(scope, receive), "file", FIELDS, got.extend, most_bytes=most, timeout_s=5)
    )
    return form, bytes(got)


@pytest.mark.parametrize("order", ["file first, as Node sends it", "file last, as Python does"])
def test_a_file_and_its_purpose_in_either_order(order):
    pieces = [file(b"{}\n"), PURPOSE] if "first" in order else [PURPOSE, file(b"{}\n")]
    form, data = read(b"".join(pieces) + END)
    assert (form.fields, form.filename, data) == ({"purpose": "fine-tune"}, "rows.jsonl", b"{}\n")


@given(st.binary(max_size=300), st.lists(st.integers(1, 600), max_size=8))
def test_pieces_make_no_difference(data, cuts):
    if b"\r\n--B" in data:
        return
    body = PURPOSE + file(data) + END
    assert read(body, cuts)[1] == data == read(body)[1]


def test_a_file_larger_than_a_piece_comes_whole_and_in_order():
    data = bytes(range(256)) * (PIECE_BYTES // 64)
    assert read(file(data) + END, range(0, len(data), 70_001), most=len(data))[1] == data


@pytest.mark.parametrize(
    ("body", "code"),
    [
        (b"preamble\r\n" + PURPOSE + END, "invalid_multipart"),
        (PURPOSE + PURPOSE + END, "invalid_multipart"),
        (file(b"a") + file(b"b") + END, "invalid_multipart"),
        (file(b"a"), "invalid_multipart"),
        (file(b"a") + END + b"more", "invalid_multipart"),
        (b"--B\r\nContent-Disposition: form-data; name=\"file\"; filename*=UTF-8''a\r\n\r\na\r\n" + END, "invalid_multipart"),
        (part('name="file"; filename="a"', b"a", "Content-Transfer-Encoding: base64\r\n") + END, "invalid_multipart"),
        (part('name="file"; name="purpose"', b"a") + END, "invalid_multipart"),
        (part('name="purpose"', b"x" * 5000) + END, "invalid_multipart"),
        (part('name="purpose"', b"\xff") + END, "invalid_multipart"),
        (part('name="other"', b"x") + END, "unknown_parameter"),
        (b"", "invalid_multipart"),
    ],
)  # fmt: skip
def test_what_two_readers_could_take_differently_is_refused(body, code):
    with pytest.raises(ApiError) as refused:
        read(body)
    assert (refused.value.status, refused.value.code) == (400, code)


def test_limits_hold_for_known_and_for_chunked_lengths():
    with pytest.raises(ApiError) as chunked:
        read(file(b"x" * 2000) + END, most=1000)
    with pytest.raises(ApiError) as known:
        read(file(b"x"), most=10, headers=[(b"content-length", b"999999")])
    assert (chunked.value.status, known.value.status) == (413, 413)


@pytest.mark.parametrize(
    "kind",
    [
        "application/json",
        "multipart/form-data",
        "multipart/form-data; boundary=",
        "multipart/mixed; boundary=B",
    ],
)
def test_another_media_type_is_refused(kind):
    with pytest.raises(ApiError) as refused:
        read(PURPOSE + END, content_type=kind)
    assert refused.value.status == 415
