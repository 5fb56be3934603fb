"""How fast this machine applies, trains, simulates and measures, beside the peers' networks, in one run."""
