"""The shared KV cache: verified blocks on shared storage, for the workers of a pool and for disaggregated pools.

`connector` is what vLLM loads (`kv_connector_module_path="vernal_worker.kv.connector"`); with `facts`, `pages`,
`metrics` and the fault-injecting twin `faulty` it is the only part that imports vllm or torch. The rest is engine-free:

    keys, fingerprint     what a block is found by: prompt prefix and salts; model, layout, parallelism
    blockfile             one block as a file: header, digest, atomic write, verified read
    blockstore, eviction  the directory of such files: lookup, touch, size limit
    slots, shared_memory  host memory that others may have too
    serving, jobs         those who read and write blocks, and what they are told and say
    child, processes      them as processes of their own
    crew                  the engine's end of them
    loader, saver         moving blocks between files, host memory and the KV cache, with deadlines
    workers               threads of the engine's process
    planner, lookup       what to load, what to save, what became of it
    scheduler_side        the connector in the scheduler's process
    worker_side           the connector in a worker's process
    faults, faulty_sides  the same two with faults in what storage says
    lifecycle             flush before exit, release before a freeze, reconnect after a thaw

What may not happen, whatever storage does: that a byte which was not verified reaches the engine's KV cache.
"""

LOGGER = "vllm.vernal_kv"
"""Name of the package's logger: below vLLM's, whose handler and level exist in every process of the engine."""
