"""The documentation's lock: its packages share one environment with all others, and it names no address."""

import re

from iapo.artifacts.code_digest import ROOT


def pins(name: str) -> dict[str, set[str]]:
    found: dict[str, set[str]] = {}
    for package, version in re.findall(r"^([\w.-]+)==(\S+)", (ROOT / name).read_text(), flags=re.MULTILINE):
        found.setdefault(package, set()).add(version)
    return found


def test_both_locks_pin_the_same_versions() -> None:
    docs, whole = pins("docs/requirements.lock"), pins("requirements.lock")
    shared = docs.keys() & whole.keys()
    assert {"docutils", "jinja2", "pygments"} <= shared
    assert {name: docs[name] for name in shared} == {name: whole[name] for name in shared}


def test_every_package_has_a_hash_and_none_an_address() -> None:
    text = (ROOT / "docs/requirements.lock").read_text()
    assert "://" not in text
    assert all("--hash=sha256:" in part for part in re.split(r"^(?=[\w.-]+==)", text, flags=re.MULTILINE) if part)
