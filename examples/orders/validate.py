"""Checks an order. Its return value goes to the Kafka topic `orders`."""


class Refused(Exception):
    status = 422  # a 4xx is final: kubeirq does not retry, and the order becomes a dead letter


def order(event, context):
    found = event["data"]
    if not isinstance(found, dict) or not found.get("item"):
        raise Refused("an order needs an item")
    return {
        "item": found["item"],
        "quantity": int(found.get("quantity", 1)),
        "customer": found.get("customer", "guest"),
    }
