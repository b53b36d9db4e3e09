"""Counts the messages that a stream lost before the consumer handed them out: by a purge, a deletion or a limit. Pure.

A server hands messages out in the order of their sequences, and skips those that are gone. So the sequence that a
consumer has reached grows by the messages that it handed out and by those that it skipped. `calls`, the consumer's own
sequence, grows by the messages that it handed out and by repetitions.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from trigger_sources.nats.source_stream import SourceStream

_SKIPPING = ("last", "last_per_subject")  # deliver policies by which a consumer leaves messages out


@dataclass(frozen=True, slots=True)
class Look:
    """The state of a stream, and the later state of its consumer."""

    consumer: str  # the time of the consumer's creation
    calls: int  # the number of times that the consumer handed a message out
    reached: int  # the last sequence that the consumer handed out or skipped
    pending: int  # messages that it has not handed out
    held: int  # messages that it handed out, and that are not acknowledged
    last: int  # the stream's last sequence
    removed: int  # the number of messages that the stream had and has no more
    whole: bool  # every message of the stream is for this consumer: each sequence counts
    plain: bool  # the stream removes no message by itself
    skips: bool  # the stream begins after the message that the consumer is to hand out next

    @classmethod
    def of(cls, stream: SourceStream, subject: str, info: Mapping[str, Any]) -> "Look":
        delivered, policy = info["delivered"], info["config"].get("deliver_policy")
        return cls(
            consumer=info["created"],
            calls=delivered["consumer_seq"],
            reached=max(delivered["stream_seq"], stream.first_sequence - 1),
            pending=info["num_pending"],
            held=info["num_ack_pending"],
            last=stream.last_sequence,
            removed=stream.removed,
            whole=not stream.opaque and stream.is_all(subject) and policy not in _SKIPPING,
            plain=stream.plain,
            skips=stream.first_sequence > delivered["stream_seq"] + 1,
        )

    def surplus(self, last: int) -> int:
        """A number that grows by one with each loss, and falls by one with each repetition.

        In a stream with other messages it falls with each new message, too, so that it counts at least some losses.
        `last` is a last sequence of the stream that the consumer knew at that time; 0 if that is not known.
        """
        if not self.whole:
            return -self.pending - self.calls
        return max(self.reached, last - self.pending) - self.calls


@dataclass(frozen=True, slots=True)
class Tally:
    """The losses that are counted, for one consumer, as the trigger's durable state keeps them."""

    consumer: str = ""
    counted: int = 0  # by all replicas
    base: int = 0  # the surplus before the first of these losses
    calls: int = 0
    pending: int = 0
    last: int = 0
    removed: int = 0
    whole: bool = True
    given_back: int = 0  # messages that a trigger had not settled when it stopped, and that wait to be handed out again
    claim: str = ""  # of the replica that counted the last losses
    sure: bool = True  # `given_back` is exact, and not only the least number

    def with_counts_of(self, kept: "Tally") -> "Tally":
        """This tally, with the losses that other replicas counted of the same consumer."""
        if kept.consumer != self.consumer or kept.counted <= self.counted:
            return self
        # they may have counted those that were given back, too
        return replace(
            self, counted=kept.counted, claim=kept.claim, given_back=0, sure=self.sure and self.given_back == 0
        )

    def still_given_back(self, look: Look) -> int:
        """How many of the messages that were given back nobody has got again, at least."""
        return max(0, self.given_back - (look.calls - self.calls))

    def is_sure(self, look: Look) -> bool:
        """Whether `still_given_back` is exact: nobody knows whether a message that was handed out since is one of them.

        For a trigger that had none, nothing is unsure.
        """
        return self.sure and (self.given_back == 0 or look.calls == self.calls)

    def follows(self, look: Look) -> bool:
        """Whether the look is at the same consumer, later. A killed server may forget the last calls."""
        return self.consumer == look.consumer and self.whole == look.whole and self.calls <= look.calls


@dataclass(frozen=True, slots=True)
class Count:
    """The finding of a look. `unknown`: unread messages may have been lost, too, and the number is not known."""

    tally: Tally
    lost: int = 0
    unknown: bool = False


def begun(tally: Tally, look: Look, last: int) -> Tally:
    """Begins to count at this look. `last`: the stream's last sequence after it."""
    before = tally.counted if tally.consumer == look.consumer else 0
    return replace(
        _seen(tally, look),
        counted=before,
        base=look.surplus(last) - before,
        given_back=0,
        sure=tally.sure and tally.given_back == 0,
    )


def resumed(tally: Tally, look: Look, last: int) -> Count:
    """Counts the losses while the trigger did not run. `last`: the stream's last sequence after the look."""
    if not tally.follows(look):
        return Count(begun(tally, look, last))
    found = counted(tally, look, 0, tally.last)
    # Repetitions that nobody saw would hide as many losses
    base = min(found.tally.base, begun(found.tally, look, last).base)
    return replace(found, tally=replace(found.tally, base=base))


def may_hide(tally: Tally, look: Look, first: int) -> bool:
    """Whether unread messages from sequence `first` on may be gone, where a new consumer begins in place of another.

    Nobody can count them: the deleted consumer alone knew which messages after its last acknowledgement were read.
    """
    if not look.plain or not tally.consumer or look.removed <= tally.removed:
        return False
    return not look.whole or look.pending + look.held < look.last - first + 1


def counted(tally: Tally, look: Look, repeated: int, last: int) -> Count:
    """Counts the losses since the tally. `repeated`: at most the number of repetitions since then.

    The number is never too high. It is too low while other replicas get repetitions.
    """
    surplus = look.surplus(last)
    unread = max(0, surplus + repeated - tally.base - tally.counted)
    waiting = tally.still_given_back(look)
    gone = max(0, waiting - look.held)
    lost = unread + gone
    now = replace(
        _seen(tally, look),
        sure=tally.is_sure(look),
        counted=tally.counted + lost,
        base=tally.base - repeated - gone,
        given_back=waiting - gone,
    )
    if look.whole:
        return Count(now, lost)
    most = tally.pending + look.last - tally.last - (look.calls - tally.calls - repeated) - look.pending
    unknown = look.plain and look.removed > tally.removed and most > unread
    return Count(replace(now, base=surplus - now.counted), lost, unknown)


def stopped(tally: Tally, look: Look | None, repeated: int, given_back: int) -> Tally:
    """The tally to keep while the trigger does not run."""
    if look is None or not tally.follows(look):
        return replace(tally, given_back=given_back, sure=tally.sure and tally.given_back == 0)
    base = tally.base - repeated
    if not look.whole:
        base = min(base, look.surplus(0) - tally.counted)
    came = look.pending - tally.pending + look.calls - tally.calls - repeated
    return replace(
        tally,
        base=base,
        calls=look.calls,
        pending=look.pending,
        last=tally.last + max(0, came),
        given_back=tally.still_given_back(look) + given_back,
        sure=tally.is_sure(look),
    )


def _seen(tally: Tally, look: Look) -> Tally:
    return replace(
        tally,
        consumer=look.consumer,
        calls=look.calls,
        pending=look.pending,
        last=look.last,
        removed=look.removed,
        whole=look.whole,
    )
