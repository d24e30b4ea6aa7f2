"""Stand-in hardware, rendered below the probes."""
