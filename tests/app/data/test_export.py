"""A dataset leaves as a plain folder that other tools can load: Parquet and, where asked for, Croissant."""

from __future__ import annotations

import hashlib
import json

import pyarrow.parquet as pq
import pytest

from luthier.core.errors import SpecError


def test_the_files_are_the_rows_and_what_was_removed_stays(shop, some, tmp_path):
    shop.rows([*some(), some()[5]])
    dataset = shop.prepare()
    told = shop.app.data.export(dataset.digest, tmp_path / "out")
    assert told["files"] == [
        "dataset.json",
        "manifest.json",
        "test.parquet",
        "train.parquet",
        "validation.parquet",
    ]
    for side in ("train", "validation", "test"):
        assert (tmp_path / "out" / f"{side}.parquet").read_bytes() == shop.file(
            dataset, f"{side}.parquet"
        ).read_bytes()
    with pytest.raises(SpecError, match="already there"):
        shop.app.data.export(dataset.digest, tmp_path / "out")
    assert not list(tmp_path.glob(".*partial"))


@pytest.fixture
def exported(shop, tmp_path):
    dataset = shop.prepare(
        "data.about={owner: support team, licence: CC-BY-4.0, purpose: route tickets, tags: [a]}"
    )
    shop.app.data.export(dataset.digest, tmp_path / "out", croissant=True)
    return shop, dataset, tmp_path / "out"


def test_the_metadata_says_what_is_there(exported):
    _shop, _dataset, folder = exported
    told = json.loads((folder / "croissant.json").read_text())
    assert told["conformsTo"] == "http://mlcommons.org/croissant/1.0" and told["license"] == "CC-BY-4.0"
    assert (
        told["creator"]["name"] == "support team"
        and told["description"] == "route tickets"
        and told["keywords"] == ["a"]
    )
    for file, records in zip(told["distribution"], told["recordSet"], strict=True):
        path = folder / file["contentUrl"]
        assert hashlib.sha256(path.read_bytes()).hexdigest() == file["sha256"]
        columns = {field["@id"].split("/")[1] for field in records["field"]}
        assert columns <= set(pq.read_schema(path).names) and "messages" in columns
    assert {one["name"] for one in told["recordSet"]} == {"train", "validation", "test"}


def test_what_nobody_said_is_said_to_be_not_recorded(shop, tmp_path):
    shop.app.data.export(shop.prepare().digest, tmp_path / "out", croissant=True)
    told = json.loads((tmp_path / "out" / "croissant.json").read_text())
    assert told["license"] == "not recorded" and "creator" not in told and "classify" in told["description"]


def test_an_older_dataset_leaves_too(shop, tmp_path):
    told = shop.app.data.export(shop.aged(shop.prepare()).digest, tmp_path / "out", croissant=True)
    assert "croissant.json" in told["files"]


def test_mlcroissant_takes_it_and_reads_the_rows(exported):
    mlc = pytest.importorskip("mlcroissant", reason="mlcroissant is not installed")
    shop, dataset, folder = exported
    loaded = mlc.Dataset(jsonld=folder / "croissant.json")
    issues = loaded.metadata.ctx.issues
    assert issues.errors == set() or not issues.errors, issues.report()
    told = {row["test/id"].decode(): row for row in loaded.records("test")}
    rows = shop.table(dataset, "test")
    assert set(told) == {row["id"] for row in rows}
    for row in rows:
        assert told[row["id"]]["test/label"].decode() == row["label"]
