"""The objects of a Function on a cluster, and the changes that roll its pods."""

import copy
import json
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from controllers.functions.pod_template import CODE_ANNOTATION, Settings
from controllers.functions.resource import FunctionSpec
from controllers.functions.status import FUNCTION_LABEL
from controllers.functions.workload import NotOnCluster, objects_of
from runtimes.python.kubeirq_runtime.settings import Settings as RuntimeSettings

SETTINGS = Settings(runtime_image="runtime:1")
METADATA = {"name": "invoice", "namespace": "shop", "uid": "u-1", "labels": {"team": "a"}, "generation": 3}
INLINE = {"inline": "def handler(event, context): ..."}
BY_URL = {"url": "https://example.com/code.zip", "sha256": "a" * 64}


def built(settings: Settings = SETTINGS, metadata: dict[str, Any] = METADATA, **fields: Any) -> dict[str, Any]:
    """The objects by their kind."""
    spec = FunctionSpec.model_validate({"source": INLINE, **fields}).named("invoice")
    objects = objects_of(metadata, spec, settings)
    assert len({found["kind"] for found in objects}) == len(objects)
    return {found["kind"]: found for found in objects}


def template(**fields: Any) -> dict[str, Any]:
    found: dict[str, Any] = built(**fields)["Deployment"]["spec"]["template"]
    return found


def pod(**fields: Any) -> dict[str, Any]:
    found: dict[str, Any] = template(**fields)["spec"]
    return found


def container(name: str = "function", **fields: Any) -> dict[str, Any]:
    spec = pod(**fields)
    return next(found for found in (*spec["containers"], *spec["initContainers"]) if found["name"] == name)


def environment(**fields: Any) -> dict[str, Any]:
    variables = container(**fields)["env"]
    assert len({variable["name"] for variable in variables}) == len(variables)
    return {variable["name"]: variable.get("value", "") for variable in variables if "valueFrom" not in variable}


CPU = {"requests": {"cpu": "100m"}}


@pytest.mark.parametrize(
    ("fields", "kinds"),
    [
        ({}, ["ConfigMap", "Deployment", "Service"]),
        ({"source": BY_URL}, ["Deployment", "Service"]),
        ({"source": BY_URL, "dependencies": "requests"}, ["ConfigMap", "Deployment", "Service"]),
        ({"source": {"image": "mine:1"}, "dependencies": "# nothing\n"}, ["Deployment", "Service"]),
        ({"scale": {"min": 2}}, ["ConfigMap", "Deployment", "Service", "PodDisruptionBudget"]),
        (
            {"scale": {"max": 3}, "resources": CPU},
            ["ConfigMap", "Deployment", "Service", "HorizontalPodAutoscaler"],
        ),
        (
            {"scale": {"min": 2, "max": 3}, "resources": CPU},
            ["ConfigMap", "Deployment", "Service", "HorizontalPodAutoscaler", "PodDisruptionBudget"],
        ),
    ],
)
def test_there_is_what_it_needs_and_nothing_else(fields: dict[str, Any], kinds: list[str]) -> None:
    assert list(built(**fields)) == kinds


def test_every_object_is_owned_by_the_function_and_labelled() -> None:
    for found in built(scale={"min": 2, "max": 3}, resources=CPU).values():
        metadata = found["metadata"]
        (owner,) = metadata["ownerReferences"]
        assert (owner["kind"], owner["name"], owner["uid"], owner["controller"]) == ("Function", "invoice", "u-1", True)
        assert metadata["namespace"] == "shop"
        assert metadata["labels"] == {
            "team": "a",
            "app.kubernetes.io/name": "invoice",
            "app.kubernetes.io/managed-by": "kubeirq",
            FUNCTION_LABEL: "invoice",
        }


