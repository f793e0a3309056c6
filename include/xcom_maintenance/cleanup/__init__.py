"""``xcom_cleanup``: plan by the retention rules, share out, delete rows, finish with their blobs and the report."""
