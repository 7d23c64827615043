"""What the HTTP face costs."""
