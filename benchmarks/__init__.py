"""Measurements against the peers, in one run on one machine; ratios, since absolute times are the machine's."""
