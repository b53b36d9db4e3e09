"""Places an order of a regular customer at each tick."""

import random


def order(event, context):
    return {"item": random.choice(["tea", "bread", "honey"]), "quantity": 1, "customer": "regular"}
