"""The contents of a release. `make check-release` builds it."""

from __future__ import annotations

import sys
from pathlib import Path
from types import ModuleType

import pytest

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

from tests.scripts import script

ROOT = Path(__file__).resolve().parent.parent
HOME = "https://example.invalid/nobody/magnet"


@pytest.fixture(scope="module")
def build() -> ModuleType:
    return script("release/build.py")


def test_links_of_readme_hold_on_an_index(build: ModuleType) -> None:
    text = (
        "[docs](docs/cli.md#pipes) ![a picture](docs/a.png) [a sound](docs/a.ogg) [out](https://a.b/c) "
        "[here](#install) [![seen](docs/b.png)](docs/b.md)"
    )
    assert build.absolute(text, HOME, "v1.0") == (
        f"[docs]({HOME}/blob/v1.0/docs/cli.md#pipes) ![a picture]({HOME}/raw/v1.0/docs/a.png) "
        f"[a sound]({HOME}/raw/v1.0/docs/a.ogg) [out](https://a.b/c) [here](#install) "
        f"[![seen]({HOME}/raw/v1.0/docs/b.png)]({HOME}/blob/v1.0/docs/b.md)"
    )


@pytest.mark.parametrize(
    "home", ["", "http://a.b/c/d", "https://a.b", "https://a.b/c d", "owner/magnet"]
)
def test_nothing_is_published_without_a_home(build: ModuleType, home: str) -> None:
    with pytest.raises(SystemExit, match=r"is empty|no address"):
        build.check_home(home)


def test_a_copy_is_prepared_for_its_home(build: ModuleType, tmp_path: Path) -> None:
    (tmp_path / "README.md").write_text("[nano](docs/nano.md)\n")
    (tmp_path / "pyproject.toml").write_text('[project]\nname = "magnet-cli"\n')
    (tmp_path / "magnet_cli").mkdir()
    (tmp_path / "magnet_cli" / "version.py").write_text('__version__ = "3.2.1"\n')
    build.prepare(tmp_path, HOME + "/")
    project = tomllib.loads((tmp_path / "pyproject.toml").read_text())["project"]
    assert project["urls"]["Issues"] == f"{HOME}/issues"
    assert project["urls"]["Changelog"] == f"{HOME}/blob/v3.2.1/CHANGELOG.md"
    written = {path: path.read_text() for path in tmp_path.glob("*.*")}
    assert written[tmp_path / "README.md"] == f"[nano]({HOME}/blob/v3.2.1/docs/nano.md)\n"
    build.prepare(tmp_path, HOME)  # an unpacked sdist is built from again
    assert {path: path.read_text() for path in tmp_path.glob("*.*")} == written


@pytest.mark.parametrize("heading", ["## Unreleased", "## 3.2.1", "## 3.2.10 - 2026-11-28"])
def test_a_version_without_its_date_is_not_published(
    build: ModuleType, tmp_path: Path, heading: str
) -> None:
    (tmp_path / "CHANGELOG.md").write_text("# Changelog\n\n## 3.2.1 - 2026-11-28\n")
    build.check_changelog(tmp_path, "3.2.1")
    (tmp_path / "CHANGELOG.md").write_text(f"# Changelog\n\n{heading}\n")
    with pytest.raises(SystemExit, match=r"3\.2\.1 - YEAR"):
        build.check_changelog(tmp_path, "3.2.1")


def test_the_changelog_dates_this_version(build: ModuleType) -> None:
    build.check_changelog(ROOT, build.version_of(ROOT))


def test_what_goes_beside_the_package_is_there() -> None:
    """Completions and the manual page are data of the wheel; a wrong name only fails the build."""
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text())
    files = settings["tool"]["setuptools"]["data-files"]
    named = {name for names in files.values() for name in names}
    made = {path.relative_to(ROOT).as_posix() for path in (ROOT / "completions").iterdir()}
    assert named == made
