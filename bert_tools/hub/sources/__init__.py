"""Where models come from, one file a source: `folder(address)` is a folder on this machine."""