def test_the_service_and_the_budget_find_the_pods() -> None:
    objects = built(scale={"min": 2})
    labels = objects["Deployment"]["spec"]["template"]["metadata"]["labels"].items()
    service = objects["Service"]["spec"]

    assert service["selector"].items() <= labels
    assert objects["PodDisruptionBudget"]["spec"]["selector"]["matchLabels"].items() <= labels
    (port,) = service["ports"]
    assert (port["name"], port["port"], port["targetPort"], port["appProtocol"]) == ("http", 8080, "http", "http")
    assert container()["ports"] == [{"name": "http", "containerPort": 8080, "protocol": "TCP"}]


def test_replicas_are_the_autoscalers_where_there_is_one() -> None:
    assert built(scale={"min": 3})["Deployment"]["spec"]["replicas"] == 3
    objects = built(scale={"min": 2, "max": 9, "cpuPercent": 50}, resources=CPU)
    assert "replicas" not in objects["Deployment"]["spec"]
    scaler = objects["HorizontalPodAutoscaler"]["spec"]
    assert (scaler["minReplicas"], scaler["maxReplicas"]) == (2, 9)
    assert scaler["metrics"][0]["resource"]["target"]["averageUtilization"] == 50


@pytest.mark.parametrize(
    ("fields", "text"),
    [
        ({"scale": {"min": 3, "max": 2}}, "max: 2 is less than min, 3"),
        ({"scale": {"max": 2}}, "scale.max: set resources.requests.cpu too"),
        ({"scale": {"maximum": 2}}, "Extra inputs"),
    ],
)
def test_a_scale_that_cannot_be_is_refused(fields: dict[str, Any], text: str) -> None:
    with pytest.raises(ValidationError, match=text):
        built(**fields)


@pytest.mark.parametrize(
    ("fields", "text"),
    [
        ({"source": {"path": "invoice.py"}}, "spec.source.path: .* url, configMap or image"),
        ({"dependenciesPath": "requirements.txt"}, "spec.dependenciesPath: .* dependencies"),
    ],
)
def test_what_only_one_machine_has_is_refused_with_a_way_out(fields: dict[str, Any], text: str) -> None:
    with pytest.raises(NotOnCluster, match=text):
        built(**fields)


# --- changes that roll the pods


@pytest.mark.parametrize(
    "other",
    [
        {"scale": {"min": 2}},
        {"scale": {"max": 5}},
        {"metadata": {**METADATA, "labels": {"team": "b"}, "generation": 9, "annotations": {"x": "y"}}},
        {"settings": Settings(runtime_image="runtime:1", package_index="https://packages.example.com/simple")},
        {"dependencies": "\n# still nothing\n"},
    ],
)
def test_what_does_not_concern_the_pods_rolls_nothing(other: dict[str, Any]) -> None:
    assert template(resources=CPU, **other) == template(resources=CPU)


@pytest.mark.parametrize(
    "other",
    [
        {"source": {"inline": "other"}},
        {"source": {"files": {"invoice.py": INLINE["inline"], "other.py": ""}}},
        {"source": BY_URL},
        {"dependencies": "requests"},
        {"handler": "invoice.other"},
    ],
)
def test_other_code_rolls(other: dict[str, Any]) -> None:
    assert template(**other) != template()


def test_the_annotation_tells_one_archive_from_another() -> None:
    digests = {
        template(source=source)["metadata"]["annotations"][CODE_ANNOTATION]
        for source in (INLINE, BY_URL, {**BY_URL, "sha256": "b" * 64}, {"image": "i"}, {"image": "j"})
    }
    assert len(digests) == 5


def test_going_back_to_the_code_before_goes_back_to_its_config_map() -> None:
    first, second, third = (built(source={"inline": text})["ConfigMap"] for text in ("one", "two", "one"))

    assert first == third
    assert first["metadata"]["name"] != second["metadata"]["name"]


def test_a_version_that_never_is_ready_takes_nothing_down() -> None:
    assert built()["Deployment"]["spec"]["strategy"]["rollingUpdate"] == {"maxUnavailable": 0, "maxSurge": 1}


# --- the pod


