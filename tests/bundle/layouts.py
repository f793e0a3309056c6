"""The places where people put the bundle, built from a copy of this repository."""

from __future__ import annotations

import importlib.util
import os
import shutil
import subprocess
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from tests.conftest import REPOSITORY

OURS = frozenset(
    {
        "xcom_cleanup",
        "xcom_offload_large_values",
        "xcom_orphan_reconciliation",
        "xcom_restore",
        "xcom_rotate_keys",
        "xcom_size_audit",
    }
)
USERS = "users_own"

_DECOY = '''"""Somebody's module that looks like a DAG file, in a folder that holds no DAGs."""
from airflow.sdk import DAG

dag = DAG("decoy_in_{place}", schedule=None)
'''

#: The user's DAG file before ours came: it must go on importing the user's own `include`.
_USERS_DAG = """
from airflow.sdk import DAG
{imports}
from include.users_own import DAG_ID

dag = DAG(DAG_ID, schedule=None)
"""


@dataclass(frozen=True)
class Layout:
    """What a DAG processor is told, and what it has to find."""

    bundle: Path | None = None
    git: Path | None = None
    env: Mapping[str, str] = field(default_factory=dict)
    users: frozenset[str] = frozenset()

    @property
    def search_path(self) -> list[str]:
        """What the processor has on ``sys.path`` when it parses."""
        paths = [self.env.get("PYTHONPATH"), self.env.get("AIRFLOW__CORE__DAGS_FOLDER"), self.bundle]
        return [str(path) for path in paths if path]


def checkout(target: Path) -> Path:
    """What a clone would hold, with a decoy in every folder but dags/; git itself may not be installed."""
    ignored = [line.strip("/") for line in (REPOSITORY / ".gitignore").read_text().split()]
    shutil.copytree(REPOSITORY, target, ignore=shutil.ignore_patterns(".git", *ignored), symlinks=True)
    for name in (".venv/lib", "build"):
        (target / name).mkdir(parents=True)
    for folder in [
        path for path in target.rglob("*") if path.is_dir() and target / "dags" not in (path, *path.parents)
    ]:
        place = "_".join(folder.relative_to(target).parts).replace(".", "")
        (folder / "decoy.py").write_text(_DECOY.format(place=place))
    return target


def astro_project(source: Path, target: Path) -> Layout:
    """The image of an Astro project, with a DAG of the user's own: its root on the path, its dags/ the dags folder."""
    root = Path(shutil.copytree(source, target / "airflow"))
    _users_own(root / "dags", root / "include", init=False)
    env = {"PYTHONPATH": str(root), "AIRFLOW__CORE__DAGS_FOLDER": str(root / "dags")}
    return Layout(env=env, users=frozenset({USERS}))


def bundle_at_the_root(source: Path, target: Path) -> Layout:
    """A bundle that is the whole repository: a working copy, with its .venv."""
    return Layout(Path(shutil.copytree(source, target / "bundle")))


def bundle_at_the_root_with_regexp(source: Path, target: Path) -> Layout:
    """The same where .airflowignore holds regular expressions, as it did in Airflow 2."""
    return _regexp(bundle_at_the_root(source, target))


def bundle_of_a_subfolder(source: Path, target: Path) -> Layout:
    """A bundle of the dags/ in a clone, as a GitDagBundle with ``subdir`` makes it."""
    return Layout(_clone(source, target) / "dags")


def git_bundle(source: Path, target: Path) -> Layout:
    """A GitDagBundle without ``subdir``; where its provider is not installed, what it would check out."""
    clone = _clone(source, target)
    has_provider = shutil.which("git") and importlib.util.find_spec("airflow.providers.git")
    return Layout(git=clone) if has_provider else Layout(clone)


def copied_into_a_dags_folder(source: Path, target: Path) -> Layout:
    """dags/* and include/ beside the user's own DAG and `include`, a folder like ours."""
    return _copied(source, target, users_include="dags", init=False)


def copied_beside_an_include_package(source: Path, target: Path) -> Layout:
    """The same where the user's `include` has an ``__init__.py``."""
    return _copied(source, target, users_include="dags", init=True)


