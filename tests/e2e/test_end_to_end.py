"""The whole life of a champion, through a live server: nothing is put into its log but what it was asked."""

from __future__ import annotations

import base64
import dataclasses
from dataclasses import dataclass
from datetime import UTC, datetime
from io import BytesIO
from pathlib import Path
from random import Random

import pandas as pd
import pytest
from mlflow import MlflowClient
from PIL import Image, ImageDraw

from rakuten_tasks.config import PublicationConfig, SplitConfig
from rakuten_tasks.monitoring.decision import Outcome
from rakuten_tasks.monitoring.history import DriftCheck, load_checks
from rakuten_tasks.monitoring.policy import Action
from rakuten_tasks.registry import versions
from rakuten_tasks.tasks.check_drift import MonitoringPaths
from tests.support.catalogues import TINY
from tests.support.servers import Server, predictions, read_log, serving
from workflows.drift_watch import watch_drift
from workflows.etl import publish_catalogue
from workflows.training import train_classifier

MODEL = "end-to-end"
# so many validation rows that they can be compared with
CONFIG = dataclasses.replace(TINY, split=SplitConfig(validation=0.25, blending=0.25, test=0.12))
PUBLICATION = PublicationConfig(split=CONFIG.split)
COLOURS = {10: (200, 60, 60), 1300: (60, 160, 70), 2583: (60, 80, 200)}
WINDOW = 330  # products of a window: 300 are needed


@dataclass(frozen=True)
class Product:
    code: int
    title: str
    description: str
    photo: bytes

    @property
    def body(self) -> dict[str, str]:
        image = base64.b64encode(self.photo).decode()
        return {"designation": self.title, "description": self.description, "image": image}


def words(name: str, count: int) -> list[str]:
    """Made-up ones, so that no two names share any, nor much of their spelling."""
    random = Random(name)
    return ["".join(random.choices("abcdefghijklmnopqrstuvwxyz", k=7)) for _ in range(count)]


def products(count: int, seed: str, new_kind: bool = False) -> list[Product]:
    """Of three classes in turn. The new kind: of the same classes, in other words, photographed grey in the dark."""
    made, random = [], Random(f"{seed} {new_kind}")
    for i in range(count):
        code = list(COLOURS)[i % len(COLOURS)]
        # each class has words of its own, and there are some that all have
        title = random.choices(words(f"{new_kind} {code}", 25), k=4) + random.choices(words(f"{new_kind}", 40), k=3)
        random.shuffle(title)
        description = " ".join(random.choices(title, k=6)) if random.random() < 0.7 else ""
        made.append(Product(code, " ".join(title), description, photo(code, random, new_kind)))
    return made


def photo(code: int, random: Random, new_kind: bool) -> bytes:
    """A square in the class's colour, or a grey one, somewhere in a room that is lit or dark."""
    light = random.uniform(0.1, 0.3) if new_kind else random.uniform(0.7, 1.0)
    shades = (round(light * 230),) * 3, tuple(round(light * shade) for shade in COLOURS[code])
    room, colour = (shades[0], (round(light * 120),) * 3) if new_kind else shades
    image = Image.new("RGB", (48, 48), room)
    side, left, top = random.randrange(14, 24), random.randrange(2, 22), random.randrange(2, 22)
    ImageDraw.Draw(image).rectangle((left, top, left + side, top + side), fill=colour)
    buffer = BytesIO()
    image.save(buffer, "JPEG")
    return buffer.getvalue()


def write(folder: Path, found: list[Product], first: int) -> Path:
    """Labelled products in the challenge's layout, their productids counted from `first`."""
    photos = folder / "images" / "image_train"
    photos.mkdir(parents=True)
    ids = [first + i for i in range(len(found))]
    for number, product in zip(ids, found, strict=True):
        (photos / f"image_{number}_product_{number}.jpg").write_bytes(product.photo)
    texts = {"designation": [p.title for p in found], "description": [p.description for p in found]}
    pd.DataFrame({**texts, "productid": ids, "imageid": ids}).to_csv(folder / "X_train_update.csv")
    pd.DataFrame({"prdtypecode": [p.code for p in found]}).to_csv(folder / "Y_train_CVw08PX.csv")
    return folder


