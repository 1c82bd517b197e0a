import base64
import dataclasses
import gzip
import html
import json
import re
from io import BytesIO
from pathlib import Path

import numpy as np
import pandas as pd
import plotly.graph_objects as go
import pytest
from jinja2 import UndefinedError
from markupsafe import Markup
from PIL import Image
from plotly.offline import get_plotlyjs

from rakuten_tasks.config import GateConfig, IngestConfig
from rakuten_tasks.data.profile import RandomSample, profile, quarantined
from rakuten_tasks.data.read_catalogue import ingest
from rakuten_tasks.data.shards import iter_positions
from rakuten_tasks.models.pool_report import MemberReport, PoolReport, Quality
from rakuten_tasks.models.predictor import Scores
from rakuten_tasks.registry.gate import GateDecision
from rakuten_tasks.reports import catalogue_deck, page
from rakuten_tasks.reports.catalogue_deck import ingest_deck
from rakuten_tasks.reports.display_text import truncate
from rakuten_tasks.reports.evaluation_deck import evaluation_deck
from rakuten_tasks.reports.index import page_order, write_pages
from rakuten_tasks.reports.pool_deck import pool_deck
from rakuten_tasks.reports.registration_deck import registration_deck
from rakuten_tasks.reports.split_deck import split_deck
from rakuten_tasks.reports.thumbnails import SIDE, thumbnail
from rakuten_tasks.reports.top_errors import MemberPrediction, describe_errors, top_errors, with_photos
from rakuten_tasks.reports.training_deck import format_duration, training_deck
from rakuten_tasks.training.state import EpochMetrics
from tests.support.catalogues import drop_rows, photo_bytes, photo_path, set_cell, write_catalogue
from tests.support.deck_cases import (
    HOSTILE,
    Answers,
    cascade_report,
    epochs_of,
    refitted,
    registration_of,
    write_ingested,
)


def text_of(fragment: str) -> str:
    """What a reader sees outside the figures."""
    bare = re.sub(r"<(style|script)\b.*?</\1>", "", fragment, flags=re.S)
    return " ".join(html.unescape(re.sub(r"<[^>]*>", " ", bare)).split())


def figures_of(fragment: str) -> list[dict]:
    return [json.loads(text) for text in re.findall(r'class="rk-json">(.*?)</script>', fragment, flags=re.S)]


def deck_of(body: str, **context: object) -> str:
    """A deck with this Jinja2 template as its body; its title is `text`."""
    imports = "{% extends 'deck.html' %}{% from 'blocks.html' import figure, key_values, table, tiles %}"
    blocks = f"{{% block title %}}{{{{ text }}}}{{% endblock %}}{{% block body %}}{body}{{% endblock %}}"
    return page.environment().from_string(imports + blocks).render({"text": "", **context})


def figure_block(figure: go.Figure) -> str:
    fragment = deck_of("{{ figure(plot) }}", plot=figure)
    return fragment[fragment.index('<div class="rk-figure"') : fragment.index('<script type="text/plain"')]


def titles_of(fragment: str) -> list[str]:
    return [figure["layout"]["title"]["text"] for figure in figures_of(fragment)]


@pytest.fixture(scope="module")
def answers():
    return Answers(rows=300, classes=5)


# page


@pytest.mark.parametrize("text", HOSTILE)
def test_every_block_shows_hostile_text_as_text(text):
    body = "{{ key_values({text: text}) }}{{ table([text], [[text]], text) }}{{ tiles([tile]) }}{{ text }}"
    fragment = deck_of(body, text=text, tile=page.Tile(None, [text, text], placeholder=text))
    assert len(re.findall("<script|<img|<a |<b>|</style", fragment)) == 1  # the end of its own style
    document = html.unescape(page.standalone(text, fragment))
    assert document.count(text) == 2 + 9


def test_a_template_that_lacks_a_value_raises():
    with pytest.raises(UndefinedError, match="nothing"):
        deck_of("{{ nothing }}")


