"""The data plane and its plugin API: sources, lanes, dispatch, dead letters. It does not depend on Kubernetes.

A new source or reply target needs only the names that this module exports.
"""

from trigger_sources.context import Context, MissingSecret, SourceError
from trigger_sources.delivery import SETTLED, Answer, AnswerRefused, Attempt, Delivery, HttpRequest, Outcome
from trigger_sources.events import Event
from trigger_sources.publisher import Publisher, PublisherOnce, ReplyRefused, ReplyTarget
from trigger_sources.source import Lag, TriggerSource
from trigger_sources.spec import SecretRef, Spec

__all__ = [
    "TriggerSource",
    "Delivery",
    "Event",
    "Outcome",
    "Context",
    "Lag",
    "SecretRef",
    "Spec",
    "SourceError",
    "MissingSecret",
    "Answer",
    "AnswerRefused",
    "Attempt",
    "HttpRequest",
    "SETTLED",
    "ReplyTarget",
    "Publisher",
    "PublisherOnce",
    "ReplyRefused",
]
