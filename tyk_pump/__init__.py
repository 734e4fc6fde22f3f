"""Tyk Pump: takes analytics records out of Redis and writes them to back ends.

The way of a record is the way through the code:

    source -> coordinator -> channel -> worker -> pump -> back end
    (Redis)   (parent)       (queue)   (child)    (one file each)
"""

__version__ = "0.1.0"
