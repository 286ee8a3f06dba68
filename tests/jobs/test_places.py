"""Clones in folders that a shell would split, and a HOME that takes no caches."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from iapo.jobs.places import CACHES, check_clone, quote_interpreter, use_writable_caches
from iapo.jobs.preflight import PreflightError

ROOT = Path(__file__).parents[2]
VARIABLES = ("XDG_CACHE_HOME", "HF_HOME", "HF_TOKEN_PATH", "TRITON_HOME")
FOLDERS = ["my runs", "it's", "Zoë's ü", "$(touch x)", 'a"b', "a;b&c", "tab\there", "~"]


@pytest.fixture(autouse=True)
def bare(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing of the user's says where caches go."""
    for name in VARIABLES:
        # Set first, so that what the code under test sets is undone too.
        monkeypatch.setenv(name, "")
        monkeypatch.delenv(name)


def _interpreter(folder: Path) -> Path:
    """A Python in a folder, as a virtual environment of the clone has one."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "python"
    path.write_text(f'#!/bin/sh\nexec "{sys.executable}" "$@"\n')
    path.chmod(0o755)
    return path


@pytest.mark.parametrize("folder", FOLDERS)
def test_a_shell_finds_the_interpreter(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, folder: str) -> None:
    path = _interpreter(tmp_path / folder)
    monkeypatch.setattr(sys, "executable", str(path))
    quote_interpreter()
    quote_interpreter()
    done = subprocess.run(["bash", "-c", f"{sys.executable} -c 'print(6 * 7)'"], capture_output=True, text=True)
    assert (done.stdout, done.stderr) == ("42\n", "")


def test_a_plain_path_stays_as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    before = sys.executable
    monkeypatch.setattr(sys, "executable", before)
    quote_interpreter()
    assert sys.executable == before


def _no_home(tmp_path: Path) -> Path:
    """A folder that not even root can make."""
    (tmp_path / "file").touch()
    return tmp_path / "file/home"


def test_caches_go_to_the_clone_where_home_takes_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    home = _no_home(tmp_path)
    monkeypatch.setenv("HOME", str(home))
    use_writable_caches(tmp_path)
    caches = tmp_path / CACHES
    assert os.environ["XDG_CACHE_HOME"] == str(caches) and os.environ["HF_HOME"] == str(caches / "huggingface")
    # Whoever is logged in stays so.
    assert os.environ["HF_TOKEN_PATH"] == str(home / ".cache/huggingface/token")
    code = "from huggingface_hub import constants; print(constants.HF_HUB_CACHE)"
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert said == f"{caches / 'huggingface/hub'}\n"


def test_what_the_user_has_set_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(_no_home(tmp_path)))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "own"))
    monkeypatch.setenv("HF_HOME", str(tmp_path / "models"))
    use_writable_caches(tmp_path)
    assert os.environ["XDG_CACHE_HOME"] == str(tmp_path / "own") and os.environ["HF_HOME"] == str(tmp_path / "models")


def test_a_named_folder_that_takes_nothing_is_replaced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    home = _no_home(tmp_path)
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.setenv("XDG_CACHE_HOME", str(home / "own"))
    use_writable_caches(tmp_path)
    assert os.environ["XDG_CACHE_HOME"] == str(tmp_path / CACHES)


def test_a_home_that_takes_caches_is_left_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    use_writable_caches(tmp_path / "clone")
    assert not any(name in os.environ for name in VARIABLES) and not (tmp_path / "clone").exists()


def test_a_user_without_a_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A container's user that the system does not know: `~` stands for nothing."""
    monkeypatch.setattr(os.path, "expanduser", lambda path: path)
    monkeypatch.chdir(tmp_path)
    use_writable_caches(Path())
    assert os.environ["XDG_CACHE_HOME"] == str(tmp_path / CACHES) and not (tmp_path / "~").exists()


SNAKEFILE = """
import sys
from pathlib import Path

from iapo.jobs.places import quote_interpreter, use_writable_caches

sys.executable = {interpreter!r}
quote_interpreter()
use_writable_caches(Path())


rule all:
    output: "done"
    script: "job.py"
"""


def test_snakemake_runs_a_script_in_such_a_clone_without_a_home(tmp_path: Path) -> None:
    clone = tmp_path / "Zoë's runs"
    interpreter = _interpreter(clone / ".venv/bin")
    (clone / "Snakefile").write_text(SNAKEFILE.format(interpreter=str(interpreter)))
    (clone / "job.py").write_text("import os\nopen(snakemake.output[0], 'w').write(os.environ['XDG_CACHE_HOME'])\n")
    environment = {name: value for name, value in os.environ.items() if name not in VARIABLES}
    shutil.copytree(ROOT / "profiles/default", clone / "profiles/default")
    command = [sys.executable, "-m", "snakemake", "--cores", "1", "all"]
    done = subprocess.run(
        command,
        cwd=clone,
        env=environment | {"HOME": str(_no_home(tmp_path)), "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert (clone / "done").read_text() == str(clone / CACHES)


@pytest.mark.parametrize("profile", ["paper", "rehearsal"])
def test_every_profile_of_one_machine_does_without_a_home(profile: str) -> None:
    own, default = (
        yaml.safe_load((ROOT / "profiles" / name / "config.yaml").read_text()) for name in (profile, "default")
    )
    assert own["shared-fs-usage"] == default["shared-fs-usage"] and "source-cache" not in own["shared-fs-usage"]


@pytest.mark.parametrize("folder", [*FOLDERS, "Übung (1) [x] 100 %", "a'b\"c"])
def test_a_clone_that_runs_is_not_refused(tmp_path: Path, folder: str) -> None:
    check_clone(tmp_path / folder)


@pytest.mark.parametrize(("folder", "said"), [("a{b}", "'{', '}'"), ("a\nb", "'\\\\n'"), ("\udce9", "not UTF-8")])
def test_a_clone_that_cannot_run_is_refused_in_one_line(tmp_path: Path, folder: str, said: str) -> None:
    with pytest.raises(PreflightError, match=rf"has .*{said}.*move or rename the folder") as error:
        check_clone(tmp_path / folder)
    assert "\n" not in str(error.value)
    str(error.value).encode()


def _made_caches(environment: dict[str, str]) -> str:
    """What make says of the variable, as every recipe gets it."""
    command = ["make", "--no-print-directory", "-f", str(ROOT / "Makefile"), "-f", "-", "said"]
    done = subprocess.run(
        command,
        cwd=ROOT,
        env={name: value for name, value in os.environ.items() if name not in VARIABLES} | environment,
        input="said:\n\t@echo $$XDG_CACHE_HOME\n",
        capture_output=True,
        text=True,
        check=True,
    )
    return done.stdout.strip()


@pytest.mark.skipif(shutil.which("make") is None, reason="no make here")
def test_make_sends_its_caches_to_the_clone_too(tmp_path: Path) -> None:
    assert _made_caches({"HOME": str(_no_home(tmp_path))}) == str(ROOT / CACHES)
    assert _made_caches({"HOME": str(tmp_path)}) == ""
    assert _made_caches({"HOME": str(_no_home(tmp_path)), "XDG_CACHE_HOME": str(tmp_path)}) == str(tmp_path)
