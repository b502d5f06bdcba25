"""What two datasets do not share: each row is in exactly one of four heaps, with the reason."""

from __future__ import annotations

from luthier.app.data.diff import asked


def diff(shop, a, b):
    return shop.app.data.diff(a.digest, b.digest)


def test_a_dataset_is_the_same_as_itself(shop):
    one = shop.prepare()
    found = diff(shop, one, one)
    assert found["same"] and found["only_a"]["rows"] == found["changed"]["rows"] == 0 and found["asked"] == []
    assert found["rows_in_both"] == len(shop.every_row(one))


def test_another_seed_moves_rows_and_changes_nothing_else(shop):
    a, b = shop.prepare(), shop.prepare("data.split.seed=5")
    found = diff(shop, a, b)
    sides = [{row["id"]: row["side"] for row in shop.every_row(one)} for one in (a, b)]
    moved = [name for name in sides[0] if sides[0][name] != sides[1][name]]
    assert found["changed"]["by"] == {"side": len(moved)} and sum(found["changed"]["moves"].values()) == len(
        moved
    )
    assert found["only_a"]["rows"] == found["only_b"]["rows"] == 0 and found["rows_in_both"] == len(sides[0])
    assert found["asked"] == [{"key": "data.split.seed", "a": 0, "b": 5}]
    assert found["changed"]["examples"][0]["side"][0] != found["changed"]["examples"][0]["side"][1]


def test_a_rule_that_removes_gives_its_reason_from_either_side(shop, some):
    shop.rows([*some(), some()[5], some()[6]])
    a, b = shop.prepare("data.rules.quality=[normalize]"), shop.prepare()
    found = diff(shop, a, b)
    assert found["only_a"]["rows"] == 2 and found["only_b"]["rows"] == 0
    assert {why.partition(":")[0] for why in found["only_a"]["reasons"]} == {"deduplicate"}
    assert all(one["why"].startswith("deduplicate: the same as") for one in found["only_a"]["examples"])
    back = diff(shop, b, a)
    assert back["only_b"] == found["only_a"] and back["only_a"] == found["only_b"]


def test_new_rows_were_not_among_the_sources(shop, some):
    a = shop.prepare()
    shop.rows([*some(), {"text": "One more.", "queue": "billing", "customer": "z"}])
    b = shop.prepare()
    found = diff(shop, a, b)
    assert found["only_b"]["reasons"] == {"not among the sources": 1} and found["only_a"]["rows"] == 0
    assert {one["key"] for one in found["asked"]} == {"source.0"}


def test_content_label_and_weight_show_what_they_were(shop, some):
    rows = some()
    rows[3]["text"] = "Message 3:  please help."
    shop.rows(rows)
    a = shop.prepare("data.rules.quality=[]")
    b = shop.prepare("data.rules.quality=[normalize]", "data.sources.0.weight=2")
    found = diff(shop, a, b)
    n = len(shop.every_row(a))
    assert found["changed"]["by"] == {"content": 1, "weight": n} and found["changed"]["rows"] == n
    normal = shop.prepare("data.rules.quality=[normalize]")
    (one,) = diff(shop, a, normal)["changed"]["examples"]
    assert one["what"] == ["content"] and "3:  please" in one["before"] and "3: please" in one["after"]
    assert {e["key"] for e in found["asked"]} >= {"data.rules.quality", "data.sources.0.weight"}


def test_forgotten_rows_are_named_so(shop):
    a = shop.prepare()
    shop.app.data.forget(["group=c3"], really=True)
    b = shop.prepare()
    assert diff(shop, a, b)["only_a"]["reasons"] == {"forgotten": 2}
    assert {"key": "forgotten", "a": None, "b": "2 records"} in diff(shop, a, b)["asked"]


def test_an_older_dataset_can_be_compared(shop):
    new = shop.prepare()
    found = diff(shop, shop.aged(new), new)
    assert not found["same"] and found["changed"]["rows"] == found["only_a"]["rows"] == 0
    assert {"key": "preparation", "a": 2, "b": new.version} in found["asked"]


def test_what_was_asked_for_is_compared_to_the_last_value():
    one = {"rules": ["a", {"b": {"n": 1}}], "seed": 0, "only": 1}
    other = {"rules": ["a", {"b": {"n": 2}}], "seed": 0, "more": None}
    assert asked(one, other) == [{"key": "rules.1.b.n", "a": 1, "b": 2}, {"key": "only", "a": 1, "b": None}]
    assert asked({"rules": ["a"]}, {"rules": ["a", "b"]}) == [{"key": "rules", "a": ["a"], "b": ["a", "b"]}]
