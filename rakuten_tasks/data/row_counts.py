"""Counts of what became of a part's rows, and the check that few of them are bad."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence

from rakuten_tasks.data.ingested import Counts
from rakuten_tasks.data.schema import CatalogueError

VALID_PHOTO = ("ok", "none")
EXAMPLES = 3  # row numbers of each fault, in an error
EXPLANATIONS = {  # of issues whose name is not clear by itself
    "bad_label": ", prdtypecode is no whole number",
    "bad_productid": ", it is no whole number",
    "no_title": ", designation is empty or holds no text",
}


class RowCounts:
    """Numbers of rows by reason, photo status, issue and class, and the first rows of each fault."""

    def __init__(self) -> None:
        self._reasons: Counter[str] = Counter()
        self._photos: Counter[str] = Counter()
        self._issues: Counter[str] = Counter()
        self._codes: Counter[int] = Counter()
        self._examples: dict[str, list[int]] = {}  # by fault
        self._faults: Counter[str] = Counter()

    def add_quarantined(self, rows: Sequence[int], reasons: Sequence[str]) -> None:
        """Count rows that are not kept."""
        self._reasons.update(reasons)
        self._add_faults(rows, reasons)

    def add_kept(
        self, rows: Sequence[int], issues: Iterable[str | None], photos: Sequence[str], codes: Iterable[int | None]
    ) -> None:
        """Count rows that are kept, with the status of each photo."""
        self._photos.update(photos)
        self._issues.update(issue for issue in issues if issue is not None)
        self._codes.update(code for code in codes if code is not None)
        if not self._photos.keys() <= set(VALID_PHOTO):
            bad = [(row, f"photo {photo}") for row, photo in zip(rows, photos, strict=True) if photo not in VALID_PHOTO]
            self._add_faults([row for row, _ in bad], [fault for _, fault in bad])

    def _add_faults(self, rows: Sequence[int], faults: Sequence[str]) -> None:
        self._faults.update(faults)
        for row, fault in zip(rows, faults, strict=True):
            examples = self._examples.setdefault(fault, [])
            if len(examples) < EXAMPLES:
                examples.append(row)

    @property
    def class_counts(self) -> dict[int, int]:
        """Kept rows by prdtypecode, ascending."""
        return dict(sorted(self._codes.items()))

    def summarize(self, read: int, kept: int, file: str) -> Counts:
        """Return the counts. Raises CatalogueError unless they add up. read, kept: rows of the index, of the shards."""
        quarantined = self._reasons.total()
        tallies = (dict(sorted(tally.items())) for tally in (self._reasons, self._photos, self._issues))
        counts = Counts(read, kept, quarantined, *tallies)
        if kept + quarantined != read:
            raise CatalogueError(f"{file}: {counts} does not add up: the file changed while it was read, run again")
        return counts

    def require_few_faults(self, read: int, max_bad_share: float, file: str, photo_folders: Sequence[str]) -> None:
        """Raise CatalogueError with each fault and its first rows if more than a share of the labelled rows are bad."""
        bad = self._faults.total()
        if bad / read <= max_bad_share:
            return
        summary = "; ".join(
            f"{fault}{EXPLANATIONS.get(fault, '')}: {count} (rows {', '.join(map(str, self._examples[fault]))}"
            f"{', ...' if count > EXAMPLES else ''})"
            for fault, count in sorted(self._faults.items())
        )
        photos = ""
        if any(fault.startswith("photo ") for fault in self._faults):
            photos = (
                f"Photos were looked for in {', '.join(photo_folders)}; a product without a photo has a blank imageid. "
            )
        raise CatalogueError(
            f"{file}: {bad} of {read} labelled rows are bad ({bad / read:.1%}, more than max_bad_share = "
            f"{max_bad_share:.1%}). {summary}. {photos}Mend them, or raise ingest.max_bad_share in the configuration"
        )
