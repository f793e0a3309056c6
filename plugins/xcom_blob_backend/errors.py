"""What can go wrong, each by its name: a task never gets a path or None for a value that cannot be had."""

from __future__ import annotations


class XComBlobError(Exception):
    """Of every error that this backend raises on its own account."""


class BackendNotConfigured(XComBlobError):
    """A setting is missing or cannot be used; the message names it."""


class ValueNotSerializable(XComBlobError, TypeError):
    """A pushed value is of a type that Airflow cannot serialize, or would lose something by it."""


class KeyNotStorable(XComBlobError, ValueError):
    """Airflow cannot store anything under the key of an entry."""


class ValueTooLarge(XComBlobError, ValueError):
    """A pushed value is above ``max_value_bytes``."""


class BlobMissing(XComBlobError):
    """The row is there, its blob is not."""


class BlobDamaged(XComBlobError):
    """The blob is cut off, was changed by accident, or is none of this backend's."""


class BlobUndecryptable(XComBlobError):
    """The key is not configured, is another one, or somebody changed what it sealed."""


class BlobMisplaced(XComBlobError):
    """The blob was written for another entry than the one that refers to it."""


class BlobOutsideBasePath(XComBlobError):
    """The row refers to a place that this backend was not told to read."""


class StoreFailed(XComBlobError):
    """The object store does not answer, refuses, or is throttling for longer than is waited for."""
