"""The little of pytest-xdist that tests/conftest.py uses; the package carries no types."""
