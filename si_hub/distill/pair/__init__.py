"""Two models on disk, unread: opened, put side by side, refused where they do not belong together."""
