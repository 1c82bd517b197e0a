"""Made-up logits of three members, whose best weights are known."""

from __future__ import annotations

import numpy as np

from rakuten_tasks.models.pool import Logits

CLASSES = 5


PRIOR = np.array([0.4, 0.3, 0.1, 0.1, 0.1])


MODALITY = {"bag": "text", "lstm": "text", "photo": "photo"}


def evidence(labels, signal, seed, noise=1.0):
    """Scores that a weight of `signal` calibrates, if noise is 1."""
    scores = noise * np.random.default_rng(seed).normal(size=(len(labels), CLASSES))
    scores[np.arange(len(labels)), labels] += signal
    return scores


def labels_of(rows, seed=0):
    return np.random.default_rng((seed, 99)).integers(0, CLASSES, rows)


def case(rows, seed=0, signals=(2.0, 1.5, 1.2), available=None):
    """Three members with mistakes of their own. available: share of the rows by member."""
    labels = labels_of(rows, seed)
    by_member = {
        name: evidence(labels, signal, (seed, i)).astype(np.float32)
        for i, (name, signal) in enumerate(zip(MODALITY, signals, strict=True))
    }
    random = np.random.default_rng((seed, 7))
    masks = {name: random.random(rows) < (available or {}).get(name, 1.0) for name in by_member}
    return Logits(by_member, masks), labels


def only(logits, **masks):
    """The same scores with other rows available."""
    return Logits(logits.by_member, {name: np.asarray(mask) for name, mask in masks.items()})
