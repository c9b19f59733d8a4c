"""Models on raw inputs."""
