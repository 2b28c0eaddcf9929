"""The errors that a user can cause, each told in one sentence that says what to change."""


class UsageError(ValueError):
    """A configuration that cannot work: the message names the key and what to set it to."""


class DatasetError(ValueError):
    """Data that cannot be used as it is: the message names the file and what is wrong in it."""
