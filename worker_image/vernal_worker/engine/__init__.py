"""What runs inside the frozen tree: vLLM, its OpenAI app on a handed-over socket, quiesce and resume.

The only package that imports vllm and torch. It knows no pod, opens no port of its own, and does as the
control socket says (`vernal_worker.control.protocol`).
"""
