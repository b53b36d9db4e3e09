"""Regular expressions that a tenant writes, with RE2's syntax. They take linear time on any text. Pure."""

_MOST_BYTES = 1024 * 1024  # of a compiled pattern, and of its automaton: it bounds the time to compile it, too


class TenantPattern:
    """A pattern of RE2. Raises ValueError for a text that is none."""

    __slots__ = ("_matches_whole", "instructions", "text")

    def __init__(self, text: str) -> None:
        import re2  # only where there is a pattern: it takes 3 MB and 4 ms

        options = re2.Options()
        options.max_mem = _MOST_BYTES
        options.log_errors = False
        try:
            compiled = re2.compile(text, options)  # type: ignore[no-untyped-call]
        except re2.error as error:
            problem = error.args[0]
            reason = problem.decode(errors="replace") if isinstance(problem, bytes) else str(problem)
            if reason.startswith(("invalid perl operator", "invalid escape sequence")):
                reason += "; the syntax is RE2's, without look-ahead and back references"
            raise ValueError(f"not a regular expression: {reason}") from None
        self.text = text
        self.instructions = int(compiled.programsize)
        self._matches_whole = compiled.fullmatch

    def matches_whole(self, text: str) -> bool:
        return self._matches_whole(text) is not None
