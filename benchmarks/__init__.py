"""Commands that measure speed, cost and quality."""

from rakuten_tasks.terminal import prepare_streams

prepare_streams()