@pytest.mark.parametrize("text", HOSTILE)
def test_a_figures_json_cannot_end_its_script(text):
    fragment = figure_block(go.Figure(go.Bar(x=[text], y=[1])).update_layout(width=90, height=80))
    assert fragment.count("</script") == fragment.count("<script") == 1
    (figure,) = figures_of(fragment)
    assert figure["data"][0]["x"] == [text]


def test_a_figure_carries_its_height_and_greatest_width_outside_its_json():
    fragment = figure_block(go.Figure().update_layout(width=640, height=480))
    assert 'style="max-width: 640px; height: 480px"' in fragment
    assert not {"width", "height"} & set(figures_of(fragment)[0]["layout"])


def test_numbers_in_figures_are_short_and_never_nan():
    values = {"a": np.array([1 / 3, 2.0, np.nan, 1e-9 / 3]), "b": (np.int64(3), True, "x", None), "c": 1e300}
    assert page.to_compact_json(values) == {"a": [0.33333, 2, None, 3.3333e-10], "b": [3, True, "x", None], "c": 1e300}
    assert json.dumps(page.to_compact_json(np.zeros(2))) == "[0, 0]"


def test_plotly_comes_out_of_the_page_as_it_went_in():
    plot = go.Figure().update_layout(width=90, height=90)
    fragment = deck_of("{{ figure(plot) }}{{ figure(plot) }}", plot=plot)
    (text,) = re.findall(r'class="rk-plotly">([^<]*)</script>', fragment)
    assert gzip.decompress(base64.b64decode(text)).decode() == get_plotlyjs()
    assert len(fragment.encode()) < 1_800_000


def test_a_deck_without_figures_carries_no_plotly():
    assert len(deck_of("y")) < 10_000


def test_numbers_are_formatted_and_aligned():
    assert [page.format_number(value) for value in (1234567, 0.123456, True, "x")] == [
        "1,234,567",
        "0.1235",
        "True",
        "x",
    ]
    assert deck_of("{{ table(['a', 'b'], [[1, 'x']]) }}").count('class="rk-number"') == 2


def test_text_is_cut_on_one_line_and_cannot_turn_what_follows():
    assert truncate("a\n  b \u202e\x00c", 10) == "a b c"
    assert truncate("x" * 50_000, 5) == "xxxx…"


def test_a_standalone_page_is_one_document():
    document = page.standalone("<T>", str(Markup("<p>{}</p>").format("é")))
    assert document.startswith("<!doctype html>")
    assert "<title>&lt;T&gt;</title>" in document
    assert "<body>\n<p>é</p>\n</body>" in document


def test_the_index_links_a_page_for_each_deck(tmp_path):
    pages = {"ingest": page.standalone("I", deck_of("")), "fit_lstm": "<p>T</p>"}
    address = write_pages(str(tmp_path / "new"), pages, {"model": "<m>"})
    assert address == str(tmp_path / "new" / "index.html")
    index = Path(address).read_text()
    assert re.findall('href="([^"]*)"', index) == ["ingest.html", "fit_lstm.html"]
    assert "Member lstm: how it was fitted" in index
    assert (tmp_path / "new" / "fit_lstm.html").read_text() == "<p>T</p>"
    assert "&lt;m&gt;" in index


# thumbnails


def test_a_thumbnail_is_a_small_square():
    uri = thumbnail(photo_bytes(3, side=400))
    assert uri.startswith("data:image/webp;base64,")
    with Image.open(BytesIO(base64.b64decode(uri.partition(",")[2]))) as image:
        assert image.size == (SIDE, SIDE)
    assert len(uri) < 4000


@pytest.mark.parametrize("photo", [None, b"", b"no photo"])
def test_what_is_no_photo_has_no_thumbnail(photo):
    assert thumbnail(photo) is None


# ingest


