"""A plain FastAPI endpoint: the bundle in fp32, one request at a time. The baseline of benchmarks/serving.py."""

from __future__ import annotations

import base64
import sys
from contextlib import nullcontext
from pathlib import Path
from typing import Any
from unittest import mock

import uvicorn
from fastapi import FastAPI

from rakuten_tasks.models.backbones import frozen
from rakuten_tasks.models.members import vgg16
from rakuten_tasks.models.predictor import Predictor
from rakuten_tasks.preprocessing.product import Product


def build(bundle: Path) -> FastAPI:
    """Build an app with one route that handles requests sequentially."""
    for networks in (frozen, vgg16):
        mock.patch.object(networks, "autocast", return_value=nullcontext()).start()
    predictor = Predictor.load(bundle)
    app = FastAPI()

    @app.post("/predict")
    async def predict(product: dict[str, Any]) -> dict[str, Any]:
        photo = base64.b64decode(product["image"]) if "image" in product else None
        scores = predictor.score([Product(product["designation"], product["description"], photo)])
        return {"category_id": int(scores.predicted[0]), "confidence": float(scores.confidence[0])}

    return app


if __name__ == "__main__":
    uvicorn.run(build(Path(sys.argv[1])), host="127.0.0.1", port=int(sys.argv[2]), log_level="warning")
