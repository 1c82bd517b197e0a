import html
import sys
import unicodedata

import pytest
import regex

from rakuten_tasks.data.splits import title_hash
from rakuten_tasks.preprocessing.product import Product
from rakuten_tasks.preprocessing.text import clean


@pytest.mark.parametrize(
    ("written", "plain"),
    [
        ("Caf&amp;eacute; &lt;b&gt;noir&lt;/b&gt;", "Café noir"),
        ("Prix&amp;nbsp;: 5&nbsp;€", "Prix : 5 €"),
        ("<p>Bleu<br/>Rouge</p>", "Bleu Rouge"),
        ("l¿été \ufffd ﬁn", "l été fin"),
        ("de 3 < 5 ans", "de 3 < 5 ans"),
        ("  deux \n\t lignes ", "deux lignes"),
        ("<style type='x'>.a > b { color: red }</style>Bleu<SCRIPT>if (a<b) x('</p>')</script >!", "Bleu !"),
        ("<![CDATA[<b>Piscine</b> ronde]]>", "Piscine ronde"),
        ("&lt;style&gt;a{}&lt;/style&gt;Bleu", "Bleu"),
        ("Bleu <style>p {} <script>x()</script> rouge", "Bleu p {} rouge"),
        ("", ""),
    ],
)
def test_what_sellers_write_becomes_plain_text(written, plain):
    assert clean(written) == plain


@pytest.mark.parametrize(
    "written",
    [
        "bébé <3 ans et >10 kg",
        "taille a<b et c>d",
        "I <3 Paris -> Lyon <- Nice </3 <=> <>",
        "longueur<largeur et largeur>hauteur",
        "contact <jean@exemple.fr> ou <http://exemple.fr>",
        "a ≮ b < c",
        "<<Promo>> du mois",
        "coupé à <a href='",
    ],
)
@pytest.mark.parametrize("escapes", [0, 1, 2])
def test_what_is_no_markup_stays_also_as_entities(written, escapes):
    escaped = written
    for _ in range(escapes):
        escaped = html.escape(escaped)
    assert clean(escaped) == written


@pytest.mark.parametrize(
    "tag",
    [
        "<p>",
        "</p>",
        "<BR />",
        "<o:p>",
        "<td nowrap>",
        "<input disabled hidden>",
        '<a href = "x" title="a > b">',
        "<img src=x alt=l'été rouge>",
        "<p class='x' lang>",
        "<!DOCTYPE html>",
        "<!-- a > b -->",
        "<!--[if mso]>",
        "<?xml:namespace prefix = o />",
        "<p\u200b>",
    ],
)
def test_markup_is_taken_out(tag):
    assert clean(f"bleu{tag}rouge") == "bleu rouge"


def test_full_width_signs_open_no_tag():
    assert clean("＜b＞") == "<b>"


INVISIBLE = ["\u00ad", "\u200b", "\u200d", "\u200e", "\u2066", "\ufeff", "\ufe0f", "\U000e0041", "\0", "\x7f"]
ENTITIES = [
    "&shy;",
    "&shy",
    "&#173;",
    "&#xAD;",
    "&ZeroWidthSpace;",
    "&zwnj;",
    "&lrm;",
    "&#8203;",
    "&#65279;",
    "&amp;shy;",
]


@pytest.mark.parametrize("mark", [*INVISIBLE, *ENTITIES])
def test_what_shows_nothing_is_nothing(mark):
    assert clean(f" {mark}{mark} ") == ""
    assert clean(f"Télé{mark}phone") == "Téléphone"
    assert clean(f"e{mark}\u0301té") == "été"
    assert title_hash(f"Télé{mark}phone") == title_hash("Téléphone")
    assert not Product(designation=mark).has_text


def test_every_default_ignorable_code_point_is_nothing():
    ignorable = [code for code in range(sys.maxunicode + 1) if regex.match(r"\p{DI}", chr(code))]
    assert len(ignorable) > 4000
    assert clean("".join(map(chr, ignorable))) == ""


def test_composed_and_decomposed_letters_are_equal():
    text = "Été à Noël, cœur ≮ ﬁn"
    assert (
        clean(unicodedata.normalize("NFD", text))
        == clean(unicodedata.normalize("NFC", text))
        == "Été à Noël, cœur ≮ fin"
    )


@pytest.mark.parametrize("broken", ["\x92", "\ufffc", "\ufffd", "¿", "\u2800", "&#0;"])
def test_what_cannot_be_read_is_a_space(broken):
    assert clean(f"l{broken}été") == "l été"
