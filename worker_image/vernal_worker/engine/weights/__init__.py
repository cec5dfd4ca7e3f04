"""GPU memory of one vLLM worker process, outside of its image: written to a file before a freeze (`save`), mapped back
after a thaw (`adopt`). Works on the allocations of vLLM's sleep-mode allocator, whose addresses stay."""
