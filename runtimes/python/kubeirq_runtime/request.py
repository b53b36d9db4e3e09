"""The HTTP request as a handler sees it."""

from urllib.parse import parse_qsl

from . import json_text


class Headers(dict):
    """Headers by lower-case name. You can ask for a name in any case."""

    def __getitem__(self, name):
        return dict.__getitem__(self, name.lower())

    def __contains__(self, name):
        return dict.__contains__(self, name.lower())

    def get(self, name, default=None):
        return dict.get(self, name.lower(), default)


class Request:
    """The request as it came: `event['extensions']['request']`. Each part is an attribute and a key."""

    __slots__ = ("_headers", "body", "method", "target")

    def __init__(self, method, target, headers, body):
        self.method = method
        self.target = target
        self._headers = headers  # by lower-case name
        self.body = body

    @property
    def headers(self):
        return Headers(self._headers)

    @property
    def path(self):
        return self.target.partition("?")[0]

    @property
    def query(self):
        """Values by name; the last value of a name counts."""
        return dict(parse_qsl(self.target.partition("?")[2], keep_blank_values=True))

    @property
    def path_params(self):
        """The values of the parameters that the trigger's path has in braces."""
        text = self._headers.get("kubeirq-path-params")
        return json_text.loads(text) if text else {}

    @property
    def json(self):
        """The body, parsed as JSON even if its content type says otherwise."""
        return json_text.loads(self.body)

    def __getitem__(self, name):
        if name in ("method", "path", "path_params", "query", "headers", "body", "json"):
            return getattr(self, name)
        raise KeyError(name)
