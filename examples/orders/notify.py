"""Notifies the customer. Returns nothing, so the event ends here."""


def customer(event, context):
    invoice = event["data"]
    print(f"dear {invoice['customer']}: {invoice['text']}, that is {invoice['total']} euros")
