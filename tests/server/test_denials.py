"""What was refused is summed up, bounded, and told even at the end."""

import threading

from luthier.server import denials
from luthier.server.denials import OTHERS, Denials, Denied
from luthier.server.watch import Seen


def seen(status=401, code="invalid_api_key", route="/v1/models", key=None):
    return Seen("req", "GET", route, status, code, key, 0.0, 0.1)


def test_only_what_lacked_a_right_is_counted_and_all_of_it():
    told = []
    with Denials(told.append, every_s=1000) as observer:
        for status in (200, 404, 429, 500):
            observer(seen(status, code=None))
        for _ in range(1000):
            observer(seen())
        observer(seen(403, "insufficient_permissions", "/metrics", "abcdefgh"))
    (sums,) = told
    assert sums == {
        Denied("invalid_api_key", "GET", "/v1/models", None): 1000,
        Denied("insufficient_permissions", "GET", "/metrics", "abcdefgh"): 1,
    }


def test_what_is_new_without_end_is_bounded(monkeypatch):
    monkeypatch.setattr(denials, "MOST", 3)
    told = []
    with Denials(told.append, every_s=1000) as observer:
        for n in range(10):
            observer(seen(key=f"key{n}"))
    assert len(told[0]) == 4 and told[0][OTHERS] == 7


def test_sums_are_told_as_time_goes_by_and_kept_where_that_fails():
    told, twice, fails = [], threading.Event(), [True]

    def tell(sums):
        if fails.pop() if fails else False:
            raise OSError("the database is away")
        told.append(dict(sums))
        twice.set()

    with Denials(tell, every_s=0.01) as observer:
        observer(seen())
        assert twice.wait(10)
    assert told == [{Denied("invalid_api_key", "GET", "/v1/models", None): 1}]
