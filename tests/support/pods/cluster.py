"""Walks packaged workflows as Flyte's propeller does: nodes in the order of their data, retries, cache, failures."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from typing import Any

from flyteidl.core.dynamic_job_pb2 import DynamicJobSpec
from flyteidl.core.errors_pb2 import ContainerError
from flyteidl.core.literals_pb2 import Binding, Literal, LiteralCollection, LiteralMap, Scalar, Union
from flyteidl.core.tasks_pb2 import TaskTemplate
from flyteidl.core.types_pb2 import Error, LiteralType, SimpleType, TypeStructure
from flyteidl.core.workflow_pb2 import Node, WorkflowTemplate
from flytekit.core.local_cache import _calculate_cache_key
from flytekit.models.literals import LiteralMap as LiteralMapModel

from tests.support.pods.bindings import Lookup, bind, holds, reordered
from tests.support.pods.package import Package, function
from tests.support.pods.pod import Ended, Machine
from tests.support.pods.unrun import UnrunPods


class ExecutionError(Exception):
    """node: where it failed; message: what the pod said."""

    def __init__(self, node: str, message: str) -> None:
        super().__init__(f"{node}: {message}")
        self.node, self.message = node, message


@dataclass(frozen=True)
class Fault:
    """What goes wrong in one attempt of a task. environment: instead of what the pod would be told."""

    task: str
    attempt: int = 0
    kill_when: Callable[[list[str]], bool] | None = None
    environment: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Ran:
    """One attempt. pod: None where the result came from the cache."""

    execution: str
    task: str
    item: int | None
    attempt: int
    pod: Ended | None


@dataclass
class Cluster:
    """What was registered, and where it runs. ran: all attempts, in the order of their ends; walked: workflows."""

    package: Package
    machine: Machine | UnrunPods
    cache: dict[str, LiteralMap] = field(default_factory=dict)
    ran: list[Ran] = field(default_factory=list)
    walked: set[str] = field(default_factory=set)

    def execute(
        self, plan: str, inputs: Mapping[str, Literal], execution: str, faults: Sequence[Fault] = ()
    ) -> dict[str, Literal]:
        """Run a launch plan; the one that is named like its workflow holds the workflow's defaults."""
        spec = self.package.plans[plan].spec
        if refused := set(inputs) & set(spec.fixed_inputs.literals):
            raise ValueError(f"{plan} fixes {sorted(refused)}")
        parameters = spec.default_inputs.parameters
        given = {name: part.default for name, part in parameters.items() if part.HasField("default")}
        given |= {**spec.fixed_inputs.literals, **{name: reordered(literal) for name, literal in inputs.items()}}
        workflow = self.package.workflows[spec.workflow_id.name]
        if missing := set(workflow.interface.inputs.variables) - set(given):
            raise ValueError(f"{plan} lacks {sorted(missing)}")
        run = Execution(self, execution, faults, spec.overwrite_cache)
        return dict(run.workflow(workflow, LiteralMap(literals=given)).literals)

    def of(self, execution: str, task: str = "") -> list[Ran]:
        """The attempts of an execution, of one task or of all."""
        return [ran for ran in self.ran if ran.execution == execution and task in ("", ran.task.rpartition(".")[2])]


