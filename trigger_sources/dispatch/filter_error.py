"""The error of a filter. A file of its own: a trigger without a filter loads no more than this."""


class FilterError(Exception):
    """The filter could not be evaluated for this event: that is not the same as false."""
