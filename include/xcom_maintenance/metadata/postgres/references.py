"""References to blobs in the Postgres adapter: which there are, sorted, and whether a blob is meant anywhere at all.

Two looks, of which the second decides. ``references`` reads what backends write, exactly, to merge it with a listing.
``meant`` asks of some blobs whether their unique part occurs anywhere in any value, however it is written or packed:
that is generous on purpose, for a blob goes only if it does not.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any

from include.xcom_maintenance.core.blob_uri import BasePath, BlobUri, InvalidBlobUri
from include.xcom_maintenance.core.records import RowReference
from include.xcom_maintenance.core.reference_formats import HEX, UUID, BlobName, Formats
from include.xcom_maintenance.core.references import BUCKET_NAMES, KEY_NAMES, LONGEST, reference_in
from include.xcom_maintenance.metadata.ports.reconciliation import UnparsableReference
from include.xcom_maintenance.metadata.postgres import rows as sql
from include.xcom_maintenance.metadata.postgres.base import Connected
from include.xcom_maintenance.metadata.postgres.schema import REQUIRED_COLUMNS

#: Every JSON string that contains the base path is taken whole, and cut at white space and quotes too, so that a path
#: in a sentence counts. Only what a backend writes is a whole reference: this project's own writes an object around the
#: address of a blob of its own, and the others write a text. What is carried on is short, however long the value: no
#: longer than any path.
_URIS = r"""
SELECT {columns}, t.size, left(t.ref, 4096) AS ref, t.entire, t.entire AND t.held AS whole,
       substr(left(t.ref, 4096), position(%(marker)s IN t.ref) + length(%(marker)s)) AS blob_key
FROM (
    SELECT {inner_columns}, s.size, piece.ref, piece.entire,
           CASE WHEN right(s.token, 4) = '.xcb' THEN coalesce(s.own = s.token, false) ELSE s.is_string END AS held
    FROM (
        SELECT {inner_columns}, coalesce(pg_column_size(x.value), 0) AS size,
               ('"' || (string)[1] || '"')::jsonb #>> '{{}}' AS token,
               left({value}, 1) = '"' AS is_string, {own} AS own
        FROM {table} x
        CROSS JOIN LATERAL regexp_matches({value}, '"((?:[^"\\]|\\.)*)"', 'g') AS string
        WHERE position(%(marker)s IN {value}) > 0 AND position(%(marker)s IN (string)[1]) > 0
    ) s
    CROSS JOIN LATERAL (
        SELECT s.token AS ref, true AS entire
        UNION ALL
        SELECT rtrim(substring(word FROM '[A-Za-z][A-Za-z0-9+.-]*://.*$'), '.,;:)]}}'), false
        FROM regexp_split_to_table(s.token, '[\s"''<>]+') AS word
        WHERE s.token ~ '[\s"''<>]' AND position(%(marker)s IN word) > 0
    ) piece
    WHERE position(%(marker)s IN piece.ref) > 0
) t"""

#: Values that are a bare key or have a scheme of their own, ``s3_xcom_…`` and ``xcom_s3://…``. They do not say below
#: which prefix the blob lies, so they are no proof that one is missing: hence never "whole".
_BARE_KEYS = r"""
SELECT {columns}, t.size, NULL AS ref, false AS entire, false AS whole,
       CASE WHEN starts_with(t.place, %(prefix)s) THEN substr(t.place, length(%(prefix)s) + 1)
            ELSE t.place END AS blob_key
FROM (
    SELECT {inner_columns}, coalesce(pg_column_size(x.value), 0) AS size,
           regexp_replace(rtrim(ltrim({value}, '"'), '"'), '^xcom_[a-z0-9]+://', '') AS place
    FROM {table} x
    WHERE pg_column_size(x.value) < 2048 AND {value} ~ '^"(xcom_[a-z0-9]+://|(s3|gcs|gs|azure|wasb)_xcom_)[^"\\]*"$'
) t"""

#: JSON objects, wherever they stand in a value, that name a bucket and a key.
_OBJECTS = """
SELECT {columns}, t.size, NULL AS ref, true AS entire, t.whole AND right(t.place, 4) <> '.xcb' AS whole,
       substr(t.place, length(%(prefix)s) + 1) AS blob_key
