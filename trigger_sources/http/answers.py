"""The answer to a caller when its event is settled. Pure."""

from trigger_sources.delivery import Answer, Outcome
from trigger_sources.http.events import without_hop_by_hop
from trigger_sources.http.routes import refusal

# By the outcome's reason, for outcomes without an answer of the function
_WITHOUT_ANSWER = {
    "FunctionDown": refusal(503, "the function is down", ("retry-after", "5")),
    "Held": refusal(503, "the function is down", ("retry-after", "5")),
    "Stopping": refusal(503, "the trigger is being stopped", ("retry-after", "1")),
    "Timeout": refusal(504, "the function did not answer in time"),
    "NoAnswer": refusal(502, "the function ended the connection without an answer"),
    "AttemptsExhausted": refusal(502, "the function gave no answer"),
    "PermanentAnswer": refusal(502, "the function gave no answer"),
    "FilterError": refusal(500, "the trigger's filter cannot be evaluated on this request"),
    "InvalidEvent": refusal(400, "the request cannot be sent to the function"),
}
_REPLY_FAILED = refusal(502, "the function was called, but its return value could not be published")


def answer_to(outcome: Outcome) -> Answer:
    """The caller's answer: the function's own answer if there is one, with any status."""
    if outcome.reason == "ReplyFailed":
        return _REPLY_FAILED
    if outcome.answer is not None:
        return _passed_on(outcome.answer)
    if outcome.kind == "filtered":
        return Answer(204)
    if outcome.kind == "returned":
        return _WITHOUT_ANSWER["Stopping"]
    if outcome.kind == "delivered":
        return Answer(200)
    if outcome.reason == "NoAnswer" and outcome.message:
        came = "is too large" if "body is over" in outcome.message else "did not come"
        return refusal(502, f"the function's answer {came}: {outcome.message}")
    return _WITHOUT_ANSWER.get(outcome.reason) or refusal(500, "the request was not delivered")


def _passed_on(answer: Answer) -> Answer:
    if not 200 <= answer.status <= 599:
        return refusal(502, f"the function answered with status {answer.status}, which no caller can get")
    headers = [
        header
        for header in without_hop_by_hop(answer.headers)
        # kubeirq-error says which exception the function raised, which is nothing for a stranger
        if header[0] != "content-length" and not header[0].startswith("kubeirq-")
    ]
    return Answer(answer.status, headers, answer.body)
