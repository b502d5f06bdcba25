"""A place outside a home: it needs no right but to make what is new there, and is known again after it was mounted anew."""

import errno
import os
from pathlib import Path

import pytest

from luthier.core.errors import StoreError
from luthier.core.testing import arm
from luthier.store.outside import Outside

NAME = "projects/proj_1/000000000001-1.jsonl"


@pytest.fixture
def away(tmp_path):
    (tmp_path / "away").mkdir()
    return tmp_path / "away"


@pytest.fixture
def place(away, tmp_path):
    return Outside.at(str(away), tmp_path / "home", {}, "checkpoints")


@pytest.fixture
def append_only(monkeypatch):
    def refused(*_, **__):
        raise PermissionError(errno.EPERM, "append only")

    for name in ("rename", "replace", "unlink", "remove"):
        monkeypatch.setattr(os, name, refused)


def files(folder):
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_a_folder_that_allows_nothing_but_what_is_new(place, away, append_only):
    place.write(NAME, b"whole\n")
    assert files(away) == {NAME: b"whole\n"}
    with pytest.raises(StoreError, match="exists"):
        place.write(NAME, b"other\n")
    assert files(away) == {NAME: b"whole\n"}


def test_what_was_not_written_whole_is_taken_away_where_that_may_be(place, away):
    with (
        arm("files.fsync", OSError(errno.ENOSPC, "no space")),
        pytest.raises(StoreError, match="full"),
    ):
        place.write(NAME, b"whole\n")
    assert files(away) == {}
    place.write(NAME, b"whole\n")
    assert files(away) == {NAME: b"whole\n"}


def test_where_that_may_not_be_its_beginning_stays(place, away, append_only):
    with arm("files.write", OSError(errno.EIO, "gone")), pytest.raises(StoreError):
        place.write(NAME, b"whole\n")
    assert files(away) == {NAME: b""}


def test_a_disk_that_is_gone_is_told_and_known_again_under_another_number(tmp_path, away, monkeypatch):
    mounted, ismount = {away}, os.path.ismount
    monkeypatch.setattr(os.path, "ismount", lambda path: Path(path) in mounted or ismount(path))
    (away / "luthier").mkdir()
    place = Outside.at(str(away / "luthier"), tmp_path / "home", {}, "checkpoints")
    place.write("site/1.jsonl", b"1\n")
    mounted.clear()
    with pytest.raises(StoreError, match="no longer on the disk that it was on"):
        place.write("site/2.jsonl", b"2\n")
    mounted.add(away)
    real = os.stat
    monkeypatch.setattr(os, "stat", lambda path, **more: _elsewhere(real(path, **more)))
    place.write("site/3.jsonl", b"3\n")
    monkeypatch.undo()
    assert set(files(away)) == {"luthier/site/1.jsonl", "luthier/site/3.jsonl"}


def _elsewhere(found):
    """On a disk of another number."""
    return os.stat_result((*found[:2], found.st_dev + 1, *found[3:10]))


def test_a_bucket_is_asked_for_nothing_but_to_take_an_object(bucket, tmp_path, monkeypatch):
    s3fs = pytest.importorskip("s3fs")
    asked, call = [], s3fs.S3FileSystem._call_s3

    async def _call_s3(self, method, *args, **more):
        asked.append(method)
        return await call(self, method, *args, **more)

    monkeypatch.setattr(s3fs.S3FileSystem, "_call_s3", _call_s3)
    Outside.at("s3://company/trail", tmp_path / "home", {}, "checkpoints").write(NAME, b"whole\n")
    mistyped = Outside.at("s3://compny/trail", tmp_path / "home", {}, "checkpoints")
    with pytest.raises(StoreError, match="checkpoints at s3://compny/trail failed"):
        mistyped.write(NAME, b"whole\n")
    assert asked == ["put_object", "put_object"]
    assert bucket.cat_file(f"company/trail/{NAME}") == b"whole\n"
    assert not any(name.startswith("compny") for name in bucket.ls("", refresh=True))
