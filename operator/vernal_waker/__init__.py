"""The waker: holds requests of pools that have no worker, has one started, and hands them on to it.

admission   how much is held at most                        pure
routes      which pool a port is, and where its workers are  pure
relay       what of a request and its answer goes through    pure
connections whose they are, how many, and how much of a header
pools       waiting for a worker, and asking for one         asyncio, no I/O of its own
front       HTTP in and out (aiohttp)
cluster     EndpointSlices in, /scale out
main        the process
"""
