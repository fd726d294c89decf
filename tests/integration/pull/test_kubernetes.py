"""The Kubernetes example is valid, its commands exist here, and its list of models is one."""

from __future__ import annotations

import click
import pytest

from streamload._format import parse_models
from streamload.cli import main

yaml = pytest.importorskip("yaml")
VERSION = "1.31"  # of Kubernetes; any that is supported will do


@pytest.fixture(scope="module")
def documents(repository):
    """Every YAML document of the example."""
    files = sorted((repository / "examples" / "kubernetes").glob("*.yaml"))
    return [document for file in files for document in yaml.safe_load_all(file.read_text(encoding="utf-8"))]


def pod_specs(documents):
    """The pods that workloads make."""
    for document in documents:
        spec = document.get("spec", {})
        spec = spec.get("jobTemplate", {}).get("spec", spec)
        if "template" in spec:
            yield spec["template"]["spec"]


def containers(documents):
    return [
        (container, pod)
        for pod in pod_specs(documents)
        for container in [*pod.get("initContainers", []), *pod["containers"]]
    ]


def our_commands(documents):
    """The words of every container that runs streamload."""
    found = [[*container.get("command", []), *container.get("args", [])] for container, _ in containers(documents)]
    return [words for words in found if words[:1] == ["streamload"]]


@pytest.mark.slow
def test_every_document_fits_the_schema_of_kubernetes(documents):
    schemas = pytest.importorskip("kubernetes_validate")
    assert {document["kind"] for document in documents} >= {"ConfigMap", "Deployment"}
    for document in documents:
        schemas.validate(document, VERSION, strict=True)


def test_its_commands_and_options_exist(documents):
    commands = our_commands(documents)
    assert {words[1] for words in commands} == {"pull", "verify"}
    for words in commands:
        command = main.commands[words[1]]
        assert not isinstance(command, click.Group)
        context = command.make_context(words[1], list(words[2:]))  # refuses what it does not know
        context.close()


def test_its_list_of_models_is_one_that_pull_takes(documents):
    (listed,) = [document for document in documents if document["kind"] == "ConfigMap"]
    models = parse_models(listed["data"]["models.json"].encode(), url="ConfigMap").models
    assert len(models) >= 2
    server = " ".join(" ".join(container.get("command", [])) for container, _ in containers(documents))
    assert any(f"/models/{name}" in server for name in models)


def test_what_is_mounted_is_there(documents):
    names = {document["metadata"]["name"] for document in documents if document["kind"] == "ConfigMap"}
    for container, pod in containers(documents):
        volumes = {volume["name"]: volume for volume in pod["volumes"]}
        for mount in container["volumeMounts"]:
            assert mount["name"] in volumes
            if "configMap" in volumes[mount["name"]]:
                assert volumes[mount["name"]]["configMap"]["name"] in names


def test_the_pull_runs_first_reads_the_list_and_fills_what_the_server_reads(documents):
    (pod,) = [pod for pod in pod_specs(documents) if "initContainers" in pod]
    (pull,), (server,) = pod["initContainers"], pod["containers"]
    words = [*pull["command"], *pull["args"]]
    paths = {mount["name"]: mount["mountPath"] for mount in pull["volumeMounts"]}
    assert words[words.index("--manifest") + 1].startswith(paths["list"] + "/")
    assert words[words.index("--to") + 1] == paths["models"]
    assert {"name": "models", "mountPath": paths["models"], "readOnly": True} in server["volumeMounts"]
    assert "readinessProbe" in server


def test_no_container_runs_as_root_or_may_become_it(documents):
    for container, pod in containers(documents):
        assert pod["securityContext"]["runAsNonRoot"] is True
        context = container["securityContext"]
        assert context["allowPrivilegeEscalation"] is False
        assert context["readOnlyRootFilesystem"] is True
        assert context["capabilities"] == {"drop": ["ALL"]}
