"""The one exception that a user's mistake raises."""


class UserError(ValueError):
    """Something the user gave is wrong: a flag, a file, a line.

    The message is one sentence that names the flag, file or line, the value, and the remedy.
    Commands print it to stderr and exit with status 1, without a traceback.
    """
