"""Writes the invoice of an order. It sometimes fails, as real services do, and kubeirq retries it."""

import random

PRICES = {"tea": 4, "bread": 3, "honey": 9}


def create(event, context):
    if random.random() < 0.05:
        raise ConnectionError("the ledger did not answer")
    order = event["data"]
    total = PRICES.get(order["item"], 10) * order["quantity"]
    return {"customer": order["customer"], "text": f"{order['quantity']} x {order['item']}", "total": total}
