"""Authenticated encryption: AES-256-GCM of the package ``cryptography``, with several keys so that they can be rotated.

Every blob is sealed with a key and a nonce of its own: HMAC-SHA512 of a random 256-bit salt under the configured key.
So no pair of the two ever comes twice, however many blobs a key seals. The header, with the entry's coordinates and the
blob's name in it, is authenticated too: a blob in another's place does not open.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import re
import secrets
from collections.abc import Mapping
from typing import Any, NamedTuple

from xcom_blob_backend.errors import BackendNotConfigured, BlobUndecryptable

_KEY_BYTES = 32
_SALT_BYTES = 32
_NONCE_BYTES = 12
_KEY_ID = re.compile(r"[A-Za-z0-9_.-]{1,64}")
#: What AES-GCM of OpenSSL takes at once.
MAX_BYTES = 2**31 - 64


class Keys(NamedTuple):
    """The configured keys by id, the first of which seals."""

    by_id: Mapping[str, bytes]

    def __repr__(self) -> str:
        """Without the keys."""
        return f"Keys({', '.join(self.by_id)})"

    @classmethod
    def parse(cls, text: str, *, setting: str) -> Keys:
        """``id:key`` pairs, separated by commas, white space or newlines; a key is 32 bytes in base64.

        :raises BackendNotConfigured: if they are none; the message holds nothing of a key.
        """
        found: dict[str, bytes] = {}
        for number, pair in enumerate(re.split(r"[,\s]+", text.strip()), 1):
            key_id, separator, encoded = pair.partition(":")
            if not separator or not _KEY_ID.fullmatch(key_id):
                raise BackendNotConfigured(f"{setting}: entry {number} does not have the form id:key")
            try:
                key = base64.b64decode(encoded.replace("-", "+").replace("_", "/"), validate=True)
            except (binascii.Error, ValueError):
                key = b""
            if len(key) != _KEY_BYTES:
                raise BackendNotConfigured(f"{setting}: the key {key_id!r} is not {_KEY_BYTES} bytes encoded as base64")
            if key_id in found:
                raise BackendNotConfigured(f"{setting}: the id {key_id!r} occurs twice")
            found[key_id] = key
        return cls(found)

    @property
    def sealing(self) -> str:
        """The id of the key that new blobs are sealed with."""
        return next(iter(self.by_id))

    def seal(self, payload: bytes, *, header: bytes, key_id: str, salt: str) -> bytes:
        """The payload, encrypted and authenticated together with the header."""
        cipher, nonce = self._cipher(key_id, salt)
        return bytes(cipher.encrypt(nonce, payload, header))

    def open(self, payload: memoryview, *, header: bytes, key_id: str, salt: str, where: str) -> bytes:
        """What was sealed.

        :raises BlobUndecryptable: if the key is not configured or another one, or what it sealed was changed.
        """
        from cryptography.exceptions import InvalidTag

        if key_id not in self.by_id:
            known = ", ".join(map(repr, self.by_id)) or "none"
            raise BlobUndecryptable(
                f"{where} is encrypted with the key {key_id!r}, which is not configured (configured: {known}). "
                f"Add it to [xcom_blob_backend] encryption_keys"
            )
        cipher, nonce = self._cipher(key_id, salt)
        try:
            return bytes(cipher.decrypt(nonce, payload, header))
        except (InvalidTag, ValueError):
            raise BlobUndecryptable(
                f"{where} cannot be decrypted: it was tampered with, or the key {key_id!r} has changed"
            ) from None

    def _cipher(self, key_id: str, salt: str) -> tuple[Any, bytes]:
        """The cipher of one blob, and its nonce."""
        from cryptography.hazmat.primitives.ciphers.aead import AESGCM

        derived = hmac.new(self.by_id[key_id], b"xcom_blob_backend 1 " + salt.encode(), hashlib.sha512).digest()
        return AESGCM(derived[:_KEY_BYTES]), derived[_KEY_BYTES : _KEY_BYTES + _NONCE_BYTES]


def new_salt() -> str:
    return secrets.token_hex(_SALT_BYTES)
