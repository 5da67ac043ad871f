"""One file a kind of task: its data sets (rows of a table), head, loss, metrics, and the rows it
writes.
"""

# What the head of a task for whole texts reads: pooled_output as in the original, the mean of the
# last layer's tokens, or the last layer's [CLS] without the pooler.
HEAD_POOLINGS = ("pooled", "mean", "cls", "sides")
