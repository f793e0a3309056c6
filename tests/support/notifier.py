"""Notifiers, one of which appends what it is told to a file. Stands alone: the end-to-end test copies it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from airflow.sdk import BaseNotifier


class ToFile(BaseNotifier):
    """Appends what it is told as a line of JSON.

    :param path: the file.
    :param text: a template.
    """

    template_fields = ("text",)

    def __init__(self, path: str, text: str = "", webhook: str = "") -> None:
        super().__init__()
        self.path = path
        self.text = text
        self.webhook = webhook

    def notify(self, context: Any) -> None:
        with Path(self.path).open("a", encoding="utf-8") as file:
            file.write(json.dumps({**context["xcom_maintenance"], "text": self.text}, default=str) + "\n")


class Refuses(ToFile):
    def notify(self, context: Any) -> None:
        raise RuntimeError(f"404 Client Error for url: {self.webhook}")


class Chokes(ToFile):
    def __init__(self, path: str) -> None:
        raise ValueError(f"cannot reach {path}")
