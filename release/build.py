"""Build what is published: an sdist and a wheel whose README and metadata hold on an index.

    python release/build.py dist          build, and check what was built
    python release/build.py dist --home https://example.org/owner/magnet    another home, to try it

In the repository every link is relative, and nothing names the place where it lives: that is one
constant, `home` of [tool.release] in pyproject.toml, which whoever publishes fills. While it is empty
nothing is built. Needs the extra `release`.
"""

from __future__ import annotations

import argparse
import io
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path

try:
    import tomllib
except ModuleNotFoundError:  # Python 3.10
    import tomli as tomllib  # type: ignore[no-redef]

ROOT = Path(__file__).resolve().parent.parent
LINK = re.compile(r"(!?)\[((?:[^\[\]]|\[[^\]]*\])*)\]\((?!\w+:|#)([^)\s]+)\)")
HEARD_OR_SEEN = (".png", ".svg", ".wav", ".ogg", ".mp3", ".flac")


def check_home(home: str) -> str:
    """The home without a slash at its end. Raises SystemExit: it is empty, or no https address."""
    if not home:
        raise SystemExit(
            "error: `home` of [tool.release] in pyproject.toml is empty.\n"
            "  Fill in the address of the public repository, as https://HOST/OWNER/NAME."
        )
    if not re.fullmatch(r"https://[\w.-]+(/[\w.-]+)+/?", home):
        raise SystemExit(
            f"error: {home!r} is no address of a repository.\n  Use https://HOST/OWNER/NAME."
        )
    return home.rstrip("/")


def absolute(readme: str, home: str, tag: str) -> str:
    """README with links that hold anywhere: pages and files at `tag`, pictures and sounds as bytes."""

    def place(match: re.Match[str]) -> str:
        shown, text, target = match.groups()
        kind = "raw" if shown or target.endswith(HEARD_OR_SEEN) else "blob"
        return f"{shown}[{absolute(text, home, tag)}]({home}/{kind}/{tag}/{target})"

    return LINK.sub(place, readme)


def with_urls(pyproject: str, home: str, tag: str) -> str:
    """pyproject.toml with [project.urls] of `home`; an unpacked sdist's has them already."""
    if "\n[project.urls]\n" in pyproject:
        return pyproject
    urls = {
        "Homepage": home,
        "Documentation": f"{home}/tree/{tag}/docs",
        "Changelog": f"{home}/blob/{tag}/CHANGELOG.md",
        "Issues": f"{home}/issues",
    }
    lines = "\n".join(f'{name} = "{address}"' for name, address in urls.items())
    return f"{pyproject.rstrip()}\n\n[project.urls]\n{lines}\n"


def version_of(root: Path) -> str:
    """The version that the package says."""
    said = (root / "magnet_cli" / "version.py").read_text()
    match = re.search(r'__version__ = "([^"]+)"', said)
    assert match, "magnet_cli/version.py holds no version"
    return match[1]


def check_changelog(root: Path, version: str) -> None:
    """Raises SystemExit: CHANGELOG.md has no dated heading for `version`."""
    said = (root / "CHANGELOG.md").read_text()
    if not re.search(rf"^## {re.escape(version)} - \d{{4}}-\d\d-\d\d$", said, re.MULTILINE):
        raise SystemExit(
            f"error: CHANGELOG.md has no heading `## {version} - YEAR-MONTH-DAY`.\n"
            "  Date the version that is to be published."
        )


def prepare(root: Path, home: str) -> None:
    """Write `home` into a copy of the repository. Raises SystemExit: it cannot be published so."""
    home, tag = check_home(home), f"v{version_of(root)}"
    for name, change in (("README.md", absolute), ("pyproject.toml", with_urls)):
        path = root / name
        path.write_text(change(path.read_text(), home, tag))


def copy_committed(copy: Path) -> None:
    """What is committed, and nothing else that lies about; of an unpacked sdist, all."""
    if not (ROOT / ".git").exists():
        shutil.copytree(
            ROOT, copy, ignore=shutil.ignore_patterns(".*_cache", ".venv", "build", "dist")
        )
        return
    # Who owns the checkout does not matter: it is only read.
    git = ["git", "-c", f"safe.directory={ROOT}", "archive", "--format=tar", "HEAD"]
    archive = subprocess.run(git, cwd=ROOT, check=True, capture_output=True).stdout
    with tarfile.open(fileobj=io.BytesIO(archive)) as tar:
        tar.extractall(copy, filter="data")


def main() -> None:
    said = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    said.add_argument("output", type=Path, help="folder for the sdist and the wheel")
    said.add_argument("--home", help="instead of pyproject.toml's")
    options = said.parse_args()
    home = options.home
    if home is None:
        settings = tomllib.loads((ROOT / "pyproject.toml").read_text())
        home = settings["tool"]["release"]["home"]
        check_changelog(ROOT, version_of(ROOT))
    check_home(home)
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder) / "magnet"
        copy_committed(copy)
        prepare(copy, home)
        output = options.output.resolve()
        subprocess.run([sys.executable, "-m", "build", "--outdir", output, copy], check=True)
    built = sorted(output.glob(f"magnet_cli-{version_of(ROOT)}*"))
    subprocess.run([sys.executable, "-m", "twine", "check", "--strict", *built], check=True)
    for path in built:
        print(f"{path.name}  {path.stat().st_size / 2**20:.1f} MB")


if __name__ == "__main__":
    main()
