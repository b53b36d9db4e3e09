"""Events of well-known senders, to try a function or a trigger with. Pure."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import orjson


@dataclass(frozen=True)
class Sample:
    """The body, with its headers or CloudEvents attributes. A signature is not right, as nobody here has the key."""

    data: Mapping[str, Any]
    headers: Mapping[str, str] = field(default_factory=dict)
    attributes: Mapping[str, str] = field(default_factory=dict)

    @property
    def body(self) -> bytes:
        return orjson.dumps(self.data)


SAMPLES: Mapping[str, Sample] = {
    "cloudevents": Sample(
        {"order": 7, "item": "tea"},
        attributes={"type": "com.example.order.created", "source": "/example/orders", "subject": "7"},
    ),
    "github-push": Sample(
        {
            "ref": "refs/heads/main",
            "before": "0000000000000000000000000000000000000000",
            "after": "6113728f27ae82c7b1a177c8d03f9e96e0adf246",
            "repository": {"id": 1296269, "name": "hello-world", "full_name": "octocat/hello-world"},
            "pusher": {"name": "octocat", "email": "octocat@example.com"},
            "commits": [{"id": "6113728f27ae82c7b1a177c8d03f9e96e0adf246", "message": "Fix all the bugs"}],
        },
        {"x-github-event": "push", "x-github-delivery": "72d3162e-cc78-11e3-81ab-4c9367dc0958"},
    ),
    "stripe-payment": Sample(
        {
            "id": "evt_1NG8Du2eZvKYlo2CUI79vXWy",
            "object": "event",
            "type": "payment_intent.succeeded",
            "created": 1_686_089_970,
            "livemode": False,
            "data": {"object": {"id": "pi_3NG8Du", "object": "payment_intent", "amount": 2_000, "currency": "eur"}},
        },
        {"stripe-signature": "t=1686089970,v1=0000", "user-agent": "Stripe/1.0"},
    ),
    "s3-put": Sample(
        {
            "Records": [
                {
                    "eventVersion": "2.1",
                    "eventSource": "aws:s3",
                    "eventName": "ObjectCreated:Put",
                    "eventTime": "2026-01-01T00:00:00.000Z",
                    "s3": {
                        "bucket": {"name": "example-bucket", "arn": "arn:aws:s3:::example-bucket"},
                        "object": {"key": "invoices/7.pdf", "size": 1_024, "eTag": "0123456789abcdef0123456789abcdef"},
                    },
                }
            ]
        }
    ),
}  # fmt: skip
