"""Reads: informers on the API server, `/state` of workers, and the snapshot that a plan is made from."""
