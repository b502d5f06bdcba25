"""What is rendered, held against the schemas of where it is to run: Kubernetes' own, KServe's, the vLLM chart's, botocore's model of
SageMaker. `kserve.json` and `vllm_stack.json` say where they come from."""

from __future__ import annotations

import json
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest
from ruamel.yaml import YAML

from luthier.core.errors import SpecError
from luthier.core.plugin import names
from luthier.deployment.targets import LEFT_OUT, Shipped, Where, render, where_to
from luthier.deployment.targets.written import label, yaml

HERE = Path(__file__).parent
IMAGE = f"registry.example.com/team/luthier-serve:1.2@sha256:{'ab' * 32}"
SHIPPED = Shipped(
    "ticket_router.no", 3, "c" * 64, "d" * 64, "smollm2-135m-instruct", ("adapter",), 270_000_000, "0.1.0",
    {"ready": True, "why": None, "max_lora_rank": 16}, ("answers are one of the labels",), ("luthier==0.1.0", "numpy==2.0"),
)  # fmt: skip
WHERE = Where(IMAGE, "models", 2, 1)
KUBERNETES = "1.31"


def read(text: str) -> list:
    return list(YAML(typ="safe").load_all(text))


def valid(document: dict) -> None:
    kubernetes_validate = pytest.importorskip("kubernetes_validate", reason="pip install kubernetes-validate")
    kubernetes_validate.validate(document, KUBERNETES, strict=True)


@pytest.mark.parametrize("gpus", [0, 2])
@pytest.mark.parametrize("replicas", [1, 3])
def test_manifests_are_what_kubernetes_takes(gpus, replicas):
    documents = read(render(SHIPPED, "kubernetes", Where(IMAGE, "models", replicas, gpus))["manifests.yaml"])
    kinds = {one["kind"] for one in documents}
    assert {"Deployment", "Service", "ServiceAccount", "NetworkPolicy"} <= kinds
    assert ("PodDisruptionBudget" in kinds) == (replicas > 1)
    for one in documents:
        valid(one)


def test_the_schemas_do_refuse():
    (deployment,) = [
        d for d in read(render(SHIPPED, "kubernetes", WHERE)["manifests.yaml"]) if d["kind"] == "Deployment"
    ]
    pytest.importorskip("kubernetes_validate", reason="pip install kubernetes-validate")
    deployment["spec"]["template"]["spec"]["containers"][0]["imagePullPolcy"] = "Always"
    with pytest.raises(Exception, match="imagePullPolcy"):
        valid(deployment)
    jsonschema = pytest.importorskip("jsonschema")
    (service,) = read(render(SHIPPED, "kserve", WHERE)["inferenceservice.yaml"])
    service["spec"]["predictor"]["containers"][0]["imagePullPolcy"] = "Always"
    with pytest.raises(jsonschema.ValidationError, match="imagePullPolcy"):
        jsonschema.validate(service, json.loads((HERE / "kserve.json").read_text())["schema"])


def pod_of(files: dict) -> dict:
    documents = [one for name, text in files.items() if name.endswith(".yaml") for one in read(text)]
    (found,) = [d for d in documents if d["kind"] in ("Deployment", "InferenceService")]
    return found["spec"]["template"]["spec"] if found["kind"] == "Deployment" else found["spec"]["predictor"]