FROM (
    SELECT {inner_columns}, coalesce(pg_column_size(x.value), 0) AS size,
           o.object = x.value::jsonb AND length({value}) <= {longest} AS whole, {bucket} AS bucket, {place} AS place
    FROM {table} x
    CROSS JOIN LATERAL jsonb_path_query(
        x.value::jsonb, 'strict $.** ? (@.type() == "object")', '{{}}', true) AS o(object)
    WHERE position(%(quoted_bucket)s IN {value}) > 0 AND position(%(prefix)s IN {value}) > 0
) t
WHERE t.bucket = %(bucket)s AND starts_with(t.place, %(prefix)s)"""

#: The address in what this project's own backend writes instead of a value.
_OWN = f"CASE WHEN {sql.IS_BLOB_REFERENCE} THEN x.value #>> '{{__data__,uri}}' END"

_ROW_COLUMNS = "dag_id", "run_id", "task_id", "map_index", "key", "timestamp"


def _references_of(table: str, columns: Mapping[str, str]) -> str:
    """The references in one table.

    :param table: its name, quoted.
    :param columns: the types of its columns by name; archive tables of older versions lack some.
    """
    defaults = {"map_index": "-1", "timestamp": "NULL::timestamptz"}
    picked = [
        name if name in columns else f"{defaults.get(name, _quote_literal(''))} AS {name}" for name in _ROW_COLUMNS
    ]
    sources = [_URIS, _BARE_KEYS]
    if columns["value"] in {"json", "jsonb"}:
        sources.append(_OBJECTS)
    return "\nUNION ALL\n".join(
        source.format(
            columns=", ".join([f"{_quote_literal(table)}::text AS source", *(f"t.{name}" for name in _ROW_COLUMNS)]),
            inner_columns=", ".join(picked),
            table=table.replace("%", "%%"),
            value=_json_text(columns["value"]),
            own=_OWN if columns["value"] == "jsonb" else "NULL::text",
            longest=LONGEST,
            bucket=sql.first_of(BUCKET_NAMES, "o.object"),
            place=sql.first_of(KEY_NAMES, "o.object"),
        )
        for source in sources
    )


def _json_text(kind: str) -> str:
    """The value of a column of a type, as JSON text."""
    return {"jsonb": "x.value::text", "json": "x.value::jsonb::text"}.get(
        kind, "to_json(encode(x.value, 'escape'))::text" if kind == "bytea" else "to_json(x.value::text)::text"
    )


def _quote_literal(text: str) -> str:
    """A string constant for a statement whose parameters the driver formats, hence the doubled percent sign."""
    return "'" + text.replace("'", "''").replace("%", "%%") + "'"


def _tables(archives: Sequence[Any]) -> list[tuple[str, Mapping[str, str]]]:
    return [("xcom", REQUIRED_COLUMNS["xcom"]), *((name, dict(columns)) for name, columns, _ in archives)]


# -- all of them, sorted ---------------------------------------------------------------------------------------------


def by_uri(
    place: Sequence[Any], text: str, *, stored_bytes: int, entire: bool, whole: bool, base: BasePath, formats: Formats
) -> RowReference | None:
    """A reference below ``base``, or None for a mere mention of another bucket or path.

    :param text: the text of the reference; what is longer than any path is cut off.
    :param entire: whether it is all of a JSON string. One that is, names something below ``base`` and is no sentence,
        must be readable, or at least hold the unique part of some blob's name, as a list of references does: such text
        cannot be merged, but it keeps every blob whose unique part occurs in it, since ``meant`` finds it there. What
        holds no such part might mean anything, so it is an error.
    :param whole: whether it is all of the row's value, too.
    """
    try:
        uri = BlobUri.parse(text)
    except InvalidBlobUri as why:
        if entire and base.claims(text) and not re.search(r"\s", text) and not _ANY_NAME.search(text):
            table, dag_id, run_id, task_id, _, key, _ = place
            where = f"{table}: dag_id={dag_id!r} run_id={run_id!r} task_id={task_id!r} key={key!r}"
            raise UnparsableReference(where, str(why)) from None
        return None
    if not base.contains(uri):
        return None
    key = uri.key.removeprefix(base.prefix)
    return row_reference(place, key=key, stored_bytes=stored_bytes, whole=whole, formats=formats)


_ANY_NAME = re.compile(f"{UUID}|{HEX}", re.IGNORECASE)


def held(
    place: Sequence[Any], text: str, *, stored_bytes: int, base: BasePath, formats: Formats
) -> RowReference | None:
    """What a row refers to that holds nothing but this value, if that lies below ``base``.

    :param text: the value as JSON.
    """
    found = reference_in(text)
    key = found.below(base) if found is not None and found.says_where else None
    if key is None:
        return None
    return row_reference(place, key=key, stored_bytes=stored_bytes, whole=True, formats=formats)


def row_reference(
    place: Sequence[Any], *, key: str, stored_bytes: int, whole: bool, formats: Formats
) -> RowReference | None:
    if {"", ".", ".."} & set(key.split("/")):
        return None
    table, dag_id, run_id, task_id, map_index, xcom_key, timestamp = place
    return RowReference(
        key=key,
        dag_id=dag_id,
        run_id=run_id,
        task_id=task_id,
        map_index=map_index,
        xcom_key=xcom_key,
        timestamp=timestamp,
        table=table,
        stored_bytes=stored_bytes,
        # What stands below the base path but is of no known layout is a user's own text, not a backend's reference.
        whole=whole and formats.read(key) is not None,
    )


# -- some of them, generously ----------------------------------------------------------------------------------------

#: What a name looks like to LIKE, which is quick to pass over what has nothing of this form.
_LIKE_NAME = "%%-____-____-____-____________"
#: A text without its closing quote and a suffix such as ``.gz``.
_END = "left(t.text, CASE strpos(right(t.text, 9), '.') WHEN 0 THEN -1 ELSE strpos(right(t.text, 9), '.') - 10 END)"
#: The names among ``%(names)s`` that occur in one table, each with what comes after it up to the next separator.
#: What comes after a name may hold another name. Most texts are a single path with its only name at the end: to look
#: just there is ten times as quick as a regular expression, and as good, since LIKE would see a name that ended before,
#: and one that ended later would have to go across the suffix.
_NAMES = """
SELECT n.name, n.after
FROM {table} x
CROSS JOIN LATERAL (SELECT {text} AS text OFFSET 0) t
CROSS JOIN LATERAL (SELECT {end} AS path OFFSET 0) p
CROSS JOIN LATERAL regexp_matches(t.text, '({pattern})(/[^/"\\s,;\\\\]*)?', 'gi') AS found
CROSS JOIN LATERAL (
    SELECT lower((found)[1]) AS name, left((found)[2], 400) AS after
    UNION ALL
    SELECT lower((inside)[1]), NULL FROM regexp_matches((found)[2], '({pattern})', 'gi') AS inside
) n
WHERE t.text LIKE '{like}%%'
  AND CASE WHEN p.path LIKE '{like}' AND left(p.path, -1) NOT LIKE '{like}%%'
           THEN lower(right(p.path, 36)) = ANY(%(names)s::text[])
           ELSE EXISTS (SELECT FROM regexp_matches(t.text, '({pattern})', 'gi') AS held
                        WHERE lower(held[1]) = ANY(%(names)s::text[])) END
  AND n.name = ANY(%(names)s::text[])"""

#: The same of names without dashes. In a longer row of such digits, as after the ``%2F`` of an encoded slash, a name
#: can begin anywhere; but in one that is very long only near its ends, since between them it is no part of a path.
_HEX_NAMES = """
SELECT n.name, NULL AS after
FROM {table} x
CROSS JOIN LATERAL regexp_matches({text}, '([0-9a-f]{{32,}})', 'gi') AS found
CROSS JOIN LATERAL (
    SELECT lower(substr((found)[1], i, 32)) AS name
    FROM generate_series(1, length((found)[1]) - 31) AS i WHERE i < 34 OR i > length((found)[1]) - 64
) n
WHERE {text} ~* '[0-9a-f]{{32}}' AND n.name = ANY(%(hex_names)s::text[])"""


def _names_in(table: str, columns: Mapping[str, str], *, dashed: bool, hexed: bool) -> list[str]:
    text = "encode(x.value, 'escape')" if columns["value"] == "bytea" else "x.value::text"
    table = table.replace("%", "%%")
    statements = []
    if dashed:
        statements.append(_NAMES.format(table=table, text=text, pattern=UUID, like=_LIKE_NAME, end=_END))
    if hexed:
        statements.append(_HEX_NAMES.format(table=table, text=text))
    return statements


def names_of(keys: Collection[str], formats: Formats) -> dict[str, BlobName]:
    """What some keys say.

    :raises ValueError: for a key of no known layout.
    """
    names = {}
    for key in keys:
        name = formats.read(key)
        if name is None:
            raise ValueError("only blobs of a known layout can be looked up")
        names[key] = name
    return names


class ReferenceQueries(Connected):
    """All references, and whether some blobs are meant anywhere."""

    def references(self, base: BasePath) -> Iterator[RowReference]:
        sources = "\nUNION ALL\n".join(
            _references_of(*table) for table in _tables(self._session.rows(sql.ARCHIVE_TABLES, {}))
        )
        parameters = {
            "marker": base.marker,
            "prefix": base.prefix,
            "bucket": base.uri.bucket,
            "quoted_bucket": f'"{base.uri.bucket}"',
        }
        for *place, size, text, entire, whole, key in self._session.stream(
            f'SELECT * FROM ({sources}) refs ORDER BY blob_key COLLATE "C"', parameters
        ):
            if text is None:
                found = row_reference(place, key=key, stored_bytes=size, whole=whole, formats=self._formats)
            else:
                found = by_uri(
                    place, text, stored_bytes=size, entire=entire, whole=whole, base=base, formats=self._formats
                )
            if found is not None:
                yield found

    def _meant(self, names: Mapping[str, BlobName]) -> set[str]:
        """See ``MetadataStore.referenced``.

        :param names: by key.
        """
        by_unique: dict[str, list[tuple[str, BlobName]]] = {}
        for key, name in names.items():
            by_unique.setdefault(name.unique, []).append((key, name))
        parameters = {
            "names": [unique for unique in by_unique if "-" in unique],
            "hex_names": [unique for unique in by_unique if "-" not in unique],
        }
        found: set[str] = set()
        if not by_unique:
            return found
        # One snapshot: `airflow db clean` moves rows from one of these tables to another.
        with self._session.transaction(one_snapshot=True) as cursor:
            cursor.execute(sql.ARCHIVE_TABLES, {})
            dashed, hexed = bool(parameters["names"]), bool(parameters["hex_names"])
            tables = _tables(cursor.fetchall())
            statements = [part for table in tables for part in _names_in(*table, dashed=dashed, hexed=hexed)]
            cursor.execute("\nUNION\n".join(statements), parameters)
            for unique, after in cursor.fetchall():
                found.update(key for key, name in by_unique[unique] if name.is_meant_by(after))
        return found

    def referenced(self, keys: Collection[str]) -> set[str]:
        return self._meant(names_of(keys, self._formats))
