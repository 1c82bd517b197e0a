"""Typed Flyte tasks that sort e-commerce products into type codes, and the Flyte-free code they call."""
