"""What a member keeps on disk: the log of its votes and the checkpoints it has taken.

Open `log.py` first. It appends records to segments, groups them into one sync, and after a restart tells a torn
tail (cut it, nothing was acknowledged) from corruption (stop, and fetch the state from the group). Below it lies the
narrow interface of `files.py`, with a real disk (`disk.py`) and a simulated one (`memory_files.py`) that forgets
what was not synced. `snapshots.py` keeps checkpoints as chunks named by their digest; `sqlite_snapshots.py` keeps
them in a database. See SAFETY rules 5, 15 and 16.
"""
