"""Operators are processes of their own, each of the case that started it."""

import signal
import socket
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from functools import partial
from pathlib import Path

import yaml
from controlplane.cases import kubeconfig
from controlplane.zygote import Operator, Zygote
from patience import until

CASES = 16


def test_each_case_is_given_its_own_process(tmp_path: Path) -> None:
    with ExitStack() as stack:
        silent = stack.enter_context(socket.create_server(("127.0.0.1", 0)))  # operators wait for its answer
        config = tmp_path / "kubeconfig"
        config.write_text(yaml.dump(kubeconfig(f"http://127.0.0.1:{silent.getsockname()[1]}", "token")))
        zygote = Zygote()
        stack.callback(zygote.close)

        def start(number: int) -> Operator:
            return zygote.start(["run", "--all-namespaces", "--metrics-port=0"], config, tmp_path / f"{number}.log")

        with ThreadPoolExecutor(CASES) as pool:
            operators = list(pool.map(start, range(CASES)))
        for operator in operators:
            stack.callback(operator.kill, signal.SIGKILL)
        assert len({operator.pid for operator in operators}) == CASES
        for operator in operators:
            log = Path(f"/proc/{operator.pid}/fd/1")
            until("it to have its log", partial(_is_in, log, tmp_path))
            assert log.readlink() == operator.log


def _is_in(link: Path, directory: Path) -> bool:
    return link.readlink().parent == directory
