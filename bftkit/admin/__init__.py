"""The members' HTTP interface: what operators and tools ask a member, and how they bring it commands.

Open `guard.py` first, the door that every request passes, then `routes.py` and `facade.py`. Nothing here is needed by a
member that serves none, and nothing here signs.
"""
