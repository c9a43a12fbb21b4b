"""What a record of the log becomes where it is written."""

import logging


def line(record: logging.LogRecord) -> str:
    """The record as the handler of our settings writes it; the others are pytest's."""
    [written] = [one.format(record) for one in logging.getLogger().handlers if type(one) is logging.StreamHandler]
    return written
