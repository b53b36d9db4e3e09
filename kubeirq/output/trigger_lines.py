"""The state of a trigger in lines for people. Pure."""

from collections.abc import Mapping, Sequence
from typing import Any

from kubeirq.output.formats import ago, counted, last_answer, span
from trigger_sources.spec import problem_of_name


def condition_lines(conditions: Sequence[Mapping[str, Any]]) -> list[str]:
    """`since` is in seconds since the epoch. A message that several conditions have is shown once."""
    lines = []
    shown = set()
    for condition in conditions:
        text = f"  {condition['type']:10} {condition['status']:8} {condition['reason']}"
        text += f", for {span(condition['since'])}" if condition["since"] else ""
        message = condition["message"] if condition["message"] not in shown else ""
        shown.add(message)
        lines.append(text + (f"\n      {message}" if message else ""))
    return lines


def flow_lines(found: Mapping[str, Any]) -> list[str]:
    """The counters of a flow, its waiting events and its last answer."""
    lag = found["lag"]
    # A caller that got the function's failure as its answer has lost nothing
    words = {"dropped": "answered with a failure"} if found.get("callersWait") else {}
    since = f", counted for {span(found['countersSince'])}" if found.get("countersSince") else ""
    return [
        "  " + ", ".join(f"{words.get(name, name)} {count}" for name, count in found["counters"].items()) + since,
        f"  held {found['held']}, in flight {found['inFlight']}, lag {lag['events'] if lag else 'unknown'}, "
        f"dead letters {found['deadLetters']}",
        f"  last answer {last_answer(found['lastAnswer'])}"
        + (f"; last error{_ago(found.get('lastErrorAt'))}: {found['lastError']}" if found["lastError"] else ""),
    ]


def _ago(at: float | None) -> str:
    return f" at {ago(at)}" if at else ""


def failing_lines(flow: Mapping[str, Any]) -> list[str]:
    """What a person should look at though the flow is Ready: dead letters, events that fail, a failed last call."""
    lines = [counted(flow["deadLetters"], "dead letter")] if flow["deadLetters"] else []
    retrying = next((found for found in flow["conditions"] if found["reason"] == "Retrying"), None)
    if retrying is not None:
        lines.append(retrying["message"])
    answer = flow["lastAnswer"]
    is_newer = answer is None or (flow.get("lastErrorAt") or 0) >= answer["at"]
    if retrying is None and flow["lastError"] and is_newer:
        lines.append(f"last error: {flow['lastError']}")
    elif retrying is None and answer is not None and answer["status"] >= 400:
        lines.append(f"last answer {answer['status']}")
    return lines


def next_steps(trigger: Mapping[str, Any]) -> list[str]:
    """The commands and changes that help with this trigger now: the source first, then the function, then the rest."""
    own = [found for found in trigger["conditions"] if found["type"] != "Ready"] or trigger["conditions"]
    steps = [step for found in own if (step := _step(trigger, found))]
    if "answer's body is over" in (trigger.get("lastError") or ""):
        steps.append(_RETURN_LESS)
    elif trigger.get("callersWait") and trigger.get("counters", {}).get("dropped") and trigger["function"]:
        steps.append(f"kubeirq logs Function/{trigger['function']}")  # only its log has each failure that a caller got
    if trigger["deadLetters"]:
        steps.append(f"kubeirq dead-letters list {_name_of(trigger)}")
    return list(dict.fromkeys(steps))


