"""A server of flyteadmin's gRPC API, for what registering and activating call."""

from __future__ import annotations

import re
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import grpc
from flyteidl.admin.common_pb2 import NamedEntityIdentifier
from flyteidl.admin.execution_pb2 import Execution, WorkflowExecutionGetRequest
from flyteidl.admin.launch_plan_pb2 import (
    ActiveLaunchPlanListRequest,
    LaunchPlan,
    LaunchPlanCreateRequest,
    LaunchPlanCreateResponse,
    LaunchPlanList,
    LaunchPlanUpdateRequest,
    LaunchPlanUpdateResponse,
)
from flyteidl.admin.task_pb2 import TaskCreateRequest, TaskCreateResponse
from flyteidl.admin.workflow_pb2 import WorkflowCreateRequest, WorkflowCreateResponse
from flyteidl.core.identifier_pb2 import Identifier
from flyteidl.service.admin_pb2_grpc import AdminServiceServicer, add_AdminServiceServicer_to_server

ACTIVE = 1  # LaunchPlanState


class FlyteAdmin(AdminServiceServicer):
    """Takes every version of an entity once, and keeps one active version of each launch plan, as flyteadmin does.

    contents: by kind, name and version. plans: by name and version, in the order of their creation. phases: of its
    executions, by name.
    What it does not implement, as ending an execution, fails the caller.
    """

    def __init__(self) -> None:
        self.contents: dict[tuple[str, str, str], bytes] = {}
        self.plans: dict[tuple[str, str], LaunchPlan] = {}
        self.phases: dict[str, int] = {}
        self.page = 100  # launch plans at most in one answer

    def active(self) -> dict[str, str]:
        """The active version of each launch plan that has one."""
        return {name: version for (name, version), plan in self.plans.items() if plan.closure.state == ACTIVE}

    def versions(self, kind: str) -> set[str]:
        return {version for found, _, version in self.contents if found == kind}

    def CreateTask(self, request: TaskCreateRequest, context: Any) -> TaskCreateResponse:  # noqa: N802
        self._create("task", request.id, request.spec.template, context)
        return TaskCreateResponse()

    def CreateWorkflow(self, request: WorkflowCreateRequest, context: Any) -> WorkflowCreateResponse:  # noqa: N802
        for (
            node
        ) in request.spec.template.nodes:  # compared compiled, whereas flytekit writes them in the order of a set
            node.upstream_node_ids[:] = sorted(node.upstream_node_ids)
        self._create("workflow", request.id, request.spec.template, context)
        return WorkflowCreateResponse()

    def CreateLaunchPlan(self, request: LaunchPlanCreateRequest, context: Any) -> LaunchPlanCreateResponse:  # noqa: N802
        self._create("launch plan", request.id, request.spec, context)
        self.plans[request.id.name, request.id.version] = LaunchPlan(id=request.id, spec=request.spec)
        return LaunchPlanCreateResponse()

    def UpdateLaunchPlan(self, request: LaunchPlanUpdateRequest, context: Any) -> LaunchPlanUpdateResponse:  # noqa: N802
        if request.state == ACTIVE:
            for (name, _), plan in self.plans.items():
                if name == request.id.name:
                    plan.closure.state = 0
        self.plans[request.id.name, request.id.version].closure.state = request.state
        return LaunchPlanUpdateResponse()

    def ListLaunchPlans(self, request: Any, context: Any) -> LaunchPlanList:  # noqa: N802
        self._require_place(request.id, context)
        version = re.fullmatch(r"eq\(version,(.*)\)", request.filters)
        newest = [plan for plan in reversed(self.plans.values()) if not version or plan.id.version == version[1]]
        return self._list(newest, request.token)

    def ListActiveLaunchPlans(self, request: ActiveLaunchPlanListRequest, context: Any) -> LaunchPlanList:  # noqa: N802
        self._require_place(NamedEntityIdentifier(project=request.project, domain=request.domain), context)
        return self._list([plan for plan in self.plans.values() if plan.closure.state == ACTIVE], request.token)

    def GetExecution(self, request: WorkflowExecutionGetRequest, context: Any) -> Execution:  # noqa: N802
        self._require_place(NamedEntityIdentifier(project=request.id.project, domain=request.id.domain), context)
        if request.id.name not in self.phases:
            context.abort(grpc.StatusCode.NOT_FOUND, f"missing entity of type execution: {request.id.name}")
        execution = Execution(id=request.id)
        execution.closure.phase = self.phases[request.id.name]
        return execution

    def _create(self, kind: str, identifier: Identifier, content: Any, context: Any) -> None:
        key, value = (kind, identifier.name, identifier.version), content.SerializeToString(deterministic=True)
        if key not in self.contents:
            self.contents[key] = value
        elif self.contents[key] == value:
            context.abort(grpc.StatusCode.ALREADY_EXISTS, f"identical {kind} already exists")
        else:
            message = f"{kind} with different structure already exists:\n[{identifier.name}]"
            context.abort(grpc.StatusCode.INVALID_ARGUMENT, message)

    @staticmethod
    def _require_place(identifier: NamedEntityIdentifier, context: Any) -> None:
        if (identifier.project, identifier.domain, identifier.name) != ("shop", "production", ""):
            context.abort(grpc.StatusCode.NOT_FOUND, f"project [{identifier.project}] not found")

    def _list(self, plans: list[LaunchPlan], token: str) -> LaunchPlanList:
        first = int(token or 0)
        last = first + self.page
        return LaunchPlanList(launch_plans=plans[first:last], token=str(last) if last < len(plans) else "")


@contextmanager
def flyte_admin() -> Iterator[tuple[FlyteAdmin, int]]:
    """The server and its port. Its project and domain are shop and production."""
    server, admin = grpc.server(ThreadPoolExecutor(4)), FlyteAdmin()
    add_AdminServiceServicer_to_server(admin, server)
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    try:
        yield admin, port
    finally:
        server.stop(grace=None).wait()
