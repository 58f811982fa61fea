"""No code of ours runs text: no eval, no pickle, no shell, no network."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]

FOLDERS = ("dmri_fm", "workflows", "lab", "benchmarks")

#: Calls that run a text, unpickle, or make files of guessable names; none is made.
NEVER = frozenset({
    "eval", "exec", "compile", "__import__", "os.system", "os.popen", "pd.eval", "pandas.eval",
    "pickle.load", "pickle.loads", "pickle.Unpickler", "dill.load", "joblib.load", "marshal.load",
    "marshal.loads", "shelve.open", "pd.read_pickle", "pandas.read_pickle", "yaml.load",
    "yaml.unsafe_load", "yaml.full_load", "tempfile.mktemp", "subprocess.getoutput",
    "subprocess.getstatusoutput", "torch.hub.load",
})  # fmt: skip

#: Functions that start a process.
PROCESSES = frozenset({"run", "Popen", "call", "check_call", "check_output"})

#: Methods that do, and where one of that name is another: `query` of SciPy's trees of points.
METHODS = {
    "query": {"lab/dmri_fm_lab/simulate/bundles.py"},
    "extractall": set(),
    "read_pickle": set(),
}

#: Modules that reach the network, and what of them may be imported where.
NETWORK = ("socket", "ssl", "urllib.request", "http", "ftplib", "smtplib", "requests", "httpx",
           "aiohttp", "pooch", "templateflow", "huggingface_hub", "wandb")  # fmt: skip
NAMES_OF_THIS_MACHINE = {
    "workflows/dmri_fm_workflows/execution/locks.py": "socket",
    "workflows/dmri_fm_workflows/execution/pool.py": "socket",
}

#: Where HTML is not escaped: drawings of ours, a script that ships, and texts that were escaped in
#: the same lines.
MARKUP = {
    "workflows/dmri_fm_workflows/report/viewer.py",
    "workflows/dmri_fm_workflows/group/page.py",
    "workflows/dmri_fm_workflows/report/page.py",
    "lab/dmri_fm_lab/statistics/page.py",
}


Call = tuple[str, ast.Call]


@pytest.fixture(scope="module")
def trees() -> dict[str, ast.Module]:
    """Syntax trees of all modules by path."""
    return {
        path.relative_to(ROOT).as_posix(): ast.parse(path.read_text(encoding="utf-8"))
        for folder in FOLDERS
        for path in (ROOT / folder).rglob("*.py")
    }


@pytest.fixture(scope="module")
def calls(trees) -> dict[str, list[Call]]:
    """Calls of all modules by path."""
    return {path: list_calls(tree) for path, tree in trees.items()}


def list_calls(tree: ast.Module) -> list[Call]:
    """Return the calls of a module with the names of their functions."""
    return [(ast.unparse(n.func), n) for n in ast.walk(tree) if isinstance(n, ast.Call)]


def faults(calls: list[Call]) -> list[str]:
    """Return the calls of a module that could run a text, as `line: call`."""
    found = []
    for name, call in calls:
        given = {k.arg: ast.unparse(k.value) for k in call.keywords}
        method = name.rpartition(".")[2]
        bad = (
            name in NEVER
            # Networks have `eval()` without arguments, to leave training.
            or (method == "eval" and "." in name and (call.args or call.keywords))
            or (method in PROCESSES and given.get("shell", "False") != "False")
            or given.get("allow_pickle", "False") != "False"
            or (name == "torch.load" and given.get("weights_only") != "True")
            or (name == f"subprocess.{method}" and method in PROCESSES and _is_text(call))
        )
        found += [f"{call.lineno}: {name}"] if bad else []
    return found


def _is_text(call: ast.Call) -> bool:
    """Tell whether the command of a process is one text, in place of a list of words."""
    command = call.args[0] if call.args else None
    is_constant = isinstance(command, ast.Constant) and isinstance(command.value, str)
    return is_constant or isinstance(command, ast.JoinedStr)


def test_nothing_runs_a_text(calls) -> None:
    found = {path: faults(of_module) for path, of_module in calls.items()}
    assert not {path: lines for path, lines in found.items() if lines}
    for method, allowed in METHODS.items():
        used = {
            path
            for path, of_module in calls.items()
            for name, call in of_module
            if name.endswith(f".{method}") and (call.args or call.keywords)
        }
        assert used == allowed, method


@pytest.mark.parametrize(
    "code",
    [
        "eval('1')", "table.eval('a + b')", "pd.eval(text)", "subprocess.run('ls', shell=True)",
        "subprocess.run('ls')", "subprocess.Popen(f'ls {name}')", "os.system('ls')",
        "pickle.load(stream)", "np.load(path, allow_pickle=True)", "torch.load(path)",
        "torch.load(path, weights_only=False)", "yaml.load(stream)", "subprocess.run(a, shell=b)",
    ],
)  # fmt: skip
def test_what_the_scan_looks_for_is_found(code) -> None:
    assert faults(list_calls(ast.parse(code)))


@pytest.mark.parametrize(
    "code",
    ["network.eval()", "subprocess.run([program, 'x'])", "torch.load(p, weights_only=True)",
     "np.load(path)", "np.savez(path, allow_pickle=False)", "yaml.safe_load(text)"],
)  # fmt: skip
def test_what_is_sound_is_left_alone(code) -> None:
    assert not faults(list_calls(ast.parse(code)))


def test_nothing_imports_the_network(trees) -> None:
    found = {}
    for path, tree in trees.items():
        for node in ast.walk(tree):
            names = []
            if isinstance(node, ast.Import):
                names = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom):
                names = [str(node.module)]
            for name in names:
                if any(name == n or name.startswith(f"{n}.") for n in NETWORK):
                    found[path] = name
    assert found == NAMES_OF_THIS_MACHINE
    for path in found:  # the name of this host, and nothing else of `socket`
        used = {
            node.attr if isinstance(node, ast.Attribute) else alias.name
            for node in ast.walk(trees[path])
            for alias in (node.names if isinstance(node, ast.ImportFrom) else [None])
            if (isinstance(node, ast.ImportFrom) and node.module == "socket")
            or (isinstance(node, ast.Attribute) and ast.unparse(node.value) == "socket")
        }
        assert used == {"gethostname"}


def test_pages_escape_what_they_show(calls) -> None:
    used = {path for path, of_module in calls.items() if any(n == "Markup" for n, _ in of_module)}
    assert used == MARKUP
    environments = [
        {k.arg: ast.unparse(k.value) for k in call.keywords}
        for of_module in calls.values()
        for name, call in of_module
        if name in ("Environment", "jinja2.Environment")
    ]
    assert [given.get("autoescape") for given in environments] == ["True"]
    for template in ROOT.glob("*/*/*/templates/*.j2"):
        assert "|safe" not in template.read_text(encoding="utf-8").replace(" ", ""), template


def test_every_template_is_looked_at() -> None:
    assert {p for f in FOLDERS for p in (ROOT / f).rglob("*.j2")} == {
        *ROOT.glob("*/*/*/templates/*.j2")
    }
