"""The Deck of the fusion: what every weight would have scored, the weight chosen, and the temperatures."""

from __future__ import annotations

import numpy as np

from rakuten_tasks.classifier.fusion import Fusion, WeightSearch
from rakuten_tasks.classifier.plots import COLUMNS, fusion_curve
from rakuten_tasks.decks.page import deck, facts, figure, heading, note, notice, table

AS_IT_IS = 0.05  # a temperature closer to 1 than this is called 1


def fusion_deck(search: WeightSearch, fusion: Fusion) -> str:
    """search: over the weight of the mix of all branches but the last, against the last."""
    *mixed, second = fusion.weights
    first = " + ".join(mixed)
    chosen = search.scores[max(0, int(np.searchsorted(search.edges[:-1], search.weight, side="right")) - 1)]
    thinned = len(search.scores) > 2 * COLUMNS
    blocks = [
        facts(
            {
                **{f"weight of {name}": f"{weight:.3f}" for name, weight in fusion.weights.items()},
                "F1 at that weight": f"{chosen:.4f}",
                "best F1 of any weight": f"{search.optimum:.4f}",
                f"F1 of {first} alone": f"{search.scores[-1]:.4f}",
                f"F1 of {second} alone": f"{search.scores[0]:.4f}",
            }
        ),
        heading("Weight"),
    ]
    if search.standard_error == 0:
        blocks.append(notice(f"No validation product was seen by all branches: {mixed[0]} has all the weight."))
    else:
        blocks += [
            note(
                f"The exact curve, {len(search.scores):,} steps: an answer changes only where two classes of a product "
                f"meet. Shaded is the plateau, from {search.low:.3f} to {search.high:.3f}: the weights around the best "
                f"one that score at most one standard error ({search.standard_error:.4f}, by bootstrap) below it. Its "
                "centre is the weight chosen, as the best weight itself is partly luck."
                + (f" Drawn are the lowest and the highest step of each of {COLUMNS:,} columns." if thinned else "")
            ),
            figure(fusion_curve(search, first)),
        ]
    temperatures = {**fusion.temperatures, "all of them mixed": fusion.fused_temperature}
    rows = [(name, f"{value:.3f}", _meaning(value)) for name, value in temperatures.items()]
    blocks += [
        heading("Temperatures"),
        note("Logits are divided by it: a branch's answers stay what they were, how sure they are changes."),
        table(["of", "temperature", "what it means"], rows),
    ]
    if fusion.fused_floor:
        blocks.append(
            note(
                f"{fusion.fused_floor:.1%} of the mix's probability is spread evenly over the classes, for mistakes "
                "that the branches make with confidence: no answer changes, and the rest is not doubted for them."
            )
        )
    return deck("Fusion", blocks)


def _meaning(temperature: float) -> str:
    if abs(temperature - 1) <= AS_IT_IS:
        return "probabilities were right as they were"
    if temperature > 1:
        return "was too sure of itself: probabilities are made flatter"
    return "was not sure enough: probabilities are made sharper"
