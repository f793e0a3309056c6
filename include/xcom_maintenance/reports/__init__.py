"""Reports, manifests and archives: what they hold, how they are written, and where."""
