"""The documentation's site: its builder (`python -m docsite`), the quick start run from its page, and their tests."""
