from __future__ import annotations

import shutil
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from click.testing import CliRunner
from mlflow import MlflowClient

from rakuten_tasks.registry import audit, pruning, versions
from rakuten_tasks.registry.__main__ import registry
from rakuten_tasks.registry.gate import GateDecision
from rakuten_tasks.registry.promotion import Promotion
from rakuten_tasks.registry.runs import FAILED, child_run, log_to_parent, rename, start_parent
from rakuten_tasks.registry.tracking import EXPERIMENT, experiment_id


@pytest.fixture
def model(mlflow_store: MlflowClient, request: pytest.FixtureRequest) -> str:
    return request.node.name


@pytest.fixture(scope="module")
def run_id(mlflow_store: MlflowClient) -> str:
    return start_parent("training", {}, {})


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    folder = tmp_path / "bundle"
    (folder / "text").mkdir(parents=True)
    (folder / "bundle.json").write_text('{"codes": [10, 40]}')
    (folder / "text" / "model.safetensors").write_bytes(bytes(range(256)))
    return folder


@pytest.fixture
def add(mlflow_store: MlflowClient, model: str, run_id: str, bundle: Path):
    """Register another version, different from those before, and settle it as one says."""
    count = 0

    def register(verdict: GateDecision | None = None) -> int:
        nonlocal count
        count += 1
        (bundle / "number").write_text(str(count))
        version = versions.register(mlflow_store, model, bundle, run_id, {})
        if verdict:
            promoted(mlflow_store, model, version, verdict)
        return version

    return register


def promoted(client: MlflowClient, model: str, version: int, decision: GateDecision) -> str:
    promotion = Promotion(client, model, version)
    promotion.resume()
    assert promotion.begin(decision, promotion.rivals())
    return promotion.commit()


def passed(new: float, incumbent: float | None = None, best: float | None = None) -> GateDecision:
    return GateDecision(True, f"passed with {new}", new, incumbent, best)


