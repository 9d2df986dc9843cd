"""What the container image is made with (Dockerfile)."""
