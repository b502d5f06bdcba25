"""Spark's errors in few words: what is wrong and how to mend it, without a stack of another language and without a secret.
Errors of ours, and defects, pass as they are. Nothing here imports pyspark."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from luthier.core.errors import LuthierError, MissingPart, StoreError, missing_part

SAME = "Give the workers the same environment as this machine; docs/spark.md says how."
OF_SPARK = ("pyspark", "py4j", "grpc")
DEFECTS = ("AnalysisException", "ParseException", "PySparkTypeError")
LACKS = re.compile(r"No module named '([\w.]+)'")
OUT_OF_MEMORY = re.compile(
    r"OutOfMemory|exit(?:ed|ing)? (?:with )?(?:code|status) ?:? ?(?:137|52)\b|Python worker exited unexpectedly"
)
LONGEST = 300


@contextmanager
def told(storage: str = "", masked: Callable[[str], str] = str, *, storing: bool = False) -> Iterator[None]:
    """Raises StoreError where Spark gives up, MissingPart where workers lack something. `masked` takes secrets out of a text;
    `storing` says that it can only be the storage."""
    try:
        yield
    except LuthierError:
        raise
    except Exception as error:
        if type(error).__module__.partition(".")[0] not in OF_SPARK and not isinstance(error, OSError):
            raise
        found = _in_words(error, storage, masked, storing)
        if found is None:
            raise
        raise found from None


def _in_words(
    error: Exception, storage: str, masked: Callable[[str], str], storing: bool
) -> LuthierError | None:
    """None for a defect of ours."""
    text = str(error)
    if "PYTHON_VERSION_MISMATCH" in text:
        return MissingPart("Spark's workers run another version of Python than this machine.", remedy=SAME)
    if "PACKAGE_NOT_INSTALLED" in text:
        name = re.search(r"(\w+) >= [\d.]+ must be installed", text)
        return missing_part(name[1].lower() if name else "a package", "spark", "the engine spark")
    if lacks := LACKS.search(text):
        return MissingPart(f"Spark's workers cannot import {lacks[1]}.", remedy=SAME)
    reason = masked(_reason(error))
    if storing or (storage and (storage in text or "PATH_NOT_FOUND" in text)):
        return StoreError(
            f"Spark cannot use its storage {masked(storage.rpartition('/')[0])}: {reason}.",
            remedy="It must be a folder or URL that this machine and every worker can read and write; what Spark needs to reach it "
            "goes into the engine's options (docs/spark.md).",
        )
    if type(error).__name__ in DEFECTS or "Traceback (most recent call last)" in text:
        return None
    more = "Give its workers more memory (spark.executor.memory, spark.executor.memoryOverhead)"
    remedy = more if OUT_OF_MEMORY.search(text) else "Check the workers and their memory"
    return StoreError(
        f"Spark gave up: {reason}.", remedy=f"{remedy}; spark.log in the stage's scratch folder says more."
    )


def _reason(error: Exception) -> str:
    """One line: of what Java raised, the first cause."""
    cause = getattr(error, "java_exception", None)
    while cause is not None and (deeper := cause.getCause()) is not None:
        cause = deeper
    text = str(error if cause is None else cause.toString())
    line = text.strip().partition("\n")[0] or type(error).__name__
    return line[:LONGEST].rstrip(". ")
