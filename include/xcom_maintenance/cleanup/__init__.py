"""``xcom_cleanup``: plan by the retention rules, share out, delete rows, then their blobs, and report."""
