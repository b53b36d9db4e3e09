"""JSON by orjson if it is installed, and otherwise by the standard library.

Both give the same result: the standard library takes over when orjson refuses a value, such as NaN or a key that is a
number, and for integers over 64 bits, which orjson makes floats. Call `json_text.loads(...)`, since the first call puts
other functions in the place of these.
"""

_DIGITS = bytes(48 if 48 <= byte < 58 else byte for byte in range(256))
_LONG_NUMBER = b"0" * 19  # a shorter one has at most 64 bits


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
        if len(text) > 18 and isinstance(text, bytes) and _LONG_NUMBER in text.translate(_DIGITS):
            try:
                return standard_loads(text)
            except (ValueError, RecursionError):
                return orjson.loads(text)
        try:
            return orjson.loads(text)
        except ValueError:
            return standard_loads(text)

    def dumps(value):
        try:
            return orjson.dumps(value)
        except TypeError:
            return standard_dumps(value)