@pytest.fixture(scope="module")
def spoilt(tmp_path_factory):
    """12 labelled rows, two of them quarantined, one photo missing; 4 to predict, one of them flagged."""
    folder = write_catalogue(tmp_path_factory.mktemp("spoilt"))
    set_cell(folder / "X_train_update.csv", 3, "designation", "<b></b>")
    set_cell(folder / "X_train_update.csv", 5, "productid", "12.5")
    set_cell(folder / "X_test_update.csv", 13, "designation", "")
    photo_path(folder, 7).unlink()
    return ingest(str(folder), folder / "out", IngestConfig(max_bad_share=1))


def test_the_ingest_deck_counts_what_was_read_kept_and_quarantined(spoilt):
    text = text_of(ingest_deck(spoilt))
    assert "rows read 16 kept 14 quarantined 2 classes 3" in text
    assert "labelled 12 10 2 none unlabelled 4 4 0 no_title 1" in text
    assert "labelled bad_productid 1 labelled no_title 1" in text
    assert "labelled 3 no_title 10 1003 5003 <b></b>" in text
    assert "missing 1 (10.0%) 0 (0.0%)" in text
    assert "description 14 8 57.1%" in text


def test_the_ingest_deck_draws_classes_lengths_languages_and_photos(spoilt):
    deck = ingest_deck(spoilt)
    assert titles_of(deck) == [
        "Products by class",
        "Length of the title",
        "Length of the description",
        "Languages",
        "Missing",
        "Photo sizes",
        "Size of the photo files",
    ]
    classes, _, _, languages, missing, sizes, _ = figures_of(deck)
    bars = dict(zip(classes["data"][0]["y"], classes["data"][0]["x"], strict=True))
    assert bars == {"10 livres": 3, "1300 drones": 4, "2583 piscine": 3}
    assert sum(float(text.split()[0]) for text in languages["data"][0]["text"]) == 14
    assert missing["data"][0]["y"] == ["photo file missing", "no description"]
    assert (sizes["data"][0]["x"], sizes["data"][0]["y"]) == ([40], [40])
    assert deck.count("data:image/webp") == 13


def test_the_same_catalogue_gives_the_same_deck(spoilt):
    assert ingest_deck(spoilt) == ingest_deck(spoilt)


def test_a_profile_measures_all_texts_and_a_sample_of_photos(tmp_path):
    ingested = write_ingested(tmp_path, products=1200, classes=4)
    statistics = profile([*ingested.labelled, *ingested.unlabelled], seed=0, sample=100, pictures=5)
    assert sum(statistics.title_lengths.values()) == sum(statistics.description_lengths.values()) == 1320
    assert statistics.description_lengths[0] == 1320 / 5
    assert sum(statistics.languages.values()) == statistics.sampled == 100
    assert 90 < len(statistics.photos) <= 100
    assert {photo.width for photo in statistics.photos} <= set(range(40, 100))
    assert len(statistics.pictured) == 5
    other = profile([*ingested.labelled, *ingested.unlabelled], seed=1, sample=100, pictures=5)
    assert [one.title for one in other.pictured] != [one.title for one in statistics.pictured]


@pytest.mark.parametrize("products", [0, 1, 2, 3, 10, 501])
def test_quantiles_of_counted_lengths_are_those_of_all_lengths(products):
    lengths = np.random.default_rng(products).integers(0, 40, products)
    present = lengths[lengths > 0]
    counts = {int(length): int(n) for length, n in zip(*np.unique(lengths, return_counts=True), strict=True)}
    row = catalogue_deck._summarize_lengths(counts)
    assert row[:2] == [products, products - len(present)]
    expected = np.quantile(present, (0.5, 0.95)).astype(int).tolist() if len(present) else [0, 0]
    assert row[3:] == [*expected, int(present.max(initial=0))]


