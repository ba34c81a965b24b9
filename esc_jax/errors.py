"""What every error is that a command says in one sentence; its kinds are where they are raised."""


class Problem(Exception):
    """Something that the person who started the command can mend; the message is one sentence that says how.

    Attributes:
        status: of the process that ends with it: 2 where what was asked for is wrong, 1 where it could not be done.
    """

    status = 2


class Failure(Problem):
    """What was asked for is right, and could not be done."""

    status = 1


def reason(error: BaseException) -> str:
    """The first line of what another library's error says, or its kind where it says nothing."""
    return (str(error).strip() or type(error).__name__).splitlines()[0][:200]
