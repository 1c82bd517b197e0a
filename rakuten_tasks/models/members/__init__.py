"""The members: the models of the pool. A new one needs one module and one line in MEMBERS."""

from __future__ import annotations

from rakuten_tasks.models.members.linear import Bag, BagEncoder, Encoder, Photo
from rakuten_tasks.models.members.lstm import LSTM
from rakuten_tasks.models.members.member import FitContext, FitResult, Member, TrainingData
from rakuten_tasks.models.members.transformer import Transformer
from rakuten_tasks.models.members.vgg16 import VGG16

__all__ = ["MEMBERS", "FitContext", "FitResult", "Member", "TrainingData"]

MEMBERS: dict[str, type[Member]] = {
    member.name: member for member in (Bag, LSTM, Encoder, BagEncoder, Transformer, Photo, VGG16)
}