# A trigger's reasons, each with its step. `test_steps.py` finds a reason that is missing here and in `_WITHOUT_A_STEP`
_NEXT_OF_REASON = {
    # the function, or the events
    "EverythingFails": "fix the function, then run kubeirq resume {name}, or wait: one event is tried every 30 s",
    "FilterFails": "correct spec.filter and apply it; then kubeirq dead-letters redrive {name} --all",
    "Parked": "kubeirq lanes list {name}; mend the function, then kubeirq lanes release {name} LANE",
    "LaneFull": "kubeirq lanes list {name}",
    "MemoryFull": "kubeirq lanes list {name}; the metric kubeirq_held_bytes shows who else holds events",
    "Retrying": "kubeirq lanes list {name}",
    "RepliesUnpublished": "mend the target of spec.reply, which the message names; the replies wait, and none is lost",
    "DeadLettersUnwritable": "mend the place of dead letters, which the message names; events wait, and none is lost",
    "Suspended": "kubeirq resume {name}",
    "BodyLimit": "raise the function's variable FUNC_BODY_LIMIT, or lower spec.bodyLimitBytes",
    # the spec
    "Invalid": "correct the spec as the message says",
    "UnknownField": "upgrade kubeirq, or take the field back; the message names an annotation if it restricts nothing",
    "UnknownFields": "upgrade kubeirq, or take the fields back",
    "UnknownValue": "upgrade kubeirq, or take the value back",
    "TwoInstallations": "set watchNamespace of both installations, which the message names, or remove one",
    "Deleting": "remove the finalizers that the message names, if their controller is gone",
    "SeveralFunctions": "narrow spec.functionSelector to one function, or set spec.function",
    "NoFunction": "create a Function with these labels, or change spec.functionSelector",
    "Taken": "change the route, the durable or the group of one of the two triggers",
    "RouteTaken": "change spec.path, spec.host or spec.methods of one of the two triggers",
    "OutOfReach": "call a Service of the namespace or a public address, or add the address to the chart's reach.allow",
    "StatusRefused": "give the controller the right to write the trigger's status: docs/kubernetes.md has the rights",
    # the source
    "NotConnected": "check the address that the message names, and whether it can be reached from here",
    "NotPrepared": "correct what the message names; the source tries again by itself",
    "Unauthorized": "check the login and the Secret in spec.security, and the rights of that user at the broker",
    "NoBrokers": "set spec.brokers",
    "NoServers": "set spec.servers",
    "SecretMissing": "create the Secret with that key; the trigger then goes on by itself",
    "SecretForbidden": "an admin of the namespace types the command of the message; docs/tenants.md",
    "SecretUnusable": "correct the Secret; the trigger then goes on by itself",
    "SecretsUnread": "look whether the API server answers; the trigger then goes on by itself",
    "SettingInvalid": "correct the setting that the message names",
    "SourceFailed": "kubeirq logs {name}",
    # Kafka
    "TopicMissing": "create the topic, or correct spec.topics",
    "TopicNotCreated": "create the topic, or give the trigger's user the right to",
    "TopicMaybeRecreated": "if the topic was created again, reset the group's offsets with Kafka's own tools",
    "PartitionOffline": "look at the brokers that lead the partitions that the message names, and the network between",
    "PartitionsUnread": "mend what the error in the message names; the trigger tries again by itself",
    "DeadLettersPassed": "write a spec.topicPattern that does not match topics with dead letters",
    "CoordinatorMissing": "look at the brokers that have copies of __consumer_offsets",
    "DistanceReached": "kubeirq lanes list {name}; mend the function, or release or skip the lane",
    "FormerFunctionRuns": "wait for the members that the message names, or stop them if they are not kubeirq's",
    "StartUndecided": "stop the other program in the group, let it commit, or set another spec.group",
    "ConsumerFailed": "mend what Kafka's error in the message names; the source starts again by itself",
    "Truncated": "send the lost records again, if their producer can; the message has their number",
    "RecordsDeleted": "raise the topic's retention, or let more events run at once; the message has the number lost",
    "RecordsCompacted": "settle events sooner than the topic is compacted; the message has the number lost",
    # NATS
    "StreamMissing": "create the stream, or set spec.createStream: true",
    "SeveralStreams": "set spec.stream to one of the streams that the message names",
    "PartlyInStream": "add the missing subjects to the stream, or narrow spec.subject",
    "SubjectNotInStream": "correct spec.stream or spec.subject",
    "ConsumerPaused": "type the command of the message, or wait until the time that it names",
    "ConsumerNotNew": "choose another spec.durable, or delete that consumer",
    "StartRefused": "leave out spec.start: a consumer of a work queue begins at the first message",
    "NoJetStream": "enable JetStream on the servers or for the account, or set spec.mode: core",
    "JetStreamRefused": "do what the message says; the trigger then goes on by itself",
    "MessagesDeleted": "send the lost messages again, if their publisher can; the message has their number",
    "Retention": "raise the stream's limits, or let more events run at once; the message has the number lost",
    "PlaceDamaged": "look at the disk, or at the person who edits statuses; the trigger goes on by itself",
    "StateNewer": "run the newer version of kubeirq again",
    "OlderNotRead": "for the older messages, make a trigger of another name with the added subjects",
    # stores
    "NoStore": "set the chart's store.nats or store.embedded",
    "StoreFull": "free some space; of a stream, raise the limit that the message names",
    "StoreUnusable": "change the store's stream as the message says",
    "StoreVersion": "run the newer version of kubeirq again",
    "StoreLocked": "stop the other process, or give this one another folder",
    "StoreCorrupt": "move the store's file away, and restore a copy of it",
    "PortTaken": "choose another port with --http-port",
    "TooLarge": "raise the server's max_payload, or make the events smaller",
    "StoreUnavailable": "look at the servers of the chart's store; events wait, and none is lost",
    "InboxFails": "look at the store, as the message says; callers get a 503 meanwhile",
    "BacklogFull": "look whether the function is up and fast enough, or raise spec.maxBacklog",
    # cron
    "TicksDamaged": "look at the disk; the ticks go on by themselves",
    "BeginsAnew": "to go on at an earlier place, let the trigger call that function first, and then the new one",
    # objects of spec.expose
    "NameTaken": "rename the trigger, or delete the object that the message names",
    "Refused": "correct what the API server's message names",
    "Contested": "find who changes the object that the message names: kubectl get --show-managed-fields",
    "WaitingForIngress": "look at the ingress controller of the class, and at kubectl describe ingress",
    "WaitingForGateway": "look at the Gateway's controller, and at kubectl describe httproute",
    "GatewayAPIMissing": "install the Gateway API, or set spec.expose.ingress, or remove spec.expose",
}
_RETURN_LESS = "let the function return less, or store its result and return where it is; its log has nothing on this"
# These pass by themselves, or tell what has happened
_WITHOUT_A_STEP = frozenset(
    {
        "Starting", "Stopping", "Completed", "Unseen", "OtherReplica", "LeaseLost", "TriggerGone", "StoreClosed",
        "AtMostOnce", "ClockWentBack", "TopicRecreated", "OffsetsForgotten", "StreamRecreated", "ConsumerRecreated",
        "StreamMoved", "Idle", "NothingArrives",
    }
)  # fmt: skip


