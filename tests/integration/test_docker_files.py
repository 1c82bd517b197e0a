"""Dockerfile, compose.yaml and the dashboard without Docker; tests/e2e/images.py runs the images."""

from __future__ import annotations

import ast
import itertools
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import tomllib
from collections.abc import Iterator
from importlib.metadata import packages_distributions, requires
from pathlib import Path
from typing import Any

import promql_parser
import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from prometheus_client.parser import text_string_to_metric_families

from serving.telemetry.prometheus import Metrics
from serving.web.middleware import PREDICT_PATH, RequestRecord
from serving.worker_status import READY, Status
from tests.support.stack.engine import compose_command

ROOT = Path(__file__).parents[2]
DOCKERFILE = (ROOT / "Dockerfile").read_text()
COMPOSE = yaml.safe_load((ROOT / "compose.yaml").read_text())
SERVICES: dict[str, Any] = COMPOSE["services"]
SECRETS = ("POSTGRES_PASSWORD", "S3_SECRET_KEY", "GRAFANA_PASSWORD")
DASHBOARD = json.loads((ROOT / "deploy/grafana/dashboards/api.json").read_text())
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


COMMAND = compose_command()
has_compose = pytest.mark.skipif(not COMMAND, reason="needs Docker Compose: `.ci/run` installs it")


def stages() -> dict[str, list[tuple[str, str]]]:
    """Name of a stage -> its instructions, as (word, rest); those before the first stage are under ''."""
    found: dict[str, list[tuple[str, str]]] = {"": []}
    name = ""
    text = re.sub(r"^\s*#.*\n", "", DOCKERFILE, flags=re.M).replace("\\\n", " ")
    for line in filter(None, map(str.strip, text.splitlines())):
        word, rest = line.split(maxsplit=1)
        if word == "FROM":
            name = rest.split()[-1]
            found[name] = []
        found[name].append((word, rest))
    return found


def last(stage: str, word: str) -> str:
    return [rest for found, rest in stages()[stage] if found == word][-1]


def normalised(name: str) -> str:
    """Of a requirement or a pin."""
    return canonicalize_name(re.split(r"[\[=<>]", name)[0])


def config(*profiles: str, **environment: str) -> subprocess.CompletedProcess:
    """What Compose makes of the file, without a .env that lies here."""
    variables = {"PATH": os.environ["PATH"], "COMPOSE_PROFILES": ",".join(profiles), **environment}
    with tempfile.NamedTemporaryFile() as empty:
        command = [*COMMAND, "--env-file", empty.name, "--file", "compose.yaml", "config"]
        return subprocess.run(command, cwd=ROOT, env=variables, capture_output=True, text=True)


def resolved(*profiles: str, **environment: str) -> dict[str, Any]:
    done = config(*profiles, **dict.fromkeys(SECRETS, "0123"), **environment)
    assert done.returncode == 0, done.stderr
    return yaml.safe_load(done.stdout)["services"]


def test_both_images_start_from_the_same_libraries_and_run_as_an_ordinary_user():
    assert {"torchs", "libraries", "serve", "task"} == set(stages()) - {""}
    for target in ("serve", "task"):
        assert last(target, "FROM") == f"libraries AS {target}"
        assert last(target, "USER") == "1000:1000"
    assert "ARG BASE_IMAGE=python:3.11-slim-bookworm" in DOCKERFILE
    assert json.loads(last("serve", "CMD")) == ["python", "-m", "serving"]
    assert "/live" in last("serve", "HEALTHCHECK")


def test_libraries_come_before_code_and_torch_before_other_libraries():
    words = [(word, rest) for word, rest in stages()["libraries"] if word in ("COPY", "RUN")]
    assert "from=torchs" in next(rest for _, rest in words if "torch " in rest)
    order = [
        next(i for i, step in enumerate(words) if what in step[1])
        for what in ("from=torchs", "constraints.txt pyproject.toml")
    ]
    assert order == sorted(order)
    assert not any("rakuten_tasks" in rest for word, rest in words)
    task = [f"{word} {rest}" for word, rest in stages()["task"]]
    assert next(i for i, s in enumerate(task) if "requirements.txt" in s) < next(
        i for i, s in enumerate(task) if "COPY" in s
    )


def test_everything_that_is_installed_is_pinned():
    installs = re.findall(r"pip install[^&\n]*(?:\\\n[^&\n]*)*", DOCKERFILE)
    assert len(installs) == 4
    assert all("constraints.txt" in f"{line}" or "--no-deps --editable ." in line for line in installs)
    assert "--constraint /tmp/constraints.txt torch torchvision" in installs[0]
    assert "PIP_CONSTRAINT=constraints.txt pip install --no-deps --editable ." in DOCKERFILE
    pinned = {normalised(line) for line in (ROOT / "constraints.txt").read_text().splitlines() if "==" in line}
    names = [*PROJECT["dependencies"], *itertools.chain(*PROJECT["optional-dependencies"].values())]
    assert {normalised(name) for name in names} <= pinned