@pytest.mark.parametrize("target", ["kubernetes", "kserve"])
def test_a_pod_has_no_rights_and_no_secret_in_it(target):
    files = render(SHIPPED, target, WHERE)
    pod = pod_of(files)
    (container,) = pod["containers"]
    rights = container["securityContext"]
    assert rights["runAsNonRoot"] and rights["runAsUser"] != 0 and rights["readOnlyRootFilesystem"]
    assert not rights["allowPrivilegeEscalation"] and rights["capabilities"] == {"drop": ["ALL"]}
    assert pod["automountServiceAccountToken"] is False
    assert container["image"] == IMAGE
    assert {"startupProbe", "readinessProbe", "livenessProbe"} <= set(container)
    assert (
        container["resources"]["limits"]["memory"]
        and container["resources"]["limits"]["nvidia.com/gpu"] == "1"
    )
    by_name = {one["name"]: one for one in container["env"]}
    for name in ("LUTHIER_DATABASE", "LUTHIER_BLOBS"):
        assert set(by_name[name]["valueFrom"]) == {"secretKeyRef"}
    # everything that must be writable has a volume: the file system is read-only
    mounts = {one["mountPath"]: one for one in container["volumeMounts"]}
    assert (
        by_name["LUTHIER_HOME"]["value"] in mounts
        and "/tmp" in mounts
        and mounts["/run/secrets/luthier"]["readOnly"]
    )
    assert pod["terminationGracePeriodSeconds"] > 20  # the server drains for 20 s


def test_kserve_takes_it():
    jsonschema = pytest.importorskip("jsonschema")
    files = render(SHIPPED, "kserve", WHERE)
    (service,) = read(files["inferenceservice.yaml"])
    jsonschema.validate(service, json.loads((HERE / "kserve.json").read_text())["schema"])
    pod = pod_of(files)
    kept = ("containers", "volumes", "securityContext", "automountServiceAccountToken", "enableServiceLinks",
            "terminationGracePeriodSeconds")  # fmt: skip
    valid({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "x"}, "spec": {k: pod[k] for k in kept}})


@pytest.mark.parametrize(
    ("image", "repository", "tag"),
    [
        (f"vllm/vllm-openai:v1@sha256:{'ab' * 32}", "vllm/vllm-openai", f"v1@sha256:{'ab' * 32}"),
        (f"reg.example.com:5000/vllm@sha256:{'ab' * 32}", "reg.example.com:5000/vllm@sha256", "ab" * 32),
    ],
)
def test_the_vllm_chart_takes_it(image, repository, tag):
    jsonschema = pytest.importorskip("jsonschema")
    files = render(SHIPPED, "vllm", replace(WHERE, image=image))
    (values,) = read(files["values.yaml"])
    jsonschema.validate(values, json.loads((HERE / "vllm_stack.json").read_text())["schema"])
    (spec,) = values["servingEngineSpec"]["modelSpec"]
    assert (spec["repository"], spec["tag"]) == (repository, tag) and f"{repository}:{tag}" == image
    assert spec["enableLoRA"] and "--lora-modules" in spec["vllmConfig"]["extraArgs"]
    assert "--enable-lora --max-lora-rank 16" in files["serve.sh"]
    assert "answers are one of the labels" in files["README.md"]


def test_what_vllm_cannot_read_as_an_adapter_goes_whole():
    whole = replace(SHIPPED, vllm={"ready": False, "why": "its rank 999 is above 512", "max_lora_rank": None})
    files = render(whole, "vllm", WHERE)
    assert (
        "--enable-lora" not in files["serve.sh"]
        and "rank 999" in files["README.md"]
        and "--form merged" in files["README.md"]
    )
    with pytest.raises(SpecError, match="none is asked for"):
        render(SHIPPED, "vllm", replace(WHERE, gpus=0))


def test_another_version_is_another_name_in_vllm():
    commands = {
        render(replace(SHIPPED, version=n), "vllm", WHERE)["serve.sh"].split("exec")[1] for n in (3, 4)
    }
    assert len(commands) == 2


def test_sagemaker_takes_the_calls():
    session = pytest.importorskip("botocore.session", reason="pip install botocore")
    from botocore.validate import ParamValidator

    service = session.get_session().get_service_model("sagemaker")
    files = render(SHIPPED, "sagemaker", WHERE)
    for call, operation in (
        ("create_model", "CreateModel"), ("create_endpoint_config", "CreateEndpointConfig"), ("create_endpoint", "CreateEndpoint"),
    ):  # fmt: skip
        shape = service.operation_model(operation).input_shape
        told = json.loads(files[f"{call}.json"])
        assert not ParamValidator().validate(told, shape).has_errors()
        report = ParamValidator().validate({**told, "Nmae": 1}, shape)
        assert "Nmae" in report.generate_report()
    assert json.loads(files["create_model.json"])["EnableNetworkIsolation"] is True


