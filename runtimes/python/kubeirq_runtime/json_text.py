"""JSON by orjson if it is installed, and otherwise by the standard library.

Both give the same result: the standard library takes over when orjson refuses a value, such as NaN or a key that is a
number. Call `json_text.loads(...)`, since the first call puts other functions in the place of these.
"""


def loads(text):
    """Raises ValueError."""
    _choose()
    return loads(text)


def dumps(value):
    """JSON as bytes. Raises TypeError or ValueError."""
    _choose()
    return dumps(value)


def _choose():
    """Runs after the import of the function's code, which may have modules with the names that orjson imports."""
    global loads, dumps
    import json

    def dumps(value):
        return json.dumps(value, separators=(",", ":"), allow_nan=False).encode()

    loads = json.loads
    try:
        import orjson
    except ImportError:
        return
    standard_loads, standard_dumps = loads, dumps

    def loads(text):
        try:
            return orjson.loads(text)
        except ValueError:
            return standard_loads(text)

    def dumps(value):
        try:
            return orjson.dumps(value)
        except TypeError:
            return standard_dumps(value)
