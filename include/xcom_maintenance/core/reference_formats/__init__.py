"""The layouts in which XCom backends name their blobs, each a small declaration.

Only a key of a known layout can be an orphan; everything else under the base path is left alone.
"""

from include.xcom_maintenance.core.reference_formats.known import FORMERLY_KNOWN, KNOWN, OWN
from include.xcom_maintenance.core.reference_formats.layout import (
    HEX,
    UUID,
    BlobName,
    Formats,
    Layout,
    hash_of,
    layout,
    names,
)

__all__ = [
    "FORMERLY_KNOWN",
    "HEX",
    "KNOWN",
    "OWN",
    "UUID",
    "BlobName",
    "Formats",
    "Layout",
    "hash_of",
    "layout",
    "names",
]