def test_a_sample_is_random_over_all_row_groups(tmp_path):
    ingested = write_ingested(tmp_path, products=3000, classes=2, photos=False)
    rows = pd.concat(iter_positions(ingested.labelled, np.array([0, 499, 500, 2999])))
    titles = rows["designation"].tolist()
    assert [int(title.split()[2]) for title in titles] == [0, 499, 500, 2999]
    sample = RandomSample(300, seed=0)
    for start in range(0, 3000, 100):
        sample.add(np.arange(start, start + 100))
    positions = np.array(sorted(sample.positions))
    assert len(positions) == 300
    thirds = np.histogram(positions, [0, 1000, 2000, 3000])[0]
    assert (abs(thirds - 100) < 30).all()


@pytest.mark.parametrize(
    ("title", "language"),
    [
        ("Lot de trois piscines gonflables pour les enfants", "fr"),
        ("Inflatable swimming pool for kids with a ladder", "en"),
        ("Das große Buch der Drachen, gebunden", "de"),
        ("PS4", "und"),
    ],
)
def test_the_language_is_detected_if_there_are_words(tmp_path, title, language):
    catalogue = write_catalogue(tmp_path / "in", labelled=3, unlabelled=0)
    for row in range(3):
        set_cell(catalogue / "X_train_update.csv", row, "designation", title)
        set_cell(catalogue / "X_train_update.csv", row, "description", "")
    ingested = ingest(str(catalogue), tmp_path / "out", IngestConfig(), unlabelled=False)
    assert profile(ingested.labelled, seed=0, sample=10, pictures=0).languages == {language: 3}


def test_no_photos_no_quarantine_no_unlabelled_part_and_one_class(tmp_path):
    ingested = write_ingested(tmp_path, products=5, classes=1, photos=False)
    counts = {"labelled": ingested.counts["labelled"]}
    deck = ingest_deck(dataclasses.replace(ingested, unlabelled=[], counts=counts))
    text = text_of(deck)
    assert "1 classes; the largest has 5 products, the smallest 5." in text
    assert "No product of the sample has a photo" in text
    assert text.endswith("Quarantine Every row was kept.")
    assert "Contact sheet" not in text


def test_a_catalogue_of_products_to_predict_alone_has_a_deck(tmp_path):
    folder = write_catalogue(tmp_path / "in")
    deck = ingest_deck(ingest(str(folder), tmp_path / "out", IngestConfig(), labelled=False))
    assert "No labelled product was kept" in text_of(deck)
    assert "4 products with a photo" in text_of(deck)


def test_an_empty_catalogue_has_a_deck(tmp_path):
    ingested = write_ingested(tmp_path, products=0, classes=1)
    assert "rows read 0 kept 0" in text_of(ingest_deck(ingested))


def test_a_thousand_classes_are_drawn_in_part_and_the_deck_says_so(tmp_path):
    deck = ingest_deck(write_ingested(tmp_path, products=3000, classes=1000, photos=False))
    (bars,) = (figure for figure in figures_of(deck) if "Products by class" in figure["layout"]["title"]["text"])
    assert len(bars["data"][0]["y"]) == 60
    assert re.search(r"Not shown: \d{3} smaller classes, with 1 to \d+ products", text_of(deck))


def test_a_few_rows_of_each_reason_are_shown(tmp_path):
    ingested = write_ingested(tmp_path, products=5, classes=1, quarantine=3000)
    rows = quarantined(ingested.quarantine, examples=3)
    assert rows["reason"].tolist() == ["duplicate_productid"] * 3 + ["no_title"] * 3
    assert rows["row"].tolist() == [0, 1, 2] * 2


# training


