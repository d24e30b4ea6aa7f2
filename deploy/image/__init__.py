"""The one container image of the controller and the kubelet plugin."""
