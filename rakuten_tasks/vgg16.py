"""Stage 6: train the photo branch."""

from __future__ import annotations

from rakuten_tasks import pods
from rakuten_tasks.artifacts import Arrays, Branch, Catalogue, KeyedBranch, Run, local, workspace
from rakuten_tasks.classifier.photo_training import train_photo_branch
from rakuten_tasks.classifier.ranks import own_device, rank, together
from rakuten_tasks.classifier.training import choose_device
from rakuten_tasks.classifier.vgg16_weights import weights_key
from rakuten_tasks.config import PhotoConfig
from rakuten_tasks.pod_state import checkpoints
from rakuten_tasks.registry import runs
from rakuten_tasks.stage import stage
from rakuten_tasks.training_log import log_epoch, record, told

TITLE = "Photo: VGG16"


@stage(pods.PHOTO, cached=True, deck=True)
def train_vgg16(shards: list[Arrays], catalogue: Catalogue, config: PhotoConfig, seed: int, run: Run) -> KeyedBranch:
    """The head on frozen features, then block 5; or the whole network from random weights.

    On several GPUs (see pods.py) each process runs this; rank 0 keeps checkpoints, logs, and returns the branch.
    """
    inputs = [shard.sha256 for shard in shards], catalogue.codes, config.to_dict(), seed
    with together():
        device = own_device(choose_device())
        training = [local(shard.file) for shard in shards], catalogue.codes, config, seed, device
        if rank() > 0:
            train_photo_branch(*training)
            return None  # type: ignore[return-value]  # which nobody reads
        with runs.child_run(run.run_id, "train_vgg16") as log, checkpoints("train_vgg16", *inputs) as store:
            branch, epochs = train_photo_branch(
                *training, log_epoch(log), store=store, interval=pods.CHECKPOINT_SECONDS
            )
            settings = told(seed, config, side=config.pixels)
            work = workspace()
            branch.save(work / "photo")
            shown = record(TITLE, "train_vgg16", epochs, settings, work, log)
            return Branch.of(work / "photo", *shown, weights_key(config))
