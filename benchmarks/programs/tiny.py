"""The tiny handler that every runtime is measured with."""


def handler(event, context):
    data = event["data"]
    return {"ok": True, "id": data["id"] if data else ""}
