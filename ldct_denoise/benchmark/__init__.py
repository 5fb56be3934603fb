"""How fast this machine applies, trains, simulates and evaluates, compared with published networks."""
