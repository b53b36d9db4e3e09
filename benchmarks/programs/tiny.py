"""The tiny handler for the measurement of every runtime."""


def handler(event, context):
    data = event["data"]
    return {"ok": True, "id": data["id"] if data else ""}
