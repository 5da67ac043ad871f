"""One file a kind of task: its data sets (rows of a table), head, loss, metrics, and the rows it
writes.
"""
