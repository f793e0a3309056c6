"""Words that all rooms share: small records, references, sizes, errors. Pure."""