def _name_of(trigger: Mapping[str, Any]) -> str:
    """A name that means this trigger only, also where the function has the same one."""
    same = trigger.get("kind") and trigger["name"] == trigger.get("function")
    return f"{trigger['kind']}/{trigger['name']}" if same else str(trigger["name"])


def _step(trigger: Mapping[str, Any], condition: Mapping[str, Any]) -> str | None:
    """The step for a condition; None for one that needs nothing."""
    reason, name = condition["reason"], _name_of(trigger)
    if reason == "FunctionDown":
        waits = "callers get a 503, accepted events wait" if trigger.get("kind") == "HTTPTrigger" else "its events wait"
        return f"{_step_for_function(trigger['function'], condition.get('message', ''))}; {waits}, and none is lost"
    if reason == "Suspended" and "its file" in condition.get("message", ""):
        return "set spec.suspend to false in its file"
    if (step := _NEXT_OF_REASON.get(reason)) is not None:
        return step.format(name=name)
    if condition.get("status") == "True" or reason in _WITHOUT_A_STEP:
        return None
    return f"kubeirq logs {name}"


def _step_for_function(called: str, message: str) -> str:
    if problem_of_name(called) is not None:
        step = f"find out why {called} does not answer"
    elif "there is no Function" in message:
        step = f"create the Function {called}, or correct spec.function"
    else:
        step = f"kubeirq describe Function/{called}"
    return step