class Execution:
    """One run of a workflow. overwrite_cache: every task is computed, as the launch plan wants it."""

    def __init__(self, cluster: Cluster, name: str, faults: Sequence[Fault], overwrite_cache: bool) -> None:
        self.cluster, self.name, self.faults, self.overwrite_cache = cluster, name, faults, overwrite_cache
        self.tasks = dict(cluster.package.tasks)

    def workflow(self, template: WorkflowTemplate, inputs: LiteralMap) -> LiteralMap:
        self.cluster.walked.add(template.id.name)
        try:
            return self._nodes(template.nodes, template.outputs, inputs)
        except ExecutionError as failed:
            if template.HasField("failure_node"):
                self._told_of(failed, template.failure_node, inputs)
            raise

    def _told_of(self, failed: ExecutionError, node: Node, inputs: LiteralMap) -> None:
        error = Literal(scalar=Scalar(error=Error(failed_node_id=failed.node, message=failed.message)))
        kind = LiteralType(simple=SimpleType.ERROR, structure=TypeStructure(tag="FlyteError"))
        given = bind(node.inputs, lambda _, variable: inputs.literals[variable])
        given.literals["err"].CopyFrom(Literal(scalar=Scalar(union=Union(value=error, type=kind))))
        self._task(self.tasks[node.task_node.reference_id.name], given)

    def _nodes(self, nodes: Sequence[Node], outputs: Sequence[Binding], inputs: LiteralMap) -> LiteralMap:
        """A thread for each node waits for the nodes before it; the machine bounds how many pods run at once."""
        done: dict[str, Future[LiteralMap]] = {node.id: Future() for node in nodes}
        stop = threading.Event()

        def lookup(node: str, variable: str) -> Literal:
            return (done[node].result() if node else inputs).literals[variable]

        def run(node: Node) -> None:
            try:
                for before in node.upstream_node_ids:
                    done[before].result()
                given = bind(node.inputs, lookup)
                if stop.is_set():
                    raise ExecutionError(node.id, "not started: another node failed")
                done[node.id].set_result(self._node(node, given, lookup))
            except BaseException as error:
                stop.set()
                done[node.id].set_exception(error)

        with ThreadPoolExecutor(len(nodes) or 1) as pool:
            running = [node for node in nodes if node.WhichOneof("target")]  # start and end nodes have none
            list(pool.map(run, running))
        if failed := [error for node in running if (error := done[node.id].exception())]:
            # those that waited for the failed one hold the very same exception
            raise min(failed, key=lambda error: "not started" in str(error))
        return bind(outputs, lookup)

    def _node(self, node: Node, given: LiteralMap, lookup: Lookup) -> LiteralMap:
        kind = node.WhichOneof("target")
        if kind == "task_node":
            return self._task(self.tasks[node.task_node.reference_id.name], given)
        if kind == "array_node":
            return self._items(node, given)
        if kind == "workflow_node" and node.workflow_node.WhichOneof("reference") == "sub_workflow_ref":
            return self.workflow(self.cluster.package.workflows[node.workflow_node.sub_workflow_ref.name], given)
        if kind == "branch_node":
            chosen = self._chosen(node, given)
            return self._node(chosen, bind(chosen.inputs, lookup), lookup)
        raise NotImplementedError(f"node {node.id}: a {kind}")

    def _chosen(self, node: Node, given: LiteralMap) -> Node:
        branch = node.branch_node.if_else
        for block in (branch.case, *branch.other):
            if holds(block.condition, given.literals):
                return block.then_node
        if branch.WhichOneof("default") == "error":
            raise ExecutionError(node.id, branch.error.message)
        return branch.else_node

    def _items(self, node: Node, given: LiteralMap) -> LiteralMap:
        """A pod for each item: it gets the whole lists and its number."""
        if node.array_node.min_success_ratio != 1:
            raise NotImplementedError(f"node {node.id}: items that may fail")
        task = self.tasks[node.array_node.node.task_node.reference_id.name]
        arguments = list(task.container.args)
        whole = set(arguments[arguments.index("vars") + 1].split(","))
        lists = {name: literal.collection.literals for name, literal in given.literals.items() if name not in whole}
        (count,) = {len(items) for items in lists.values()}

        def run(number: int) -> LiteralMap:
            own = {**given.literals, **{name: items[number] for name, items in lists.items()}}
            return self._task(task, given, number, LiteralMap(literals=own))

        with ThreadPoolExecutor(node.array_node.parallelism or count or 1) as pool:
            parts = list(pool.map(run, range(count)))
        names = task.interface.outputs.variables
        together = {name: LiteralCollection(literals=[part.literals[name] for part in parts]) for name in names}
        return LiteralMap(literals={name: Literal(collection=items) for name, items in together.items()})

    def _task(
        self, task: TaskTemplate, given: LiteralMap, item: int | None = None, own: LiteralMap | None = None
    ) -> LiteralMap:
        """own: the inputs that an item of a map task depends on."""
        if not task.metadata.discoverable:
            return self._attempts(task, given, item)
        key = cache_key(task, own or given)
        if key in self.cluster.cache and not self.overwrite_cache:
            self.cluster.ran.append(Ran(self.name, function(task), item, 0, None))
        else:
            self.cluster.cache[key] = self._attempts(task, given, item)
        return self.cluster.cache[key]

    def _attempts(self, task: TaskTemplate, given: LiteralMap, item: int | None) -> LiteralMap:
        before, said, name = "", "", function(task)
        for attempt in range(task.metadata.retries.retries + 1):
            found = [fault for fault in self.faults if (fault.task, fault.attempt) == (name, attempt)]
            fault = found[0] if found else Fault(name)
            settings = {"FLYTE_INTERNAL_EXECUTION_ID": self.name, **fault.environment}
            pod = self.cluster.machine.run(task, given, before, item, fault.kill_when, **settings)
            self.cluster.ran.append(Ran(self.name, name, item, attempt, pod))
            before = pod.checkpoints
            if pod.returncode < 0:
                said = f"killed by signal {-pod.returncode}"
            elif (error := pod.error) is None:
                return self._dynamic(futures, task) if (futures := pod.futures()) else pod.outputs()
            elif error.error.kind == ContainerError.NON_RECOVERABLE:
                raise ExecutionError(name, error.error.message)
            else:
                said = error.error.message
        raise ExecutionError(name, f"all attempts failed, the last with: {said}")

    def _dynamic(self, futures: bytes, planner: TaskTemplate) -> LiteralMap:
        """What a dynamic task has planned, in its place."""
        job: Any = DynamicJobSpec.FromString(futures)
        # its pod saw the address that stands here for one of the cluster's names, which no pod is to be told
        names = [pair for pair in planner.container.env if pair.value in self.cluster.machine.names]
        for task in job.tasks:
            told = {pair.key for pair in task.container.env}
            task.container.env.extend(pair for pair in names if pair.key not in told)
        self.tasks |= {task.id.name: task for task in job.tasks}
        workflows = {workflow.id.name: workflow for workflow in job.subworkflows}
        self.cluster.package = replace(self.cluster.package, workflows={**self.cluster.package.workflows, **workflows})
        return self._nodes(job.nodes, job.outputs, LiteralMap())


def cache_key(task: TaskTemplate, given: LiteralMap) -> str:
    """Name, version and inputs but for the ignored ones; of an input with a hash of its own (HashMethod) that alone."""
    metadata = task.metadata
    inputs = LiteralMapModel.from_flyte_idl(given)
    return _calculate_cache_key(
        task.id.name, metadata.discovery_version, inputs, tuple(metadata.cache_ignore_input_vars)
    )
