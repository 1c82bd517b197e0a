"""Stage 6: train the photo branch."""

from __future__ import annotations

from flytekit import task
from flytekit.types.directory import FlyteDirectory

from rakuten_tasks import pods
from rakuten_tasks.artifacts import Arrays, Branch, Catalogue, Run, local, workspace
from rakuten_tasks.classifier.photo_training import train_photo_branch
from rakuten_tasks.classifier.training import choose_device
from rakuten_tasks.config import PhotoConfig
from rakuten_tasks.registry import tracking
from rakuten_tasks.training_log import log_epoch, write_epochs


@task(**pods.GPU)
def train_vgg16(shards: list[Arrays], catalogue: Catalogue, config: PhotoConfig, seed: int, run: Run) -> Branch:
    """The head on frozen features, then block 5; or the whole network from random weights."""
    with tracking.child_run(run.run_id, "train_vgg16") as log:
        branch, epochs = train_photo_branch(
            [local(shard.file) for shard in shards], catalogue.codes, config, seed, choose_device(), log_epoch(log)
        )
        work = workspace()
        branch.save(work / "photo")
        return Branch(FlyteDirectory(str(work / "photo")), write_epochs(epochs, work, log))
