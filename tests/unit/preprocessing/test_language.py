import pytest

from rakuten_tasks.preprocessing.language import language


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ("une chaise pour la cuisine", "fr"),
        ("a chair for the kitchen", "en"),
        ("ein Stuhl für die Küche und", "de"),
        ("XBOX 360", "und"),
        ("", "und"),
    ],
)
def test_the_language_is_told_from_a_few_words(text, code):
    assert language(text) == code
