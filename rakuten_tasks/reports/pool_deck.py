"""Deck of the pool: weights, and what each member adds."""

from __future__ import annotations

from collections.abc import Iterator

from markupsafe import Markup

from rakuten_tasks.models.pool_report import PoolReport, Quality
from rakuten_tasks.reports.page import callout, caption, deck, figure, heading, key_values, table
from rakuten_tasks.reports.result_plots import pool_figures

NOTHING = 0.02  # a weight relative to alone, under which a member has no say
FEW = 300  # rows, under which differences between members are mostly noise


def pool_deck(report: PoolReport) -> str:
    """The page of a fitted pool."""
    figures = pool_figures(report)
    gains = [figure(figures["pool_gains"])] if "pool_gains" in figures else []
    blocks = [*_summary(report), heading("Weights"), *_weights(report), figure(figures["pool_weights"])]
    return deck("Pool", [*blocks, heading("Members"), *_members(report), *gains])


def _summary(report: PoolReport) -> Iterator[Markup]:
    values: dict[str, object] = {"rows compared": report.rows, "members": len(report.members)}
    if report.pool and report.best:
        values["weighted F1 of the pool"] = f"{report.pool.weighted_f1:.4f}"
        values["log loss of the pool (nats)"] = f"{report.pool.log_loss:.4f}"
        values["best member alone"] = report.best
    yield key_values(values)
    if report.pool is None:
        yield callout(
            "No labelled row was scored by all members: nothing can be compared, and where a product has both text and "
            "a photo, members share the weight as far as rows tell."
        )
    elif report.rows < FEW:
        yield callout(f"Only {report.rows} rows were scored by all members: differences between them are mostly noise.")


def _weights(report: PoolReport) -> Iterator[Markup]:
    yield caption(
        "The answer is the members' scores, each times its weight, added up and turned into probabilities. The weights "
        "are those under which labelled rows that the members had not seen are most likely. A weight of 1 means: the "
        "member is taken as sure as it is when it answers alone; two members that tell the same share it."
    )
    kinds = list(report.weights)
    rows = [
        (name, *(f"{w:.3f}" if (w := report.weights[key].get(name)) is not None else "" for key in kinds))
        for name in report.members
    ]
    yield table(["weight of", *(f"with {key.replace('+', ' and ')}" for key in kinds)], rows)
    sets = report.weights.values()
    idle = [name for name in report.members if all(weights.get(name, 0) < NOTHING for weights in sets)]
    if idle:
        yield caption(f"No say: {', '.join(idle)}. What it tells, the others tell too. Leave it out to train faster.")


def _members(report: PoolReport) -> Iterator[Markup]:
    if report.pool is None:
        rows = [(name, member.modality, member.scored) for name, member in report.members.items()]
        yield table(["member", "of", "rows scored unseen"], rows)
        return
    yield caption(
        f"All figures are of the same {report.rows:,} rows, which every member has scored without having been fitted "
        "on them; the pool's few weights were. Without a member: the pool of the others, its weights fitted again."
    )
    columns = ["", "rows scored unseen", "weighted F1", "log loss", "ECE", "log loss without it", "it adds (F1)"]
    yield table(columns, [("pool", "", *_shown(report.pool), "", ""), *(_row(report, name) for name in report.members)])
    yield from _sentences(report, report.pool)


def _row(report: PoolReport, name: str) -> tuple[object, ...]:
    member, gain = report.members[name], report.adds(name)
    alone = _shown(member.alone) if member.alone else ("", "", "")
    without = (f"{member.without.log_loss:.4f}", f"{gain[1]:+.4f}") if member.without and gain else ("", "")
    return (name, f"{member.scored:,}", *alone, *without)


def _shown(quality: Quality) -> tuple[str, str, str]:
    return f"{quality.weighted_f1:.4f}", f"{quality.log_loss:.4f}", f"{quality.ece:.4f}"


def _sentences(report: PoolReport, pool: Quality) -> Iterator[Markup]:
    if len(report.members) > 1 and report.best and (best := report.members[report.best].alone):
        yield caption(
            f"The best member alone is {report.best}: log loss {best.log_loss:.4f}, weighted F1 "
            f"{best.weighted_f1:.4f}. The pool has {pool.log_loss:.4f} and {pool.weighted_f1:.4f}."
        )
    unscored = [name for name, member in report.members.items() if not member.scored]
    if unscored:
        yield caption(f"Not compared, as there was no row that they scored unseen: {', '.join(unscored)}.")
