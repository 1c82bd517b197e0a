from rakuten_tasks.preprocessing.tokenizer import PAD, SEPARATOR, train_tokenizer

TEXTS = ["Figurine de collection en résine", "Figurines peintes à la main", "Piscine gonflable", "Pompe de piscine"] * 5


def test_the_same_texts_give_the_same_tokenizer():
    first, second = (train_tokenizer(iter(TEXTS), 300).backend_tokenizer.to_str() for _ in range(2))
    assert first == second


def test_case_and_accents_do_not_change_the_tokens():
    tokenizer = train_tokenizer(TEXTS, 300)
    assert tokenizer("RÉSINE")["input_ids"] == tokenizer("resine")["input_ids"]


def test_frequent_words_are_one_token_and_title_and_description_are_kept_apart():
    tokenizer = train_tokenizer(TEXTS, 400)
    tokens = tokenizer(["piscine", ""], ["figurine", ""])["input_ids"]
    assert tokenizer.convert_ids_to_tokens(tokens[0]) == ["Ġpiscine", SEPARATOR, "Ġfigurine"]
    assert tokenizer.convert_ids_to_tokens(tokens[1]) == [SEPARATOR]


def test_no_character_is_unknown():
    tokenizer = train_tokenizer(TEXTS, 300)
    assert len(tokenizer("😀")["input_ids"]) == 5  # a space and four bytes
    assert tokenizer.convert_tokens_to_ids([PAD, SEPARATOR]) == [0, 1]


def test_what_has_no_space_for_long_is_learned_from_in_pieces():
    """Merging takes the square of a word's length: one that fills a megabyte would hold a training up for long."""
    letters = "".join(chr(97 + i * i % 23) for i in range(2600))
    whole, pieces = [letters], [f"{letters[:1000]} {letters[1000:2000]} {letters[2000:]}"]
    first, second = (train_tokenizer([*TEXTS, *texts], 400).backend_tokenizer.to_str() for texts in (whole, pieces))
    assert first == second
