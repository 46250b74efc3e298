"""Where shards lie: a folder, or object storage."""
