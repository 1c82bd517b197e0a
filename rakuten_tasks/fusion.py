"""Stage 7: temperatures on validation A, the exact weight and the mix's temperature on validation B."""

from __future__ import annotations

import json

from flytekit.types.file import FlyteFile

from rakuten_tasks import pods
from rakuten_tasks.artifacts import Branch, Catalogue, Fused, KeyedFused, Run, Shard, content_hash, local, workspace
from rakuten_tasks.catalogue.ledger import VALIDATION_A, VALIDATION_B, Ledger
from rakuten_tasks.classifier.branches import load_branches
from rakuten_tasks.classifier.bundle import REFERENCE
from rakuten_tasks.classifier.fusion import fit_fusion
from rakuten_tasks.classifier.plots import fusion_curve
from rakuten_tasks.classifier.predictor import embeddings_of, fuse_logits
from rakuten_tasks.classifier.scoring import rows_on, score_sides
from rakuten_tasks.classifier.training import choose_device
from rakuten_tasks.console import show
from rakuten_tasks.decks.fusion import fusion_deck
from rakuten_tasks.monitoring.reference import reference_rows
from rakuten_tasks.registry import runs
from rakuten_tasks.stage import stage

HELD_OUT = (VALIDATION_A, VALIDATION_B)


@stage(pods.GPU, cached=True, deck=True)
def fuse(
    shards: list[Shard], ledger: FlyteFile, catalogue: Catalogue, text: Branch, photo: Branch, run: Run
) -> KeyedFused:
    """Choose how the branches are mixed, on validation rows alone; those rows become the drift reference."""
    work = workspace()
    with runs.child_run(run.run_id, "fuse") as log:
        branches = load_branches({"text": local(text.folder), "photo": local(photo.folder)}, choose_device())
        paths, sides = [local(shard.products) for shard in shards], Ledger.load(local(ledger))
        with embeddings_of(branches) as embeddings:
            validation = score_sides(paths, sides, HELD_OUT, branches, catalogue.codes)
        a, b = validation.on(VALIDATION_A), validation.on(VALIDATION_B)
        fusion, search = fit_fusion(a.logits, a.labels, b.logits, b.labels)
        log.metrics({f"temperature_{name}": value for name, value in fusion.temperatures.items()})
        log.metrics({f"weight_{name}": value for name, value in fusion.weights.items()})
        told = {"temperature_fused": fusion.fused_temperature, "floor_fused": fusion.fused_floor}
        log.metrics(told | {"validation_b_f1": search.optimum})
        log.figure(fusion_curve(search, " + ".join(list(fusion.weights)[:-1])), "fusion_curve")
        scores = fuse_logits(validation.logits, fusion, catalogue.codes)
        photographed = rows_on(paths, sides, HELD_OUT)
        reference = reference_rows(validation.rows, photographed, branches, scores, embeddings(scores.seen))
        reference.to_parquet(work / REFERENCE, index=False)
        (work / "fusion.json").write_text(json.dumps(fusion.to_dict()))
        key = content_hash(work)
        deck = show("fuse", "Fusion", fusion_deck(search, fusion), log)
    return Fused(FlyteFile(str(work / "fusion.json")), FlyteFile(str(work / REFERENCE)), key, deck)
