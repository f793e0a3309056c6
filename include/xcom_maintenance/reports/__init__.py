"""Reports and manifests, and how they are written."""
