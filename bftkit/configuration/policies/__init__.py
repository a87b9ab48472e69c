"""The policies that ship: each is a pure function from conditions to the mode that it would rather have."""
