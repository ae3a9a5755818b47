"""What the server accepts before it refuses."""

from __future__ import annotations

from dataclasses import dataclass

from sparsekit.errors import ConfigError


@dataclass(frozen=True, kw_only=True)
class Limits:
    """Bounds of requests and batches.

    Args:
        max_batch: texts that the model computes at once.
        max_wait_ms: milliseconds that a text waits for others to fill its batch.
        max_queue: texts that wait; further ones are refused with status 503.
        max_texts: texts of one request.
        max_characters: characters of one text.
        max_bytes: bytes of one request's body.
    """

    max_batch: int = 32
    max_wait_ms: float = 1.0
    max_queue: int = 4096
    max_texts: int = 1024
    max_characters: int = 100_000
    max_bytes: int = 8 * 2**20

    @property
    def largest_request(self) -> int:
        """The texts that one request may have: more could never wait together."""
        return min(self.max_texts, self.max_queue)

    def __post_init__(self) -> None:
        problems = [
            f"{option} is {value}, it must be at least 1"
            for option, value in (
                ("--max-batch", self.max_batch),
                ("--max-queue", self.max_queue),
                ("--max-texts", self.max_texts),
                ("--max-characters", self.max_characters),
                ("--max-bytes", self.max_bytes),
            )
            if value < 1
        ]
        if not 0 <= self.max_wait_ms <= 10_000:
            problems.append(f"--max-wait-ms is {self.max_wait_ms}, it must be 0 to 10000")
        if problems:
            raise ConfigError(problems)
