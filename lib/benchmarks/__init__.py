"""Measurements that a user can repeat, each against peers where they are installed (`pip install -e .[bench]`)."""
