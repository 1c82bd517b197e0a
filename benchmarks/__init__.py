"""Commands that measure speed, cost and quality."""

from rakuten_tasks.console.terminal import prepare_streams

prepare_streams()