def test_the_training_deck_shows_the_best_epoch_and_the_time_by_step():
    epochs = [
        EpochMetrics(1, 2.0, 2.5, 0.3, 1e-3, 10.0, 2.0, 5.0, 1.0, 0.5),
        EpochMetrics(2, 1.0, 1.5, 0.6, 5e-4, 90.0),
        EpochMetrics(3, 0.5, 1.6, 0.7, 1e-5, 20.0, 5.0, 15.0),
    ]
    deck = training_deck("Member lstm", epochs, {"seed": 0, "rows": 12345, "rate": 0.001})
    text = text_of(deck)
    assert "epochs 3 best epoch 2 its validation loss (nats) 1.5000 its weighted F1 0.6000 time 2 min 00 s" in text
    assert "seed 0 rows 12,345 rate 0.001" in text
    assert "1 2.0000 2.5000 0.3000 1.00e-03 10.0 2.0 5.0 1.0 0.5 1.5" in text
    curves, pace = figures_of(deck)
    assert [trace["name"] for trace in curves["data"]] == ["training loss", "validation loss", "validation F1"]
    rate, *steps = pace["data"]
    assert rate["y"] == [0.001, 0.0005, 1e-05]
    assert {step["name"]: step["y"] for step in steps} == {
        "read": [2, 0, 5],
        "compute": [5, 0, 15],
        "validate": [1, 0, 0],
        "save": [0.5, 0, 0],
        "other": [1.5, 90, 0],
    }


def test_several_trainings_in_a_row_are_separated():
    epochs = [*epochs_of(3), *refitted(2)]
    deck = training_deck("Member lstm", epochs, {})
    text = text_of(deck)
    assert "epochs 5 trainings 2 best epoch 3 of training 1 its validation loss (nats) 1.4120" in text
    assert "Several trainings one after the other" in text
    assert "1 3 1.2000 1.4120 0.7000" in text
    assert "2 1 3.2000 1.00e-03" in text  # no validation
    curves, pace = figures_of(deck)
    losses = {trace["name"]: trace["y"] for trace in curves["data"]}
    assert losses["training loss"] == pytest.approx([3.2, 1.7, 1.2, None, 3.2, 1.7], abs=1e-9)
    assert losses["validation loss"][3:] == [None, None, None]
    assert curves["data"][0]["x"] == [1, 2, 3, None, 4, 5]
    assert len(curves["layout"]["shapes"]) == 2  # a line in each panel
    assert pace["data"][1]["x"] == [1, 2, 3, 4, 5]


def test_a_training_without_validation_has_no_best_epoch():
    assert "epochs 2 time" in text_of(training_deck("T", refitted(2), {}))


def test_a_member_fitted_without_epochs_shows_its_settings():
    deck = training_deck("Member bag", [], {"ngram_bits": 18, "held-out rows scored": 5000})
    settings = "setting value ngram_bits 18 held-out rows scored 5,000"
    assert text_of(deck) == f"Member bag Fitted to convergence, without epochs. {settings}"
    assert figures_of(deck) == []


def test_thousands_of_epochs_are_thinned_out():
    deck = training_deck("T", epochs_of(5000), {})
    assert len(figures_of(deck)[0]["data"][0]["x"]) == 500
    assert "one epoch of every 10" in text_of(deck)
    assert "the first 200 of 5000 epochs" in text_of(deck)


@pytest.mark.parametrize(("seconds", "text"), [(4.21, "4.2 s"), (185, "3 min 05 s"), (3720, "1 h 02 min")])
def test_durations_are_formatted_for_people(seconds, text):
    assert format_duration(seconds) == text


def test_a_page_without_a_title_here_comes_last():
    names = ["zzz", "register", "fit_photo", "fit_bag", "split", "pool", "ingest"]
    assert sorted(names, key=page_order) == ["ingest", "split", "fit_bag", "fit_photo", "pool", "register", "zzz"]


# pool


