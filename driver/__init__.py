"""What a node has and how near its parts are."""
