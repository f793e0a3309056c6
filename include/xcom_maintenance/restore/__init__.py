"""``xcom_restore``: restore archived rows, or blobs from quarantine."""