def test_azureml_says_routes_and_names_secrets():
    files = render(SHIPPED, "azureml", WHERE)
    (endpoint,), (deployment,) = read(files["endpoint.yaml"]), read(files["deployment.yaml"])
    assert endpoint["public_network_access"] == "disabled" and deployment["endpoint_name"] == endpoint["name"]
    config = deployment["environment"]["inference_config"]
    assert config["scoring_route"] == {"path": "/v1/chat/completions", "port": 8000}
    variables = deployment["environment_variables"]
    assert all(
        variables[k].startswith("${{azureml://connections/")
        for k in ("LUTHIER_DATABASE", "LUTHIER_BLOBS", "LUTHIER_KEYS")
    )


def test_an_image_is_built_and_run_without_rights(tmp_path):
    files = render(SHIPPED, "container", WHERE)
    recipe, run = files["Containerfile"], files["run.sh"]
    assert recipe.count(f"FROM {IMAGE}") == 2 and "USER 10001:10001" in recipe and "HEALTHCHECK" in recipe
    for right in ("--read-only", "--cap-drop ALL", "no-new-privileges", "127.0.0.1:8000:8000"):
        assert right in run
    assert files["requirements.txt"].splitlines() == list(SHIPPED.requirements)


@pytest.mark.parametrize("target", ["container", "vllm"])
def test_scripts_are_read_by_the_shell(target, tmp_path):
    for name, text in render(SHIPPED, target, WHERE).items():
        if name.endswith(".sh"):
            (tmp_path / name).write_text(text)
            subprocess.run(["sh", "-n", tmp_path / name], check=True)


def test_the_entry_gives_keys_by_file_and_starts_nothing_without(tmp_path):
    files = render(SHIPPED, "container", WHERE)
    entry, fake = tmp_path / "entrypoint.sh", tmp_path / "luthier"
    entry.write_text(files["entrypoint.sh"].replace("/tmp/keys", str(tmp_path / "keys")))
    fake.write_text('#!/bin/sh\necho "$@ keys=${LUTHIER_KEYS:-gone}"\n')
    fake.chmod(0o755)
    run = lambda *words, **env: subprocess.run(  # noqa: E731
        ["sh", entry, *words],
        env={"PATH": f"{tmp_path}:/usr/bin:/bin", **env},
        capture_output=True,
        text=True,
    )
    got = run("router", LUTHIER_KEYS="k1")
    assert (
        got.stdout.strip()
        == f"serve router --host 0.0.0.0 --port 8000 --key-file {tmp_path / 'keys'} keys=gone"
    )
    assert (tmp_path / "keys").read_text() == "k1\n" and (tmp_path / "keys").stat().st_mode & 0o77 == 0
    assert "serve named" in run(LUTHIER_KEY_FILE="/k", LUTHIER_SERVE="named").stdout
    assert run("router").returncode == 2 and "give API keys" in run("router").stderr
    assert run(LUTHIER_KEY_FILE="/k").returncode != 0


