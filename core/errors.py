"""The one error that is meant for the user's eyes, and the text of others in its message.

Everything a user can correct (a parameter, a file, a variable) raises UserError with a complete
message. `core.command.plain_errors` prints it without a traceback. Any other exception is a fault
of the program, and keeps its traceback. The cost: whoever raises UserError must write the whole
message, because nobody adds to it later.
"""


class UserError(Exception):
    """A mistake that the user can correct. The message says what, where, why and what to do."""


def one_line(error: BaseException) -> str:
    """The text of another error on one line, to be part of a message.

    The name of its class, if it has no text.
    """
    return " ".join(str(error).split()) or type(error).__name__
