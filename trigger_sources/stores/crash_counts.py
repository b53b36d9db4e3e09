"""Counts the crashes that each record of the SQLite inbox has seen, without a write for each event.

A process leaves a row while it has the file open. The next process finds the row after a crash, and counts the crash
for the oldest records of each trigger: the ones that may have been called. Such a record is then tried alone.
"""

import sqlite3

_SCHEMA = """
CREATE TABLE IF NOT EXISTS running (one INTEGER PRIMARY KEY);
CREATE TABLE IF NOT EXISTS inbox_crashes (sequence INTEGER PRIMARY KEY, times INTEGER NOT NULL);
"""
_MOST_HELD = 2_000  # the most records that a trigger of usual concurrency holds


def opened(connection: sqlite3.Connection) -> dict[int, int]:
    """Notes that the file is in use. Returns the number of crashes by the sequence of the record."""
    connection.executescript(f"BEGIN IMMEDIATE; {_SCHEMA} COMMIT;")
    connection.execute("BEGIN IMMEDIATE")
    connection.execute("DELETE FROM inbox_crashes WHERE sequence NOT IN (SELECT sequence FROM inbox)")
    if connection.execute("SELECT 1 FROM running").fetchone() is not None:
        for (uid,) in connection.execute("SELECT DISTINCT uid FROM inbox").fetchall():
            connection.execute(
                "INSERT INTO inbox_crashes SELECT sequence, 1 FROM inbox WHERE uid = ? ORDER BY sequence LIMIT ?"
                " ON CONFLICT (sequence) DO UPDATE SET times = times + 1",
                (uid, _MOST_HELD),
            )
    connection.execute("INSERT OR IGNORE INTO running VALUES (1)")
    found = dict(connection.execute("SELECT sequence, times FROM inbox_crashes").fetchall())
    connection.execute("COMMIT")
    return found


def closed(connection: sqlite3.Connection) -> None:
    """Notes that the process stops in order."""
    connection.execute("DELETE FROM running")