def test_torchs_layer_is_pinned_by_all_pins_of_torch_and_by_no_others():
    pattern = re.search(r"grep -iE '(\S+)'", last("torchs", "RUN"))[1]
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    chosen = {normalised(line) for line in lines if re.match(pattern, line, re.I)}
    assert chosen >= below("torch") | below("torchvision")
    assert not {"mlflow", "fastapi", "hatchling", "ruff"} & chosen


def below(name: str) -> set[str]:
    """A distribution that is installed here, and all it needs but for setuptools, which has no pin."""
    found: set[str] = set()
    todo = [name]
    while todo:
        name = canonicalize_name(todo.pop())
        if name in found or name == "setuptools":
            continue
        found.add(name)
        needed = map(Requirement, requires(name) or [])
        todo += [need.name for need in needed if need.marker is None or need.marker.evaluate({"extra": ""})]
    return found


def test_what_the_dockerfile_copies_is_there_and_in_the_build_context():
    copied = [rest.split() for found in stages().values() for word, rest in found if word == "COPY"]
    sources = {word for words in copied for word in words[:-1] if not word.startswith("--")}
    assert {"rakuten_tasks", "serving", "workflows", "configs", "constraints.txt"} <= sources
    assert not [source for source in sources if not (ROOT / source).exists()]
    lines = (ROOT / ".dockerignore").read_text().splitlines()
    assert "*" in lines  # nothing else of a checkout, .env the least
    assert sources == {line[1:] for line in lines if line.startswith("!")}


def test_torchs_index_is_a_build_argument_and_pips_configuration_stays_out_of_the_layers():
    assert "TORCH_INDEX=" in [rest for word, rest in stages()["libraries"] if word == "ARG"]
    runs = [rest for found in stages().values() for word, rest in found if word == "RUN" and "pip install" in rest]
    assert all("--mount=type=secret,id=pip,target=/etc/pip.conf" in run for run in runs)
    names = re.findall(r"^(?:ARG|ENV|    )\s*([A-Z_]+)=", DOCKERFILE, re.M)
    assert "RAKUTEN_VAR" in names
    assert not [name for name in names if re.search("PASSWORD|SECRET|TOKEN|KEY", name)]


def test_the_api_needs_only_what_its_image_installs():
    modules = [f"serving.{path.stem}" for path in (ROOT / "serving").glob("*.py")]
    needed = imports_below(modules)
    installed = {normalised(name) for name in (*PROJECT["dependencies"], *PROJECT["optional-dependencies"]["serve"])}
    allowed = installed | {"starlette", "sqlalchemy"}  # fastapi's own, and MLflow's for a sqlite address
    found = packages_distributions()
    distributions = {module: {normalised(name) for name in found[module]} for module in needed}
    assert {"torch", "litserve", "mlflow"} <= needed
    assert not {module for module, names in distributions.items() if not names & allowed}
    assert not {"flytekit", "evidently", "mlflow"} & installed
    assert "*p['dependencies'], *p['optional-dependencies']['serve']" in DOCKERFILE


def imports_below(modules: list[str]) -> set[str]:
    """Foreign modules that these import, or any of ours that they import, also inside functions."""
    seen: set[str] = set()
    foreign: set[str] = set()
    todo = list(modules)
    while todo:
        module = todo.pop()
        path = ROOT / module.replace(".", "/")
        file = path / "__init__.py" if path.is_dir() else path.with_suffix(".py")
        if module in seen or not file.exists():
            continue
        seen.add(module)
        for name in imported(ast.parse(file.read_text())):
            top = name.split(".")[0]
            if top in ("serving", "rakuten_tasks"):
                todo.append(name)
            elif top not in sys.stdlib_module_names:
                foreign.add(top)
    return foreign


def imported(node: ast.AST) -> Iterator[str]:
    """Names that are imported when this runs: not those for type checkers alone."""
    if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
        return
    if isinstance(node, ast.Import):
        yield from (alias.name for alias in node.names)
    if isinstance(node, ast.ImportFrom):
        yield from (str(node.module), *(f"{node.module}.{alias.name}" for alias in node.names))
    for child in ast.iter_child_nodes(node):
        yield from imported(child)


