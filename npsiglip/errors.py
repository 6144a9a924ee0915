"""What goes wrong because of what came in: every message says what was wrong, what was expected, and the likely fix."""


class NpsiglipError(ValueError):
    """Base of every error that a caller's input can cause; the command line prints it without a traceback."""


class InputError(NpsiglipError):
    """An image, a text, an array or an option that cannot be used."""


class CheckpointError(NpsiglipError):
    """A model folder or one of its files that cannot be used."""


class InputWarning(UserWarning):
    """An input that is used, and otherwise than one may expect."""
