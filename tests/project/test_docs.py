"""The documents: what they link to is there, and every page is in the menu."""

from __future__ import annotations

import re
from pathlib import Path
from urllib.parse import quote, urlsplit

import pytest

import shimpy
from tests.project.links import DOCUMENTS, external
from tests.support.paths import ROOT

PAGES = ROOT / "docs" / "pages"


def test_every_page_is_in_the_menu() -> None:
    menu = re.findall(r": (\S+\.md)$", (ROOT / "docs" / "mkdocs.yml").read_text(), re.MULTILINE)

    assert sorted(menu) == sorted(str(path.relative_to(PAGES)) for path in PAGES.rglob("*.md"))


def test_every_public_name_is_in_the_reference() -> None:
    reference = "\n".join(path.read_text() for path in (PAGES / "reference").iterdir())

    assert [name for name in shimpy.__all__ if not re.search(rf"\b{name}\b", reference)] == []


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_links_within_the_project_lead_somewhere(path: Path) -> None:
    links = re.findall(r"\]\((?!https?:|#)([^)#]+)", path.read_text())

    assert [link for link in links if not (path.parent / link).exists()] == []


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_links_elsewhere_are_whole_addresses(path: Path) -> None:
    """Whether they are there is for `make links`, which wants a network."""
    parts = {address: urlsplit(address) for address in external(path)}

    assert [
        address
        for address, part in parts.items()
        if part.scheme != "https"
        or not re.fullmatch(r"([a-z0-9-]+\.)+[a-z]{2,}", part.netloc)
        or address != quote(address, safe=":/#?&=+%~.,@!-_")
        or address.endswith((".", ","))
    ] == []


def test_there_are_links_elsewhere() -> None:
    assert any(map(external, DOCUMENTS))


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_named_files_of_the_project_exist(path: Path) -> None:
    """Those in backticks that begin with one of its directories, as in `examples/jobs.py`."""
    named = re.findall(r"`((?:docs|examples|tests|shimpy)/[\w/.-]*)`", path.read_text())

    assert [name for name in named if not (ROOT / name).exists()] == []


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_documents_name_only_targets_that_exist(path: Path) -> None:
    known = set(re.findall(r"^([a-z-]+):.*## ", (ROOT / "Makefile").read_text(), re.MULTILINE))

    assert set(re.findall(r"`make ([a-z-]+)", path.read_text())) <= known
