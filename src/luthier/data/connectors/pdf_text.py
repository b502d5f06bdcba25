"""The text of a PDF, page by page. A page that shows pictures and no text is told as such: there is no reading of pictures
here. Runs apart (see `apart`)."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from .faults import Fault


def rows(path: str) -> Iterator[list[Any]]:
    """[page, text] or [page, None, reason]; nothing for an empty page."""
    from pypdf import PdfReader
    from pypdf.errors import DependencyError, FileNotDecryptedError, PyPdfError

    try:
        file = PdfReader(path, strict=False)
        if file.is_encrypted and not file.decrypt(""):
            raise _encrypted()
        pages = file.pages
        for number in range(len(pages)):
            yield from _page(number + 1, pages[number])
    except (DependencyError, FileNotDecryptedError, NotImplementedError):
        raise _encrypted() from None
    except RecursionError:
        raise Fault("it is nested without end", "", "Print it into a new PDF") from None
    except PyPdfError as error:
        raise Fault(
            f"this is not a readable PDF ({' '.join(str(error).split())[:200]})",
            "",
            "Print it into a new PDF",
        ) from None


def _encrypted() -> Fault:
    return Fault("the PDF is encrypted", "", "Save it without a password")


def _page(number: int, page: Any) -> Iterator[list[Any]]:
    text = page.extract_text().encode("utf-8", "replace").decode().strip()
    if text:
        yield [number, text]
    elif "/XObject" in (page.get("/Resources") or {}):
        yield [number, None, "the page shows pictures and no text; read it with OCR first, or leave it out"]
