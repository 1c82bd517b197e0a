"""Stage 5: train the text branch."""

from __future__ import annotations

from flytekit import task
from flytekit.types.directory import FlyteDirectory

from rakuten_tasks import pods
from rakuten_tasks.artifacts import Arrays, Branch, Catalogue, Run, local, workspace
from rakuten_tasks.classifier.lstm import train_text_branch
from rakuten_tasks.classifier.ngrams import Vocabulary
from rakuten_tasks.classifier.training import choose_device
from rakuten_tasks.config import TextConfig
from rakuten_tasks.registry import tracking
from rakuten_tasks.training_log import log_epoch, write_epochs


@task(**pods.GPU)
def train_lstm(
    shards: list[Arrays], vocabulary: FlyteDirectory, catalogue: Catalogue, config: TextConfig, seed: int, run: Run
) -> Branch:
    """LSTM beside a bag of n-grams; stops early on validation A. The folder holds the vocabulary too."""
    words = Vocabulary.load(local(vocabulary))
    with tracking.child_run(run.run_id, "train_lstm") as log:
        branch, epochs = train_text_branch(
            [local(shard.file) for shard in shards],
            words,
            catalogue.codes,
            config,
            seed,
            choose_device(),
            log_epoch(log),
        )
        work = workspace()
        words.save(work / "text")
        branch.save(work / "text")
        return Branch(FlyteDirectory(str(work / "text")), write_epochs(epochs, work, log))