def test_the_code_is_mounted_where_the_runtime_looks_under_its_modules_name() -> None:
    objects = built(handler="shop.invoice.create")
    spec = objects["Deployment"]["spec"]["template"]["spec"]
    (code,) = [volume["configMap"] for volume in spec["volumes"] if volume["name"] == "code"]
    (item,) = code["items"]
    variables = environment(handler="shop.invoice.create")

    assert code["name"] == objects["ConfigMap"]["metadata"]["name"]
    assert item["path"] == "shop/invoice.py"
    assert objects["ConfigMap"]["data"][item["key"]] == INLINE["inline"]
    assert (variables["MOD_NAME"], variables["FUNC_HANDLER"]) == ("shop.invoice", "create")
    (mount,) = [found for found in spec["containers"][0]["volumeMounts"] if found["name"] == "code"]
    assert mount["mountPath"] == variables["KUBEIRQ_CODE_PATH"] == spec["containers"][0]["workingDir"]


def test_several_files_are_mounted_at_their_paths_whatever_their_keys() -> None:
    files = {"invoice.py": "import shop.prices", "shop/prices.py": "TAX = 19", "requirements.txt": "none of ours"}
    objects = built(source={"files": files}, dependencies="requests")
    volumes = objects["Deployment"]["spec"]["template"]["spec"]["volumes"]
    mounted = {
        volume["name"]: {
            item["path"]: objects["ConfigMap"]["data"][item["key"]] for item in volume["configMap"]["items"]
        }
        for volume in volumes
        if "configMap" in volume
    }

    assert mounted == {"code": files, "dependencies-file": {"requirements.txt": "requests"}}
    assert objects == built(source={"files": dict(reversed(files.items()))}, dependencies="requests")
    assert template(source={"files": {**files, "shop/prices.py": "TAX = 7"}}, dependencies="requests") != template(
        source={"files": files}, dependencies="requests"
    )


@pytest.mark.parametrize(
    ("files", "text"),
    [
        ({}, "at least one file"),
        ({"/a.py": ""}, "'/a.py' is not a relative path inside the folder"),
        ({"a/../b.py": ""}, "is not a relative path"),
        ({"a//b.py": ""}, "is not a relative path"),
        ({"..a.py": ""}, "is not a relative path"),
        ({"a": "", "a/b/c.py": ""}, "'a' is a file and cannot also be the folder of 'a/b/c.py'"),
    ],
)
def test_files_that_no_folder_can_hold_are_refused(files: dict[str, str], text: str) -> None:
    with pytest.raises(ValidationError, match=text):
        built(source={"files": files})


def test_a_file_of_a_config_map_of_ones_own_is_mounted() -> None:
    volumes = pod(source={"configMap": {"name": "mine", "key": "a.py"}})["volumes"]
    (code,) = [volume for volume in volumes if volume["name"] == "code"]
    assert code["configMap"] == {"name": "mine", "items": [{"key": "a.py", "path": "invoice.py"}]}


def test_an_archive_is_fetched_before_the_function_starts() -> None:
    fetch = container("fetch", source=BY_URL)

    assert fetch["command"][-4:] == [BY_URL["url"], BY_URL["sha256"], "/kubeirq/code", "invoice.py"]
    assert {"name": "code", "emptyDir": {}} in pod(source=BY_URL)["volumes"]
    key = {"name": "registry", "key": "header"}
    fetch = container("fetch", source={**BY_URL, "authorization": key})
    assert {"name": "FETCH_AUTHORIZATION", "valueFrom": {"secretKeyRef": key}} in fetch["env"]


@pytest.mark.parametrize(
    "url", ["https://me:t0k3n@example.com/a.zip", "https://t0k3n@example.com", "http://example.com/"]
)
def test_an_address_has_no_login_because_everyone_could_read_it(url: str) -> None:
    with pytest.raises(ValueError, match=r"source\.url"):
        pod(source={**BY_URL, "url": url})
    for fine in ("https://example.com", "https://example.com:8443/a@b.zip?c=@d"):
        pod(source={**BY_URL, "url": fine})


