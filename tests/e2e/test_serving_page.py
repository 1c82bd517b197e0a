"""The page in a real browser: Debian's chromium and chromium-driver."""

from __future__ import annotations

import base64
import json
import time
from collections.abc import Callable, Iterator
from io import BytesIO
from pathlib import Path

import httpx
import numpy as np
import pytest
from mlflow import MlflowClient
from PIL import Image
from selenium import webdriver
from selenium.webdriver.common.action_chains import ActionChains
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.remote.webelement import WebElement
from selenium.webdriver.support.select import Select

from tests.support.bundles import register, write_bundle
from tests.support.catalogues import photo_bytes
from tests.support.servers import Server, read_log, serving

KEY = "cle-secrete"


@pytest.fixture(scope="module")
def served(mlflow_store: MlflowClient, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    folder = tmp_path_factory.mktemp("page")
    register(mlflow_store, "paged", write_bundle(folder / "bundle"))
    with serving(folder / "var", MODEL="paged", LIT_SERVER_API_KEY=KEY) as server:
        yield server


@pytest.fixture
def photo(tmp_path: Path) -> Path:
    path = tmp_path / "photo.jpg"
    path.write_bytes(photo_bytes(3, 200))
    return path


class Browser:
    """What a person does and sees."""

    def __init__(self, driver: webdriver.Chrome, url: str) -> None:
        self.driver = driver
        driver.get(url)

    def find(self, name: str) -> WebElement:
        return self.driver.find_element(By.ID, name)

    def until(self, happened: Callable[[], object], seconds: float = 15) -> None:
        ends = time.monotonic() + seconds
        while not happened():
            assert time.monotonic() < ends, self.driver.find_element(By.TAG_NAME, "body").text
            time.sleep(0.05)

    def ask(self, key: str = KEY) -> None:
        """Submit; enter the key when it is asked for."""
        self.find("ask").click()
        self.until(lambda: self.find("answer").is_displayed() or self.find("error").is_displayed())
        if self.find("key-box").is_displayed() and key:
            self.find("key").send_keys(key, Keys.ENTER)
            self.until(lambda: not self.find("key-box").is_displayed())

    def printed(self) -> list[str]:
        """What the browser's console complains of, but for refused requests."""
        entries = self.driver.get_log("browser")
        return [e["message"] for e in entries if "status of 4" not in e["message"]]


@pytest.fixture
def browse(served: Server) -> Iterator[Callable[..., Browser]]:
    drivers = []

    def start(phone: bool = False, language: str = "fr", address: str = served.url) -> Browser:
        options = webdriver.ChromeOptions()
        options.binary_location = "/usr/bin/chromium"
        for argument in ("--headless=new", "--no-sandbox", "--disable-dev-shm-usage", "--window-size=1100,900"):
            options.add_argument(argument)
        options.add_experimental_option("prefs", {"intl.accept_languages": language})
        if phone:
            metrics = {"width": 375, "height": 700, "pixelRatio": 2.0, "touch": True}
            options.add_experimental_option("mobileEmulation", {"deviceMetrics": metrics})
        options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
        drivers.append(webdriver.Chrome(options, webdriver.ChromeService("/usr/bin/chromedriver")))
        return Browser(drivers[-1], address)

    yield start
    for driver in drivers:
        driver.quit()


def test_a_person_sees_the_top_five_what_each_member_said_the_words_and_the_heat_map(browse, photo):
    page = browse()
    page.find("description").send_keys("Roman policier en livre de poche")
    page.find("photo").send_keys(str(photo))
    page.until(lambda: page.find("preview").is_displayed())
    page.ask()
    bars = page.find("bars").find_elements(By.TAG_NAME, "li")
    widths = [bar.find_element(By.CSS_SELECTOR, ".bar span").size["width"] for bar in bars]
    assert len(bars) == 4  # the bundle has four classes
    assert widths == sorted(widths, reverse=True)
    assert widths[0] > widths[-1]
    assert [term.split()[0] for term in members(page, "dt")] == ["Texte", "Photo"]
    assert [said.split(" : ")[0] for said in members(page, "dd")] == [
        "Mots et groupes de lettres",
        "Réseau LSTM",
        "VGG16 entraîné ici",
    ]
    words = {item.text for item in page.find("words").find_elements(By.TAG_NAME, "li")}
    assert words
    assert words <= {"Roman", "policier", "en", "livre", "de", "poche"}
    drawn = _canvas(page)
    original = Image.open(photo).convert("RGB").resize(drawn.size)
    assert np.abs(np.asarray(drawn, float) - np.asarray(original, float)).max() > 40  # the heat lies over the photo
    assert page.printed() == []


def test_a_photo_that_the_text_made_unnecessary_is_named_also_if_its_pixels_are_damaged(browse, mlflow_store, tmp_path):
    register(mlflow_store, "skips", write_bundle(tmp_path / "bundle", thresholds={"words": 0.0}))
    picture = BytesIO()
    Image.effect_noise((64, 64), 90).convert("RGB").save(picture, "PNG")
    start = picture.getvalue().index(b"IDAT") + 4
    picture.seek(start)
    picture.write(b"\xff" * 200)  # no zlib stream: no browser decodes it
    with serving(tmp_path / "var", MODEL="skips") as server:
        page = browse(address=server.url, language="en")
        page.find("description").send_keys("Roman policier")
        uri = f"data:image/png;base64,{base64.b64encode(picture.getvalue()).decode()}"
        page.driver.execute_script("photo = arguments[0]", uri)
        page.ask()
        assert page.find("answer").is_displayed()
        assert page.find("skipped").text == "The photo was not needed: the answer comes from the text alone."
        assert [term.split()[0] for term in members(page, "dt")] == ["Text"]
        assert not page.find("heat-box").is_displayed()
        page.driver.execute_script("drop()")
        page.ask()
        page.until(lambda: page.find("answer").is_displayed())
        assert not page.find("skipped").is_displayed()


def members(page: Browser, tag: str) -> list[str]:
    """dt: modalities, dd: members."""
    found = page.find("members").find_elements(By.TAG_NAME, tag)
    return [part.text.replace("\u202f", " ").replace("\xa0", " ") for part in found]


def test_weights_that_were_not_asked_for_are_warned_of_at_once_in_both_languages(browse, mlflow_store, tmp_path):
    bundle = write_bundle(tmp_path / "bundle", members=["bag", "vgg16"], warning="<b>put them there</b>")
    register(mlflow_store, "warned", bundle)
    with serving(tmp_path / "var", MODEL="warned") as server:
        assert server.get("/info").json()["warning"] == "vgg16: <b>put them there</b>"
        assert server.get("/info").json()["problem"] == ""
        page = browse(address=server.url)
        page.until(lambda: page.find("warning").is_displayed())
        assert page.find("warning").text == (
            "Attention : les poids pré-entraînés de ce modèle ne sont pas ceux qui étaient demandés.\n"
            "vgg16: <b>put them there</b>"
        )
        page.driver.find_element(By.CSS_SELECTOR, "[data-language=en]").click()
        assert page.find("warning").text.startswith("Warning: the pretrained weights of this model are not those")


def _canvas(page: Browser) -> Image.Image:

    uri = page.driver.execute_script("return document.getElementById('heat').toDataURL()")
    return Image.open(BytesIO(base64.b64decode(uri.partition(",")[2]))).convert("RGB")


def test_it_speaks_french_and_english(browse):
    page = browse()
    assert page.find("ask").text == "Trouver la catégorie"
    page.driver.find_element(By.CSS_SELECTOR, "[data-language=en]").click()
    assert page.find("ask").text == "Find the category"
    assert page.driver.find_element(By.TAG_NAME, "html").get_attribute("lang") == "en"
    page.ask(key="")
    assert page.find("error").text == "An API key is needed: enter it and try again."
    page.driver.find_element(By.CSS_SELECTOR, "[data-language=fr]").click()
    assert page.find("ask").text == "Trouver la catégorie"
    assert page.find("error").text == "Une clé d’API est nécessaire : saisissez-la puis recommencez."
    for part in page.driver.find_elements(By.CSS_SELECTOR, "[data-text]"):
        assert part.get_attribute("textContent") not in ("", "undefined")


def test_errors_are_said_readably(browse, tmp_path):
    page = browse()
    page.ask()
    assert page.find("error").text == "Écrivez une description ou ajoutez une photo."
    broken = tmp_path / "broken.jpg"
    broken.write_bytes(photo_bytes(1, 200)[:900])
    page.find("photo").send_keys(str(broken))
    page.until(lambda: page.find("chosen").is_displayed())
    page.ask()
    assert page.find("error").text == "La photo est abîmée ou incomplète : envoyez le fichier entier."
    page.find("remove").click()
    page.find("description").send_keys("roman")
    page.ask()
    assert page.find("answer").is_displayed()
    assert not page.find("error").is_displayed()


def test_a_dropped_photo_is_taken(browse, photo):
    page = browse()
    page.driver.execute_script(
        """const bytes = Uint8Array.from(atob(arguments[0]), (c) => c.charCodeAt(0));
        const carried = new DataTransfer();
        carried.items.add(new File([bytes], "photo.jpg", {type: "image/jpeg"}));
        document.getElementById("drop").dispatchEvent(
          new DragEvent("drop", {dataTransfer: carried, bubbles: true, cancelable: true}));""",
        base64.b64encode(photo.read_bytes()).decode(),
    )
    page.until(lambda: page.find("preview").is_displayed())
    page.ask()
    assert members(page, "dt") == ["Photo 100 %"]
    assert not page.find("warning").is_displayed()


def test_it_works_by_keyboard_on_a_phone(browse):
    page = browse(phone=True)
    active = lambda: page.driver.switch_to.active_element  # noqa: E731
    press = lambda *keys: ActionChains(page.driver).send_keys(*keys).perform()  # noqa: E731
    reached: list[str] = []
    while len(reached) < 8 and reached[-1:] != ["ask"]:
        press(Keys.TAB)
        reached.append(active().get_attribute("id") or active().get_attribute("data-language"))
        if reached[-1] == "description":
            press("livre de poche")
    assert reached == ["fr", "en", "designation", "description", "photo", "ask"]
    press(Keys.ENTER)
    page.until(lambda: page.find("key-box").is_displayed())
    assert active().get_attribute("id") == "key"
    press(KEY, Keys.ENTER)
    page.until(lambda: page.find("answer").is_displayed())
    assert active().get_attribute("id") == "answer"
    assert page.driver.execute_script("return document.documentElement.scrollWidth") <= 375


def test_the_right_category_can_be_told(browse, served):
    page = browse()
    page.find("description").send_keys("roman")
    page.ask()
    page.until(lambda: len(page.find("true-code").find_elements(By.TAG_NAME, "option")) == 4)
    Select(page.find("true-code")).select_by_value("2583")
    page.find("correct").find_element(By.TAG_NAME, "button").click()
    page.until(lambda: page.find("thanks").text == "Merci, c’est noté.")
    page.driver.find_element(By.CSS_SELECTOR, "[data-language=en]").click()
    assert page.find("thanks").text == "Thank you, noted."
    request_id = page.driver.execute_script("return answer.request_id")

    def logged_feedback() -> list[float]:
        log = read_log(str(served.var / "prediction_log"), served.var / "serving" / "open_hours")
        return log.loc[(log["kind"] == "feedback") & (log["request_id"] == request_id), "true_code"].tolist()

    page.until(lambda: logged_feedback() == [2583])
    page.ask()
    assert page.find("thanks").text == ""


def test_a_file_that_is_no_photo_is_refused_at_once_and_shows_no_broken_picture(browse, tmp_path):
    page = browse()
    notes = tmp_path / "notes.jpg"
    notes.write_text("pas une photo")
    page.find("photo").send_keys(str(notes))
    page.until(lambda: page.find("error").is_displayed())
    assert page.find("error").text.startswith("Ce fichier n’est pas une photo")
    assert not page.find("preview").is_displayed()
    assert page.find("photo").get_attribute("value") == ""


def operations(page: Browser) -> list[str]:
    """The paths that Swagger UI shows."""
    return [part.text for part in page.driver.find_elements(By.CSS_SELECTOR, ".opblock-summary-path")]


def urls(page: Browser) -> set[str]:
    """What the browser has asked for since it was last asked here."""
    events = [json.loads(entry["message"])["message"] for entry in page.driver.get_log("performance")]
    return {e["params"]["request"]["url"] for e in events if e["method"] == "Network.requestWillBeSent"}


def test_a_good_photo_takes_the_refusal_of_another_file_away(browse, photo, tmp_path):
    page = browse(language="en")
    (tmp_path / "no.jpg").write_text("no photo")
    page.find("photo").send_keys(str(tmp_path / "no.jpg"))
    page.until(lambda: page.find("error").is_displayed())
    page.find("photo").send_keys(str(photo))
    page.until(page.find("preview").is_displayed)
    page.until(lambda: not page.find("error").is_displayed())
    assert page.find("photo").get_attribute("value").endswith(photo.name)


def test_a_key_that_no_header_can_carry_is_asked_for_again(browse):
    page = browse(language="en")
    page.find("description").send_keys("Roman policier")
    page.ask(key="")
    page.find("key").send_keys("clé€", Keys.ENTER)
    page.until(lambda: page.find("error").text == "An API key is needed: enter it and try again.")
    page.find("key").clear()
    page.find("key").send_keys(KEY, Keys.ENTER)
    page.until(page.find("answer").is_displayed)
    assert page.find("bars").text


def test_the_api_documentation_is_reached_from_the_page_with_the_key_as_a_password(browse, served):
    page = browse()
    link = page.driver.find_element(By.CSS_SELECTOR, "footer a")
    assert (link.text, link.get_attribute("href")) == ("Documentation de l’API", f"{served.url}/docs")
    # what a browser does with the password that a person types
    page.driver.get(f"{served.url.replace('http://', f'http://anyone:{KEY}@')}/docs")
    page.driver.get(served.url)
    urls(page)
    page.driver.find_element(By.CSS_SELECTOR, "footer a").click()
    page.until(lambda: any(path.replace("\u200b", "") == "/predict" for path in operations(page)), 30)
    asked = urls(page)
    assert {f"{served.url}{path}" for path in ("/docs", "/openapi.json", "/docs/files/swagger-ui-bundle.js")} <= asked
    assert {url for url in asked if not url.startswith((served.url, "data:"))} == set()
    # the password opens nothing else: other sites' pages could make a browser send it
    assert httpx.get(f"{served.url}/info", auth=("anyone", KEY)).status_code == 401
    assert httpx.get(f"{served.url}/openapi.json", auth=("anyone", KEY)).status_code == 200
    assert httpx.get(f"{served.url}/openapi.json", auth=("anyone", "wrong")).status_code == 401


def test_the_api_documentation_needs_no_key_where_there_is_none(browse, mlflow_store, tmp_path):
    with serving(tmp_path, wait=False, MODEL="none-yet") as server:
        page = browse(address=f"{server.url}/docs")
        page.until(lambda: any(path.replace("\u200b", "") == "/predict" for path in operations(page)), 30)
        assert {url for url in urls(page) if not url.startswith((server.url, "data:"))} == set()


def test_nothing_is_asked_of_another_address(browse, served, photo):
    page = browse()
    page.find("photo").send_keys(str(photo))
    page.until(lambda: page.find("preview").is_displayed())
    page.ask()
    asked = urls(page)
    assert f"{served.url}/predict" in asked
    assert {url for url in asked if not url.startswith((served.url, "data:"))} == set()
