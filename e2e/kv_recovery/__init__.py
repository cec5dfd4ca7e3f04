"""Load failures of the shared KV cache on a real vLLM: every fault must leave every answer as it was."""
