"""Writes rpmdb.sqlite as rpm 4.16 and later do, with SQLite itself: python3 sqlite.py"""
import os
import sqlite3
import struct


def header(i):
    strings = [
        (1000, f"pkg{i:03d}"), (1001, f"1.{i}"), (1002, "2.fc42"), (1011, "Acme"), (1014, "MIT"),
        (1020, "https://acme.example"), (1022, "x86_64"), (1044, "pkg.src.rpm"),
    ]
    index, data = b"", b""
    for tag, text in strings:
        index += struct.pack(">IIII", tag, 6, len(data), 1)
        data += text.encode() + b"\0"
    index += struct.pack(">IIII", 1004, 9, len(data), 1)
    data += b"s" * (i * 97 % 2500) + b"\0"
    index += struct.pack(">IIII", 1003, 4, len(data), 1)
    data += struct.pack(">I", i % 3)
    return struct.pack(">II", len(index) // 16, len(data)) + index + data


os.chdir(os.path.dirname(os.path.abspath(__file__)))
if os.path.exists("rpmdb.sqlite"):
    os.remove("rpmdb.sqlite")
db = sqlite3.connect("rpmdb.sqlite")
db.execute("PRAGMA page_size = 1024")
db.execute("CREATE TABLE Name (key TEXT NOT NULL, hnum INTEGER NOT NULL)")
db.execute("CREATE TABLE Packages (hnum INTEGER PRIMARY KEY AUTOINCREMENT, blob BLOB NOT NULL)")
for i in range(100):
    db.execute("INSERT INTO Packages (blob) VALUES (?)", (header(i),))
    db.execute("INSERT INTO Name VALUES (?, ?)", (f"pkg{i:03d}", i + 1))
db.execute("DELETE FROM Packages WHERE hnum % 10 = 8")
db.commit()
db.close()
