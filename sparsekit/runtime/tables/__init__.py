"""Files of many rows: read in parts, answered, and written with the answers as further columns."""