def test_the_pool_deck_shows_the_weights_and_every_member(answers):
    deck, report = pool_deck(answers.report), answers.report
    text = text_of(deck)
    assert f"rows compared {report.rows} members 3" in text
    weights = report.weights["text+photo"]
    assert f"bag {report.weights['text']['bag']:.3f} {weights['bag']:.3f}" in text
    assert f"photo {report.weights['photo']['photo']:.3f} {weights['photo']:.3f}" in text
    assert f"pool {report.pool.weighted_f1:.4f} {report.pool.log_loss:.4f} {report.pool.ece:.4f}" in text
    bag = report.members["bag"]
    alone = f"{bag.alone.weighted_f1:.4f} {bag.alone.log_loss:.4f} {bag.alone.ece:.4f}"
    assert f"bag {bag.scored} {alone} {bag.without.log_loss:.4f} {report.adds('bag')[1]:+.4f}" in text
    assert "The best member alone is bag" in text
    drawn, gains = figures_of(deck)
    assert drawn["data"][0]["x"] == ["text", "photo", "text+photo"]
    text_alone, photo_alone, both = drawn["data"][0]["y"]
    assert (text_alone, both) == pytest.approx((report.weights["text"]["bag"], weights["bag"]), rel=1e-4)
    assert photo_alone is None
    assert gains["data"][0]["y"] == ["photo", "lstm", "bag"]


def test_a_pool_of_which_no_row_was_scored_by_all_says_so():
    members = {"bag": MemberReport("text", 90, None, None), "photo": MemberReport("photo", 0, None, None)}
    weights = {"text": {"bag": 1.0}, "photo": {"photo": 1.0}, "text+photo": {"bag": 0.5, "photo": 0.5}}
    deck = pool_deck(PoolReport(0, None, members, weights))
    text = text_of(deck)
    assert "No labelled row was scored by all members" in text
    assert "bag text 90 photo photo 0" in text
    assert len(figures_of(deck)) == 1


def test_the_pool_deck_shows_what_each_stage_of_the_cascade_settles():
    deck = pool_deck(cascade_report())
    text = text_of(deck)
    assert "text and photo words 500 0.700 50% 0.8000 -> 0.8000 0.0100 -> 0.0200" in text
    assert "text words 500 0% 0.8000 -> 0.8000 0.0100 -> 0.0100" in text
    assert "The cascade" in json.dumps(figures_of(deck))


def test_the_pool_deck_warns_of_members_without_weight_and_of_few_rows():
    quality = Quality(0.8, 0.5, 0.1)
    members = {name: MemberReport("text", 40, quality, quality) for name in ("bag", "lstm")}
    text = text_of(pool_deck(PoolReport(40, quality, members, {"text": {"bag": 1.0, "lstm": 0.001}})))
    assert "Only 40 rows were scored by all members" in text
    assert "No weight: lstm." in text


# evaluation


def test_the_evaluation_deck_has_the_table_and_every_figure(answers):
    deck = evaluation_deck(answers.evaluation, answers.names, answers.errors)
    text = text_of(deck)
    for name, system in answers.evaluation.systems.items():
        lead = f" {system.lead.signed()}" if system.lead else ""
        assert f"{name} {' '.join(map(str, system.metrics))} {system.reliability.ece:.3f}{lead}" in text
    assert titles_of(deck) == [
        "",
        "What the photo adds, by the confidence of the text",
        "F1 by class",
        "Confusion matrix of the pool",
        "Reliability",
    ]
    panels = [note["text"] for note in figures_of(deck)[4]["layout"]["annotations"]]
    assert panels[0] == f"pool: ECE {answers.evaluation.ece:.3f}"
    assert [panel.split(":")[0] for panel in panels] == ["pool", "bag", "lstm", "photo", "tfidf_svm"]


def test_the_photos_gain_is_shown_by_the_confidence_of_the_text(answers):
    first = answers.evaluation.photo_gain[0]
    figures = f"{first.text_accuracy:.3f} {first.accuracy:.3f} {first.text_weighted_f1:.3f} {first.weighted_f1:.3f}"
    text = text_of(evaluation_deck(answers.evaluation, {}, []))
    assert f"{first.low:.3f} to {first.high:.3f} 75 {figures}" in text
    without = dataclasses.replace(answers.evaluation, photo_gain=[])
    assert "What the photo adds" not in text_of(evaluation_deck(without, {}, []))


def test_an_evaluation_without_errors_says_so(answers):
    assert text_of(evaluation_deck(answers.evaluation, {}, [])).endswith("No test row was predicted wrongly.")


