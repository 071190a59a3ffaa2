"""The world that tests of training share."""

from worlds import one_thread, project

__all__ = ["one_thread", "project"]
