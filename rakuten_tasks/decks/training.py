"""The Deck of a training: how the branch learned, and what the time went into."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from markupsafe import Markup

from rakuten_tasks.classifier.plots import seconds_by_step, training_curves, training_pace
from rakuten_tasks.classifier.training import Epoch
from rakuten_tasks.decks import page
from rakuten_tasks.decks.page import deck, figure, heading, note, notice, table
from rakuten_tasks.labels import cut

MAX_ROWS = 200  # epochs in the table
MAX_DRAWN = 500
MAX_FACTS = 60


def training_deck(title: str, epochs: Sequence[Epoch], facts: Mapping[str, object]) -> str:
    """epochs: none for a branch that was not trained. facts: what else is worth knowing, by name."""
    told = _facts(facts)
    if not epochs:
        return deck(title, [notice("This branch was not trained: there are no epochs to show."), *told])
    return deck(title, [_best(epochs), *told, *_figures(epochs), *_epochs(epochs)])


def _best(epochs: Sequence[Epoch]) -> Markup:
    best = min(epochs, key=lambda epoch: epoch.valid_loss)
    return page.facts(
        {
            "epochs": len(epochs),
            "best epoch (kept)": best.number,
            "its validation loss (nats)": f"{best.valid_loss:.4f}",
            "its weighted F1": f"{best.valid_f1:.4f}",
            "time": duration(sum(epoch.seconds for epoch in epochs)),
        }
    )


def _facts(values: Mapping[str, object]) -> list[Markup]:
    told = list(values.items())[:MAX_FACTS]
    rows = [(name, cut(f"{value:,}" if type(value) is int else str(value), 200)) for name, value in told]
    return [table(["setting", "value"], rows)] if rows else []


def _figures(epochs: Sequence[Epoch]) -> list[Markup]:
    every = -(-len(epochs) // MAX_DRAWN)
    drawn = epochs[::every]
    thinned = [note(f"Drawn is one epoch of every {every}.")] if every > 1 else []
    return [heading("Curves"), *thinned, figure(training_curves(drawn)), figure(training_pace(drawn))]


def _epochs(epochs: Sequence[Epoch]) -> list[Markup]:
    parts = seconds_by_step(epochs)
    columns = ["epoch", "training loss", "validation loss", "validation F1", "learning rate", "seconds", *parts]
    rows = [
        (
            epoch.number,
            *(f"{value:.4f}" for value in (epoch.train_loss, epoch.valid_loss, epoch.valid_f1)),
            f"{epoch.learning_rate:.2e}",
            *(f"{seconds:.1f}" for seconds in (epoch.seconds, *(part[i] for part in parts.values()))),
        )
        for i, epoch in enumerate(epochs[:MAX_ROWS])
    ]
    caption = f"seconds by step; the first {MAX_ROWS} of {len(epochs)} epochs" if len(epochs) > MAX_ROWS else ""
    return [heading("Epochs"), table(columns, rows, caption or "seconds by step")]


def duration(seconds: float) -> str:
    """1 h 02 min, 3 min 05 s, 4.2 s."""
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest:02d} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60:02d} min"
