"""`make image-test`: the two images as a cluster and a stack run them. Needs Docker, and the images built before.

A training's pod without a network, then MLflow's server and the API: waiting, given a champion, asked, stopped.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import httpx
from flyteidl.core.errors_pb2 import ErrorDocument
from flyteidl.core.literals_pb2 import LiteralMap as LiteralMapProto
from flytekit import FlyteContext, FlyteContextManager
from flytekit.core.data_persistence import FileAccessProvider
from flytekit.core.type_engine import TypeEngine
from flytekit.models.literals import LiteralMap

from rakuten_tasks.models.predictor import Predictor
from rakuten_tasks.preprocessing.product import Product
from rakuten_tasks.registry import runs, tracking
from rakuten_tasks.registry.versions import SAMPLE_MODEL
from rakuten_tasks.storage.local_files import hash_folder
from rakuten_tasks.tasks.train_members import train_network_on_gpus
from rakuten_tasks.tasks.types import FittedMember
from tests.support.as_pod import SETTINGS
from tests.support.bundles import register, write_bundle
from tests.support.photo_task import task_inputs

DOCKER = os.environ.get("DOCKER", "docker").split()
TASK, SERVE = os.environ.get("TASK_IMAGE", "rakuten-task"), os.environ.get("SERVE_IMAGE", "rakuten-serve")
USER = "1000:1000"
# GB that an image may hold beside the Python it starts from and torch with CUDA, which differ by where it is built
LIMITS = {SERVE: 1.3, TASK: 2.3}
TORCH = ("torch", "torchgen", "functorch", "torchvision", "nvidia", "triton", "cuda")
MEASURE = """
import pathlib, sysconfig
site = pathlib.Path(sysconfig.get_path("purelib"))
sizes = {path.name: sum(f.lstat().st_size for f in [path, *path.rglob("*")]) for path in site.iterdir()}
torch = {name: size for name, size in sizes.items() if name.partition(".")[0].partition("-")[0] in TORCH}
print(sum(torch.values()), sum(sizes.values()))
"""


def docker(*arguments: str) -> str:
    """-> what it printed. Raises SystemExit with what it said if it fails."""
    done = subprocess.run([*DOCKER, *arguments], capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"docker {' '.join(arguments[:3])} ...: {done.stdout[-3000:]}{done.stderr[-3000:]}")
    return done.stdout.strip()


def require(ok: bool, said: str) -> None:
    print(f"{'ok  ' if ok else 'FAIL'} {said}", flush=True)
    if not ok:
        raise SystemExit(1)


def check_image(image: str) -> list[str]:
    """User, size and what is inside. -> its layers"""
    facts = json.loads(docker("image", "inspect", image))[0]
    require(facts["Config"]["User"] == USER, f"{image}: runs as {facts['Config']['User']}")
    require(docker("run", "--rm", image, "id", "-u") == "1000", f"{image}: its processes are of user 1000")
    code = f"TORCH = {TORCH}{MEASURE}"
    torch, libraries = (int(part) / 1e9 for part in docker("run", "--rm", image, "python", "-c", code).split())
    rest = libraries - torch
    said = f"{facts['Size'] / 1e9:.2f} GB, of it torch {torch:.2f} GB and other libraries {rest:.2f} GB"
    require(rest < LIMITS[image], f"{image}: {said} (limit {LIMITS[image]})")
    secrets = [
        word for word in ("password", "secret", "token") for entry in facts["Config"]["Env"] if word in entry.lower()
    ]
    require(not secrets, f"{image}: no secret in its environment")
    return facts["RootFS"]["Layers"]


def inside(folder: Path) -> FlyteContext.Builder:
    """Flyte's context, but for files: they go where the container sees them."""
    access = FileAccessProvider(str(folder / "sandbox"), str(folder / "given"))
    return FlyteContextManager.current_context().with_file_access(access)


def check_pod(folder: Path, task: Any = train_network_on_gpus) -> None:
    """The container command of VGG16's fit, in the image, with no network: outputs.pb, weights, a finished run."""
    os.environ["MLFLOW_TRACKING_URI"] = f"sqlite:///{folder}/store/mlflow.db"
    with FlyteContextManager.with_context(inside(folder)) as context:
        run_id = runs.start_parent("image-test", {}, {}, execution="image-test")
        inputs = task_inputs(folder / "photos", run_id, epochs=3, train=45, held_out=15)
        given = TypeEngine.dict_to_literal_map(context, inputs, task.python_interface.inputs)
    (folder / "inputs.pb").write_bytes(given.to_flyte_idl().SerializeToString())
    places = {
        "{{.input}}": f"{folder}/inputs.pb",
        "{{.outputPrefix}}": f"{folder}/outputs",
        "{{.rawOutputDataPrefix}}": f"{folder}/raw",
        "{{.checkpointOutputPrefix}}": f"{folder}/checkpoints",
        "{{.prevCheckpointPrefix}}": '""',
    }
    command = [places.get(word, word) for word in task.get_container(SETTINGS).args]
    for name in ("outputs", "raw", "checkpoints"):
        (folder / name).mkdir()
    open_to_all(folder)
    variables = {
        "MLFLOW_TRACKING_URI": os.environ["MLFLOW_TRACKING_URI"],
        "FLYTE_INTERNAL_EXECUTION_ID": "image-test",
        "FLYTE_INTERNAL_EXECUTION_PROJECT": "project",
        "FLYTE_INTERNAL_EXECUTION_DOMAIN": "domain",
    }
    options = [word for name, value in variables.items() for word in ("--env", f"{name}={value}")]
    started = time.monotonic()
    docker("run", "--rm", "--network", "none", "--volume", f"{folder}:{folder}", *options, TASK, *command)
    error = folder / "outputs/error.pb"
    require(
        not error.exists(),
        f"{TASK}: the pod of VGG16's fit ended without an error"
        + (f": {ErrorDocument.FromString(error.read_bytes()).error.message}" if error.exists() else ""),
    )
    outputs = LiteralMap.from_flyte_idl(LiteralMapProto.FromString((folder / "outputs/outputs.pb").read_bytes()))
    member = TypeEngine.to_python_value(FlyteContextManager.current_context(), outputs.literals["o0"], FittedMember)
    kept = folder / "kept"
    shutil.copytree(member.folder.path, kept / "except_test")
    shutil.copy(member.scores.path, kept / "scores.parquet")
    require(hash_folder(kept) == member.sha256, f"{TASK}: left the weights and scores that it tells of")
    seconds = time.monotonic() - started
    weights = kept / "except_test/vgg16.safetensors"
    require(weights.stat().st_size > 1e6, f"{TASK}: trained without a network in {seconds:.0f} s")


