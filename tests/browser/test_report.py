"""The evidence page in a real browser: light and dark, wide and narrow, with a keyboard, on paper, without scripts."""

from __future__ import annotations

import base64
from collections.abc import Iterator

import pytest
from selenium.webdriver.common.action_chains import ActionChains
from selenium.webdriver.common.keys import Keys

from tests.browser.chromium import CONTRAST, Browser, chromium
from tests.steps.page import page

pytestmark = pytest.mark.browser

FOCUS = (
    "const e = document.activeElement, s = getComputedStyle(e);"
    " return [e.tagName, e.innerText.slice(0, 20), s.outlineStyle, s.outlineWidth]"
)


# What a button says right after it was clicked: seen as it changes, as it changes back soon.
CLICKED = r"""
const [button, done] = arguments;
new MutationObserver((_, seen) => { seen.disconnect(); done(button.textContent); }).observe(button, {childList: true});
button.click();
"""


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    with chromium(tmp_path_factory.mktemp("page") / "evidence.html", page()) as b:
        yield b


def test_it_opens_without_a_complaint_and_fetches_nothing(browser: Browser) -> None:
    browser.opens_alone()
    assert browser.driver.title.startswith("Loans <script>")  # shown, not run


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_every_text_stands_out_from_its_background(browser: Browser, scheme: str) -> None:
    browser.show(scheme=scheme)
    browser.open_all()
    assert browser.ask(CONTRAST) == []
    dark = sum(browser.ask("return getComputedStyle(document.body).backgroundColor.match(/\\d+/g).map(Number)")[:3]) < 200
    assert dark == (scheme == "dark")


def test_the_contrast_check_can_fail(browser: Browser) -> None:
    browser.show()
    browser.ask("document.querySelector('h1').style.color = '#ddd'")
    assert browser.ask(CONTRAST)


@pytest.mark.parametrize("width", [360, 768, 1100])
def test_nothing_hangs_over_the_edge(browser: Browser, width: int) -> None:
    browser.show(width=width)
    browser.open_all()
    assert browser.ask("return document.documentElement.scrollWidth") <= width


def test_a_keyboard_reaches_everything_and_shows_where_it_is(browser: Browser) -> None:
    browser.show()
    wanted = browser.ask("return [...document.querySelectorAll('a, summary, [tabindex=\"0\"]')].filter((e) => e.checkVisibility()).length")
    seen: list[list[str]] = []
    for _ in range(wanted):
        ActionChains(browser.driver).send_keys(Keys.TAB).perform()
        seen.append(browser.ask(FOCUS))
    assert seen[0][1] == "Skip to the decision"
    assert all(style != "none" and width != "0px" for _, _, style, width in seen), seen
    assert {"A", "SUMMARY", "DIV", "PRE"} <= {s[0] for s in seen}
    # Enter opens what is folded, and then its buttons can be reached, too.
    browser.ask("[...document.querySelectorAll('summary')].at(-1).focus()")
    ActionChains(browser.driver).send_keys(Keys.ENTER).send_keys(Keys.TAB).send_keys(Keys.TAB).perform()
    assert browser.ask(FOCUS)[0] == "BUTTON"


def test_a_digest_is_copied(browser: Browser) -> None:
    browser.show()
    browser.driver.execute_cdp_cmd("Browser.grantPermissions", {"permissions": ["clipboardReadWrite", "clipboardSanitizedWrite"]})
    browser.open_all()
    button = browser.driver.find_element("css selector", "button[data-copy]")
    assert browser.driver.execute_async_script(CLICKED, button) in {"copied", "select it"}
    assert len(button.get_attribute("data-copy") or "") == 64


def test_without_scripts_nothing_is_missing_but_the_buttons(browser: Browser) -> None:
    browser.show()
    with_scripts = browser.driver.find_element("tag name", "main").text
    browser.show(scripts=False)
    tree = browser.driver.execute_cdp_cmd("DOM.getDocument", {"depth": 1})
    main = browser.driver.execute_cdp_cmd("DOM.querySelector", {"nodeId": tree["root"]["nodeId"], "selector": "main"})
    html = browser.driver.execute_cdp_cmd("DOM.getOuterHTML", {"nodeId": main["nodeId"]})["outerHTML"]
    browser.show()
    assert "Passed: every gate said yes." in html
    assert "Passed: every gate said yes." in with_scripts
    assert html.count('hidden="" data-copy') == html.count("data-copy") > 0


def test_it_prints(browser: Browser) -> None:
    browser.show(scheme="dark")
    pdf = base64.b64decode(browser.driver.execute_cdp_cmd("Page.printToPDF", {"paperWidth": 8.27, "paperHeight": 11.69})["data"])
    assert pdf.startswith(b"%PDF")
    assert 2 < pdf.count(b"/Type /Page\n") + pdf.count(b"/Type /Page ") + pdf.count(b"/Type /Page/") < 30
    browser.driver.execute_cdp_cmd(
        "Emulation.setEmulatedMedia", {"media": "print", "features": [{"name": "prefers-color-scheme", "value": "dark"}]}
    )
    assert browser.ask("return getComputedStyle(document.querySelector('nav')).display") == "none"
    assert browser.ask(CONTRAST) == []


LABELS = r"""
return [...document.querySelectorAll("svg")].flatMap((s) => [...s.querySelectorAll("text")].filter((t) => {
  const a = t.getBoundingClientRect(), b = s.getBoundingClientRect(); return a.left < b.left - 1 || a.right > b.right + 1; })
  .map((t) => t.textContent));
"""


@pytest.mark.parametrize("width", [360, 1100])
def test_no_label_is_cut_off_by_its_plot(browser: Browser, width: int) -> None:
    browser.show(width=width)
    browser.open_all()
    assert browser.ask(LABELS) == []


def test_tables_fit_a_desk_without_scrolling(browser: Browser) -> None:
    browser.show(width=1100)
    browser.open_all()
    wide = "return [...document.querySelectorAll('.wide')].filter((e) => e.scrollWidth > e.clientWidth).map((e) => e.ariaLabel)"
    assert browser.ask(wide) == []
