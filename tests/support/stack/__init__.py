"""The whole stack of compose.yaml for tests: a Docker engine, stand-in images, and one project of Compose."""
