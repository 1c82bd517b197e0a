"""Stage 5: train the text branch."""

from __future__ import annotations

from flytekit.types.directory import FlyteDirectory

from rakuten_tasks import pods
from rakuten_tasks.artifacts import Arrays, Branch, Catalogue, KeyedBranch, Run, content_hash, local, workspace
from rakuten_tasks.classifier.lstm import train_text_branch
from rakuten_tasks.classifier.ngrams import Vocabulary
from rakuten_tasks.classifier.training import choose_device
from rakuten_tasks.config import TextConfig
from rakuten_tasks.pod_state import checkpoints
from rakuten_tasks.registry import runs
from rakuten_tasks.stage import stage
from rakuten_tasks.training_log import log_epoch, record, told

TITLE = "Text: LSTM and bag of n-grams"


@stage(pods.GPU, cached=True, deck=True)
def train_lstm(
    shards: list[Arrays], vocabulary: FlyteDirectory, catalogue: Catalogue, config: TextConfig, seed: int, run: Run
) -> KeyedBranch:
    """LSTM beside a bag of n-grams; stops early on validation A. The folder holds the vocabulary too."""
    folder = local(vocabulary)
    inputs = [shard.sha256 for shard in shards], content_hash(folder), catalogue.codes, config.to_dict(), seed
    words = Vocabulary.load(folder)
    with runs.child_run(run.run_id, "train_lstm") as log, checkpoints("train_lstm", *inputs) as store:
        branch, epochs = train_text_branch(
            [local(shard.file) for shard in shards],
            words,
            catalogue.codes,
            config,
            seed,
            choose_device(),
            log_epoch(log),
            store=store,
            interval=pods.CHECKPOINT_SECONDS,
        )
        share = {"share of the LSTM": f"{1 - branch.scales[0]:.2f}"}
        settings = told(seed, config, vocabulary_size=words.size, hidden=branch.shape.hidden, **share)
        work = workspace()
        words.save(work / "text")
        branch.save(work / "text")
        return Branch.of(work / "text", *record(TITLE, "train_lstm", epochs, settings, work, log))
