"""Names and parameters are told from text alone."""

from compat.__main__ import lacking
from compat.surface import Import, Package, Parameters, imports

SOURCE = """
from vllm.a import f, g
import vllm.b.c
from torch import nothing

def later():
    from vllm import Late

try:
    from vllm.gone import x
except ImportError:
    x = None

try:
    from vllm.new import y
except ModuleNotFoundError:  # 2
    try:
        from vllm.middle import y
    except ModuleNotFoundError:  # 1
        from vllm.old import y
"""


def test_imports_of_vllm_are_found_wherever_they_stand() -> None:
    found = imports({"worker.py": SOURCE})
    names = [[[str(each) for each in way] for way in options] for options in found]
    one = [[["vllm.Late"]], [["vllm.a.f"]], [["vllm.a.g"]], [["vllm.b.c"]]]
    assert names == [*one, [["vllm.new.y"], ["vllm.middle.y"], ["vllm.old.y"]]]
    assert found[1][0][0].where == "worker.py:2"


def test_one_of_several_ways_is_enough() -> None:
    ours, newest = Package({"vllm/old.py": "y = 1"}), Package({"vllm/new.py": "y = 1"})
    (options,) = [each for each in imports({"worker.py": SOURCE}) if len(each) == 3]
    assert lacking(options, ours, newest) == ""
    assert lacking(options, ours, Package({})) == "worker.py:20: there is no module vllm.old"


PACKAGE = Package({
    "vllm/__init__.py": 'NAMES = ["Late"]\ndef __getattr__(name): ...',
    "vllm/a.py": "if True:\n    def f(x, y=1, *, z): ...\nfrom other import g",
    "vllm/b/__init__.py": "",
    "vllm/b/c.py": "class K:\n    def __init__(self, one, two=2, **rest): ...",
})  # fmt: skip


def lacks(module: str, name: str) -> str:
    return PACKAGE.lacks(Import(module, name, "here:1"))


def test_what_is_there_and_what_is_not() -> None:
    there = [("vllm", "Late"), ("vllm.a", "f"), ("vllm.a", "g"), ("vllm.b", "c"), ("vllm.b.c", ""), ("vllm.b.c", "K")]
    assert [lacks(*each) for each in there] == [""] * len(there)
    assert lacks("vllm.a", "h") == "vllm.a has no h"
    assert lacks("vllm", "Never") == "vllm has no Never"
    assert lacks("vllm.d", "x") == "there is no module vllm.d"


def test_parameters() -> None:
    f = PACKAGE.parameters(Import("vllm.a", "f", ""))
    assert f == Parameters(("x", "y", "z"), frozenset({"x", "z"}), open=False)
    assert PACKAGE.parameters(Import("vllm.b.c", "K", "")) == Parameters(("one", "two"), frozenset({"one"}), open=True)
    assert PACKAGE.parameters(Import("vllm.a", "g", "")) is None  # it is another module's
    assert f.change(Parameters(("x", "w"), frozenset({"x", "w"}), open=False)) == "no longer takes y, z; now needs w"
    assert f.change(Parameters((*f.names, "w"), f.required, open=False)) == ""
