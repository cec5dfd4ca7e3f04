"""`kubectl vernal completion SHELL`."""

import argparse

from kubectl_vernal.errors import Exit
from kubectl_vernal.options import Subparsers

# kubectl asks a program kubectl_complete-NAME on PATH; a shell that calls the plugin directly has its own way.
SCRIPTS = {
    "kubectl": """\
#!/bin/sh
# kubectl calls this, as kubectl_complete-vernal on PATH, to complete `kubectl vernal`.
exec kubectl-vernal __complete "$@"
""",
    "bash": """\
_kubectl_vernal() {
  COMPREPLY=()
  while IFS= read -r word; do COMPREPLY+=("${word%%$'\\t'*}"); done \\
    < <(kubectl-vernal __complete "${COMP_WORDS[@]:1:COMP_CWORD}" 2>/dev/null | grep -v '^:')
}
complete -o default -F _kubectl_vernal kubectl-vernal
""",
    "zsh": """\
#compdef kubectl-vernal
_kubectl_vernal() {
  local -a found
  found=(${${(f)"$(kubectl-vernal __complete "${(@)words[2,CURRENT]}" 2>/dev/null)"}%%$'\\t'*})
  compadd -- ${found:#:*}
}
compdef _kubectl_vernal kubectl-vernal
""",
    "fish": """\
function __kubectl_vernal
  set -l words (commandline -opc) "$(commandline -ct)"
  kubectl-vernal __complete $words[2..-1] 2>/dev/null | string match -v ':*'
end
complete -c kubectl-vernal -f -a '(__kubectl_vernal)'
""",
}


def add(commands: Subparsers) -> None:
    parser = commands.add_parser(
        "completion",
        help="completion for kubectl, bash, zsh or fish",
        description="Prints the script. Verbs, flags, and names of pools and pods are completed.",
        epilog="examples:\n"
        "  kubectl vernal completion kubectl > ~/.local/bin/kubectl_complete-vernal\n"
        "  chmod +x ~/.local/bin/kubectl_complete-vernal\n"
        "  source <(kubectl-vernal completion bash)",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("shell", choices=sorted(SCRIPTS), metavar="SHELL", help=", ".join(sorted(SCRIPTS)))
    parser.set_defaults(offline=run)


def run(args: argparse.Namespace) -> int:
    print(SCRIPTS[args.shell], end="")
    return Exit.OK
