"""Columns of the prediction log, which are also the columns that drift checks compare."""

from __future__ import annotations

import pyarrow as pa

PREDICTION, REJECTED, FEEDBACK = "prediction", "rejected", "feedback"
PROJECTED = 16  # numbers that a product's embedding is projected to, half of them for each modality
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
UNCERTAINTY_COLUMNS = ["confidence", "entropy", "disagreement"]
PREDICTION_COLUMNS = ["predicted", *UNCERTAINTY_COLUMNS]
# of rows that the model was fitted on, these are not what they are of new products
FITTED_COLUMNS = ["unknown_word_share", *UNCERTAINTY_COLUMNS]
DRIFT_COLUMNS = [*TEXT_COLUMNS, *PHOTO_COLUMNS, *PREDICTION_COLUMNS, *EMBEDDING]

SCHEMA = pa.schema(
    [
        ("time", pa.timestamp("us", tz="UTC")),
        ("kind", pa.string()),  # PREDICTION, REJECTED or FEEDBACK
        ("request_id", pa.string()),
        ("status", pa.int32()),  # of the HTTP response
        ("reason", pa.string()),  # why it was rejected, without the input
        ("requests", pa.int64()),  # rejected requests that the row counts, all within one second; null is one
        ("model", pa.string()),
        ("version", pa.string()),
        # the text: lengths in characters and words, shares from 0 to 1 of the title's characters
        ("designation_length", pa.int64()),
        ("designation_words", pa.int64()),
        ("digit_share", pa.float64()),
        ("capital_share", pa.float64()),
        ("description_empty", pa.bool_()),
        ("language", pa.string()),  # of preprocessing/language.py
        ("unknown_word_share", pa.float64()),  # of words that no training row contains; null without words
        # the photo: null if there is none; from its pixels only where the prediction read it
        ("photo_missing", pa.bool_()),
        ("photo_unreadable", pa.bool_()),
        ("brightness", pa.float64()),  # mean grey, 0 to 1
        ("contrast", pa.float64()),  # standard deviation of grey, 0 to 0.5
        ("border_share", pa.float64()),  # of the area that is cropped as white border
        ("photo_bytes", pa.int64()),
        # the prediction
        ("predicted", pa.int64()),
        ("confidence", pa.float64()),  # calibrated, of the pool
        ("entropy", pa.float64()),  # in nats
        # total variation between members, 0 to 1; null unless two members scored the product
        ("disagreement", pa.float64()),
        ("used", pa.string()),  # text+photo, text (also where that settled a product with a photo), photo
        ("abstained", pa.bool_()),
        ("top_codes", pa.list_(pa.int64())),
        ("top_probabilities", pa.list_(pa.float64())),
        *[(name, pa.float64()) for name in EMBEDDING],
        # only if SERVE_LOG_TEXT is set
        ("designation", pa.string()),
        ("description", pa.string()),
        ("true_code", pa.int64()),  # of feedback
    ]
)