def test_the_most_frequent_confusions_are_listed(answers):
    confusion = np.array([[5, 0, 0], [4, 1, 1], [0, 2, 8]])
    codes = [10, 17, 24]
    systems = {
        name: dataclasses.replace(system, classes=system.classes[:3])
        for name, system in answers.evaluation.systems.items()
    }
    evaluation = dataclasses.replace(answers.evaluation, codes=codes, systems=systems, confusion=confusion.tolist())
    text = text_of(evaluation_deck(evaluation, {"17": "balls"}, []))
    assert "of the class 17 balls 10 4 67% 24 17 balls 2 20% 17 balls 24 1 17%" in text


def probabilities(*rows):
    return np.array(rows, dtype=float)


@pytest.fixture
def scored():
    """Four products of classes 10, 40: rows 0 and 2 are answered wrongly, row 2 the more surely."""
    pool = probabilities([0.6, 0.4], [0.9, 0.1], [0.05, 0.95], [0.3, 0.7])
    photo = probabilities([0.2, 0.8], [0.5, 0.5], [0.1, 0.9], [0.5, 0.5])
    available = {"bag": np.array([True, True, False, True]), "photo": np.array([True, False, True, True])}
    members = {"bag": pool, "photo": photo}
    scores = Scores(np.array([10, 40]), pool, members, available, {"bag": "text", "photo": "photo"})
    return scores, np.array([1, 0, 0, 1])


def test_the_most_confident_errors_come_first(scored):
    scores, labels = scored
    assert top_errors(scores, labels).tolist() == [2, 0]
    assert top_errors(scores, labels, k=1).tolist() == [2]
    assert top_errors(scores, np.array([0, 0, 1, 1])).tolist() == []


def test_an_error_has_the_prediction_of_each_member(scored):
    scores, labels = scored
    rows = pd.DataFrame(
        {"row": [5, 6, 7, 8], "designation": list("abcd"), "description": "", "photo": [None, None, b"x", None]}
    )
    first, second = describe_errors(rows, scores, labels)
    assert (first.row, first.designation, first.photo, first.code) == (7, "c", b"x", 10)
    assert first.pool == MemberPrediction(40, 0.95)
    assert first.members == {"bag": None, "photo": MemberPrediction(40, 0.9)}
    assert second.members == {"bag": MemberPrediction(10, 0.6), "photo": MemberPrediction(40, 0.8)}
    assert second.photo is None


def test_errors_without_photo_or_text_say_so(scored, answers):
    scores, labels = scored
    rows = pd.DataFrame({"row": [5, 6, 7, 8], "designation": "", "description": "", "photo": [None, None, b"x", None]})
    deck = evaluation_deck(answers.evaluation, {"40": "games"}, describe_errors(rows, scores, labels))
    text = text_of(deck)
    assert "photo unreadable is 10 pool: 40 games, 0.95 bag: no input photo: 40 games, 0.90 row 7: no text" in text
    assert "no photo is 40 games pool: 10, 0.60 bag: 10, 0.60 photo: 40 games, 0.80 row 5: no text" in text


def test_only_the_requested_photos_are_read(spoilt):
    rows = pd.DataFrame({"row": [0, 1, 7, 2]})
    shards = spoilt.labelled
    photos = with_photos(rows, np.array([3, 2, 0]), shards)["photo"].tolist()
    assert photos == [photo_bytes(0), None, None, photo_bytes(2)]
    assert with_photos(rows, np.array([], int), shards)["photo"].isna().all()


def test_the_extreme_evaluation_stays_small():
    answers = Answers(rows=700, classes=300, hostile=True)
    deck = evaluation_deck(answers.evaluation, answers.names, answers.errors)
    assert len(deck.encode()) < 1_950_000
    assert "Not shown: the 220 classes with the fewest test rows." in text_of(deck)
    assert len(figures_of(deck)[3]["data"][0]["x"]) == 81