def copied_below_an_include_at_the_root(source: Path, target: Path) -> Layout:
    """The user's `include` lies beside the dags folder, as in Astro projects, and ours in it."""
    return _copied(source, target, users_include=".", init=False)


def copied_below_an_include_package_at_the_root(source: Path, target: Path) -> Layout:
    """The same where the user's `include` has an ``__init__.py``."""
    return _copied(source, target, users_include=".", init=True)


def cloned_into_a_dags_folder(source: Path, target: Path) -> Layout:
    """The whole repository in a sub-folder, beside the user's own DAG and `include`."""
    dags = target / "airflow" / "dags"
    shutil.copytree(source, dags / "airflow-xcom-maintenance")
    _users_own(dags, dags / "include", init=True)
    return Layout(env={"AIRFLOW__CORE__DAGS_FOLDER": str(dags)}, users=frozenset({USERS}))


def cloned_into_a_dags_folder_with_regexp(source: Path, target: Path) -> Layout:
    """The same where .airflowignore holds regular expressions, as it did in Airflow 2."""
    return _regexp(cloned_into_a_dags_folder(source, target))


LAYOUTS: dict[str, Callable[[Path, Path], Layout]] = {
    build.__name__: build
    for build in (
        astro_project,
        bundle_at_the_root,
        bundle_at_the_root_with_regexp,
        bundle_of_a_subfolder,
        git_bundle,
        copied_into_a_dags_folder,
        copied_beside_an_include_package,
        copied_below_an_include_at_the_root,
        copied_below_an_include_package_at_the_root,
        cloned_into_a_dags_folder,
        cloned_into_a_dags_folder_with_regexp,
    )
}


def _copied(source: Path, target: Path, *, users_include: str, init: bool) -> Layout:
    root = target / "airflow"
    dags = root / "dags"
    dags.mkdir(parents=True)
    _users_own(dags, (dags if users_include == "dags" else root) / "include", init=init)
    shutil.copytree(source / "dags", dags, dirs_exist_ok=True)
    shutil.copytree(source / "include", dags / "include", dirs_exist_ok=True)
    (dags / "include" / "decoy.py").unlink()  # that folder is the user's, and may hold DAGs
    env = {"AIRFLOW__CORE__DAGS_FOLDER": str(dags)}
    if users_include != "dags":
        env["PYTHONPATH"] = str(root)
    return Layout(env=env, users=frozenset({USERS}))


def _users_own(dags: Path, include: Path, *, init: bool) -> None:
    include.mkdir(exist_ok=True)
    (include / "users_own.py").write_text(f"DAG_ID = {USERS!r}\n")
    if init:
        (include / "__init__.py").write_text("TEAM = 'set by the package itself'\n")
    (dags / "users_own_dag.py").write_text(_USERS_DAG.format(imports="from include import TEAM" if init else ""))


def _regexp(layout: Layout) -> Layout:
    return Layout(
        layout.bundle, layout.git, {**layout.env, "AIRFLOW__CORE__DAG_IGNORE_FILE_SYNTAX": "regexp"}, layout.users
    )


def _clone(source: Path, target: Path) -> Path:
    """A real clone, so that what git does not keep, such as empty folders, is not there; a copy if there is no git."""
    if shutil.which("git") is None:
        return Path(shutil.copytree(source, target / "clone"))
    origin = shutil.copytree(source, target / "origin")
    nobody = {"GIT_CONFIG_GLOBAL": os.devnull, "GIT_CONFIG_SYSTEM": os.devnull, "PATH": os.environ["PATH"]}
    author = ["-c", "user.name=nobody", "-c", "user.email=nobody@localhost"]

    def git(*arguments: str) -> None:
        subprocess.run(["git", *author, *arguments], check=True, cwd=origin, env=nobody, capture_output=True)

    git("init", "--quiet", "--initial-branch=main")
    git("add", "--all")
    git("commit", "--quiet", "--message=Everything")
    git("clone", "--quiet", str(origin), str(target / "clone"))
    return target / "clone"
