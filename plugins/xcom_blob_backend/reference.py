"""What a row holds instead of a value, in the form of a serialized object.

``{"__classname__": "xcom_blob_backend.BlobReference", "__version__": 1, "__data__": {"uri": ..., ...}}``. No task can
push that as a value of its own: Airflow refuses dicts with these keys, from tasks and through its API. Another XCom
backend refuses to read it, aloud, instead of handing on a path; and it does read it, through ``deserialize`` here, once
``[core] allowed_deserialization_classes`` names ``xcom_blob_backend.*``.
"""

from __future__ import annotations

from typing import Any, ClassVar

_PACKAGE = "xcom_blob_backend"


class _Stored:
    """A serialized object whose value is stored in a form of this backend's own."""

    __version__: ClassVar[int] = 1

    @staticmethod
    def deserialize(data: Any, version: int) -> Any:
        raise NotImplementedError

    @classmethod
    def row(cls, **data: Any) -> dict[str, Any]:
        """What the row holds."""
        return {"__classname__": cls.classname(), "__version__": cls.__version__, "__data__": data}

    @classmethod
    def classname(cls) -> str:
        return f"{_PACKAGE}.{cls.__name__}"

    @classmethod
    def data_of(cls, row: Any) -> dict[str, Any] | None:
        """What :meth:`row` was given; None for the row of anything else."""
        if type(row) is not dict or row.get("__classname__") != cls.classname():
            return None
        data = row.get("__data__")
        return data if isinstance(data, dict) else {}


class BlobReference(_Stored):
    """The value is in a blob. ``uri``: where; ``bytes``: its size as JSON; ``stored_bytes``: that of the blob."""

    @staticmethod
    def deserialize(data: Any, version: int) -> Any:  # noqa: ARG004
        from xcom_blob_backend import transfer

        return transfer.load(BlobReference.row(**data), None)


class SealedValue(_Stored):
    """The value is here, in the format of a blob: ``sealed`` is base64 of it."""

    @staticmethod
    def deserialize(data: Any, version: int) -> Any:  # noqa: ARG004
        from xcom_blob_backend import transfer

        return transfer.load(SealedValue.row(**data), None)