# registration


def test_the_registration_deck_shows_the_decision_and_its_bootstrap(answers):
    deck = registration_of(answers)
    text = text_of(deck)
    assert "model rakuten-classifier version 4" in text
    assert "resampled 2,000 times" in text
    (histogram,) = figures_of(deck)
    assert [bar["name"] for bar in histogram["data"]] == ["champion, version 3", "best champion, version 2"]
    assert [sum(bar["y"]) for bar in histogram["data"]] == pytest.approx([1, 1], abs=1e-3)


def test_a_probability_in_the_table_is_the_share_above_the_margin():
    decision = GateDecision(False, "refused: because", 0.8, 0.81, None, 0.75)
    differences = {"champion, version 1": np.array([-0.02, 0.0, 0.01, -0.002])}
    losses = {10: 0.2, 40: -0.1}
    deck = registration_deck("m", 2, "challenger", decision, differences, GateConfig(), losses, {"10": "books"})
    text = text_of(deck)
    assert "gate refused refused: because" in text
    assert "this version 0.8000 +0.0000 champion 0.8100 -0.0100" in text
    assert "champion, version 1 -0.0030 0.750" in text
    assert "10 books +0.200 too much 40 -0.100" in text


@pytest.mark.parametrize(
    ("decision", "text"),
    [
        (GateDecision(True, "first version: weighted F1 0.8", 0.8), "No bootstrap: there is no champion yet."),
        (
            GateDecision(False, "refused: other classes", 0.8),
            "No bootstrap: the champion has other classes.",
        ),
        (GateDecision(True, "passed", 0.8, 0.7, 0.7, 1.0), "the decision is from an earlier attempt and still holds."),
    ],
)
def test_a_decision_without_a_comparison_says_why(decision, text):
    deck = registration_deck("m", 1, "champion", decision, {}, GateConfig())
    assert text in text_of(deck)
    assert figures_of(deck) == []


def test_versions_with_the_same_predictions_have_a_histogram_too():
    decision = GateDecision(True, "passed", 0.8, 0.8, 0.8, 1.0)
    config = GateConfig(max_f1_loss=0)
    (histogram,) = figures_of(registration_deck("m", 2, "champion", decision, {"champion": np.zeros(9)}, config))
    assert sum(histogram["data"][0]["y"]) == 1


def test_a_catalogue_that_lost_rows_on_the_way_is_drawn_all_the_same(tmp_path):
    folder = write_catalogue(tmp_path / "in", labelled=6)
    for name in ("X_train_update.csv", "Y_train_CVw08PX.csv"):
        drop_rows(folder / name, [1, 2, 4, 5])
    ingested = ingest(str(folder), tmp_path / "out", IngestConfig())
    assert "1 classes; the largest has 2 products" in text_of(ingest_deck(ingested))


def test_the_split_deck_counts_held_out_products_with_the_photo_of_a_training_product():
    rows = {"train": [20, 20], "validation": [3, 3], "blending": [3, 3], "test": [4, 4]}
    text = text_of(split_deck(29, 0, rows, 2, [0, 1, 0, 2]))
    assert "train 20 20 100.0% 0 validation 3 3 100.0% 1 blending 3 3 100.0% 0 test 4 4 100.0% 2" in text
    assert "sample" not in text
    assert "3 held-out products have the photo file of a training product, under another title (2 photos)" in text
    assert "No held-out product has the photo file" in text_of(split_deck(29, 0, rows, 0, [0, 0, 0, 0]))


def test_the_split_deck_shows_the_share_of_a_sampled_split():
    rows = {"train": [200, 1000], "validation": [3, 3], "blending": [3, 3], "test": [4, 4]}
    text = text_of(split_deck(29, 2, rows, 0, [0, 0, 0, 0]))
    assert "train 1,000 200 20.0% 0" in text
    assert "A split has more products than sample in the configuration allows" in text
    assert "classes whose titles are placed by hash 2" in text
