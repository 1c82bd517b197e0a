from rakuten_tasks.config import PhotoConfig, TextConfig
from rakuten_tasks.training_log import told


def test_what_a_zero_left_to_be_chosen_is_told_as_chosen_or_as_what_was():
    text = told(0, TextConfig(epochs=4), vocabulary_size=1234)
    assert (text["seed"], text["epochs"], text["vocabulary_size"]) == (0, 4, 1234)
    assert text["learning_rate"] == "chosen"
    photo = told(3, PhotoConfig(), side=32)
    assert (photo["side"], photo["fine_tune_epochs"], photo["weights_file"], photo["epochs"]) == (32, 0, "", "chosen")
