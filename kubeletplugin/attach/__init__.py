"""The pod's side: a prepared NIC moves into the pod's network namespace when the runtime calls CNI, and home again."""
