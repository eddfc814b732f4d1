"""Takes messages into a table of an SQLite database, each exactly once.

    python sqlite_sink.py --address 127.0.0.1:7200 --cookie-file FILE DATABASE

The position is in a table of the same database, and changes in the same
transaction as the messages.  Readers look at the view "output".
"""

from __future__ import annotations

import argparse
import sqlite3

from wallaroo import connectors

TABLES = """
CREATE TABLE IF NOT EXISTS message(stream TEXT, at INTEGER, body BLOB,
    PRIMARY KEY(stream, at));
CREATE TABLE IF NOT EXISTS position(stream TEXT PRIMARY KEY,
    committed INTEGER NOT NULL, txn TEXT, start INTEGER, end INTEGER);
CREATE VIEW IF NOT EXISTS output AS SELECT stream, at, body
    FROM message JOIN position USING(stream) WHERE at < committed
    ORDER BY stream, at;
"""


class Table(connectors.Sink):
    def __init__(self, stream: str, path: str) -> None:
        super().__init__(stream)
        self.db = sqlite3.connect(path, timeout=30)
        self.db.executescript(TABLES)

    def open(self) -> connectors.Position:
        self.rows: list[tuple[str, int, bytes]] = []
        with self.db:
            self.db.execute(
                "INSERT OR IGNORE INTO position(stream, committed)"
                " VALUES(?, 0)", (self.stream,))
        committed, *found = self.db.execute(
            "SELECT committed, txn, start, end FROM position"
            " WHERE stream = ?", (self.stream,)).fetchone()
        return connectors.Position(
            committed,
            None if found[0] is None else connectors.Transaction(*found))

    def write(self, offset: int, message: bytes) -> None:
        self.rows.append((self.stream, offset, message))

    def prepare(self, transaction: connectors.Transaction) -> None:
        with self.db:
            self.db.executemany(
                "INSERT INTO message VALUES(?, ?, ?)", self.rows)
            self.db.execute(
                "UPDATE position SET txn = ?, start = ?, end = ?"
                " WHERE stream = ?", (*transaction, self.stream))
        self.rows = []

    def commit(self, transaction: connectors.Transaction) -> None:
        with self.db:
            self.db.execute(
                "UPDATE position SET committed = ?, txn = NULL"
                " WHERE stream = ?", (transaction.end, self.stream))

    def abort(self, transaction: connectors.Transaction) -> None:
        self.rows = []
        with self.db:
            self.db.execute(
                "DELETE FROM message WHERE stream = ? AND at >= ?",
                (self.stream, transaction.start))
            self.db.execute(
                "UPDATE position SET txn = NULL WHERE stream = ?",
                (self.stream,))

    def close(self) -> None:
        self.db.close()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("database")
    connectors.add_options(parser)
    args = parser.parse_args()
    connectors.run_sink(lambda stream: Table(stream, args.database),
                        options=connectors.options_of(args))