def test_compose_yaml_is_what_the_compose_specification_allows():
    command = [sys.executable, "-m", "check_jsonschema", "--builtin-schema", "vendor.compose-spec", "compose.yaml"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_predecessors_services_and_ports_are_there():
    assert {"mlflow", "api-fast", "monitor"} <= set(SERVICES)
    assert SERVICES["api-fast"]["ports"] == ["${BIND:-127.0.0.1}:${API_PORT:-8000}:8000"]
    assert SERVICES["mlflow"]["ports"] == ["${BIND:-127.0.0.1}:${MLFLOW_PORT:-5001}:5001"]
    assert SERVICES["monitor"]["entrypoint"] == ["python", "-m", "rakuten_tasks.monitoring"]


def test_every_service_that_stays_up_has_a_health_check_and_is_started_again():
    staying = set(SERVICES) - {"monitor", "trainer"}
    assert all(SERVICES[name]["restart"] == "unless-stopped" for name in staying)
    assert all(SERVICES[name]["healthcheck"]["test"][0] in ("CMD", "CMD-SHELL") for name in staying)
    assert SERVICES["trainer"]["restart"] == "on-failure:3"


def test_artifacts_come_through_mlflow_not_from_the_object_store_under_a_name_that_clients_may_not_know():
    clients = [service["environment"] for service in SERVICES.values() if "environment" in service]
    clients = [variables for variables in clients if "MLFLOW_TRACKING_URI" in variables]
    assert len(clients) == 4
    assert {variables.get("MLFLOW_ENABLE_PROXY_MULTIPART_DOWNLOAD") for variables in clients} == {"false"}


def test_every_image_can_be_replaced_by_a_variable_and_has_a_version():
    for name, service in SERVICES.items():
        assert service["image"].startswith("${"), name
        default = service["image"].rstrip("}").split(":-")[-1]
        assert default in ("rakuten-task", "rakuten-serve") or re.search(r":v?\d+", default), name


def test_what_is_kept_lies_in_named_volumes_that_are_declared():
    mounts = [m for service in SERVICES.values() for m in service.get("volumes", [])]
    named = {re.sub(r"\$\{\w+:-([\w-]+)\}", r"\1", mount).split(":")[0] for mount in mounts}
    assert {path for path in named if not path.startswith("./")} == set(COMPOSE["volumes"])
    assert not [path for path in named if path.startswith("./") and not (ROOT / path).exists()]


def test_no_password_stands_in_a_file_that_is_committed():
    text = (ROOT / "compose.yaml").read_text()
    for name in SECRETS:
        uses = re.findall(rf"\$\{{{name}([^}}]*)\}}", text)
        assert uses
        assert all(use.startswith(":?") for use in uses), name
        assert f"\n{name}=\n" in (ROOT / ".env.example").read_text()
    assert "/.env" in (ROOT / ".gitignore").read_text().splitlines()


def test_make_up_writes_passwords_that_nobody_else_has_and_leaves_them_alone_afterwards(tmp_path):
    for name in ("Makefile", ".env.example"):
        shutil.copy(ROOT / name, tmp_path)
    command = ["make", "up", "COMPOSE=true"]
    first = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True)
    assert "wrote .env with random passwords" in first.stdout
    written = (tmp_path / ".env").read_text()
    passwords = [re.search(rf"^{name}=([0-9a-f]{{48}})$", written, re.M)[1] for name in SECRETS]
    assert len(set(passwords)) == 3
    assert "\nLIT_SERVER_API_KEY=\n" in written
    assert (tmp_path / ".env").stat().st_mode & 0o777 == 0o600
    os.utime(tmp_path / ".env", (0, 0))
    again = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True)
    assert "wrote" not in again.stdout
    assert (tmp_path / ".env").read_text() == written


def test_a_env_of_ones_own_gets_the_passwords_that_it_lacks_and_keeps_the_others(tmp_path):
    for name in ("Makefile", ".env.example"):
        shutil.copy(ROOT / name, tmp_path)
    (tmp_path / ".env").write_text("POSTGRES_PASSWORD=mine\nS3_SECRET_KEY=\nGRAFANA_PASSWORD=\nMODEL=shoes\n")
    done = subprocess.run(["make", "up", "COMPOSE=true"], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert "wrote" not in done.stdout
    lines = (tmp_path / ".env").read_text().splitlines()
    assert (lines[0], lines[3]) == ("POSTGRES_PASSWORD=mine", "MODEL=shoes")
    assert all(re.fullmatch("[A-Z0-9_]+=[0-9a-f]{48}", line) for line in lines[1:3])


@pytest.mark.parametrize("target", ["up", "down"])
def test_what_env_says_of_the_stack_is_not_overruled_by_makes_own_defaults(tmp_path, target):
    for name in ("Makefile", ".env.example"):
        shutil.copy(ROOT / name, tmp_path)
    given = {name: value for name, value in os.environ.items() if name not in ("MODEL", "CONFIG", "SOURCE")}

    def printed_variables(*options: str) -> set[str]:
        command = ["make", target, "COMPOSE=env #", *options]
        done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True, env=given)
        return {line for line in done.stdout.splitlines() if line.startswith(("MODEL=", "CONFIG=", "SOURCE="))}

    assert printed_variables() == set()
    assert printed_variables("MODEL=shoes") == {"MODEL=shoes"}