def test_code_in_an_image_runs_there() -> None:
    function = container(source={"image": "mine:1"})

    assert function["image"] == "mine:1"
    assert "workingDir" not in function
    assert "KUBEIRQ_CODE_PATH" not in environment(source={"image": "mine:1"})


def test_images_are_the_specs_then_the_settings_then_the_catalogues() -> None:
    settings = Settings(runtime_image="runtime:1", images={"python3.12": "ours:3.12"}, image_pull_policy="Always")

    assert container(settings=settings, runtime="python3.12", image="mine:2")["image"] == "mine:2"
    assert container(settings=settings, runtime="python3.12")["image"] == "ours:3.12"
    assert container(settings=settings)["image"] == "python:3.13-slim"
    copied = container("runtime", settings=settings, runtime="python3.12", image="mine:2")
    assert (copied["image"], copied["imagePullPolicy"]) == ("runtime:1", "Always")
    assert "/runtime/python3.12/." in copied["command"]


def test_dependencies_are_installed_from_the_index_of_the_settings_and_found_before_the_runtimes_own() -> None:
    settings = Settings("runtime:1", package_index="http://a/simple", extra_package_indexes=("http://b",),
                        trusted_package_hosts=("a",))  # fmt: skip
    install = container("dependencies", settings=settings, dependencies="requests\n")
    command = " ".join(install["command"])

    assert "--index-url http://a/simple --extra-index-url http://b --trusted-host a" in command
    assert built(dependencies="requests\n")["ConfigMap"]["data"][".requirements.txt"] == "requests\n"
    target, runtime = environment(dependencies="requests")["PYTHONPATH"].split(":")
    assert f"--target {target}" in command
    assert runtime == environment()["PYTHONPATH"]


def test_the_contract_stands_over_the_authors_variables_and_these_over_what_is_usual() -> None:
    variables = environment(
        env=[{"name": name, "value": "mine"} for name in ("FUNC_PORT", "HOME", "A")] + [{"name": "EMPTY", "value": ""}],
        timeoutSeconds=2.5, concurrency=4, startup="invoice.begin", resources={"limits": {"memory": "64Mi"}},
    )  # fmt: skip

    assert variables["FUNC_PORT"] == "8080"
    assert (variables["HOME"], variables["A"], variables["EMPTY"]) == ("mine", "mine", "")
    assert variables["FUNC_TIMEOUT"] == variables["FUNC_GRACE"] == "2.5"
    assert (variables["FUNC_CONCURRENCY"], variables["FUNC_STARTUP"]) == ("4", "invoice.begin")
    assert variables["FUNC_MEMORY_LIMIT"] == "64Mi"
    assert {"FUNC_CONCURRENCY", "FUNC_STARTUP", "FUNC_SHUTDOWN"}.isdisjoint(environment())


def test_the_runtime_understands_what_the_pod_tells_it() -> None:
    told = RuntimeSettings(
        environment(handler="a.b.create", concurrency=4, shutdown="a.end", resources={"limits": {"memory": "64Mi"}})
    )

    assert (told.module, told.handler, told.shutdown, told.function_name) == ("a.b", "create", "a.end", "invoice")
    assert (told.host, told.port, told.code_path) == ("0.0.0.0", 8080, "/kubeirq/code")
    assert (told.timeout_seconds, told.grace_seconds, told.concurrency) == (30, 30, 4)
    assert (told.runtime, told.memory_limit_bytes) == ("python3.13", 64 * 2**20)


def test_secrets_stay_references() -> None:
    reference = {"secretKeyRef": {"name": "s", "key": "k"}}
    found = container(env=[{"name": "PASSWORD", "valueFrom": reference}], envFrom=[{"secretRef": {"name": "all"}}])

    assert {"name": "PASSWORD", "valueFrom": reference} in found["env"]
    assert found["envFrom"] == [{"secretRef": {"name": "all"}}]


