"""`metadata.managedFields` tells the last edits of a resource."""

from typing import Any

from kubeirq.on_cluster.last_edits import last_edits, references_in

CREATED = "2026-11-28T09:56:04Z"


def entry(manager: str, time: str, fields: Any, **more: Any) -> dict[str, Any]:
    return {"manager": manager, "time": time, "operation": "Update", "fieldsV1": fields, **more}


def metadata(*entries: dict[str, Any]) -> dict[str, Any]:
    return {"creationTimestamp": CREATED, "managedFields": list(entries)}


MADE = entry("kubeirq-deploy", CREATED, {"f:spec": {".": {}, "f:schedule": {}, "f:timeZone": {}}})


def test_the_newest_edit_comes_first_with_its_fields_and_the_creation_is_left_out() -> None:
    patch = entry("kubectl-patch", "2026-11-28T10:00:12Z", {"f:spec": {"f:timeZone": {}}})
    edit = entry("kubectl-edit", "2026-11-28T10:05:00Z", {"f:metadata": {"f:labels": {".": {}, "f:team": {}}}})
    found = last_edits(metadata(MADE, patch, edit))
    assert [(one.by, one.fields) for one in found] == [
        ("kubectl-edit", ["metadata.labels.team"]),
        ("kubectl-patch", ["spec.timeZone"]),
    ]
    assert "CronTrigger c edited at " in found[1].line("CronTrigger c")
    assert found[1].line("x").endswith("ago, by kubectl-patch: spec.timeZone")


def test_a_resource_that_nobody_has_edited_shows_its_creation() -> None:
    (found,) = last_edits(metadata(MADE))
    assert found.creates
    assert found.line("CronTrigger c").endswith(", by kubeirq-deploy")


def test_the_status_and_what_controllers_keep_in_the_metadata_are_no_edits() -> None:
    status = entry("kubeirq", "2026-11-28T11:00:00Z", {"f:status": {"f:x": {}}}, subresource="status")
    own = entry("kubeirq", "2026-11-28T11:00:00Z", {"f:metadata": {"f:finalizers": {".": {}, 'v:"a"': {}}}})
    applied = "f:kubectl.kubernetes.io/last-applied-configuration"
    annotation = entry("kubectl", "2026-11-28T11:00:00Z", {"f:metadata": {"f:annotations": {applied: {}}}})
    assert [one.by for one in last_edits(metadata(MADE, status, own, annotation))] == ["kubeirq-deploy"]
    assert last_edits({"creationTimestamp": CREATED}) == []


def test_elements_of_lists_are_named_and_many_fields_are_counted() -> None:
    variables = {'k:{"name":"RATE"}': {".": {}, "f:name": {}, "f:value": {}}}
    (found,) = last_edits(metadata(entry("m", "2026-11-28T10:00:00Z", {"f:spec": {"f:env": variables}})))
    assert found.fields == ["spec.env[RATE]"]
    many = entry("m", "2026-11-28T10:00:00Z", {"f:data": {f"f:k{number}": {} for number in range(9)}})
    assert last_edits(metadata(many))[0].line("x").endswith(": data.k0, data.k1, data.k2, data.k3 and 5 more")


def test_the_secrets_and_config_maps_that_a_spec_names_are_found() -> None:
    spec = {
        "security": {"password": {"name": "login", "key": "password"}, "username": "u"},
        "source": {"configMap": {"name": "code", "key": "f.py"}},
        "env": [
            {"name": "A", "valueFrom": {"secretKeyRef": {"name": "s", "key": "k"}}},
            {"name": "B", "valueFrom": {"configMapKeyRef": {"name": "c", "key": "k"}}},
            {"name": "C", "value": "v"},
        ],
        "envFrom": [{"secretRef": {"name": "all"}}, {"configMapRef": {"name": "maps"}}],
    }
    assert references_in(spec) == [
        ("ConfigMap", "c"), ("ConfigMap", "code"), ("ConfigMap", "maps"),
        ("Secret", "all"), ("Secret", "login"), ("Secret", "s"),
    ]  # fmt: skip
    assert references_in(None) == []
