"""Chromium on one page, and what is asked of any page of ours."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from selenium import webdriver
from selenium.webdriver.chrome.options import Options
from selenium.webdriver.chrome.service import Service

from tests.conftest import lacking

# WCAG 2.1's contrast ratio of every visible text against what is painted behind it.
CONTRAST = r"""
const lum = (c) => { const f = c.map((v) => { v /= 255; return v <= 0.03928 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4; });
  return 0.2126 * f[0] + 0.7152 * f[1] + 0.0722 * f[2]; };
const rgb = (s) => (s.match(/[\d.]+/g) || []).map(Number);
const behind = (e) => { for (; e; e = e.parentElement) { const c = rgb(getComputedStyle(e).backgroundColor);
  if (c.length === 3 || c[3] > 0.99) return c.slice(0, 3); } return [255, 255, 255]; };
const bad = [];
const walk = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
while (walk.nextNode()) {
  const e = walk.currentNode.parentElement, text = walk.currentNode.data.trim();
  if (!text || ["SCRIPT", "STYLE"].includes(e.tagName) || !e.getClientRects().length) continue;
  const style = getComputedStyle(e), front = rgb(e.closest("svg") ? style.fill : style.color).slice(0, 3);
  const [a, b] = [lum(front), lum(behind(e))].sort((x, y) => y - x), ratio = (a + 0.05) / (b + 0.05);
  if (ratio < 4.5) bad.push([text.slice(0, 30), +ratio.toFixed(2)]);
}
return bad;
"""


class Browser:
    """Chromium on one page."""

    def __init__(self, file: Path) -> None:
        options = Options()
        for word in ("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"):
            options.add_argument(word)
        options.binary_location = str(shutil.which("chromium"))
        options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
        self.driver = webdriver.Chrome(options=options, service=Service(shutil.which("chromedriver")))
        self.file = file

    def show(self, *, width: int = 1100, scheme: str = "light", scripts: bool = True) -> None:
        d = self.driver
        d.execute_cdp_cmd("Emulation.setScriptExecutionDisabled", {"value": not scripts})
        d.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": "", "features": [{"name": "prefers-color-scheme", "value": scheme}]})
        size = {"width": width, "height": 800, "deviceScaleFactor": 1, "mobile": width < 500}
        d.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
        d.get(self.file.as_uri())

    def ask(self, script: str) -> Any:
        return self.driver.execute_script(script)

    def open_all(self) -> None:
        self.ask("document.querySelectorAll('details').forEach((d) => { d.open = true; })")

    def requests(self) -> set[str]:
        messages = [json.loads(e["message"])["message"] for e in self.driver.get_log("performance")]
        return {m["params"]["request"]["url"] for m in messages if m["method"] == "Network.requestWillBeSent"}

    def opens_alone(self) -> None:
        """It complains of nothing and fetches nothing but the page itself."""
        self.show()
        assert [e for e in self.driver.get_log("browser") if e["level"] in {"SEVERE", "WARNING"}] == []
        assert {u for u in self.requests() if not u.startswith("data:")} == {self.file.as_uri()}


@contextmanager
def chromium(file: Path, html: str) -> Iterator[Browser]:
    """A browser that shows a page, which is written to a file."""
    if not shutil.which("chromium") or not shutil.which("chromedriver"):
        lacking("a browser: apt-get install chromium chromium-driver")
    file.write_text(html)
    browser = Browser(file)
    try:
        yield browser
    finally:
        browser.driver.quit()
