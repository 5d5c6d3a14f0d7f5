"""Every error that this project raises on purpose. Each says what happened, both values, and the way out."""


class SamestyleError(Exception):
    """Root of all errors of this project; `exit_code` is what a job or the console script ends with."""

    exit_code = 1


class UsageError(SamestyleError):
    """Wrong settings or usage, a missing column, something that is not installed."""

    exit_code = 2


class RefusedError(SamestyleError):
    """The preflight or the gate refused; the release that serves now stays."""

    exit_code = 3


class ConflictError(SamestyleError):
    """Another run holds the lock, the lock was lost, or a pointer moved under us."""

    exit_code = 4


class InputError(SamestyleError):
    """Input could not be read, or transient failures passed their limit."""

    exit_code = 5


class LedgerError(SamestyleError):
    """The sums do not add up: a catalogue row is in no state, or in two."""

    exit_code = 6


class IntegrityError(SamestyleError):
    """A file is not what its manifest or its checksum says; it is not opened."""


class ImageError(SamestyleError):
    """An image cannot be used. `reason` is a short code for counting, `transient` whether to try again later."""

    def __init__(self, reason: str, detail: str = "", transient: bool = False) -> None:
        super().__init__(f"{reason}: {detail}" if detail else reason)
        self.reason = reason
        self.detail = detail
        self.transient = transient

    def __reduce__(self):  # keeps the three arguments when the error crosses a process boundary
        return ImageError, (self.reason, self.detail, self.transient)
