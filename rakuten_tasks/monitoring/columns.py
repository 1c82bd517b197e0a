"""Columns of the prediction log; drift is measured on the same ones."""

from __future__ import annotations

import pyarrow as pa

PREDICTION, REJECTED, FEEDBACK = "prediction", "rejected", "feedback"
PROJECTED = 16  # numbers that stand for a product's embedding: as many for each modality
EMBEDDING = [f"embedding_{i:02}" for i in range(PROJECTED)]
TEXT_COLUMNS = [
    "designation_length",
    "designation_words",
    "digit_share",
    "capital_share",
    "description_empty",
    "language",
    "unknown_word_share",
]
PHOTO_COLUMNS = ["photo_missing", "photo_unreadable", "brightness", "contrast", "border_share", "photo_bytes"]
SURENESS = ["confidence", "entropy", "disagreement"]
ANSWER_COLUMNS = ["predicted", *SURENESS]
DRIFT_COLUMNS = [*TEXT_COLUMNS, *PHOTO_COLUMNS, *ANSWER_COLUMNS, *EMBEDDING]

SCHEMA = pa.schema(
    [
        ("time", pa.timestamp("us", tz="UTC")),
        ("kind", pa.string()),  # PREDICTION, REJECTED or FEEDBACK
        ("request_id", pa.string()),
        ("status", pa.int32()),  # of the HTTP answer
        ("reason", pa.string()),  # why it was rejected, without the input
        ("requests", pa.int64()),  # rejected ones that the row stands for, all within a second; null is one
        ("model", pa.string()),
        ("version", pa.string()),
        # the text: lengths in characters and words, shares from 0 to 1 of the title's characters
        ("designation_length", pa.int64()),
        ("designation_words", pa.int64()),
        ("digit_share", pa.float64()),
        ("capital_share", pa.float64()),
        ("description_empty", pa.bool_()),
        ("language", pa.string()),  # of preprocessing/language.py
        ("unknown_word_share", pa.float64()),  # of words that no training row holds; null without words
        # the photo: null where there is none
        ("photo_missing", pa.bool_()),
        ("photo_unreadable", pa.bool_()),
        ("brightness", pa.float64()),  # mean grey, 0 to 1
        ("contrast", pa.float64()),  # standard deviation of grey, 0 to 0.5
        ("border_share", pa.float64()),  # of the area that is cropped off as white border
        ("photo_bytes", pa.int64()),
        # the answer
        ("predicted", pa.int64()),
        ("confidence", pa.float64()),  # calibrated, of the pool
        ("entropy", pa.float64()),  # in nats
        ("disagreement", pa.float64()),  # total variation between text and photo, 0 to 1; null unless both were seen
        ("used", pa.string()),  # text+photo, text, photo
        ("abstained", pa.bool_()),
        ("top_codes", pa.list_(pa.int64())),
        ("top_probabilities", pa.list_(pa.float64())),
        *[(name, pa.float64()) for name in EMBEDDING],
        # only where SERVE_LOG_TEXT says so
        ("designation", pa.string()),
        ("description", pa.string()),
        ("true_code", pa.int64()),  # of feedback
    ]
)
