"""Every error a user can meet, drawn once. Each names the value, the rule it broke and the remedy.

    LuthierError
    ├── SpecError          a recipe or a request says something that cannot be            exit 2
    ├── DataError          a source, a row or a label is not what it should be            exit 3
    ├── ModelError         a model folder is missing, unsafe, or does not fit the task    exit 4
    ├── StoreError         the home cannot be read or written                             exit 5
    │   ├── NotFound       no artifact, name or row answers to that reference
    │   ├── Busy           another process holds what is needed
    │   │   └── BeingMade  another process makes this very artifact just now
    │   └── Conflict       somebody else changed it a moment ago
    │       └── Stale      another has taken over what was held; nothing more may be written
    ├── MissingPart        an optional dependency is not installed                        exit 6
    ├── GateFailed         policy stopped the line, with the numbers                      exit 7
    ├── NotAllowed         who asks may not do that there                                 exit 8
    ├── OverBudget         a budget has not enough left for it                            exit 9
    └── Interrupted        stopped by the user; the state is resumable                    exit 130

A traceback reaches a user only for a defect in Luthier itself.
"""

from __future__ import annotations


class LuthierError(Exception):
    """What went wrong, and what to do about it.

    `str(error)` is one or more plain lines; `remedy` is the part that says how to go on.
    """

    exit_code = 1

    def __init__(self, message: str, *, remedy: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.remedy = remedy

    def __str__(self) -> str:
        return f"{self.message}\n  → {self.remedy}" if self.remedy else self.message


class SpecError(LuthierError):
    exit_code = 2


class DataError(LuthierError):
    exit_code = 3
    without: str | None = None
    """The message without what stands in a row, for where rows are not to be shown."""


class ModelError(LuthierError):
    exit_code = 4


class StoreError(LuthierError):
    exit_code = 5


class NotFound(StoreError):
    pass


class Busy(StoreError):
    pass


class BeingMade(Busy):
    pass


class Conflict(StoreError):
    pass


class Stale(Conflict):
    pass


class MissingPart(LuthierError):
    exit_code = 6


class GateFailed(LuthierError):
    exit_code = 7


class NotAllowed(LuthierError):
    exit_code = 8


class OverBudget(LuthierError):
    exit_code = 9


class Interrupted(LuthierError):
    exit_code = 130


def did_you_mean(word: str, known: list[str] | tuple[str, ...]) -> str:
    """A closing phrase that offers the nearest known words, or lists them when none is near.

    >>> did_you_mean("epoch", ["epochs", "rank"])
    "did you mean 'epochs'?"
    >>> did_you_mean("zzz", ["epochs", "rank"])
    'known: epochs, rank'
    """
    import difflib

    near = difflib.get_close_matches(word, known, n=2, cutoff=0.6)
    if near:
        return "did you mean " + " or ".join(repr(n) for n in near) + "?"
    return "known: " + ", ".join(sorted(known))


# Which extra brings the driver of a URL's scheme.
SCHEME_EXTRAS = {
    "s3": "s3",
    "s3a": "s3",
    "abfs": "azure",
    "abfss": "azure",
    "az": "azure",
    "gs": "gcs",
    "gcs": "gcs",
    "hdfs": "hdfs",
    "webhdfs": "hdfs",
}


def missing_part(package: str, extra: str, what_for: str) -> MissingPart:
    """The error for an optional dependency that is not there."""
    return MissingPart(
        f"{what_for} needs the package {package!r}, which is not installed.",
        remedy=f"pip install 'luthier[{extra}]'   (`luthier doctor` shows everything that is missing)",
    )
