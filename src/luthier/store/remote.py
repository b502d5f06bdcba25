"""A place at an fsspec URL: opened with what the environment says, and its many families of errors told as one."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from luthier.core.errors import SCHEME_EXTRAS, StoreError, missing_part
from luthier.core.spec import redact, resolve


def open_url(url: str, environ: Mapping[str, str], what: str) -> tuple[Any, str]:
    """(the file system, where in it). `url` may hold ${VAR}; `what` it is, for messages. Raises MissingPart, StoreError."""
    import fsspec

    scheme = url.split("://", 1)[0]
    try:
        fs, root = fsspec.core.url_to_fs(resolve(url, environ))
    except ImportError as error:
        raise missing_part(
            str(error.name or scheme), SCHEME_EXTRAS.get(scheme, scheme), f"{what} at {scheme}://"
        ) from None
    except ValueError as error:
        raise StoreError(
            f"{url!r} is not a place for {what}: {error}.",
            remedy="Use a folder, s3://, abfs:// or webhdfs://.",
        ) from None
    return fs, root


@contextmanager
def reachable(url: str, environ: Mapping[str, str], what: str) -> Iterator[None]:
    """Raises StoreError for whatever the file system raises, without what the environment put into the URL."""
    try:
        yield
    except StoreError:
        raise
    except Exception as error:  # each file system brings its own family of errors; all mean the same here
        raise StoreError(
            f"{what} at {url} failed: {type(error).__name__}: {redact(str(error), url, environ)}.",
            remedy="Check the address, the network and the credentials in the environment.",
        ) from error
