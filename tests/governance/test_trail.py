"""What verifying finds: every way of tampering is named, at the first entry that it touched, and a sound trail is not accused."""

import os
import shutil
import sqlite3
from dataclasses import replace

import pytest

from luthier.core.errors import DataError, SpecError
from luthier.governance.trail import examine, new_key, sign, trusted
from luthier.store import Store
from luthier.store.audit import FIRST, Act

ENTRIES = 12


@pytest.fixture
def store(tmp_path):
    made = Store.open(tmp_path / "home")
    for n in range(ENTRIES):
        made.audit.append(Act("local", "released", f"router@{n}", {"n": n}, person={"user": "ann"}))
    return made


@pytest.fixture
def key(tmp_path):
    pytest.importorskip("cryptography")
    new_key(tmp_path / "audit.pem")
    return tmp_path / "audit.pem"


def found(store, checkpoints=()):
    result = examine(store.audit.read(), store.audit.people, checkpoints)
    return [(one.kind, one.seq) for one in result.faults]


def tampered(store, *statements):
    """As somebody who can write the file does it: without triggers."""
    with sqlite3.connect(store.home / "luthier.db") as connection:
        for (name,) in connection.execute("select name from sqlite_master where type = 'trigger'").fetchall():
            connection.execute(f"drop trigger {name}")
        for statement in statements:
            connection.execute(*statement) if isinstance(statement, tuple) else connection.execute(statement)


def restamp(store, start, **changed):
    """Change one entry and reckon all hashes anew from there on."""
    entries = list(store.audit.read())
    previous = entries[start - 2].sha256 if start > 1 else FIRST
    for entry in entries[start - 1 :]:
        bare = replace(entry, previous=previous, **(changed if entry.seq == start else {}))
        previous = bare.reckoned()
        tampered(
            store,
            (
                "update audit set actor = ?, subject = ?, previous = ?, sha256 = ? where seq = ?",
                (bare.actor, bare.subject, bare.previous, previous, bare.seq),
            ),
        )


def checkpoints(store, key, *seqs):
    return [sign(one, key, 0) for one in store.audit.read() if one.seq in seqs]


def test_a_sound_trail_is_not_accused(store, key):
    result = examine(store.audit.read(), store.audit.people, checkpoints(store, key, 4, 9))
    assert result.sound and (result.entries, result.proven, result.checkpoints) == (ENTRIES, 9, 2)
    assert examine([], lambda _: {}).sound


@pytest.mark.parametrize(
    ("statement", "kind", "seq"),
    [
        ("update audit set subject = 'router@99' where seq = 5", "altered", 5),
        ("update audit set time_us = time_us + 1 where seq = 1", "altered", 1),
        ("update audit set outcome = 'denied' where seq = 12", "altered", 12),
        ("update audit set data = '{\"n\": 0}' where seq = 8", "altered", 8),
        ("update audit set data = '5' where seq = 8", "altered", 8),
        ("update audit set data = '{' where seq = 8", "altered", 8),
        ("update audit set data = '{\"n\": NaN}' where seq = 8", "altered", 8),
        ("update audit set data = '{\"n\": 7.0}' where seq = 8", "altered", 8),
        ("update audit_people set salt = 'zz' where seq = 7", "unmasked", 7),
        ("update audit_people set person = '7' where seq = 7", "unmasked", 7),
        ("delete from audit where seq = 5", "removed", 5),
        ("delete from audit where seq = 1", "removed", 1),
        ("delete from audit where seq between 3 and 6", "removed", 3),
        ('update audit_people set person = \'{"user": "bob"}\' where seq = 7', "unmasked", 7),
        ("delete from audit_people where seq = 7", "unmasked", 7),
    ],
)
def test_what_was_changed_is_named(store, statement, kind, seq):
    tampered(store, statement)
    assert found(store) == [(kind, seq)]


def test_two_that_changed_places_are_named(store):
    tampered(
        store,
        "update audit set seq = 100 where seq = 4",
        "update audit set seq = 4 where seq = 5",
        "update audit set seq = 5 where seq = 100",
    )
    assert found(store)[0] == ("altered", 4)


def test_one_that_was_written_anew_with_its_own_hash_is_named(store):
    entry = replace(list(store.audit.read())[4], subject="router@99")
    tampered(
        store, ("update audit set subject = ?, sha256 = ? where seq = 5", (entry.subject, entry.reckoned()))
    )
    assert found(store) == [("replaced", 5)]


def test_a_trail_that_was_reckoned_anew_is_found_by_a_checkpoint(store, key):
    known = checkpoints(store, key, 3, 9)
    restamp(store, 6, subject="router@99")
    assert found(store) == []  # in itself it is sound: whoever writes the file can reckon hashes
    assert found(store, known) == [("restamped", 4)]
    assert found(store, known[:1]) == []  # the older one vouches for what came before it alone


def test_a_trail_that_was_cut_is_found_by_a_checkpoint(store, key):
    known = checkpoints(store, key, 3, 9)
    tampered(store, "delete from audit where seq > 7", "delete from audit_people where seq > 7")
    assert found(store) == [] and found(store, known) == [("truncated", 8)]


def test_an_old_copy_is_found_whether_it_went_on_or_not(store, key, tmp_path):
    shutil.copytree(store.home, tmp_path / "backup")
    for n in range(3):
        store.audit.append(Act("local", "released", f"newer@{n}"))
    known = checkpoints(store, key, 3, 15)
    old = Store.open(tmp_path / "backup")
    assert found(old, known) == [("truncated", 13)]
    for n in range(5):
        old.audit.append(Act("local", "released", f"another@{n}"))
    assert found(old) == [] and found(old, known) == [("restamped", 4)]


def test_an_erased_person_is_no_fault(store):
    store.audit.erase([2, 5], Act("local", "audit.erased", "audit", {"because": "asked for"}))
    result = examine(store.audit.read(), store.audit.people)
    assert result.sound and result.erased == 2


def test_a_checkpoint_is_what_was_signed_or_nothing(store, key, tmp_path):
    (made,) = checkpoints(store, key, 9)
    public = tmp_path / "audit.pem.pub"
    assert trusted([made.line(), ""], [public], "file") == [made]
    for changed in (replace(made, seq=8), replace(made, sha256="0" * 64), replace(made, time_us=1)):
        with pytest.raises(DataError, match="not of this checkpoint"):
            trusted([changed.line()], [public], "file")
    new_key(tmp_path / "other.pem")
    with pytest.raises(DataError, match="which was not given"):
        trusted([made.line()], [tmp_path / "other.pem.pub"], "file")
    for line in (
        "{",
        "[]",
        '{"format": "luthier audit 1"}',
        made.line().replace('"seq":9', '"seq":"9"'),
        "[" * 9_999,
    ):
        with pytest.raises(DataError, match="file:1 is no checkpoint"):
            trusted([line], [public], "file")
    with pytest.raises(SpecError, match="no public key"):
        trusted([made.line()], [], "file")


def test_a_key_is_for_its_owner_and_never_overwritten(key, store):
    assert os.stat(key).st_mode & 0o077 == 0
    with pytest.raises(SpecError, match="never overwritten"):
        new_key(key)
    os.chmod(key, 0o644)
    with pytest.raises(SpecError, match="may be read by others"):
        sign(store.audit.head(), key, 0)
    with pytest.raises(SpecError, match="holds no private key"):
        (key.parent / "x.pem").write_text("nonsense")
        os.chmod(key.parent / "x.pem", 0o600)
        sign(store.audit.head(), key.parent / "x.pem", 0)
