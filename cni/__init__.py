"""The host's half of the attachment: the shim that container runtimes call, and what puts it on a host."""
