"""What tells a secret from any other text: the patterns of detect-secrets, and the names that Airflow itself masks.

All in this process: no request is made to find out whether a secret is valid. The detectors that go by randomness alone
are left out, since XComs are full of UUIDs, hashes and encoded data, and so is the one for public IP addresses.
"""

from __future__ import annotations

import importlib
import inspect
import logging
import pkgutil
import re
from collections.abc import Callable, Iterator, Mapping
from functools import lru_cache
from typing import Any

_LEFT_OUT = frozenset({"Base64HighEntropyString", "HexHighEntropyString", "IPPublicDetector", "KeywordDetector"})
#: As many short texts as are remembered, since values repeat themselves.
_REMEMBERED = 50_000
_SHORT = 200
#: No pattern is shorter; and what is nothing but a number, a moment, a UUID or a word is quick to pass over.
_SHORTEST = 8
_HARMLESS = re.compile(
    r"[A-Za-z_ ]{0,30}|[\d.eE+\-]{1,40}|\d{4}-\d\d-\d\d[T ][\d:.]+(?:Z|[+\-]\d\d:?\d\d)?"
    r"|[0-9a-fA-F]{8}(?:-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}"
)
#: A password in a text needs a sign of assignment; the detector of keywords is too slow for texts without one.
_ASSIGNED = re.compile(r"(?i)(?:key|pass|pwd|passw(?:or)?d|secret)\w{0,30}[\]'\"]{0,2}\s{0,8}[!=]?=")
#: Characters that are looked at together, and how far two such pieces overlap. Some patterns take the square of the
#: length of a text, so that a whole long one could take hours.
_PIECE, _OVERLAP = 4_096, 1_024
#: What stands where a secret was, or will be.
_PLACEHOLDER = re.compile(
    r"(?i)[*x.•#_\-\s]+|none|null|true|false|redacted|<[^<>]*>|\[[^\[\]]*\]|\$?\{.*\}|%\(?\w*\)?s?"
)


class SecretDetector:
    """The detectors of detect-secrets, and Airflow's names.

    :raises ImportError: if detect-secrets is not installed.
    """

    def __init__(self) -> None:
        self._plugins = dict(_plugins())
        self._keywords = _keywords()
        self._remembering = lru_cache(_REMEMBERED)(self._find)
        self.is_sensitive = lru_cache(_REMEMBERED)(_airflows_rule())

    def find(self, text: str) -> Mapping[str, tuple[str, ...]]:
        """The secrets in a text, by kind; they must go nowhere but into a comparison."""
        if len(text) < _SHORTEST or _HARMLESS.fullmatch(text):
            return {}
        if len(text) <= _SHORT:
            return self._remembering(text)
        found: dict[str, tuple[str, ...]] = {}
        for start in range(0, max(1, len(text) - _OVERLAP), _PIECE - _OVERLAP):
            for kind, secrets in self._find(text[start : start + _PIECE]).items():
                found[kind] = found.get(kind, ()) + secrets
        return found

    def is_placeholder(self, text: str) -> bool:
        """Whether a text stands where a secret was or will be, such as ``***`` or ``{{ conn.password }}``."""
        return not text.strip() or _PLACEHOLDER.fullmatch(text.strip()) is not None

    def _find(self, text: str) -> Mapping[str, tuple[str, ...]]:
        found: dict[str, tuple[str, ...]] = {}
        for kind, analyze in self._plugins.items():
            secrets = tuple(str(secret) for secret in analyze(text))
            if any(not self.is_placeholder(secret) for secret in secrets):
                found[kind] = secrets
        if not found and _ASSIGNED.search(text):
            secrets = tuple(str(secret) for secret in self._keywords(text) if not self.is_placeholder(str(secret)))
            found |= {"Password in a string": secrets} if secrets else {}
        return found


def _plugins() -> Iterator[tuple[str, Callable[[str], Any]]]:
    """Kind -> what looks for it; found by looking, so that a newer detect-secrets brings its newer kinds."""
    import detect_secrets.plugins
    from detect_secrets.plugins.base import BasePlugin

    for module in pkgutil.iter_modules(detect_secrets.plugins.__path__):
        members: dict[str, Any] = vars(importlib.import_module(f"detect_secrets.plugins.{module.name}"))
        for name, kind in members.items():
            is_detector = inspect.isclass(kind) and issubclass(kind, BasePlugin) and not inspect.isabstract(kind)
            if is_detector and kind.__module__.endswith(f".{module.name}") and name not in _LEFT_OUT:
                # analyze_string alone: nothing is verified, logged or kept.
                yield str(kind.secret_type), kind().analyze_string
    logging.getLogger("detect_secrets").disabled = True


def _keywords() -> Callable[[str], Any]:
    from detect_secrets.plugins.keyword import FOLLOWED_BY_EQUAL_SIGNS_REGEX, KeywordDetector

    detector = KeywordDetector()
    return lambda text: detector.analyze_string(text, denylist_regex_to_group={FOLLOWED_BY_EQUAL_SIGNS_REGEX: 5})


def _airflows_rule() -> Callable[[str], bool]:
    """Whether Airflow masks what has this name: its own list, and ``[core] sensitive_var_conn_names``."""
    from airflow.providers.common.compat.sdk import conf
    from airflow.sdk._shared.secrets_masker import DEFAULT_SENSITIVE_FIELDS, SecretsMasker

    configured = (conf.get("core", "sensitive_var_conn_names", fallback="") or "").split(",")
    masker = SecretsMasker()
    masker.sensitive_variables_fields = [
        *DEFAULT_SENSITIVE_FIELDS,
        *(name.strip().lower() for name in configured if name.strip()),
    ]
    return masker.should_hide_value_for_key  # type: ignore[no-any-return]
