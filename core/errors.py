"""The one error that is meant for the user's eyes.

Everything a user can correct (a parameter, a file, a variable) raises UserError with a complete
message. `core.command.plain_errors` prints it without a traceback. Any other exception is a fault
of the program, and keeps its traceback. The cost: whoever raises UserError must write the whole
message, because nobody adds to it later.
"""


class UserError(Exception):
    """A mistake that the user can correct. The message says what, where, why and what to do."""
