"""``xcom_offload_large_values``: plan which values move between rows and blobs, and apply the plan."""
