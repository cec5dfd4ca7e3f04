"""The development environment and the container images, made from packages: no registry of images is needed."""
