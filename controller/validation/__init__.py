"""Would the API server (Kubernetes 1.36) take these objects? Pure: decoded objects in, faults out."""
