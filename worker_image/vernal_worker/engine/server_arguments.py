"""The options of vLLM's server, under whichever name a version has their parser."""

try:
    from vllm.entrypoints.common.cli_args import make_arg_parser, validate_parsed_serve_args
except ModuleNotFoundError:
    try:
        from vllm.entrypoints.launchers.cli_args import make_arg_parser, validate_parsed_serve_args  # 0.32
    except ModuleNotFoundError:  # 0.26
        from vllm.entrypoints.openai.cli_args import make_arg_parser, validate_parsed_serve_args

__all__ = ["make_arg_parser", "validate_parsed_serve_args"]
