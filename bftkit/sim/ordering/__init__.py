"""Ordering protocols alone: their machines run in a small world where the rest of the house is a stand-in.

Open `world.py` first: it says what stands in for what, and in which file.
"""
