"""How workers end: each promise on a real vLLM, beside what vLLM does alone; kill -9; a storm of scale-downs."""
