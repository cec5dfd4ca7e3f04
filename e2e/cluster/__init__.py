"""The embedded one-node Kubernetes; see README.md."""
