"""What databases say when they refuse, in our words: what happened, then the database's own sentence, then a remedy."""

from __future__ import annotations

import re

FAULTS: list[tuple[str, str, str]] = [
    (r"password authentication failed|access denied for user|no password supplied|authentication failed",
     "the database refused the user or the password", "Check the user in the URL and what {names} stands for."),
    (r"statement timeout|interrupted|canceling statement|max_execution_time|query execution was interrupted",
     "the database did not answer within {timeout}", "Raise timeout_s, ask for fewer rows (since, until, where), or give the database an index on the key."),
    (r"database is locked|lock timeout|deadlock|conflicting lock|could not set lock",
     "another process holds the database", "Run again when it is done."),
    (r"read-only|readonly|read only",
     "the query wants to change the database, and a source only reads", "Write a select."),
    (r"connection refused|could not connect|connection failed|failed to resolve|name or service not known|timeout expired|connection timeout|no such host|unable to open|network is unreachable|does not exist on the server|connection is bad",
     "the database cannot be reached", "Check host, port and database in the URL, and that this machine may connect."),
    (r"no such column|column .* does not exist|unknown column|referenced column .* not found|has no column",
     "the query names a column that is not there", "Check the names in query:, key: and watermark:."),
    (r"no such table|relation .* does not exist|table .* does not exist|unknown table",
     "there is no such table", "Check the name in table: or query:; write the schema before it where it needs one."),
    (r"syntax error|parser error|near \".*\": ",
     "the database does not understand the query", "Run it in the database's own client first."),
    (r"permission denied|not authorized|access denied",
     "the user may not read it", "Let the user select from it: grant select on TABLE to USER."),
]  # fmt: skip

WRITING: list[tuple[str, str, str]] = [
    (r"already exists", "the table is already there", "Name another table: nothing is ever overwritten."),
    (r"permission denied|not authorized|access denied for user .* to database|read-only|readonly|read only",
     "the user may not create a table there", "Let the user create tables: grant create on schema NAME to USER."),
    (r"schema .* does not exist|invalid schema name|unknown database",
     "there is no such schema", "Create the schema first, or leave it out of --table."),
    (r"no space left|disk is full|database or disk is full|disk full",
     "the database has no space left", "Free some space there, and run the same command again."),
]  # fmt: skip
"""What is said otherwise where rows are to be written; nothing of them is kept then."""


def explain(reason: str, timeout_s: float | None, secrets: list[str], write: bool = False) -> tuple[str, str]:
    """The message and the remedy for a database's sentence; `secrets` are the variables that the address refers to.

    >>> explain('column "bdy" does not exist', None, [])[0]
    'the query names a column that is not there: column "bdy" does not exist'
    """
    faults = [*FAULTS[:1], *WRITING, *FAULTS[1:]] if write else FAULTS
    fault = next((one for one in faults if re.search(one[0], reason, re.IGNORECASE)), None)
    if fault is None:
        remedy = "Nothing was written." if write else "Run the query in the database's own client first."
        return f"the database says: {reason}", remedy
    timeout = f"{timeout_s:g} s" if timeout_s is not None else "its own limit"
    names = " and ".join(f"${{{name}}}" for name in secrets) or "the environment"
    return f"{fault[1].format(timeout=timeout)}: {reason}", fault[2].format(names=names)
