"""Every deck in headless Chromium without a network: as a page of its own, and as a tab of Flyte's deck.html."""

import shutil
from html import escape
from types import SimpleNamespace

import pytest
from flytekit import Deck
from flytekit.deck.deck import _get_deck
from selenium import webdriver
from selenium.webdriver.chrome.service import Service
from selenium.webdriver.common.by import By
from selenium.webdriver.support.wait import WebDriverWait

from rakuten_tasks.reports.index import write_pages
from rakuten_tasks.reports.page import standalone
from tests.support.deck_cases import HOSTILE, extreme_decks, realistic_decks

STAGES = ("ingest", "fit_lstm", "pool", "evaluation", "registration")
CASES = [(kind, stage) for kind in ("realistic", "extreme") for stage in STAGES]
FLAGS = (
    "--headless=new",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--window-size=1366,768",
    # every address but a file's fails at once, as on a machine without a network
    "--host-resolver-rules=MAP * ~NOTFOUND",
)
GAP = (
    "return Math.max(...[...document.querySelectorAll('.rk-figure')].map(figure => Math.abs("
    "figure.offsetWidth - figure.querySelector('svg.main-svg').getBoundingClientRect().width)))"
)


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    missing = [name for name in ("chromium", "chromedriver") if shutil.which(name) is None]
    if missing:
        pytest.fail(f"{' and '.join(missing)} not found: apt-get install -y chromium chromium-driver")
    options = webdriver.ChromeOptions()
    options.binary_location = shutil.which("chromium")
    for flag in (*FLAGS, f"--user-data-dir={tmp_path_factory.mktemp('chromium')}"):
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    driver = webdriver.Chrome(options, Service(shutil.which("chromedriver")))
    yield driver
    driver.quit()


@pytest.fixture(scope="module")
def decks(tmp_path_factory):
    """kind -> stage -> fragment; the pages lie in kind's folder."""
    made = {}
    for kind, make in (("realistic", realistic_decks), ("extreme", extreme_decks)):
        folder = tmp_path_factory.mktemp(kind)
        made[kind] = folder, make(folder / "catalogue")
        pages = {stage: standalone(stage, fragment) for stage, fragment in made[kind][1].items()}
        write_pages(str(folder), pages, {"model": "m"})
    return made


def open_page(browser, path):
    # the size inside the window: headless keeps some of --window-size for a frame
    size = {"width": 1366, "height": 768, "deviceScaleFactor": 1, "mobile": False}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    browser.get_log("browser")
    browser.get(path.as_uri())


def figures_drawn(browser):
    """Wait until every figure that can be seen is drawn. -> their widths"""
    figures = [figure for figure in browser.find_elements(By.CLASS_NAME, "rk-figure") if figure.is_displayed()]
    drawn = "return [...arguments[0]].every(figure => figure.dataset.drawn)"
    WebDriverWait(browser, 60).until(lambda b: b.execute_script(drawn, figures))
    script = (
        "return arguments[0].map(f => f.querySelector('.js-plotly-plot svg.main-svg').getBoundingClientRect().width)"
    )
    return browser.execute_script(script, figures)


def errors(browser):
    """Severe messages, but for the font that Flyte's own template asks for."""
    logs = browser.get_log("browser")
    return [log["message"] for log in logs if log["level"] == "SEVERE" and "fonts.googleapis.com" not in log["message"]]


def fits(browser):
    width, room = browser.execute_script("return [document.documentElement.scrollWidth, window.innerWidth]")
    return width <= room


def flyte_page(decks):
    """What flytekit writes for a task with these decks."""
    return _get_deck(SimpleNamespace(decks=[Deck(name, page, False) for name, page in decks.items()]), True)


@pytest.mark.parametrize(("kind", "stage"), CASES)
def test_a_deck_is_drawn_alone(browser, decks, kind, stage):
    folder, made = decks[kind]
    page = folder / f"{stage}.html"
    assert page.stat().st_size < 2_000_000
    open_page(browser, page)
    widths = figures_drawn(browser)
    assert len(widths) == made[stage].count('class="rk-figure"') >= 1
    assert min(widths) > 300
    assert errors(browser) == []
    assert fits(browser)
    assert browser.execute_script("return window.hacked") is None
    loaded = browser.execute_script("return performance.getEntriesByType('resource').map(entry => entry.name)")
    assert [name for name in loaded if not name.startswith("data:")] == []


@pytest.mark.parametrize(("kind", "stage"), CASES)
def test_a_deck_is_drawn_in_a_tab_that_was_hidden_at_first(browser, decks, tmp_path, kind, stage):
    _, made = decks[kind]
    page = tmp_path / "deck.html"
    page.write_text(flyte_page({"Input": "<p>first tab</p>", stage: made[stage]}), encoding="utf-8")
    assert page.stat().st_size < 2_000_000
    open_page(browser, page)
    assert figures_drawn(browser) == []
    browser.find_elements(By.CSS_SELECTOR, "#flyte-frame-tabs li")[1].click()
    widths = figures_drawn(browser)
    assert len(widths) == made[stage].count('class="rk-figure"')
    assert min(widths) > 300
    assert browser.execute_script(GAP) <= 1
    assert errors(browser) == []
    assert fits(browser)
    assert browser.execute_script("return window.hacked") is None