@dataclass(frozen=True)
class Shop:
    """A server whose champion is watched over the published catalogue that it was trained on."""

    server: Server
    paths: MonitoringPaths
    source: str

    def right(self, asked: list[Product]) -> float:
        """Ask over HTTP. -> share of right answers"""
        answers = self.server.at_once([product.body for product in asked])
        assert {answer.status_code for answer in answers} == {200}
        codes = [int(answer.json()["category_id"]) for answer in answers]
        return sum(code == product.code for code, product in zip(codes, asked, strict=True)) / len(asked)

    def window(self, asked: list[Product]) -> tuple[DriftCheck, float]:
        """Traffic, and then the watch, whose window holds that traffic alone. -> its look, share of right answers"""
        start = datetime.now(UTC)
        right = self.right(asked)
        self.server.wait_until(lambda: self._logged(start) == len(asked), 60)
        end = datetime.now(UTC)
        hours = (end - start).total_seconds() / 3600
        look = watch_drift(
            kickoff=end, paths=self.paths, source=self.source, config=CONFIG, model=MODEL, hours=hours
        )  # fmt: skip
        assert look.decision.window_rows == len(asked)
        return look, right

    def _logged(self, since: datetime) -> int:
        return len(predictions(read_log(self.paths.log, Path(self.paths.open_hours), since)))


@pytest.mark.timeout(1800)
def test_a_new_kind_of_products_is_noticed_labelled_learned_and_served(
    tmp_path: Path, mlflow_store: MlflowClient, local_runs: Path
):
    source = str(tmp_path / "published")
    ordinary = write(tmp_path / "ordinary", products(720, "catalogue"), 1000)
    publish_catalogue(source=str(ordinary), destination=source, config=PUBLICATION)
    first = train_classifier(source=source, config=CONFIG, model=MODEL)
    assert first.alias == versions.CHAMPION
    var = tmp_path / "var"
    paths = MonitoringPaths(
        str(var / "prediction_log"), str(var / "history"), str(var / "reports"), str(var / "serving/open_hours")
    )
    with serving(var, MODEL=MODEL) as server:
        shop = Shop(server, paths, source)
        assert server.serves(first.version)

        look, right = shop.window(products(WINDOW, "monday"))
        assert (look.decision.outcome, look.action) == (Outcome.NO_DRIFT, Action.NOTHING.value)
        assert right > 0.9

        look, right = shop.window(products(WINDOW, "tuesday", new_kind=True))
        assert (look.decision.outcome, look.action) == (Outcome.DRIFT, Action.WAIT.value)
        # unknown words are compared with the 72 test rows alone, which are too few for them
        assert {"embedding", "photo"} <= set(look.decision.groups)
        assert right < 0.7

        look, _ = shop.window(products(WINDOW, "wednesday", new_kind=True))
        assert look.action == Action.CALL_FOR_LABELS.value
        assert "ALERT" in mlflow_store.get_model_version(MODEL, str(first.version)).tags["drift"]
        assert versions.latest_version(mlflow_store, MODEL) == first.version

        labelled = write(tmp_path / "labelled", products(240, "labels", new_kind=True), 5000)
        joined = publish_catalogue(source=str(labelled), destination=source, config=PUBLICATION)
        assert (joined.version, joined.labelled, joined.joined) == (2, 960, 240)

        look, _ = shop.window(products(WINDOW, "thursday", new_kind=True))
        assert look.action == Action.RETRAIN.value
        assert look.outcome.startswith(f"version {first.version + 1}, champion: ")

        server.wait_until(lambda: server.serves(first.version + 1), 60)
        assert shop.right(products(90, "friday", new_kind=True)) > 0.9
        assert shop.right(products(90, "friday")) > 0.9
        assert server.stop() == 0
    assert [found.action for found in load_checks(paths.history, MODEL)] == [
        Action.NOTHING.value, Action.WAIT.value, Action.CALL_FOR_LABELS.value, Action.RETRAIN.value,
    ]  # fmt: skip
