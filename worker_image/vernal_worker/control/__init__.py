"""The control protocol between process 1 and the engine: messages, the supervisor's client and the engine's
server."""