def test_every_container_is_restricted() -> None:
    spec = pod(source=BY_URL, dependencies="requests")

    assert spec["automountServiceAccountToken"] is False
    assert spec["securityContext"]["runAsNonRoot"] is True
    assert spec["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    assert [found["name"] for found in spec["initContainers"]] == ["runtime", "fetch", "dependencies"]
    for found in (*spec["initContainers"], *spec["containers"]):
        context = found["securityContext"]
        assert context["allowPrivilegeEscalation"] is False
        assert context["readOnlyRootFilesystem"] is True
        assert context["capabilities"] == {"drop": ["ALL"]}
        assert found["terminationMessagePolicy"] == "FallbackToLogsOnError"
    volumes = {volume["name"] for volume in spec["volumes"]}
    assert all(mount["name"] in volumes for found in spec["containers"] for mount in found["volumeMounts"])


def test_every_init_container_has_the_resources_of_the_installation() -> None:
    resources = {"requests": {"cpu": "50m"}, "limits": {"memory": "256Mi"}}
    fields: dict[str, Any] = {"source": BY_URL, "dependencies": "requests"}
    spec = pod(settings=Settings(runtime_image="runtime:1", init_resources=resources), **fields)
    assert [found["resources"] for found in spec["initContainers"]] == [resources] * 3
    assert "resources" not in spec["containers"][0]
    assert not any("resources" in found for found in pod(**fields)["initContainers"])


def test_on_openshift_a_pod_names_no_user_and_no_group() -> None:
    given = pod()["securityContext"]
    found = pod(settings=Settings(runtime_image="runtime:1", has_fixed_user=False))["securityContext"]
    assert {name for name in given if name not in found} == {"runAsUser", "runAsGroup", "fsGroup"}
    assert found.items() <= given.items()


@given(st.floats(0.001, 86_400))
def test_nobody_ends_a_call_before_its_own_time_out(timeout_seconds: float) -> None:
    spec = pod(timeoutSeconds=timeout_seconds)
    function = spec["containers"][0]
    liveness, pause = function["livenessProbe"], function["lifecycle"]["preStop"]["sleep"]["seconds"]

    assert (
        spec["terminationGracePeriodSeconds"] - pause
        > float(environment(timeoutSeconds=timeout_seconds)["FUNC_GRACE"]) + 5
    )
    assert liveness["periodSeconds"] * liveness["failureThreshold"] > timeout_seconds + 3
    assert isinstance(spec["terminationGracePeriodSeconds"], int)


def test_the_pod_template_is_merged_in_and_the_rest_stands() -> None:
    patch = {
        "metadata": {"annotations": {"x": "y"}},
        "spec": {
            "nodeSelector": {"disk": "fast"},
            "containers": [{"name": "function", "livenessProbe": None}, {"name": "proxy", "image": "p"}],
        },
    }
    plain, found = template(), template(podTemplate=patch)

    assert found["spec"]["nodeSelector"] == {"disk": "fast"}
    assert found["metadata"]["annotations"] == {**plain["metadata"]["annotations"], "x": "y"}
    function, proxy = found["spec"]["containers"]
    assert proxy == {"name": "proxy", "image": "p"}
    assert function == {
        name: value for name, value in plain["spec"]["containers"][0].items() if name != "livenessProbe"
    }


def test_the_objects_are_plain_share_nothing_and_are_the_same_each_time() -> None:
    metadata = copy.deepcopy(METADATA)
    fields: dict[str, Any] = {"scale": {"min": 2, "max": 3}, "resources": CPU, "dependencies": "requests"}
    objects = built(metadata=metadata, **fields)

    assert "&id" not in yaml.safe_dump(list(objects.values()))
    assert json.dumps(objects) == json.dumps(built(**fields))
    assert metadata == METADATA


def test_only_a_function_that_keeps_its_reasons_has_the_variable_so_that_an_upgrade_rolls_nothing_out() -> None:
    assert "FUNC_FAILURE_DETAIL" not in environment()
    assert environment(failureDetail=False)["FUNC_FAILURE_DETAIL"] == "0"
