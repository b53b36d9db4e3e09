"""The function of the recorded events: it refuses some and fails at others, until the file `mended` is there."""

import json
import os

FOLDER = os.environ["FOLDER"]
STATUSES = {b"refuse": 400, b"fail": 503}


def handler(event, context):
    data = bytes(event["cloudevent"]["data"] or b"")
    mended = os.path.exists(os.path.join(FOLDER, "mended"))
    status = 200 if mended else next((STATUSES[word] for word in STATUSES if word in data), 200)
    call = {
        "id": event["event-id"],
        "data": data.hex(),
        "status": status,
        "headers": dict(event["extensions"]["request"]["headers"]),
    }
    with open(os.path.join(FOLDER, "ledger"), "a") as file:
        file.write(json.dumps(call) + "\n")
    return f"{status}: {call['id']}", status
