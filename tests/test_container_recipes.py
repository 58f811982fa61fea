"""The steps of Dockerfile and singularity.def, replayed with programs that only take notes."""

from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]

#: `python -m venv FOLDER` makes a folder whose pip notes its arguments; one index is out of reach.
PYTHON = """#!/bin/sh
mkdir -p "$3/bin"
cat > "$3/bin/pip" <<'END'
#!/bin/sh
echo "$@" >> "$NOTES"
case "$*" in *--index-url\\ unreachable*) exit 1 ;; esac
END
chmod +x "$3/bin/pip"
"""

RECIPES = ("Dockerfile", "singularity.def")


def read(name: str) -> str:
    return (ROOT / name).read_text(encoding="utf-8")


def docker_steps() -> list[str]:
    """Return the RUN instructions of the image, one line each."""
    joined = re.sub(r"\\\n", "", read("Dockerfile"))
    return re.findall(r"^RUN (.*)", joined, re.MULTILINE)


def torch_step(recipe: str, torch: str) -> str:
    """Return the step that makes the environment, as the recipe writes it."""
    if recipe == "Dockerfile":
        (step,) = (s for s in docker_steps() if "requirements.lock" in s)
        return step
    post = read(recipe).partition("%post\n")[2].partition("%environment")[0]
    step = post[post.index("    python -m venv") : post.index("# The app's extra")]
    # As Apptainer fills in its build arguments, with the default of %arguments.
    assert "\n    TORCH=cpu\n" in read(recipe).partition("%arguments")[2].partition("%files")[0]
    return "set -eu\n" + step.replace("{{ TORCH }}", torch)


def replay(recipe: str, torch: str, folder: Path, *, index: str = "reachable") -> list[str] | str:
    """Run the step; return the calls of pip, or what was said before it failed."""
    folder.mkdir()
    for name in ("requirements.lock", "requirements-cuda.lock"):
        (folder / name).write_text(read(name), encoding="utf-8")
    (folder / "path").mkdir()
    (folder / "path" / "python").write_text(PYTHON, encoding="utf-8")
    (folder / "path" / "python").chmod(0o755)
    notes = folder / "notes"
    step = torch_step(recipe, torch).replace("/opt/drope", str(folder))
    done = subprocess.run(
        ["sh", "-c", step],
        env={
            "PATH": f"{folder / 'path'}{os.pathsep}{os.environ['PATH']}",
            "NOTES": str(notes), "TORCH": torch, "TORCH_INDEX": index,
        },
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    if done.returncode:
        return done.stderr
    return notes.read_text(encoding="utf-8").replace(str(folder), "/opt/drope").splitlines()


def pin(name: str) -> str:
    (line,) = re.findall(rf"^{name}==.*", read("requirements.lock"), re.MULTILINE)
    return line


@pytest.mark.parametrize("recipe", RECIPES)
def test_torch_is_the_locked_one_in_the_build_that_is_asked_for(
    recipe: str, tmp_path: Path
) -> None:
    common = ["install --no-cache-dir --no-deps -r /opt/drope/requirements.lock", "check"]
    plain = "install --no-cache-dir --no-deps"
    index = f"{plain} --retries 0 --timeout 20 --index-url {{}} {pin('torch')}"
    own = f"{plain} {pin('torch')}"
    assert replay(recipe, "cpu", tmp_path / "cpu") == [index.format("reachable"), *common]
    found = replay(recipe, "cpu", tmp_path / "fallback", index="unreachable")
    assert found == [index.format("unreachable"), own, *common]
    found = replay(recipe, "cuda", tmp_path / "cuda")
    assert found == [f"{own} -r /opt/drope/requirements-cuda.lock", *common]
    assert "TORCH=rocm; expected: cpu or cuda" in replay(recipe, "rocm", tmp_path / "rocm")


def test_the_index_of_both_recipes_is_the_same() -> None:
    found = {re.search(r"TORCH_INDEX=(http\S+)", read(r))[1] for r in RECIPES}  # type: ignore[index]
    assert len(found) == 1


def test_the_lock_for_cuda_is_of_the_locked_torch_and_pins_nothing_twice() -> None:
    head, *lines = read("requirements-cuda.lock").splitlines()
    assert pin("torch") in head, "run `make lock`"
    names = {line.partition("==")[0] for line in lines}
    assert all(re.fullmatch(r"[a-z0-9-]+==[\w.]+", line) for line in lines)
    others = {line.partition("==")[0].lower() for line in read("requirements.lock").splitlines()}
    assert not names & others
    assert {"triton"} < names
    assert any(name.startswith("nvidia-cudnn") for name in names)


def test_all_that_recipes_copy_is_there_and_reaches_docker() -> None:
    sent = {line[1:] for line in read(".dockerignore").splitlines() if line.startswith("!")}
    copied = re.findall(r"^COPY (?!--from)(.*) \S+$", read("Dockerfile"), re.MULTILINE)
    of_docker = {name for line in copied for name in line.split()}
    files = read("singularity.def").partition("%files\n")[2].partition("\n\n")[0]
    of_singularity = {line.split()[0] for line in files.splitlines()}
    assert of_docker == of_singularity == sent
    assert [name for name in sent if not (ROOT / name).exists()] == []


def test_arguments_are_declared_before_the_step_that_uses_them() -> None:
    """An ARG of Docker is known from its line on, and in its stage alone."""
    stage = read("Dockerfile").split("\nFROM ")[-1]
    for name in ("TORCH", "TORCH_INDEX", "WITH_FSL", "FSL_INSTALLER"):
        assert stage.index(f"ARG {name}=") < stage.index(f"${name}")
