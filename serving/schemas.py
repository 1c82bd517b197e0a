"""Request and response schemas, behind /openapi.json, and the types that the two processes exchange."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any, Self

from pydantic import BaseModel, ConfigDict, Field, StringConstraints

# A white pixel: the shortest photo for a document.
PIXEL = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAIAAACQd1PeAAAADElEQVR4nGP4//8/AAX+Av4N70a4AAAAAElFTkSuQmCC"
REQUEST_EXAMPLES: list[dict[str, Any]] = [
    {"description": "Chaussures en cuir pour homme"},
    {
        "designation": "Piscine ronde",
        "description": "Liner bleu, pompe comprise",
        "image": f"data:image/png;base64,{PIXEL}",
    },
    {"image": PIXEL, "top_k": 3, "explain": True},
]
BATCH_EXAMPLE: dict[str, Any] = {"products": REQUEST_EXAMPLES[:2]}


SWIMMING_POOL: dict[str, Any] = {"category_id": 2583, "category_name": "piscine et spa"}
PREDICTION_EXAMPLE: dict[str, Any] = {
    "predicted_category": "2583",
    **SWIMMING_POOL,
    "confidence": 0.87,
    "abstained": False,
    "top_k": [
        {"predicted_category": "2583", **SWIMMING_POOL, "confidence": 0.87},
        {"predicted_category": "2582", "category_id": 2582, "category_name": "mobilier de jardin", "confidence": 0.06},
    ],
    "modalities": ["text", "photo"],
    "members": {
        "bag": {"modality": "text", **SWIMMING_POOL, "confidence": 0.81, "share": 0.6},
        "photo": {"modality": "photo", **SWIMMING_POOL, "confidence": 0.6, "share": 0.4},
    },
    "model": "rakuten-classifier",
    "model_version": "3",
    "request_id": "6f1c0c9d3f8e4f0f9a53a6dbe4f7f3b1",
    "explanation": {
        "words": [{"word": "Piscine", "weight": 1.2}],
        "heat_map": {"rows": [[0.1, 0.9], [0.0, 1.0]], "square": [0.0, 0.0, 1.0, 1.0]},
    },
}

NOT_READY = "no champion is loaded yet: GET /info says why"
MAX_PRODUCTS = 256  # of a BatchRequest
# PhotoError.status -> type of the ErrorDetail
PHOTO_ERROR_TYPES = {"not_an_image": "photo_format", "truncated": "photo_damaged", "too_large": "photo_too_large"}


class PredictRequest(BaseModel):
    """A product. Text (designation, description) or image may be missing, but not both."""

    model_config = ConfigDict(strict=True, extra="forbid", json_schema_extra={"examples": list(REQUEST_EXAMPLES)})

    description: str | None = Field(None, description="text of the seller; HTML is removed")
    designation: str | None = Field(None, description="the title")
    image: str | None = Field(
        None, description="the photo as base64 or data URI, or a path under the server's own photo folder if it has one"
    )
    top_k: int = Field(5, ge=1, le=100, description="number of classes in `top_k`, best first")
    explain: bool = Field(
        False, description="whether to explain the prediction by words and parts of the photo: slower"
    )


class BatchRequest(BaseModel):
    """Products, each checked alone, so that a wrong one fails alone."""

    model_config = ConfigDict(extra="forbid", json_schema_extra={"examples": [BATCH_EXAMPLE]})

    products: list[Any] = Field(
        min_length=1,
        max_length=MAX_PRODUCTS,
        json_schema_extra={"items": {"$ref": "#/components/schemas/PredictRequest"}},
    )


class Candidate(BaseModel):
    """A class and its calibrated probability."""

    predicted_category: str
    category_id: int
    category_name: str
    confidence: float


class MemberPrediction(BaseModel):
    """The prediction of one member of the pool alone, calibrated; share: its part in the pool's prediction.

    modality: text or photo. The shares of all members sum to 1.
    """

    modality: str
    category_id: int
    category_name: str
    confidence: float
    share: float


class HeatMap(BaseModel):
    """Grad-CAM: rows from 0 to 1 over a square of the upright photo: left, upper, right, lower as shares of it."""

    rows: list[list[float]]
    square: list[float]


class Word(BaseModel):
    """A word and how much the log-probability of the predicted class falls without it, in nats."""

    word: str
    weight: float


class Explanation(BaseModel):
    """Reasons for the prediction."""

    words: list[Word]
    heat_map: HeatMap | None


class Prediction(Candidate):
    """The most probable class. confidence: its pooled probability; abstained: that is below the threshold."""

    model_config = ConfigDict(json_schema_extra={"examples": [PREDICTION_EXAMPLE]}, protected_namespaces=())

    abstained: bool
    top_k: list[Candidate]
    modalities: list[str]
    members: dict[str, MemberPrediction]
    model: str
    model_version: str
    request_id: str
    explanation: Explanation | None = None


class Feedback(BaseModel):
    """The true type code of a product."""

    model_config = ConfigDict(
        strict=True,
        extra="forbid",
        json_schema_extra={"examples": [{"request_id": PREDICTION_EXAMPLE["request_id"], "true_code": 2583}]},
    )

    request_id: Annotated[str, StringConstraints(pattern="^[0-9a-f]{32}$")]
    true_code: int = Field(ge=-(2**63), le=2**63 - 1)


class Recorded(BaseModel):
    """Receipt for feedback. It counts for accuracy if the prediction log holds the prediction."""

    recorded: bool
    known: bool = Field(
        description="whether the request is among the last 100,000 predictions since the start of this server"
    )


class ErrorDetail(BaseModel):
    """One error in a request. The input is never repeated."""

    loc: list[str | int]
    msg: str
    type: str


class ErrorResponse(BaseModel):
    """Body of an error response: its HTTP status; a message, or a list of details with status 422."""

    status: int
    detail: str | list[ErrorDetail]
    request_id: str = ""


@dataclass(frozen=True)
class InferenceRequest:
    """A valid request on its way to the worker. photo: bytes of the file."""

    request_id: str
    designation: str
    description: str
    photo: bytes | None
    top_k: int
    explain: bool


@dataclass(frozen=True)
class PredictionSummary:
    """Part of a prediction that the minutes' metrics need."""

    code: int
    confidence: float
    abstained: bool


@dataclass(frozen=True)
class InferenceResponse:
    """Response of the worker: an HTTP status and the JSON body. reason: of an error, for the prediction log."""

    status: int
    body: bytes
    reason: str = ""
    prediction: PredictionSummary | None = None  # None with an error

    @classmethod
    def error(cls, status: int, detail: str | list[ErrorDetail], reason: str, request_id: str) -> Self:
        """Return a response whose body is an ErrorResponse."""
        return cls(status, error_body(status, detail, request_id), reason)


def error_body(status: int, detail: str | list[ErrorDetail], request_id: str) -> bytes:
    """JSON of an ErrorResponse."""
    return ErrorResponse(status=status, detail=detail, request_id=request_id).model_dump_json().encode()
