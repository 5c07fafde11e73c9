"""Does the wheel, and the sdist, hold what it must and nothing else?

Usage: package_contents.py PROJECT WHEEL SDIST. Prints what is wrong and exits with 1.
"""

from __future__ import annotations

import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

DATA = ("redis/lua/*.lua", "web/static/**/*", "assets/**/*", "py.typed")
MAYBE = ("web/templates/**/*",)
NEVER = (".pyc", ".pyo", "dropin.cache", ".orig", ".swp")
SDIST_MUST = ("LICENSE", "Makefile", "README.md", "pyproject.toml", "setup.py", "requirements.lock")


def expected(project: Path) -> set[str]:
    """The package's modules and data, and the plug-ins, as paths in the wheel."""
    package = project / "restmq"
    found = set(package.rglob("*.py")) | set((project / "twisted" / "plugins").glob("*.py"))
    for pattern in DATA + MAYBE:
        files = [path for path in package.glob(pattern) if path.is_file()]
        assert files or pattern in MAYBE, f"restmq/{pattern} matches nothing: has it moved?"
        found.update(path for path in files if path.suffix not in NEVER)
    return {path.relative_to(project).as_posix() for path in found}


def wheel_faults(project: Path, wheel: Path) -> list[str]:
    """What is missing from the wheel, and what is in it that should not be."""
    with zipfile.ZipFile(wheel) as archive:
        names = {name for name in archive.namelist() if ".dist-info/" not in name}
    wanted = expected(project)
    return [f"missing from the wheel: {name}" for name in sorted(wanted - names)] + [
        f"should not be in the wheel: {name}" for name in sorted(names - wanted)
    ]


def sdist_faults(project: Path, sdist: Path) -> list[str]:
    """What git knows, the wheel needs or a user looks for, and the sdist lacks."""
    with tarfile.open(sdist) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    wanted = expected(project) | set(SDIST_MUST) | tracked(project)
    return [f"missing from the sdist: {name}" for name in sorted(wanted - names)] + [
        f"should not be in the sdist: {name}" for name in sorted(names) if name.endswith(NEVER)
    ]


def tracked(project: Path) -> set[str]:
    """The files under git, or none where there is no git."""
    try:
        listing = subprocess.run(
            ["git", "-c", f"safe.directory={project}", "ls-files"],
            cwd=project, capture_output=True, text=True, check=True,
        )  # fmt: skip
    except (OSError, subprocess.CalledProcessError):
        return set()
    return {name for name in listing.stdout.splitlines() if (project / name).is_file()}


def main(project: str, wheel: str, sdist: str) -> int:
    """Print what is wrong; 1 if anything is."""
    root = Path(project)
    faults = wheel_faults(root, Path(wheel)) + sdist_faults(root, Path(sdist))
    sys.stdout.writelines(f"    {fault}\n" for fault in faults)
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
