"""What the scan for secrets asks of a detector."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol


class Detector(Protocol):
    """Tells a secret from any other text."""

    def find(self, text: str, /) -> Mapping[str, tuple[str, ...]]:
        """The secrets in a text, by kind."""

    def is_sensitive(self, name: str, /) -> bool:
        """Whether a name says that what it names is a secret."""

    def is_placeholder(self, text: str, /) -> bool:
        """Whether a text only stands where a secret was or will be."""
