"""The demo: what Tandem promises, shown and checked on a real cluster."""
