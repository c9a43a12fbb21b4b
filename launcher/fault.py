"""What the launcher says when a start cannot go on."""


class Fault(Exception):
    """A coded reason why nothing was started, and what to do about it: `handrail.E010: …`."""

    def __init__(self, code: str, sentence: str) -> None:
        super().__init__(f"handrail.{code}: {sentence}")
        self.code = code
