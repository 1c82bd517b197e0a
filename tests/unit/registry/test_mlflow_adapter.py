"""Contract of MLflow's undocumented parts: fails when an upgrade changes what mlflow_adapter.py relies on."""

from __future__ import annotations

from pathlib import Path

import mlflow

from rakuten_tasks.registry import mlflow_adapter, runs, tracking


def test_mlflow_itself_names_a_childs_parent_in_the_same_tag(mlflow_store) -> None:
    parent = runs.start_parent("parent", {}, {})
    experiment = tracking.experiment_id(mlflow_store)
    with mlflow.start_run(experiment_id=experiment, parent_run_id=parent, nested=True) as child:
        pass
    assert mlflow_store.get_run(child.info.run_id).data.tags[mlflow_adapter.PARENT_RUN] == parent


def test_truncated_values_are_stored_whole(mlflow_store) -> None:
    run_id = runs.start_parent("limits", {"parameter": "x" * 10_000}, {"tag": "y" * 10_000})
    data = mlflow_store.get_run(run_id).data
    assert data.params["parameter"] == mlflow_adapter.truncate_param("x" * 10_000)
    assert data.tags["tag"] == mlflow_adapter.truncate_tag("y" * 10_000)


def test_all_pages_of_a_search_are_read(mlflow_store) -> None:
    experiment = tracking.experiment_id(mlflow_store)
    created = {mlflow_store.create_run(experiment, tags={"paged": "yes"}).info.run_id for _ in range(5)}
    found_runs = mlflow_adapter.all_pages(
        lambda token: mlflow_store.search_runs([experiment], "tags.paged = 'yes'", max_results=2, page_token=token)
    )
    assert {run.info.run_id for run in found_runs} == created
    assert len(found_runs) == 5


def test_a_logged_models_files_lie_in_a_folder_named_as_its_id(mlflow_store, tmp_path) -> None:
    (tmp_path / "weights").write_text("1")
    experiment = mlflow_store.get_experiment(tracking.experiment_id(mlflow_store))
    model = mlflow_store.create_logged_model(experiment.experiment_id, name="bundle")
    mlflow_store.log_model_artifacts(model.model_id, str(tmp_path))
    folders = mlflow_adapter.model_folders(Path(experiment.artifact_location.removeprefix("file://")))
    assert model.model_id in [folder.name for folder in folders]
    mlflow_store.delete_logged_model(model.model_id)
