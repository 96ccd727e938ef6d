"""The model server's page in a real browser: light and dark, wide and narrow, and nothing is fetched."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.browser.chromium import CONTRAST, Browser, chromium
from tests.serve.documented import documented
from workflows.serve import page

pytestmark = pytest.mark.browser


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    with chromium(tmp_path_factory.mktemp("page") / "docs.html", page.render(documented())) as b:
        yield b


def test_it_opens_without_a_complaint_and_fetches_nothing(browser: Browser) -> None:
    browser.opens_alone()


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_every_text_stands_out_from_its_background(browser: Browser, scheme: str) -> None:
    browser.show(scheme=scheme)
    assert browser.ask(CONTRAST) == []


@pytest.mark.parametrize("width", [360, 1100])
def test_nothing_hangs_over_the_edge(browser: Browser, width: int) -> None:
    browser.show(width=width)
    assert browser.ask("return document.documentElement.scrollWidth") <= width
