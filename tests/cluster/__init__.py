"""Stories on a real Kubernetes."""
