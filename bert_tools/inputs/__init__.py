"""From files to batches: readers, features, TFRecords, the batch planner."""
