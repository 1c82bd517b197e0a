"""Which version of the launch plans runs on its schedule, and which executions are over.

Flyte has one active version of a plan at most.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import click
from flytekit.configuration import Config
from flytekit.exceptions.user import FlyteEntityNotExistException
from flytekit.models.admin.common import Sort
from flytekit.models.common import NamedEntityIdentifier
from flytekit.models.core.execution import WorkflowExecutionPhase
from flytekit.models.core.identifier import WorkflowExecutionIdentifier
from flytekit.models.filters import Filter
from flytekit.models.launch_plan import LaunchPlan, LaunchPlanState
from flytekit.remote import FlyteRemote

from rakuten_tasks.runtime.schedules import LABELS, SCHEDULES

NEWEST = Sort("created_at", Sort.Direction.DESCENDING)
OVER = {
    WorkflowExecutionPhase.SUCCEEDED,
    WorkflowExecutionPhase.FAILED,
    WorkflowExecutionPhase.ABORTED,
    WorkflowExecutionPhase.TIMED_OUT,
}
LISTED = 10  # versions that an error lists


def connect(file: str) -> FlyteRemote:
    """Return a client for the cluster of the file, and for the project and domain that pyflyte registers in."""
    project = os.environ.get("FLYTE_DEFAULT_PROJECT") or "flytesnacks"
    domain = os.environ.get("FLYTE_DEFAULT_DOMAIN") or "development"
    config = Config.auto(config_file=str(Path(file).resolve()))
    return FlyteRemote(config, default_project=project, default_domain=domain)


def activate(remote: FlyteRemote, version: str, complete: bool) -> Iterator[str]:
    """Let this version's launch plans run on their schedules, and no others of this package. Yields what was done.

    complete: refuse a version that lacks a plan of today's code. A rollback may go to one that never had it.
    Executions that run, those of other versions too, go on.
    Raises click.ClickException, before anything is changed, if the version has no plans or lacks one.
    """
    plans = {plan.id.name: plan for plan in _list_ours(_list_plans(remote, f"eq(version,{version})"))}
    if missing := [name for name in SCHEDULES if name not in plans] if complete or not plans else []:
        known = dict.fromkeys(plan.id.version for plan in _list_ours(_list_plans(remote)))
        raise click.ClickException(
            f"version {version} lacks {', '.join(missing)} in {remote.default_project}, {remote.default_domain}: "
            "register it first, with the same PROFILE, IMAGE and variables, or name one with VERSION=; registered: "
            + (", ".join(list(known)[:LISTED]) or "none")
        )
    before = {plan.id.name: plan for plan in _list_active(remote)}
    for name, plan in plans.items():
        remote.client.update_launch_plan(plan.id, LaunchPlanState.ACTIVE)
        yield f"{name}: version {version} is active"
    for name in before.keys() - plans.keys():
        yield _deactivate(remote, before[name])
    for earlier in sorted({plan.id.version for plan in before.values()} - {version}):
        yield f"before it was version {earlier}: `make activate VERSION={earlier}` goes back"


def deactivate(remote: FlyteRemote) -> Iterator[str]:
    """Stop the schedules of all active launch plans of this package. Yields what was done."""
    for plan in _list_active(remote):
        yield _deactivate(remote, plan)


def is_over(remote: FlyteRemote, execution: str) -> bool:
    """Return whether an execution has ended; False for one that this cluster does not have."""
    identifier = WorkflowExecutionIdentifier(remote.default_project, remote.default_domain, execution)
    try:
        return remote.client.get_execution(identifier).closure.phase in OVER
    except FlyteEntityNotExistException:
        return False


def _deactivate(remote: FlyteRemote, plan: LaunchPlan) -> str:
    remote.client.update_launch_plan(plan.id, LaunchPlanState.INACTIVE)
    return f"{plan.id.name}: version {plan.id.version} is inactive"


def _list_active(remote: FlyteRemote) -> list[LaunchPlan]:
    project, domain = remote.default_project, remote.default_domain
    return _list_ours(
        _read(lambda token: remote.client.list_active_launch_plans_paginated(project, domain, token=token))
    )


def _list_plans(remote: FlyteRemote, condition: str = "") -> Iterator[LaunchPlan]:
    """List launch plans, the newest first. condition: in flyteadmin's syntax."""
    identifier = NamedEntityIdentifier(remote.default_project, remote.default_domain, "")
    filters = [Filter.from_python_std(condition)] if condition else []
    listing = remote.client.list_launch_plans_paginated
    return _read(lambda token: listing(identifier, token=token, filters=filters, sort_by=NEWEST))


def _read(page: Callable[[str | None], tuple[list[LaunchPlan], str]]) -> Iterator[LaunchPlan]:
    plans, token = page(None)
    yield from plans
    while token:
        plans, token = page(token)
        yield from plans


def _list_ours(plans: Iterator[LaunchPlan]) -> list[LaunchPlan]:
    """Keep the scheduled plans of workflows/launch_plans.py, of whatever version: a project may hold others."""
    return [
        plan
        for plan in plans
        if plan.spec.entity_metadata.schedule and LABELS.items() <= plan.spec.labels.values.items()
    ]