def test_decks_leave_flytes_own_tab_as_it_was(browser, decks, tmp_path):
    table = "<table><tr><td>cell</td></tr></table><h2>heading</h2>"
    looks = "const s = getComputedStyle(document.querySelector(arguments[0])); return [s.fontSize, s.color, s.padding]"
    seen = []
    for extra in ({}, {"evaluation": decks["extreme"][1]["evaluation"]}):
        page = tmp_path / "deck.html"
        page.write_text(flyte_page({"Input": table, **extra}), encoding="utf-8")
        open_page(browser, page)
        seen.append([browser.execute_script(looks, f"#flyte-frame-container > div {tag}") for tag in ("td", "h2")])
    assert seen[0] == seen[1]


def test_two_decks_of_one_task_share_a_page(browser, decks, tmp_path):
    made = decks["realistic"][1]
    page = tmp_path / "deck.html"
    page.write_text(flyte_page({"pool": made["pool"], "training": made["fit_lstm"]}), encoding="utf-8")
    open_page(browser, page)
    assert len(figures_drawn(browser)) == 3
    browser.find_elements(By.CSS_SELECTOR, "#flyte-frame-tabs li")[1].click()
    assert len(figures_drawn(browser)) == 2
    assert errors(browser) == []


def test_a_deck_is_drawn_in_a_frame_that_may_do_nothing_but_run_scripts(browser, decks, tmp_path):
    # as Flyte's console and MLflow show a page that a task wrote
    _, made = decks["realistic"]
    page = tmp_path / "console.html"
    frame = escape(flyte_page({"evaluation": made["evaluation"]}))
    page.write_text(f'<iframe sandbox="allow-scripts" width="1300" height="700" srcdoc="{frame}"></iframe>')
    open_page(browser, page)
    browser.switch_to.frame(0)
    assert len(figures_drawn(browser)) == 5
    assert fits(browser)
    browser.switch_to.default_content()
    assert errors(browser) == []


def test_hostile_titles_are_read_as_they_were_written(browser, decks):
    folder, _ = decks["extreme"]
    for stage, count in (("ingest", 24), ("evaluation", 12)):
        open_page(browser, folder / f"{stage}.html")
        figures_drawn(browser)
        tiles = browser.find_elements(By.CLASS_NAME, "rk-tile")
        assert len(tiles) == count
        assert any(HOSTILE[0] in tile.text for tile in tiles)
        assert browser.find_elements(By.CSS_SELECTOR, ".rk-tile script, .rk-tile a, .rk-tile style") == []
    # plotly makes links of some labels
    hrefs = [a.get_attribute("href") or a.get_attribute("xlink:href") for a in browser.find_elements(By.TAG_NAME, "a")]
    assert [href for href in hrefs if href] == []
    labels = browser.execute_script("return [...document.querySelectorAll('.ytick text')].map(t => t.textContent)")
    assert any('<a href="javascript:window.hacked=4">x' in label for label in labels)


@pytest.mark.parametrize("width", [1280, 1366, 1920])
def test_figures_follow_the_windows_width(browser, decks, width):
    folder, _ = decks["realistic"]
    open_page(browser, folder / "ingest.html")
    figures_drawn(browser)
    size = {"width": width, "height": 768, "deviceScaleFactor": 1, "mobile": False}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    WebDriverWait(browser, 20).until(lambda b: b.execute_script(GAP) <= 1)
    assert fits(browser)


def test_a_browser_that_cannot_inflate_says_so(browser, decks, tmp_path):
    folder, _ = decks["realistic"]
    old = tmp_path / "old.html"
    text = (folder / "pool.html").read_text(encoding="utf-8")
    old.write_text(text.replace("<head>", "<head><script>delete window.DecompressionStream</script>"), encoding="utf-8")
    open_page(browser, old)
    message = WebDriverWait(browser, 20).until(lambda b: b.find_element(By.CLASS_NAME, "rk-missing"))
    WebDriverWait(browser, 20).until(lambda b: "cannot be drawn" in message.text)
    assert "it needs DecompressionStream (Chrome 80, Firefox 113, Safari 16.4 or newer)" in message.text
    assert "Members" in browser.find_element(By.TAG_NAME, "body").text


def test_the_index_leads_to_every_page(browser, decks):
    folder, made = decks["realistic"]
    open_page(browser, folder / "index.html")
    links = browser.find_elements(By.CSS_SELECTOR, ".rakuten-deck a")
    assert [link.get_attribute("href") for link in links] == [(folder / f"{name}.html").as_uri() for name in made]
    links[0].click()
    WebDriverWait(browser, 20).until(lambda b: b.title == "ingest")
