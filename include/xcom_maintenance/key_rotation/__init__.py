"""``xcom_rotate_keys``: survey which key seals what, and re-encrypt what old keys hold."""
