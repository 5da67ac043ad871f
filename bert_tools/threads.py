"""Threads that compute for a reader who may stop reading."""

import concurrent.futures


class Pool(concurrent.futures.ThreadPoolExecutor):
    """At the end of the block, what has not begun is dropped: nobody will read it."""

    def __exit__(self, *_):
        self.shutdown(cancel_futures=True)
