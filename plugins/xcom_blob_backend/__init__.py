"""An XCom backend with large values in object storage: quick, checked, encrypted if wanted, easy to clean up after.

Enabled by ``AIRFLOW__CORE__XCOM_BACKEND=xcom_blob_backend.XComBlobBackend`` and configured in the section
``[xcom_blob_backend]``; see ``docs/backend.md``. It stands alone, and imports what is heavy (obstore, zstandard,
cryptography) when the first value goes to object storage, not before.
"""

from xcom_blob_backend.backend import XComBlobBackend
from xcom_blob_backend.reference import BlobReference, SealedValue

__all__ = ["BlobReference", "SealedValue", "XComBlobBackend"]