@pytest.mark.parametrize(
    ("words", "more", "served"),
    [([], {}, SHIPPED.name), ([], {"LUTHIER_SERVE": SHIPPED.ref}, SHIPPED.ref), (["a@1", "b@2"], {"LUTHIER_SERVE": "c"}, "a@1 b@2")],
)  # fmt: skip
def test_what_the_image_serves(tmp_path, words, more, served):
    """Run as an engine of containers runs it: ENTRYPOINT, then the words of the command line or else CMD, in the image's ENV."""
    files = render(SHIPPED, "container", WHERE)
    last = files["Containerfile"].rpartition("\nFROM ")[2].splitlines()
    said = lambda what: [line.removeprefix(f"{what} ") for line in last if line.startswith(f"{what} ")]  # noqa: E731
    (entrypoint,), (cmd,) = said("ENTRYPOINT"), said("CMD")
    image = dict(one.split("=", 1) for line in said("ENV") for one in line.split())
    (tmp_path / "entrypoint.sh").write_text(files["entrypoint.sh"])
    (tmp_path / "luthier").write_text('#!/bin/sh\necho "$@"\n')
    (tmp_path / "luthier").chmod(0o755)
    assert json.loads(entrypoint) == ["/usr/local/bin/entrypoint.sh"]
    path = {"PATH": f"{tmp_path}:/usr/bin:/bin", "LUTHIER_KEY_FILE": "/k"}
    told = subprocess.run(
        ["sh", tmp_path / "entrypoint.sh", *(words or json.loads(cmd))], env={**image, **path, **more}, capture_output=True, text=True
    )  # fmt: skip
    assert told.stdout.startswith(f"serve {served} --host"), told


def test_what_a_target_would_ignore_is_refused():
    for target, options in (
        ("container", {"replicas": 2}), ("container", {"namespace": "default"}), ("vllm", {"namespace": "x"}),
        ("sagemaker", {"gpus": 0}), ("sagemaker", {"namespace": "x"}), ("azureml", {"namespace": "x"}),
    ):  # fmt: skip
        with pytest.raises(SpecError, match=f"--{next(iter(options))} would change nothing .* {target}"):
            where_to(target, IMAGE, **options)
    assert where_to("kubernetes", IMAGE) == Where(IMAGE) == where_to("container", IMAGE)
    told = {"namespace": "models", "replicas": 3, "gpus": 1}
    assert where_to("kserve", IMAGE, **told) == Where(IMAGE, **told)


def test_each_option_that_is_taken_changes_what_is_written():
    other = {"namespace": "elsewhere", "replicas": 7, "gpus": 2}
    for target in names("target"):
        for option, value in other.items():
            if option not in LEFT_OUT.get(target, ()):
                assert render(SHIPPED, target, WHERE) != render(
                    SHIPPED, target, replace(WHERE, **{option: value})
                )


def test_azureml_has_an_instance_for_its_gpus():
    types = {
        n: read(render(SHIPPED, "azureml", replace(WHERE, gpus=n))["deployment.yaml"])[0]["instance_type"]
        for n in (0, 1, 2, 4)
    }
    assert len(set(types.values())) == 4
    with pytest.raises(SpecError, match="has 3 GPUs"):
        render(SHIPPED, "azureml", replace(WHERE, gpus=3))


@pytest.mark.parametrize("target", names("target"))
def test_every_target_says_what_is_not_checked(target):
    assert "Not checked:" in render(SHIPPED, target, WHERE)["README.md"]


def test_what_cannot_be_rendered():
    for image in ("python:3.11", "python@sha256:abc", f"x y@sha256:{'ab' * 32}", f"a\n@sha256:{'ab' * 32}"):
        with pytest.raises(SpecError, match="has no digest"):
            render(SHIPPED, "kubernetes", Where(image))
    with pytest.raises(SpecError, match="no Kubernetes namespace"):
        render(SHIPPED, "kubernetes", Where(IMAGE, "A b"))
    with pytest.raises(SpecError, match="did you mean 'kubernetes'"):
        render(SHIPPED, "kubernets", WHERE)


def test_two_names_never_become_one():
    names_ = ["a.b", "a_b", "a-b", "x" * 60, "x" * 61, "9", "9.", "no"]
    assert len({label(n) for n in names_}) == len(names_)
    assert all(len(label(n)) <= 42 and len(label(n, 32)) <= 32 for n in names_)
    assert len({label(n, 32) for n in names_}) == len(names_)


def test_yaml_is_read_back_as_it_was_meant():
    value = {
        "no": "yes",
        "n": "1e3",
        "o": "0o7",
        "e": {},
        "l": [[1, 2], {"a": [None, True]}],
        "s": 'a"b\n: #',
        "k k": 1,
    }
    assert read(yaml(value)) == [value]