def open_to_all(folder: Path) -> None:
    """The image's user is not the one who made these."""
    for path in (folder, *folder.rglob("*")):
        path.chmod(0o777 if path.is_dir() else 0o666)


@contextmanager
def container(name: str, *options: str) -> Iterator[str]:
    """A running container, removed at the end."""
    docker("run", "--detach", "--name", name, *options)
    try:
        yield name
    except BaseException:
        print(subprocess.run([*DOCKER, "logs", "--tail", "30", name], capture_output=True, text=True), file=sys.stderr)
        raise
    finally:
        docker("rm", "--force", "--volumes", name)


@contextmanager
def network(name: str) -> Iterator[str]:
    docker("network", "create", name)
    try:
        yield name
    finally:
        docker("network", "rm", name)


def address(name: str, port: int) -> str:
    return "http://" + docker("port", name, str(port)).splitlines()[0]


def wait_for(ok: Callable[[], bool], what: str, seconds: float) -> None:
    started = time.monotonic()
    while time.monotonic() - started < seconds:
        try:
            if ok():
                require(True, f"{what} ({time.monotonic() - started:.0f} s)")
                return
        except httpx.TransportError:
            pass
        time.sleep(0.5)
    require(False, f"{what}: not within {seconds:.0f} s")


def check_api(folder: Path) -> None:
    """The API waits for a champion, takes it over, answers as the Predictor does here, and stops with 0."""
    mark = uuid.uuid4().hex[:8]
    server = "mlflow server --host 0.0.0.0 --port 5001 --workers 1 --backend-store-uri sqlite:////tmp/mlflow.db "
    server += f"--artifacts-destination /tmp/artifacts --allowed-hosts mlflow-{mark}:5001,127.0.0.1:*"
    with ExitStack() as stack:
        net = stack.enter_context(network(f"rakuten-{mark}"))
        published = ["--network", net, "--publish"]
        variables = ["--env", "MLFLOW_SERVER_ENABLE_JOB_EXECUTION=false"]
        start = [*published, "127.0.0.1::5001", *variables, TASK, *server.split()]
        mlflow = address(stack.enter_context(container(f"mlflow-{mark}", *start)), 5001)
        wait_for(lambda: httpx.get(f"{mlflow}/health").status_code == 200, f"{TASK}: MLflow's server answers", 120)
        options = ["--env", f"MLFLOW_TRACKING_URI=http://mlflow-{mark}:5001", SERVE]
        name = stack.enter_context(container(f"serve-{mark}", *published, "127.0.0.1::8000", *options))
        api = address(name, 8000)
        wait_for(lambda: httpx.get(f"{api}/live").status_code == 200, f"{SERVE}: /live answers", 60)
        require(httpx.get(f"{api}/ready").status_code == 503, f"{SERVE}: /ready says 503 while there is no champion")
        os.environ["MLFLOW_TRACKING_URI"] = mlflow
        bundle = write_bundle(folder / "bundle")
        version = register(tracking.connect(), SAMPLE_MODEL, bundle)
        wait_for(lambda: httpx.get(f"{api}/ready").status_code == 200, f"{SERVE}: /ready after a registration", 60)
        check_answer(api, bundle, version)
        health = "{{.State.Health.Status}}"
        wait_for(
            lambda: docker("inspect", "--format", health, name) == "healthy", f"{SERVE}: Docker finds it healthy", 60
        )
        docker("stop", "--time", "40", name)
        status = docker("inspect", "--format", "{{.State.ExitCode}}", name)
        require(status == "0", f"{SERVE}: stopped, exit status {status}")


def check_answer(api: str, bundle: Path, version: int) -> None:
    said = httpx.post(f"{api}/predict", json={"description": "Chaussures en cuir pour homme"}, timeout=60).json()
    scores = Predictor.load(bundle).score([Product("", "Chaussures en cuir pour homme", None)])
    here = int(scores.predicted[0])
    told = f"{said['predicted_category']} with confidence {said['confidence']:.3f} of version {said['model_version']}"
    require(said["model_version"] == str(version) and said["category_id"] == here, f"{SERVE}: /predict says {told}")


def main() -> None:
    layers = [check_image(image) for image in (TASK, SERVE)]
    shared = len(set(layers[0]) & set(layers[1]))
    require(shared >= 5, f"{shared} of {len(layers[0])} and {len(layers[1])} layers are the same, torch's among them")
    look = "import importlib.util as u; print(*(n for n in ('flytekit', 'evidently') if u.find_spec(n)))"
    found = docker("run", "--rm", SERVE, "python", "-c", look)
    require(not found, f"{SERVE}: neither flytekit nor Evidently is in it")
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        check_pod(Path(folder))
        check_api(Path(folder))
    print("image-test: passed")


if __name__ == "__main__":
    main()
