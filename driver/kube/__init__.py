"""The Kubernetes API, as far as Tandem speaks it."""