def test_make_up_builds_with_buildkit_and_with_the_flags_that_it_gets(tmp_path):
    for name in ("Makefile", ".env.example"):
        shutil.copy(ROOT / name, tmp_path)

    def make_up(*options: str) -> list[str]:
        command = ["make", "up", "DOCKER=echo", *options]
        return subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True).stdout.splitlines()

    assert "DOCKER_BUILDKIT=1" in make_up("COMPOSE=env #")  # which Debian's Docker does not use by itself
    assert "up --detach --build" in make_up("COMPOSE=echo")
    lines = make_up("COMPOSE=echo", "BUILD_FLAGS=--network host")
    assert "up --detach --no-build" in lines
    built = [line for line in lines if line.startswith("build --network host")]
    assert [re.search(r"--target (\w+)", line)[1] for line in built] == ["task", "serve"]


@has_compose
def test_compose_refuses_to_start_without_its_passwords():
    for missing in SECRETS:
        done = config("full", **{name: "0123" for name in SECRETS if name != missing})
        assert done.returncode != 0
        assert "make up writes it into .env" in done.stderr


@has_compose
def test_compose_reads_both_profiles():
    lean = {"mlflow", "postgres", "objects", "api-fast", "trainer"}
    extras = {"drift-watch", "prometheus", "grafana"}
    running = resolved("full")
    assert lean | extras == {name for name, s in running.items() if set(s.get("profiles", ["full"])) & {"full"}}
    assert lean == {name for name, service in resolved().items() if not service.get("profiles")}
    assert (
        running["mlflow"]["environment"]["MLFLOW_BACKEND_STORE_URI"]
        == "postgresql+psycopg2://mlflow:0123@postgres/mlflow"
    )


@has_compose
def test_a_catalogue_is_mounted_where_the_trainer_looks(tmp_path):
    mounted = resolved(CATALOGUE=str(tmp_path))["trainer"]["volumes"]
    text = json.dumps(mounted)
    assert str(tmp_path) in text
    assert "/catalogue" in text
    assert "no-catalogue" in json.dumps(resolved()["trainer"]["volumes"])


def queries() -> list[str]:
    return [target["expr"] for panel in DASHBOARD["panels"] for target in panel["targets"]]


def names_in(expression: Any) -> set[str]:
    """Metrics that a parsed query asks for."""
    if isinstance(expression, promql_parser.VectorSelector):
        return {expression.name}
    inner = ("expr", "lhs", "rhs", "vector_selector")
    parts = [getattr(expression, name) for name in inner if hasattr(expression, name)]
    arguments = getattr(expression, "args", None) or []
    return {name for part in [*parts, *arguments] for name in names_in(part)}


def test_every_metric_of_the_dashboard_is_one_that_the_api_tells():
    telemetry = Metrics(
        lambda: Status(state=READY, model="m", version="1", batches={"2": 3}, members={"bag": 3}), lambda: 1
    )
    telemetry.observe_request(RequestRecord(PREDICT_PATH, 200, 0.1, "id", ""))
    telemetry.count_feedback()
    told = {s.name for family in text_string_to_metric_families(telemetry.text().decode()) for s in family.samples}
    asked = {n for q in queries() for n in names_in(promql_parser.parse(q.replace("$__rate_interval", "1m")))}
    assert len(asked) >= 9
    assert asked <= told
    shown = {re.sub("_(bucket|sum|count)$", "", name) for name in told if not name.endswith("_created")}
    assert shown == {re.sub("_(bucket|sum|count)$", "", name) for name in asked}  # and all that it tells is shown


def test_grafana_asks_the_prometheus_that_asks_the_api():
    sources = yaml.safe_load((ROOT / "deploy/grafana/provisioning/datasources/prometheus.yml").read_text())
    source = sources["datasources"][0]
    assert {panel["datasource"]["uid"] for panel in DASHBOARD["panels"]} == {source["uid"]}
    assert source["url"] == "http://prometheus:9090"
    provider = yaml.safe_load((ROOT / "deploy/grafana/provisioning/dashboards/dashboards.yml").read_text())[
        "providers"
    ][0]
    assert f"./deploy/grafana/dashboards:{provider['options']['path']}:ro" in SERVICES["grafana"]["volumes"]
    scrape = yaml.safe_load((ROOT / "deploy/prometheus.yml").read_text())["scrape_configs"][0]
    assert scrape["static_configs"] == [{"targets": ["api-fast:8000"]}]
    assert scrape.get("metrics_path", "/metrics") == "/metrics"
