"""Schedules of the launch plans (cron, UTC), read by workflows/launch_plans.py and by the dashboard."""

SCHEDULES = {
    "nightly_training": "0 2 * * *",
    # ten minutes past, when the server has closed the previous hour
    "drift_watch": "10 */6 * * *",
    # before the nightly training, which reads the new version
    "weekly_etl": "0 0 * * 0",
    "smoke": "0 1 * * 1",
}
