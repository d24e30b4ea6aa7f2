"""The pod's side of a NIC: it moves into the pod's network namespace at CNI ADD, and home at DEL."""
