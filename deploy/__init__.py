"""How Tandem gets into a cluster: manifests, the image, and the demo that runs both."""
