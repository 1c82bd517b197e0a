"""Launch plans: what workflows/launch_plans.py, the dashboard and the commands for a cluster know of them."""

# cron, UTC
SCHEDULES = {
    "nightly_training": "0 2 * * *",
    # ten minutes past, when the server has closed the previous hour
    "drift_watch": "10 */6 * * *",
    # before the nightly training, which reads the new version
    "weekly_etl": "0 0 * * 0",
    "smoke": "0 1 * * 1",
}

LABELS = {"project": "rakuten"}  # of every launch plan

# Variables that launch plans are made from; a value that changes is registered as another version.
PLAN_VARIABLES = ("RAKUTEN_SOURCE", "RAKUTEN_INCOMING", "RAKUTEN_STORE", "RAKUTEN_NOTIFIED")
