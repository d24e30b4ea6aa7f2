"""The kubelet's gRPC interfaces: definitions of our own after its wire format, and the code made from them by `make proto`."""
