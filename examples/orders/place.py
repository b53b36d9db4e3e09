"""The regular customers: one order at each tick of the clock."""

import random


def order(event, context):
    return {"item": random.choice(["tea", "bread", "honey"]), "quantity": 1, "customer": "regular"}
