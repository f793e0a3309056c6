"""``xcom_restore``: put back archived rows, or blobs from the quarantine."""