def files(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def test_a_fetched_bundle_is_byte_for_byte_what_was_registered(mlflow_store, model, run_id, bundle, tmp_path) -> None:
    lineage = {"catalogue_hash": "abc", "synthetic": True}
    version = versions.register(mlflow_store, model, bundle, run_id, lineage)
    assert version == 1
    assert files(versions.fetch(mlflow_store, model, "1")) == files(bundle)
    out = versions.fetch(mlflow_store, model, "1", tmp_path / "out")
    assert out.is_relative_to(tmp_path / "out")
    assert files(out) == files(bundle)
    part = versions.fetch(mlflow_store, model, "1", tmp_path / "part", ["text"])
    assert files(part) == {"text/model.safetensors": bytes(range(256))}
    found = mlflow_store.get_model_version(model, "1")
    assert found.run_id == run_id
    assert found.tags["catalogue_hash"] == "abc"
    assert found.tags["synthetic"] == "True"


def test_registering_again_after_a_retry_makes_no_second_version(mlflow_store, model, run_id, bundle) -> None:
    assert versions.register(mlflow_store, model, bundle, run_id, {}) == 1
    assert versions.register(mlflow_store, model, bundle, run_id, {}) == 1
    other_run = start_parent("training", {}, {})
    assert versions.register(mlflow_store, model, bundle, other_run, {}) == 2
    (bundle / "text" / "model.safetensors").rename(bundle / "model.safetensors")
    assert versions.register(mlflow_store, model, bundle, run_id, {}) == 3
    assert versions.latest_version(mlflow_store, model) == 3


def test_a_model_that_does_not_exist_has_no_champion(mlflow_store) -> None:
    assert versions.champion_version(mlflow_store, "nothing") is None
    assert versions.aliases(mlflow_store, "nothing").get("best") is None
    assert versions.latest_version(mlflow_store, "nothing") is None
    assert versions.list_versions(mlflow_store, "nothing") == []


def test_a_passing_version_becomes_champion_and_a_refused_one_challenger(mlflow_store, model, add, bundle) -> None:
    first, second = add(), add()
    assert versions.champion_version(mlflow_store, model) is None
    assert promoted(mlflow_store, model, first, passed(0.8)) == "champion"
    refused = GateDecision(False, "refused: worse", 0.7, 0.8, 0.8, 0.01, 10, 0.2)
    assert promoted(mlflow_store, model, second, refused) == "challenger"
    assert versions.list_versions(mlflow_store, model) == [
        versions.Version(1, ("best", "champion"), "0.8000", "passed with 0.8"),
        versions.Version(2, ("challenger",), "0.7000", "refused: worse"),
    ]
    assert Promotion(mlflow_store, model, second).resume() == refused
    assert mlflow_store.get_model_version(model, "2").description == "refused: worse"
    (bundle / "number").write_text("1")
    assert files(versions.fetch(mlflow_store, model, "champion")) == files(bundle)


def test_the_trail_tells_who_moved_the_champion_when_and_why(mlflow_store, model, add) -> None:
    add(passed(0.8))
    add(GateDecision(False, "refused", 0.7, 0.8, 0.8))
    versions.promote(mlflow_store, model, 2, "ana", "customers asked")
    assert versions.aliases(mlflow_store, model) == {"champion": 2, "best": 1}
    versions.rollback(mlflow_store, model, "ben", "they changed their mind")
    events = versions.history(mlflow_store, model)
    assert [(e.action, e.before, e.after, e.by, e.reason) for e in events] == [
        ("gate", None, 1, "the gate", "passed with 0.8"),
        ("promote", 1, 2, "ana", "customers asked"),
        ("rollback", 2, 1, "ben", "they changed their mind"),
    ]
    times = [datetime.fromisoformat(e.time) for e in events]
    assert times == sorted(times)
    assert (datetime.now(UTC) - times[0]).total_seconds() < 300


def test_a_decision_against_rivals_that_are_not_the_present_ones_does_not_begin(mlflow_store, model, add) -> None:
    promotion = Promotion(mlflow_store, model, add())
    rivals = promotion.rivals()
    add(passed(0.8))
    assert not promotion.begin(passed(0.7), rivals)
    assert promotion.begin(passed(0.81, 0.8, 0.8), promotion.rivals())
    assert promotion.commit() == "champion"


def test_a_committed_promotion_is_not_repeated_nor_taken_back(mlflow_store, model, add) -> None:
    add(passed(0.8))
    promotion = Promotion(mlflow_store, model, add(passed(0.81, 0.8, 0.8)))
    versions.rollback(mlflow_store, model, "ana", "")
    promotion.abort()
    assert promotion.resume() == passed(0.81, 0.8, 0.8)
    assert promotion.commit() == "champion"
    assert versions.aliases(mlflow_store, model) == {"champion": 1, "best": 2}


def test_rolling_back_twice_goes_back_twice_and_then_says_that_there_is_no_more(mlflow_store, model, add) -> None:
    add(passed(0.8))
    add(passed(0.81, 0.8, 0.8))
    add(passed(0.82, 0.81, 0.81))
    assert versions.rollback(mlflow_store, model, "ana", "") == 2
    assert versions.rollback(mlflow_store, model, "ana", "") == 1
    with pytest.raises(
        LookupError, match=r"version 1 is the first champion of .*: promote one of its versions by hand"
    ):
        versions.rollback(mlflow_store, model, "ana", "")
    assert versions.champion_version(mlflow_store, model) == 1
    versions.promote(mlflow_store, model, 3, "ana", "")
    assert versions.rollback(mlflow_store, model, "ana", "") == 1


def test_rolling_back_passes_over_what_was_rolled_back_before(mlflow_store, model, add) -> None:
    for score in (0.8, 0.81, 0.82):
        add(passed(score))
    versions.rollback(mlflow_store, model, "ana", "")
    versions.promote(mlflow_store, model, 1, "ana", "")
    assert [versions.rollback(mlflow_store, model, "ana", "") for _ in range(2)] == [2, 1]


@pytest.mark.parametrize("call", ["set_registered_model_tag", "set_registered_model_alias", "update_model_version"])
def test_a_retry_completes_a_settlement_cut_short(mlflow_store, model, add, monkeypatch, call) -> None:
    add(passed(0.8))
    second = add()
    real, calls = getattr(mlflow_store, call), []

    def cut_short(*arguments: object, **options: object) -> object:
        calls.append(arguments)
        if len(calls) > 1 or call != "set_registered_model_alias":  # the second alias to move is the champion
            raise ConnectionError("gone")
        return real(*arguments, **options)

    with monkeypatch.context() as broken:
        broken.setattr(mlflow_store, call, cut_short)
        with pytest.raises(ConnectionError):
            promoted(mlflow_store, model, second, passed(0.85, 0.8, 0.8))
    assert versions.champion_version(mlflow_store, model) == 1
    # scored again, now against itself: the first verdict stands
    for _ in range(2):
        assert promoted(mlflow_store, model, second, passed(0.85, 0.85, 0.85)) == "champion"
    assert versions.aliases(mlflow_store, model) == {"champion": 2, "best": 2}
    assert Promotion(mlflow_store, model, second).resume() == passed(0.85, 0.8, 0.8)
    assert [(e.before, e.after) for e in versions.history(mlflow_store, model)] == [(None, 1), (1, 2)]


def test_a_verdict_against_a_champion_that_is_none_any_more_does_not_stand(
    mlflow_store, model, add, monkeypatch
) -> None:
    add(passed(0.8))
    second = add()
    with monkeypatch.context() as broken:
        broken.setattr(mlflow_store, "set_registered_model_alias", lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            promoted(mlflow_store, model, second, passed(0.85, 0.8, 0.8))
    assert Promotion(mlflow_store, model, second).resume() == passed(0.85, 0.8, 0.8)
    third = add(passed(0.9, 0.8, 0.8))
    assert Promotion(mlflow_store, model, second).resume() is None
    assert versions.aliases(mlflow_store, model) == {"champion": third, "best": third}
    refused = GateDecision(False, "worse", 0.85, 0.9, 0.9)
    with monkeypatch.context() as broken:  # cut short again, before the new decision is stored: the old one is gone
        broken.setattr(GateDecision, "to_json", lambda _: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            promoted(mlflow_store, model, second, refused)
    assert Promotion(mlflow_store, model, second).resume() is None
    assert promoted(mlflow_store, model, second, refused) == "challenger"
    assert Promotion(mlflow_store, model, second).resume() == refused


def test_a_rollback_passes_over_champions_that_were_deleted(mlflow_store, model, add) -> None:
    for score in (0.8, 0.81, 0.82):
        add(passed(score))
    mlflow_store.delete_model_version(model, "2")
    assert versions.rollback(mlflow_store, model, "ana", "") == 1


def test_best_is_the_champion_with_the_highest_score_on_the_same_test_rows(mlflow_store, model, add) -> None:
    add(passed(0.80))
    add(passed(0.798, 0.80, 0.80))
    assert versions.aliases(mlflow_store, model).get("best") == 1
    # a test side that has grown: the old best is scored anew, and the new one is better on it
    add(passed(0.79, 0.77, 0.78))
    assert versions.aliases(mlflow_store, model).get("best") == 3
    # other classes, promoted by hand: the best of the old classes cannot be scored any more
    other = add(GateDecision(False, "refused: other classes", 0.6))
    versions.promote(mlflow_store, model, other, "ana", "more classes")
    assert versions.aliases(mlflow_store, model).get("best") == 3
    add(passed(0.59, incumbent=0.6))
    assert versions.aliases(mlflow_store, model).get("best") == other


def test_promoting_the_challenger_ends_its_challenge_and_promoting_the_champion_does_nothing(
    mlflow_store, model, add
) -> None:
    add(passed(0.8))
    add(GateDecision(False, "refused", 0.7, 0.8, 0.8))
    for _ in range(2):
        versions.promote(mlflow_store, model, 2, "ana", "")
    assert versions.aliases(mlflow_store, model) == {"champion": 2, "best": 1}
    assert len(versions.history(mlflow_store, model)) == 2


def test_what_does_not_exist_is_named_beside_what_does(mlflow_store, model, add) -> None:
    add(passed(0.8))
    add()
    exists = r"its versions are 1 \(best, champion\), 2$"
    with pytest.raises(LookupError, match=rf"{model} has no version 7: {exists}"):
        versions.promote(mlflow_store, model, 7, "ana", "")
    with pytest.raises(LookupError, match=rf"has no version 7: {exists}"):
        versions.fetch(mlflow_store, model, "7")
    with pytest.raises(LookupError, match=rf"has no alias hero: {exists}"):
        versions.fetch(mlflow_store, model, "hero")
    with pytest.raises(LookupError, match="has no version 1: the registered models are .*" + model):
        versions.promote(mlflow_store, "nothing", 1, "ana", "")
    with pytest.raises(LookupError, match="nothing has no champion to roll back"):
        versions.rollback(mlflow_store, "nothing", "ana", "")


def event(action: str, before: int | None, after: int) -> audit.Event:
    return audit.Event("", action, before, after, "", "")


@pytest.mark.parametrize(
    ("events", "now", "line"),
    [
        ([event("gate", None, 1)], 1, []),
        ([event("gate", None, 1), event("gate", 1, 2)], 2, [1]),
        ([event("gate", None, 1), event("gate", 1, 2), event("promote", 2, 1)], 1, [1, 2]),
        # the promotion of 2 was cut short before the alias moved
        ([event("gate", None, 1), event("gate", 1, 2)], 1, []),
        # the rollback to 1 was cut short
        ([event("gate", None, 1), event("gate", 1, 2), event("rollback", 2, 1)], 2, [1]),
        # 5 was made the champion in MLflow's own pages, before and after 2
        ([event("gate", None, 1), event("gate", 5, 2)], 2, [1, 5]),
        ([event("gate", None, 1), event("gate", 1, 2)], 5, [1, 2]),
    ],
)
def test_the_line_of_champions_follows_the_trail_and_believes_the_alias(events, now, line) -> None:
    assert audit.champions_before(events, now) == line


def test_the_models_name_is_the_asked_one_or_the_default_or_the_sample_with_a_notice(
    mlflow_store, bundle, run_id, monkeypatch
) -> None:
    monkeypatch.setattr(versions, "DEFAULT_MODEL", "resolve-real")
    monkeypatch.setattr(versions, "SAMPLE_MODEL", "resolve-sample")

    def add_champion(name: str) -> None:
        version = versions.register(mlflow_store, name, bundle, run_id, {})
        promoted(mlflow_store, name, version, passed(0.8))

    for synthetic in (True, False):
        with pytest.raises(LookupError, match="run `make train`"):
            versions.resolve_model(mlflow_store, "", synthetic)
    add_champion("resolve-sample")
    assert versions.resolve_model(mlflow_store, None, True) == ("resolve-sample", "")
    notice = "resolve-real has no champion yet: using resolve-sample, which was trained on the synthetic sample"
    assert versions.resolve_model(mlflow_store, "", False) == ("resolve-sample", notice)
    add_champion("resolve-real")
    assert versions.resolve_model(mlflow_store, "", False) == ("resolve-real", "")
    assert versions.resolve_model(mlflow_store, "", True) == ("resolve-sample", "")
    assert versions.resolve_model(mlflow_store, "resolve-sample", False) == ("resolve-sample", "")
    with pytest.raises(
        LookupError,
        match=r"model typo has no champion: train it, or name another one; the registered models are .*resolve-real",
    ):
        versions.resolve_model(mlflow_store, "typo", False)


def stored(client: MlflowClient) -> set[str]:
    """Models whose files lie in the store."""
    place = client.get_experiment_by_name(EXPERIMENT).artifact_location
    return {path.name for path in Path(place.removeprefix("file://")).glob("models/m-*")}


def test_pruning_leaves_the_newest_those_with_an_alias_and_what_a_rollback_goes_back_to(
    mlflow_store, model, add
) -> None:
    before = stored(mlflow_store)
    for score in (0.8, 0.81, 0.82):
        add(passed(score))
    for _ in range(4):
        add(GateDecision(False, "refused", 0.7, 0.8, 0.8))
    assert set(pruning.prune(mlflow_store, model, keep=1)) == {1, 4, 5, 6}
    assert [version.number for version in versions.list_versions(mlflow_store, model)] == [2, 3, 7]
    assert versions.aliases(mlflow_store, model) == {"champion": 3, "best": 3, "challenger": 7}
    pruning.sweep_files(mlflow_store)
    assert len(stored(mlflow_store) - before) == 3
    assert versions.rollback(mlflow_store, model, "ana", "") == 2
    versions.fetch(mlflow_store, model, "champion")


def test_versions_of_others_and_what_is_being_registered_are_not_pruned(mlflow_store, model, add, run_id) -> None:
    add()
    for _ in range(3):
        mlflow_store.create_model_version(model, "/somewhere/else", run_id)
    with pytest.raises(LookupError):
        versions.require_version(mlflow_store, model, 5)
    assert pruning.prune(mlflow_store, model, keep=1) == {}
    assert [version.number for version in versions.list_versions(mlflow_store, model)] == [1, 2, 3, 4]


def test_a_store_that_is_away_is_not_taken_for_an_empty_one(mlflow_store, model, add) -> None:
    add(passed(0.8))
    shutil.rmtree(versions.fetch(mlflow_store, model, "1"))
    with pytest.raises(LookupError, match="FORGET=1"):
        pruning.prune(mlflow_store, model, keep=10)
    assert versions.champion_version(mlflow_store, model) == 1
    assert pruning.prune(mlflow_store, model, keep=10, forget=True) == {1: "its files are gone"}


def test_a_model_whose_files_are_gone_does_not_keep_others_from_being_pruned(
    mlflow_store, model, add, run_id, bundle, monkeypatch
) -> None:
    add(passed(0.8))
    shutil.rmtree(versions.fetch(mlflow_store, model, "1"))
    for number in "12":
        (bundle / "number").write_text(number)
        other = versions.register(mlflow_store, "other-pruned", bundle, run_id, {})
        promoted(mlflow_store, "other-pruned", other, GateDecision(False, "refused", 0.7, 0.8, 0.8))
    mlflow_store.delete_registered_model_alias("other-pruned", "challenger")
    monkeypatch.setattr(versions, "DEFAULT_MODEL", model)
    monkeypatch.setattr(versions, "SAMPLE_MODEL", "other-pruned")
    result = CliRunner().invoke(registry, ["prune", "--keep", "1"])
    assert "deleted other-pruned version 1: no alias" in result.output
    assert "FORGET=1" in str(result.exception)
    assert versions.champion_version(mlflow_store, model) == 1


def ended_years_ago(client: MlflowClient, name: str) -> tuple[str, str]:
    """A training and the run of one of its tasks, each with a file."""
    parent = start_parent("not known yet", {}, {})
    rename(parent, name, {})
    with child_run(parent, "task") as log:
        log.dictionary({}, "deck.json")
    log_to_parent(parent).dictionary({}, "configuration.json")
    client.set_terminated(parent, FAILED, end_time=1_600_000_000_000)
    task = client.search_runs([experiment_id(client)], f"tags.mlflow.parentRunId = '{parent}'")[0].info.run_id
    return parent, task


def test_old_runs_that_no_version_comes_from_go_with_their_files_and_others_stay(mlflow_store, model, bundle) -> None:
    old, kept, recent = (ended_years_ago(mlflow_store, model) for _ in range(3))
    others = ended_years_ago(mlflow_store, "another-model")
    versions.register(mlflow_store, model, bundle, kept[0], {})
    mlflow_store.set_terminated(recent[0], FAILED)
    other = mlflow_store.create_run(experiment_id(mlflow_store), run_name="serving").info.run_id  # no training
    mlflow_store.set_terminated(other, end_time=1_600_000_000_000)
    assert pruning.prune_runs(mlflow_store, model, timedelta(days=365)) == 1
    stages = {run: mlflow_store.get_run(run).info.lifecycle_stage for run in (*old, *kept, *recent, *others, other)}
    assert {run for run, stage in stages.items() if stage == "deleted"} == set(old)
    pruning.sweep_files(mlflow_store)
    place = Path(mlflow_store.get_experiment_by_name(EXPERIMENT).artifact_location.removeprefix("file://"))
    assert {run for run in stages if (place / run).exists()} == {*kept, *recent, *others}
    assert pruning.prune_runs(mlflow_store, model, timedelta(days=365)) == 0


def test_a_version_whose_files_are_gone_is_forgotten_and_the_next_training_is_not_stopped_by_it(
    mlflow_store, model, add
) -> None:
    add(passed(0.8))
    add(passed(0.81))
    shutil.rmtree(versions.fetch(mlflow_store, model, "2"))
    with pytest.raises(LookupError, match="`make prune` forget"):
        versions.fetch(mlflow_store, model, "2")
    assert pruning.prune(mlflow_store, model, keep=10) == {2: "its files are gone"}
    assert versions.latest_version(mlflow_store, model) == 1
    assert versions.champion_version(mlflow_store, model) is None


def test_files_of_a_model_that_is_being_registered_are_not_swept(mlflow_store, run_id) -> None:
    logged = mlflow_store.create_logged_model(experiment_id(mlflow_store), name="bundle", source_run_id=run_id)
    mlflow_store.log_model_artifact(logged.model_id, __file__)
    pruning.sweep_files(mlflow_store)
    assert logged.model_id in stored(mlflow_store)
    mlflow_store.delete_logged_model(logged.model_id)
    assert pruning.sweep_files(mlflow_store) >= 1
    assert logged.model_id not in stored(mlflow_store)
