"""A mutating admission webhook: the API server asks it about each write of some kinds of objects."""

import base64
import json
import ssl
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from typing import Any

from aiohttp import web
from servers.kubernetes import APIServer
from servers.ports import free_port

Patch = list[dict[str, Any]]  # of JSON Patch
NAME = "changes.webhook.example"


@asynccontextmanager
async def webhook(
    server: APIServer, rules: list[Mapping[str, Any]], change: Callable[[Any], Patch]
) -> AsyncIterator[None]:
    """Each write that these rules name is changed by the patch that `change` returns for the object."""

    async def answer(request: web.Request) -> web.Response:
        asked = (await request.json())["request"]
        patch = base64.b64encode(json.dumps(change(asked["object"])).encode()).decode()
        response = {"uid": asked["uid"], "allowed": True, "patchType": "JSONPatch", "patch": patch}
        return web.json_response({"apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview", "response": response})

    application = web.Application()
    application.router.add_post("/", answer)
    runner, port = web.AppRunner(application), free_port()
    tls = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    tls.load_cert_chain(*await server.authority.issue("webhook", "/CN=webhook", "IP:127.0.0.1"))
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", port, ssl_context=tls).start()
        authority = base64.b64encode(server.authority.certificate.read_bytes()).decode()
        hook = {
            "name": NAME,
            "clientConfig": {"url": f"https://127.0.0.1:{port}/", "caBundle": authority},
            "rules": [{"operations": ["CREATE", "UPDATE"], "apiVersions": ["*"], **rule} for rule in rules],
            "sideEffects": "None",
            "admissionReviewVersions": ["v1"],
            "reinvocationPolicy": "IfNeeded",
        }
        configuration = {
            "apiVersion": "admissionregistration.k8s.io/v1",
            "kind": "MutatingWebhookConfiguration",
            "metadata": {"name": NAME},
            "webhooks": [hook],
        }
        await server.kubectl("apply", "-f", "-", input=json.dumps(configuration))
        try:
            yield
        finally:
            await server.kubectl("delete", "mutatingwebhookconfiguration", NAME)
    finally:
        await runner.cleanup()
